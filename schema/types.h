#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace weft::schema {

/// A length of training with its unit: "500u" updates, "3e" or "0.5e" epochs, "2Mt" tokens.
/// K, M and G (decimal) may stand before the unit. Updates and tokens are whole numbers.
struct Duration {
  enum class Unit : std::uint8_t { kUpdates, kEpochs, kTokens };
  double amount = 0;
  Unit unit = Unit::kUpdates;

  [[nodiscard]] bool operator==(const Duration&) const = default;
};

/// Reads a Duration; nothing for any other text (a number without a unit included).
[[nodiscard]] std::optional<Duration> parse_duration(std::string_view text);
/// "500u", "0.5e", "2Mt": parse_duration() of it gives the same value.
[[nodiscard]] std::string to_string(const Duration& duration);

/// A part of a whole: "3%" of it (value 0.03, relative), or a count ("100": value 100).
struct Share {
  double value = 0;
  bool relative = false;

  /// The count out of `total`, rounded to nearest; a count stays what it is.
  [[nodiscard]] std::int64_t of(std::int64_t total) const noexcept;
  [[nodiscard]] bool operator==(const Share&) const = default;
};

[[nodiscard]] std::optional<Share> parse_share(std::string_view text);
[[nodiscard]] std::string to_string(const Share& share);

/// A number of bytes: "2GiB" (binary), "1.5GB" (decimal), "512MiB", "4096" or "4096B".
struct Bytes {
  std::uint64_t count = 0;

  [[nodiscard]] bool operator==(const Bytes&) const = default;
};

[[nodiscard]] std::optional<Bytes> parse_bytes(std::string_view text);
[[nodiscard]] std::string to_string(const Bytes& bytes);

/// A folder that is used when there is one: "true" (the place that is usual for it), "false"
/// (none), or the path of another.
struct FolderSwitch {
  bool on = true;
  std::filesystem::path path;  ///< Empty: the usual place.

  [[nodiscard]] bool operator==(const FolderSwitch&) const = default;
};

/// Decimal numbers as people mean them: "010" is 10, "1e3" is 1000 as an integer too. Nothing for
/// hexadecimal, "2_000", a fraction where a whole number is wanted, NaN, infinity and overflow.
[[nodiscard]] std::optional<std::int64_t> parse_integer(std::string_view text);
[[nodiscard]] std::optional<double> parse_number(std::string_view text);

}  // namespace weft::schema
