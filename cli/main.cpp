#include <fmt/format.h>

#include <algorithm>
#include <clocale>
#include <csignal>
#include <string>
#include <vector>

#include "cli/catalog.h"
#include "cli/output.h"
#include "cli/plain_commands.h"
#include "cli/torch_library.h"
#include "core/error.h"
#include "core/suggest.h"
#include "core/version.h"

namespace {

using weft::ExitCode;
using weft::cli::CatalogEntry;
using weft::cli::Home;

constexpr bool is_available(const CatalogEntry& entry) {
#ifdef WEFT_WITH_TORCH
  (void)entry;
  return true;
#else
  return entry.home == Home::kProgram;
#endif
}

void print_help() {
  weft::cli::print(
      "weft {}: LoRA fine-tuning and adapter merging\n\nusage: weft COMMAND [OPTIONS]\n\n",
      weft::core::kVersion);
  for (const CatalogEntry& entry : weft::cli::kCatalog) {
    if (is_available(entry)) weft::cli::print("  {:<10}{}\n", entry.name, entry.summary);
  }
  weft::cli::print(
      "\n  --version   print the version\n  --help      print this; weft COMMAND --help for its "
      "options\n"
      "\nExit status: 0 done, 1 failed, 2 wrong input, 3 refused by a gate,\n"
      "75 not enough memory free now, 130 interrupted.\n");
}

int unknown_command(const std::string& name) {
  std::vector<std::string> names;
  for (const CatalogEntry& entry : weft::cli::kCatalog) {
    if (is_available(entry)) names.emplace_back(entry.name);
  }
  const std::string meant = weft::core::nearest(name, names);
  weft::cli::tell("weft: unknown command '{}'{}; see weft --help\n", name,
                  meant.empty() ? "" : fmt::format(", did you mean '{}'?", meant));
  return static_cast<int>(ExitCode::kBadInput);
}

#ifdef WEFT_WITH_TORCH
int run_torch_command(const std::string& name, int count, char** arguments) {
  using Entry = int (*)(const char*, int, char**);
  try {
    return reinterpret_cast<Entry>(weft::cli::torch_symbol("weft_run_torch_command"))(
        name.c_str(), count, arguments);
  } catch (const weft::Error& error) {
    weft::cli::tell("weft {}: {}\n", name, error.what());
    return static_cast<int>(error.exit_code());
  }
}
#endif

int run(const std::string& name, int count, char** arguments) {
  const auto entry = std::ranges::find(weft::cli::kCatalog, name, &CatalogEntry::name);
  if (entry == weft::cli::kCatalog.end() || !is_available(*entry)) return unknown_command(name);
#ifdef WEFT_WITH_TORCH
  if (entry->home == Home::kTorchLibrary) return run_torch_command(name, count, arguments);
#endif
  return weft::cli::run_command(weft::cli::plain_commands(), name,
                                {arguments, static_cast<std::size_t>(count)});
}

/// weft help COMMAND
int help_of(const std::string& command) {
  std::string option = "--help";
  char* arguments[] = {option.data(), nullptr};
  return run(command, 1, arguments);
}

}  // namespace

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "C.UTF-8");  // widths of characters in tables
  std::signal(SIGPIPE, SIG_DFL);
  const std::string name = argc > 1 ? argv[1] : "--help";
  if (name == "--help" || name == "-h" || name == "help") {
    if (name == "help" && argc > 2) return help_of(argv[2]);
    print_help();
    return weft::cli::finish_output("--help", argc > 1 ? 0 : static_cast<int>(ExitCode::kBadInput));
  }
  if (name == "--version" || name == "-V") {
    weft::cli::print("weft {}\n", weft::core::kVersion);
    return weft::cli::finish_output("--version", 0);
  }
  return run(name, argc - 2, argv + 2);
}
