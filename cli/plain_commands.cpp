#include "cli/plain_commands.h"

#include <array>

namespace weft::cli {

Run add_batch(CommandLine& app);     // batch.cpp
Run add_export(CommandLine& app);    // export.cpp
Run add_extract(CommandLine& app);   // extract.cpp
Run add_inspect(CommandLine& app);   // inspect.cpp
Run add_ledger(CommandLine& app);    // ledger.cpp
Run add_merge(CommandLine& app);     // merge.cpp
Run add_report(CommandLine& app);    // report.cpp
Run add_score(CommandLine& app);     // score.cpp
Run add_tokenize(CommandLine& app);  // tokenize.cpp
Run add_unmerge(CommandLine& app);   // unmerge.cpp

std::span<const Command> plain_commands() {
  static constexpr std::array kCommands{
      Command{"batch", add_batch},       Command{"export", add_export},
      Command{"extract", add_extract},   Command{"inspect", add_inspect},
      Command{"ledger", add_ledger},     Command{"merge", add_merge},
      Command{"report", add_report},     Command{"score", add_score},
      Command{"tokenize", add_tokenize}, Command{"unmerge", add_unmerge},
  };
  return kCommands;
}

}  // namespace weft::cli
