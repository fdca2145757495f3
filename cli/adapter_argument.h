#pragma once

#include <filesystem>
#include <string>

namespace weft::cli {

/// An adapter named on the command line.
struct AdapterArgument {
  std::filesystem::path directory;
  double weight = 1;  ///< Factor of its update.
};

/// "DIR" or "DIR:WEIGHT"; a folder whose own name ends in ":0.5" is taken as it is. ConfigError for
/// a weight that is no finite number.
[[nodiscard]] AdapterArgument parse_adapter(const std::string& text);

}  // namespace weft::cli
