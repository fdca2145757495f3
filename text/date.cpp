#include "text/date.h"

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <ctime>

#include "core/error.h"

namespace weft::text {
namespace {

/// The last second of the year 9999, beyond which a year has more than four digits.
constexpr std::int64_t kLastSecond = 253402300799;

std::string date_of(const std::tm& time) {
  return fmt::format("{:04}-{:02}-{:02}", time.tm_year + 1900, time.tm_mon + 1, time.tm_mday);
}

std::string find_date() {
  std::tm time{};
  const char* given = std::getenv("SOURCE_DATE_EPOCH");
  if (given == nullptr || *given == '\0') {
    const std::time_t now = std::time(nullptr);
    return date_of(*::localtime_r(&now, &time));
  }
  const std::string_view text = given;
  std::int64_t seconds = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || seconds < 0 ||
      seconds > kLastSecond) {
    throw ConfigError(
        "SOURCE_DATE_EPOCH is '{}'; expected seconds since 1970, for example 1796000000, or unset "
        "it",
        text);
  }
  const std::time_t then = seconds;
  return date_of(*::gmtime_r(&then, &time));
}

}  // namespace

const std::string& default_date() {
  static const std::string kDate = find_date();
  return kDate;
}

bool is_date(std::string_view text) {
  if (text.size() != 10 || text[4] != '-' || text[7] != '-') return false;
  const auto number = [&](std::size_t begin, std::size_t size) {
    unsigned value = 0;
    for (const char c : text.substr(begin, size)) {
      if (c < '0' || c > '9') return 0U;
      value = value * 10 + static_cast<unsigned>(c - '0');
    }
    return value;
  };
  const std::chrono::year_month_day day{std::chrono::year(static_cast<int>(number(0, 4))),
                                        std::chrono::month(number(5, 2)),
                                        std::chrono::day(number(8, 2))};
  return number(0, 4) > 0 && day.ok();
}

}  // namespace weft::text
