#include "cli/command.h"
#include "core/error.h"

namespace weft::cli {

Run add_merge(CLI::App& app);
Run add_merge(CLI::App&) {
  return [] { throw ConfigError("being written"); return 0; };
}

}  // namespace weft::cli
