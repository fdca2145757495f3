#include "cli/adapter_argument.h"

#include <charconv>
#include <cmath>

#include "core/error.h"

namespace weft::cli {

AdapterArgument parse_adapter(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos || std::filesystem::exists(text)) return {text, 1};
  const std::string number = text.substr(colon + 1);
  double weight = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), weight);
  if (error != std::errc() || end != number.data() + number.size() || !std::isfinite(weight)) {
    throw ConfigError("--adapter {}: '{}' is no weight (DIR:WEIGHT, such as {}:0.5)", text, number,
                      text.substr(0, colon));
  }
  return {text.substr(0, colon), weight};
}

}  // namespace weft::cli
