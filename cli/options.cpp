#include "cli/options.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <optional>
#include <utility>
#include <vector>

namespace weft::cli {

CommandOption CommandOption::required() const {
  option_->required();
  return *this;
}

CommandOption CommandOption::with_default_shown() const {
  option_->capture_default_str();
  return *this;
}

CommandOption CommandOption::type(const std::string& name) const {
  option_->type_name(name);
  return *this;
}

CommandOption CommandOption::repeated() const {
  option_->allow_extra_args(false);
  return *this;
}

CommandOption CommandOption::split_at(char separator) const {
  option_->delimiter(separator);
  return *this;
}

CommandOption CommandOption::one_of(std::initializer_list<const char*> values) const {
  option_->check(CLI::IsMember(std::vector<std::string>(values.begin(), values.end())));
  return *this;
}

CommandOption CommandOption::at_least(std::int64_t least) const {
  const auto check = [least](std::string& text) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_whole = error == std::errc() && end == text.data() + text.size();
    if (is_whole && value >= least) return std::string();
    return fmt::format("expected a whole number, at least {}, found '{}'", least, text);
  };
  option_->check(CLI::Validator(check, fmt::format("whole number, at least {}", least)));
  return *this;
}

CommandOption CommandOption::not_negative() const {
  option_->check(CLI::NonNegativeNumber);
  return *this;
}

CommandOption CommandOption::checked(
    std::function<std::string(const std::string& value)> problem) const {
  option_->check(std::move(problem));
  return *this;
}

CommandOption CommandOption::excludes(const CommandOption& other) const {
  option_->excludes(other.option_);
  return *this;
}

CommandOption CommandOption::needs(const CommandOption& other) const {
  option_->needs(other.option_);
  return *this;
}

CommandOption CommandOption::needs(const std::string& name) const {
  option_->needs(name);
  return *this;
}

template <typename Value>
CommandOption CommandLine::option(const std::string& names, Value& value, const std::string& help) {
  return CommandOption(*app_->add_option(names, value, help));
}

template CommandOption CommandLine::option(const std::string&, std::string&, const std::string&);
template CommandOption CommandLine::option(const std::string&, std::vector<std::string>&,
                                           const std::string&);
template CommandOption CommandLine::option(const std::string&, std::optional<std::string>&,
                                           const std::string&);
template CommandOption CommandLine::option(const std::string&, int&, const std::string&);
template CommandOption CommandLine::option(const std::string&, std::int64_t&, const std::string&);
template CommandOption CommandLine::option(const std::string&, std::uint64_t&, const std::string&);
template CommandOption CommandLine::option(const std::string&, std::optional<std::int64_t>&,
                                           const std::string&);
template CommandOption CommandLine::option(const std::string&, float&, const std::string&);
template CommandOption CommandLine::option(const std::string&, double&, const std::string&);
template CommandOption CommandLine::option(const std::string&, std::optional<double>&,
                                           const std::string&);

CommandOption CommandLine::flag(const std::string& names, bool& value, const std::string& help) {
  return CommandOption(*app_->add_flag(names, value, help));
}

void CommandLine::description(const std::string& text) { app_->description(text); }

CommandLine CommandLine::subcommand(const std::string& name, const std::string& help) {
  return CommandLine(*app_->add_subcommand(name, help));
}

void CommandLine::require_subcommand() { app_->require_subcommand(1); }

void CommandLine::when_chosen(std::function<void()> call) { app_->callback(std::move(call)); }

}  // namespace weft::cli
