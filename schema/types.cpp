#include "schema/types.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>

namespace weft::schema {
namespace {

constexpr double kExact = 9007199254740992.0;  // 2^53: whole numbers up to here are exact.

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The length of the decimal number at the start of `text`, 0 if there is none.
std::size_t number_length(std::string_view text) {
  std::size_t i = 0;
  const auto digits = [&] {
    const std::size_t begin = i;
    while (i < text.size() && is_digit(text[i])) ++i;
    return i - begin;
  };
  if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
  std::size_t seen = digits();
  if (i < text.size() && text[i] == '.') {
    ++i;
    seen += digits();
  }
  if (seen == 0) return 0;
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    const std::size_t before = i++;
    if (i < text.size() && (text[i] == '+' || text[i] == '-')) ++i;
    if (digits() == 0) i = before;  // "3e" is three epochs, not an exponent.
  }
  return i;
}

/// Splits "1.5GB" into number and unit.
std::optional<std::pair<double, std::string_view>> number_and_unit(std::string_view text) {
  const std::size_t length = number_length(text);
  const std::optional<double> number = parse_number(text.substr(0, length));
  if (!number) return std::nullopt;
  std::string_view unit = text.substr(length);
  while (!unit.empty() && unit.front() == ' ') unit.remove_prefix(1);
  return std::pair{*number, unit};
}

struct Unit {
  std::string_view name;
  double size;
};
// Largest first, binary before decimal: the order in which to_string tries them.
constexpr std::array<Unit, 10> kByteUnits{{{"TiB", 0x1p40},
                                           {"GiB", 0x1p30},
                                           {"MiB", 0x1p20},
                                           {"KiB", 0x1p10},
                                           {"TB", 1e12},
                                           {"GB", 1e9},
                                           {"MB", 1e6},
                                           {"KB", 1e3},
                                           {"kB", 1e3},
                                           {"B", 1}}};
constexpr std::array<Unit, 3> kMultiples{{{"G", 1e9}, {"M", 1e6}, {"K", 1e3}}};

}  // namespace

std::optional<double> parse_number(std::string_view text) {
  if (text.empty() || number_length(text) != text.size()) return std::nullopt;
  if (text.front() == '+') text.remove_prefix(1);  // from_chars takes no plus sign
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<std::int64_t> parse_integer(std::string_view text) {
  std::string_view digits = text;
  if (!digits.empty() && digits.front() == '+') digits.remove_prefix(1);
  std::int64_t whole = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), whole);
  if (end == digits.data() + digits.size() && !digits.empty()) {
    // "+-5" would pass from_chars after its sign was removed.
    if (error != std::errc() || number_length(text) != text.size()) return std::nullopt;
    return whole;
  }
  const std::optional<double> number = parse_number(text);
  if (!number || std::trunc(*number) != *number || std::abs(*number) > kExact) return std::nullopt;
  return static_cast<std::int64_t>(*number);
}

std::optional<Duration> parse_duration(std::string_view text) {
  const auto parts = number_and_unit(text);
  if (!parts || parts->second.empty() || parts->first < 0) return std::nullopt;
  auto [amount, unit] = *parts;
  const char last = unit.back();
  unit.remove_suffix(1);
  if (last == 'e')
    return unit.empty() ? std::optional(Duration{amount, Duration::Unit::kEpochs}) : std::nullopt;
  if (last != 'u' && last != 't') return std::nullopt;
  if (unit == "k") unit = "K";
  bool known = unit.empty();
  for (const Unit& multiple : kMultiples) {
    if (unit != multiple.name) continue;
    amount *= multiple.size;
    known = true;
  }
  // 0.3M is 300000 even though 0.3 * 1e6 may miss it by the last bit.
  const double whole = std::round(amount);
  if (!known || std::abs(amount - whole) > 1e-6 || whole > kExact) return std::nullopt;
  return Duration{whole, last == 'u' ? Duration::Unit::kUpdates : Duration::Unit::kTokens};
}

std::string to_string(const Duration& duration) {
  if (duration.unit == Duration::Unit::kEpochs) return fmt::format("{}e", duration.amount);
  const char unit = duration.unit == Duration::Unit::kUpdates ? 'u' : 't';
  for (const Unit& multiple : kMultiples) {
    const double count = duration.amount / multiple.size;
    if (count >= 1 && std::trunc(count) == count) {
      return fmt::format("{:.0f}{}{}", count, multiple.name, unit);
    }
  }
  return fmt::format("{:.0f}{}", duration.amount, unit);
}

std::int64_t Share::of(std::int64_t total) const noexcept {
  return std::llround(relative ? value * static_cast<double>(total) : value);
}

std::optional<Share> parse_share(std::string_view text) {
  const auto parts = number_and_unit(text);
  if (!parts || parts->first < 0) return std::nullopt;
  const auto [number, unit] = *parts;
  if (unit == "%" && number <= 100) return Share{number / 100, true};
  if (!unit.empty() || std::trunc(number) != number || number > kExact) return std::nullopt;
  return Share{number, false};
}

std::string to_string(const Share& share) {
  if (!share.relative) return fmt::format("{:.0f}", share.value);
  // The shortest decimal that reads back to the same share.
  for (int digits = 1; digits < 17; ++digits) {
    const std::string text = fmt::format("{:.{}g}%", share.value * 100, digits);
    const auto back = parse_share(text);
    // 30% in two digits, and 3e+01% in one, are the same number.
    if (back && *back == share) return fmt::format("{}%", std::stod(text));
  }
  return fmt::format("{}%", share.value * 100);
}

std::optional<Bytes> parse_bytes(std::string_view text) {
  const auto parts = number_and_unit(text);
  if (!parts || parts->first < 0) return std::nullopt;
  const auto [number, unit] = *parts;
  double size = unit.empty() ? 1 : 0;
  for (const Unit& candidate : kByteUnits) {
    if (unit == candidate.name) size = candidate.size;
  }
  const double count = std::round(number * size);
  if (size == 0 || count > kExact) return std::nullopt;
  return Bytes{static_cast<std::uint64_t>(count)};
}

std::string to_string(const Bytes& bytes) {
  for (const Unit& unit : kByteUnits) {
    const auto size = static_cast<std::uint64_t>(unit.size);
    if (bytes.count >= size && bytes.count % size == 0) {
      return fmt::format("{}{}", bytes.count / size, unit.name);
    }
  }
  return fmt::format("{}B", bytes.count);
}

}  // namespace weft::schema
