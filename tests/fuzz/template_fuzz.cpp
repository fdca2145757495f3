// Chat templates: no source and no conversation may crash the program or keep it busy.
//
// The first byte chooses how the rest is read: as a template's source, or as numbers of fragments
// of the template language, which gets past the parser far more often than bytes do. What follows a
// zero byte is the conversation as JSON.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "text/bridge/weft_bridge.h"

namespace {

constexpr std::uint64_t kFuel = 100'000;

constexpr std::array<std::string_view, 100> kFragments{"{{ ",
                                                       " }}",
                                                       "{% if ",
                                                       " %}",
                                                       "{% endif %}",
                                                       "{% for m in ",
                                                       "{% endfor %}",
                                                       "{% else %}",
                                                       "{% elif ",
                                                       "{%- set x = ",
                                                       " -%}",
                                                       "{% set ns = namespace(a=1) %}",
                                                       "{% set ns.a = ",
                                                       "messages",
                                                       "tools",
                                                       "m",
                                                       "m.content",
                                                       "m['role']",
                                                       "x",
                                                       "ns.a",
                                                       "ns",
                                                       "loop.index",
                                                       "loop(m)",
                                                       "loop.previtem",
                                                       " recursive",
                                                       " if ",
                                                       " else ",
                                                       " and ",
                                                       " or ",
                                                       " not ",
                                                       " in ",
                                                       " is ",
                                                       " is not ",
                                                       "defined",
                                                       "string",
                                                       "mapping",
                                                       "sequence",
                                                       "none",
                                                       "true",
                                                       "1",
                                                       "-1",
                                                       "2.5",
                                                       "99999",
                                                       "0",
                                                       "'a'",
                                                       "\"b\\n\"",
                                                       "''",
                                                       "[",
                                                       "]",
                                                       "[::-1]",
                                                       "[1:]",
                                                       "[-1]",
                                                       "[:2]",
                                                       "{'k': ",
                                                       "}",
                                                       "(",
                                                       ")",
                                                       ", ",
                                                       ".",
                                                       "|",
                                                       "tojson",
                                                       "tojson(indent=2)",
                                                       "trim",
                                                       "join(', ')",
                                                       "list",
                                                       "length",
                                                       "first",
                                                       "last",
                                                       "upper",
                                                       "replace('a', 'b')",
                                                       "indent(2)",
                                                       "default('d', true)",
                                                       "map(attribute='role')",
                                                       "selectattr('role', 'eq', 'user')",
                                                       "items",
                                                       "dictsort",
                                                       "int",
                                                       "round(1)",
                                                       "sort",
                                                       "unique",
                                                       "string",
                                                       "reverse",
                                                       ".split('a')",
                                                       ".strip()",
                                                       ".items()",
                                                       ".get('k')",
                                                       ".startswith('a')",
                                                       ".format(1)",
                                                       " + ",
                                                       " - ",
                                                       " * ",
                                                       " / ",
                                                       " // ",
                                                       " % ",
                                                       " ~ ",
                                                       " == ",
                                                       " < ",
                                                       "{% macro f(a, b=1) %}",
                                                       "{% endmacro %}",
                                                       "f("};

constexpr std::array<std::string_view, 16> kMore{"{% generation %}",
                                                 "{% endgeneration %}",
                                                 "{% call f(1) %}",
                                                 "{% endcall %}",
                                                 "caller()",
                                                 "{% raw %}",
                                                 "{% endraw %}",
                                                 "{# ",
                                                 " #}",
                                                 "{% break %}",
                                                 "{% continue %}",
                                                 "range(9)",
                                                 "raise_exception(x)",
                                                 "strftime_now('%Y')",
                                                 "{% set y %}",
                                                 "{% endset %}"};

std::string compose(std::string_view numbers) {
  std::string source;
  for (const char c : numbers) {
    const auto number = static_cast<std::uint8_t>(c) % (kFragments.size() + kMore.size());
    source += number < kFragments.size() ? kFragments[number] : kMore[number - kFragments.size()];
  }
  return source;
}

constexpr std::string_view kMark = "\xEF\xB7\x90";

/// Frees what the library gave.
void drop(WeftText text) { weft_text_free(text); }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t zero = input.find('\0', 1);
  const std::string_view body = input.substr(1, zero == std::string_view::npos ? zero : zero - 1);
  const std::string source = (data[0] & 1) != 0 ? compose(body) : std::string(body);
  std::string variables =
      R"({"messages": [{"role": "user", "content": "a\né"}, {"role": "assistant", "content": null}], "tools": null})";
  if (zero != std::string_view::npos) {
    variables = R"({"messages": )" + std::string(input.substr(zero + 1)) + "}";
  }

  WeftText error{};
  WeftTemplate* chat = weft_template_new(source.data(), source.size(), &error);
  if (chat == nullptr) {
    drop(error);
    return 0;
  }
  for (const std::string_view mark : {std::string_view(), kMark}) {
    WeftText out{};
    bool raised = false;
    if (weft_template_render(chat, variables.data(), variables.size(), mark.data(), mark.size(),
                             "2026-11-29", 10, kFuel, &out, &raised, &error)) {
      drop(out);
    } else {
      drop(error);
    }
  }
  weft_template_free(chat);
  return 0;
}
