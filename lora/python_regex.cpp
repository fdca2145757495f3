#include "lora/python_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cctype>

#include "core/error.h"

namespace weft::lora {
namespace {

// Steps of backtracking after which a pattern counts as faulty. Module paths have tens of
// characters; honest patterns need thousands of steps.
constexpr std::uint32_t kMatchLimit = 1'000'000;

// Escapes of an ASCII letter that mean the same in Python and in PCRE2. Python rejects letters it
// does not know; \Z (end of text) is PCRE2's \z and is translated, digits are groups in both.
constexpr std::string_view kSharedEscapes = "AbBdDsSwWafnrtx";

[[noreturn]] void refuse(std::string_view pattern, std::size_t at, std::string_view what) {
  throw ConfigError(
      "regular expression '{}': {} at position {} is not read by Python's re as written "
      "here; write it another way",
      pattern, what, at);
}

void check_escape(std::string_view pattern, std::size_t at) {
  if (at + 1 >= pattern.size()) refuse(pattern, at, "a lone backslash");
  const char letter = pattern[at + 1];
  if (std::isalpha(static_cast<unsigned char>(letter)) != 0 && letter != 'Z' &&
      kSharedEscapes.find(letter) == std::string_view::npos) {
    refuse(pattern, at, fmt::format("the escape \\{}", letter));
  }
}

void check_group(std::string_view pattern, std::size_t at) {
  const std::string_view rest = pattern.substr(at);
  if (rest.starts_with("(*")) refuse(pattern, at, "a verb (*...)");
  if (!rest.starts_with("(?")) return;
  const std::string_view kind = rest.substr(2);
  for (const std::string_view shared : {":", "=", "!", "<=", "<!", "#", ">", "(", "P<", "P="}) {
    if (kind.starts_with(shared)) return;
  }
  // Inline flags: (?i) only at the very start, (?i:...) anywhere; a, L and u differ.
  const std::size_t end = kind.find_first_not_of("imsx-");
  if (end != std::string_view::npos && end > 0) {
    if (kind[end] == ':' || (kind[end] == ')' && at == 0)) return;
  }
  refuse(pattern, at, fmt::format("the group {}", rest.substr(0, 4)));
}

/// The pattern with Python's \Z written as PCRE2's \z, after every construct has been looked at.
std::string translate(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\') {
      check_escape(pattern, i);
      result += c;
      result += pattern[i + 1] == 'Z' && !in_class ? 'z' : pattern[i + 1];
      ++i;
      continue;
    }
    if (in_class) {
      if (c == '[' && i + 1 < pattern.size() &&
          std::string_view(":.=").find(pattern[i + 1]) != std::string_view::npos) {
        refuse(pattern, i, "a POSIX class");
      }
      // "]" directly after "[" or "[^" is itself a member, in both languages.
      if (c == ']') in_class = false;
    } else if (c == '[') {
      in_class = true;
      result += c;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') result += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') result += pattern[++i];
      continue;
    } else if (c == '(') {
      check_group(pattern, i);
    } else if (c == '{' && i + 1 < pattern.size() && pattern[i + 1] == ',') {
      refuse(pattern, i, "a repeat {,n}");
    }
    result += c;
  }
  return result;
}

}  // namespace

struct PythonRegex::Code {
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };
  std::string pattern;
  std::unique_ptr<pcre2_code, Free> compiled;
  std::unique_ptr<pcre2_match_context, Free> limits;

  using Match = std::unique_ptr<pcre2_match_data, Free>;

  /// The match at the start of `text` (with PCRE2_ENDANCHORED: of the whole), or null.
  [[nodiscard]] Match run(std::string_view text, std::uint32_t options) const {
    Match data(pcre2_match_data_create_from_pattern(compiled.get(), nullptr));
    const int status =
        pcre2_match(compiled.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0,
                    PCRE2_ANCHORED | options, data.get(), limits.get());
    if (status > 0) return data;
    if (status == PCRE2_ERROR_NOMATCH) return nullptr;
    std::array<PCRE2_UCHAR, 160> reason{};
    pcre2_get_error_message(status, reason.data(), reason.size());
    throw ConfigError("regular expression '{}' fails on '{}': {}; write a simpler one", pattern,
                      text, reinterpret_cast<const char*>(reason.data()));
  }
};

PythonRegex::PythonRegex(std::string_view pattern) : code_(std::make_unique<Code>()) {
  code_->pattern = pattern;
  const std::string translated = translate(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->compiled.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
  if (!code_->compiled) {
    std::array<PCRE2_UCHAR, 160> reason{};
    pcre2_get_error_message(error, reason.data(), reason.size());
    throw ConfigError("regular expression '{}' is malformed at position {}: {}", pattern, offset,
                      reinterpret_cast<const char*>(reason.data()));
  }
  code_->limits.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(code_->limits.get(), kMatchLimit);
  pcre2_set_depth_limit(code_->limits.get(), kMatchLimit);
}

PythonRegex::PythonRegex(PythonRegex&&) noexcept = default;
PythonRegex& PythonRegex::operator=(PythonRegex&&) noexcept = default;
PythonRegex::~PythonRegex() = default;

bool PythonRegex::full_match(std::string_view text) const {
  return code_->run(text, PCRE2_ENDANCHORED) != nullptr;
}

bool PythonRegex::match(std::string_view text) const { return code_->run(text, 0) != nullptr; }

std::string PythonRegex::match_group(std::string_view text, const char* group) const {
  const Code::Match data = code_->run(text, 0);
  if (!data) return {};
  PCRE2_UCHAR* begin = nullptr;
  PCRE2_SIZE size = 0;
  if (pcre2_substring_get_byname(data.get(), reinterpret_cast<PCRE2_SPTR>(group), &begin, &size) !=
      0) {
    return {};
  }
  std::string result(reinterpret_cast<const char*>(begin), size);
  pcre2_substring_free(begin);
  return result;
}

void PythonRegex::require_portable(std::string_view pattern) { (void)translate(pattern); }

}  // namespace weft::lora
