#pragma once

#include <cstdlib>
#include <filesystem>
#include <stdexcept>

namespace weft::tests {

/// The root of the sources: $WEFT_SOURCE_DIR, which ctest sets. Without it the test fails and says
/// so.
inline std::filesystem::path source_dir() {
  if (const char* path = std::getenv("WEFT_SOURCE_DIR")) return path;
  throw std::runtime_error(
      "WEFT_SOURCE_DIR is not set: run the tests with ctest, or set it to the root of the sources");
}

}  // namespace weft::tests
