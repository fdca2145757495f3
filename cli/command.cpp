#include "cli/command.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <filesystem>
#include <new>
#include <sstream>
#include <vector>

#include "cli/catalog.h"
#include "cli/help.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/suggest.h"
#include "core/utf8.h"

namespace weft::cli {
namespace {

int complain(const std::string& command, std::string_view message, ExitCode code) {
  // One line, whatever a library put into its message.
  std::string line(message.substr(0, message.find_last_not_of(" \n") + 1));
  tell("weft {}: {}\n", command, line);
  return static_cast<int>(code);
}

/// What is wrong with the arguments. A misspelt option comes before what is missing without it.
std::string what_is_wrong(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = app.remaining(true);
  if (app.get_require_subcommand_min() > app.get_subcommands().size()) {
    if (unknown.empty() || unknown.front().starts_with("-")) return error.what();
    std::vector<std::string> names;
    for (const CLI::App* subcommand : app.get_subcommands(nullptr))
      names.push_back(subcommand->get_name());
    return fmt::format("unknown command '{}'; there are {}", unknown.front(),
                       fmt::join(names, ", "));
  }
  const auto misspelt =
      std::ranges::find_if(unknown, [](const std::string& word) { return word.starts_with("-"); });
  if (misspelt == unknown.end()) return error.what();
  const std::string word = misspelt->substr(0, misspelt->find('='));
  std::vector<std::string> options;
  const auto add_options = [&](const CLI::App& of) {
    for (const CLI::Option* option : of.get_options()) {
      for (const std::string& name : option->get_lnames()) options.push_back("--" + name);
    }
  };
  add_options(app);
  for (const CLI::App* subcommand : app.get_subcommands()) add_options(*subcommand);
  const std::string meant = core::nearest(word, options);
  return fmt::format("unknown option '{}'{}", word,
                     meant.empty() ? "" : fmt::format(", did you mean '{}'?", meant));
}

/// Paths go into files that are UTF-8 (YAML, JSON), from which they must come back.
void require_text(std::span<char* const> arguments) {
  for (const char* argument : arguments) {
    const std::string_view text(argument);
    if (core::is_utf8(text)) continue;
    throw ConfigError(
        "the argument '{}...' is not UTF-8 text; rename the file or folder, which can then be "
        "written down in configurations and records",
        text.substr(0, core::well_formed_prefix(text)));
  }
  std::error_code error;
  const std::string folder = std::filesystem::current_path(error).string();
  if (!core::is_utf8(folder)) {
    throw ConfigError("the name of the current folder is not UTF-8 text ('{}...'); rename it",
                      folder.substr(0, core::well_formed_prefix(folder)));
  }
}

int parse_and_run(const Command& command, std::span<char* const> arguments) {
  require_text(arguments);
  CLI::App app;
  app.name(fmt::format("weft {}", command.name));
  app.formatter(help_formatter());
  const auto entry = std::ranges::find(kCatalog, command.name, &CatalogEntry::name);
  if (entry != kCatalog.end()) app.footer(fmt::format("Example:\n  {}", entry->example));
  app.failure_message(CLI::FailureMessage::simple);
  CommandLine line(app);
  const Run run = command.add(line);
  // CLI11 consumes its vector from the back.
  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(reversed);
  } catch (const CLI::Success& success) {  // --help
    std::ostringstream text;
    const int status = app.exit(success, text, text);
    write_output(text.str());
    return status;
  } catch (const CLI::ParseError& error) {
    return complain(command.name,
                    fmt::format("{} (see weft {} --help)", what_is_wrong(app, error), command.name),
                    ExitCode::kBadInput);
  }
  return run();
}

/// Every exception becomes one line and an exit status.
int run_caught(const Command& command, std::span<char* const> arguments) {
  try {
    return parse_and_run(command, arguments);
  } catch (const Error& error) {
    return complain(command.name, error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return complain(command.name, "out of memory", ExitCode::kFailed);
  } catch (const std::exception& error) {
    return complain(command.name, fmt::format("internal error: {}", error.what()),
                    ExitCode::kFailed);
  }
}

}  // namespace

int run_command(std::span<const Command> commands, const std::string& name,
                std::span<char* const> arguments) {
  const auto found =
      std::ranges::find_if(commands, [&](const Command& c) { return name == c.name; });
  if (found == commands.end()) return complain(name, "no such command", ExitCode::kBadInput);
  return finish_output(name, run_caught(*found, arguments));
}

core::Log stderr_log(std::string command) {
  return [command = std::move(command)](core::Level level, std::string_view line) {
    tell("weft {}: {}{}\n", command, level == core::Level::kWarning ? "warning: " : "", line);
  };
}

}  // namespace weft::cli
