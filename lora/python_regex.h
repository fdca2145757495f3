#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace weft::lora {

/// A regular expression as Python's `re` reads it, which is what adapter_config.json holds.
///
/// The engine is PCRE2, whose language is nearest to Python's. What the two read differently
/// (\v, \h, \K, [[:alpha:]], {,n}, (?R), ...) is refused by name instead of guessed, and a pattern
/// that backtracks without end is stopped. Const methods are thread-safe.
class PythonRegex {
 public:
  /// Throws ConfigError with the pattern and the place of the fault.
  explicit PythonRegex(std::string_view pattern);
  PythonRegex(PythonRegex&&) noexcept;
  PythonRegex& operator=(PythonRegex&&) noexcept;
  ~PythonRegex();

  /// re.fullmatch(pattern, text) is not None.
  [[nodiscard]] bool full_match(std::string_view text) const;
  /// re.match(pattern, text) is not None: at the start, not necessarily to the end.
  [[nodiscard]] bool match(std::string_view text) const;
  /// What the named group caught in re.match(), or "" when there is no match or no such group.
  [[nodiscard]] std::string match_group(std::string_view text, const char* group) const;

  /// Throws ConfigError if `pattern` holds a construct that Python reads differently. For parts
  /// that are put together before they are compiled.
  static void require_portable(std::string_view pattern);

 private:
  struct Code;
  std::unique_ptr<Code> code_;
};

}  // namespace weft::lora
