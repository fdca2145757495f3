#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>

// What a command declares of its command line. CLI11, which reads it, is included by the files
// behind this header alone: it takes a compiler seconds for each file that includes it.

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace weft::cli {

/// One option, to say more of it. All members give the option back.
class CommandOption {
 public:
  explicit CommandOption(CLI::Option& option) : option_(&option) {}

  /// It has to be given.
  CommandOption required() const;
  /// --help tells the value that the variable has now.
  CommandOption with_default_shown() const;
  /// What --help calls the value: "FILE".
  CommandOption type(const std::string& name) const;
  /// A list of which each value is given with an option of its own.
  CommandOption repeated() const;
  /// A list whose values may also be written together, with this between them.
  CommandOption split_at(char separator) const;

  CommandOption one_of(std::initializer_list<const char*> values) const;
  /// A whole number from `least` on.
  CommandOption at_least(std::int64_t least) const;
  /// A number, and not below 0.
  CommandOption not_negative() const;
  /// `problem` says what is wrong with a value; nothing when it is right.
  CommandOption checked(std::function<std::string(const std::string& value)> problem) const;

  CommandOption excludes(const CommandOption& other) const;
  CommandOption needs(const CommandOption& other) const;
  /// By its name, "--verify"; it has been declared.
  CommandOption needs(const std::string& name) const;

 private:
  CLI::Option* option_;
};

/// The command line of a command or subcommand.
class CommandLine {
 public:
  explicit CommandLine(CLI::App& app) : app_(&app) {}

  /// `names`: "--model", or "MODEL" for a place without a name. The value is kept in `value`, which
  /// lives until the command has run. Kinds of values are those of options.cpp.
  template <typename Value>
  CommandOption option(const std::string& names, Value& value, const std::string& help);
  CommandOption flag(const std::string& names, bool& value, const std::string& help);

  void description(const std::string& text);
  CommandLine subcommand(const std::string& name, const std::string& help);
  /// One of the subcommands has to be named.
  void require_subcommand();
  /// Called where this subcommand was named and its options are read.
  void when_chosen(std::function<void()> call);

 private:
  CLI::App* app_;
};

}  // namespace weft::cli
