#include "cli/plain_commands.h"

#include <array>

namespace weft::cli {

Run add_export(CLI::App& app);    // export.cpp
Run add_inspect(CLI::App& app);   // inspect.cpp
Run add_merge(CLI::App& app);     // merge.cpp
Run add_tokenize(CLI::App& app);  // tokenize.cpp

std::span<const Command> plain_commands() {
  static constexpr std::array kCommands{
      Command{"export", add_export},
      Command{"inspect", add_inspect},
      Command{"merge", add_merge},
      Command{"tokenize", add_tokenize},
  };
  return kCommands;
}

}  // namespace weft::cli
