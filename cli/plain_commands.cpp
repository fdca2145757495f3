#include "cli/plain_commands.h"

#include <array>

namespace weft::cli {

Run add_batch(CLI::App& app);     // batch.cpp
Run add_export(CLI::App& app);    // export.cpp
Run add_extract(CLI::App& app);   // extract.cpp
Run add_inspect(CLI::App& app);   // inspect.cpp
Run add_ledger(CLI::App& app);    // ledger.cpp
Run add_merge(CLI::App& app);     // merge.cpp
Run add_report(CLI::App& app);    // report.cpp
Run add_score(CLI::App& app);     // score.cpp
Run add_tokenize(CLI::App& app);  // tokenize.cpp
Run add_unmerge(CLI::App& app);   // unmerge.cpp

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
