#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "text/date.h"

namespace weft::text {
namespace {

using Json = nlohmann::ordered_json;

const Json kHello = {{{"role", "user"}, {"content", "hi"}},
                     {{"role", "assistant"}, {"content", "ho"}}};

/// The template's output for two messages and the variables of a JSON text.
std::string render(const std::string& source, const std::string& extra = "{}") {
  return ChatTemplate(source, {{"eos_token", "</s>"}})
      .render(kHello, true, Json::parse(extra))
      .text;
}

TEST(ChatTemplate, SeesMessagesTokensAndPrompt) {
  EXPECT_EQ(
      render("{% for m in messages %}{{ m.role }}={{ m['content'] }}{{ eos_token }}\n{% endfor %}"
             "{% if add_generation_prompt %}assistant={% endif %}"),
      "user=hi</s>\nassistant=ho</s>\nassistant=");
  EXPECT_EQ(render("{{ tools is defined }} {{ tools is none }} {{ documents }}"), "True True None");
}

// What Jinja2 with transformers' settings prints for these is the same; tests/oracles/test_text.py
// compares many more with the live library.
TEST(ChatTemplate, PrintsValuesAsPython) {
  EXPECT_EQ(render("{{ [1, 2.0, true, none, 'it\\'s', {'a': 'b'}] }}"),
            "[1, 2.0, True, None, \"it's\", {'a': 'b'}]");
  EXPECT_EQ(render("{{ x }}|{{ x ~ '' }}|{{ x|string }}", R"({"x": {"k": ["v", 1e16, 0.5]}})"),
            "{'k': ['v', 1e+16, 0.5]}|{'k': ['v', 1e+16, 0.5]}|{'k': ['v', 1e+16, 0.5]}");
  EXPECT_EQ(render("{{ undefined_name }}|{{ 7 / 2 }}|{{ 7 // 2 }}|{{ -7 % 3 }}"), "|3.5|3|2");
}

TEST(ChatTemplate, WritesJsonAsTransformers) {
  const std::string extra = R"({"x": {"b": "<ñ&'>", "a": [1, 1.0, null, true], "e": {}}})";
  EXPECT_EQ(render("{{ x|tojson }}", extra),
            R"({"b": "<ñ&'>", "a": [1, 1.0, null, true], "e": {}})");
  EXPECT_EQ(render("{{ x|tojson(indent=2) }}", extra),
            "{\n  \"b\": \"<ñ&'>\",\n  \"a\": [\n    1,\n    1.0,\n    null,\n    true\n  ],\n  "
            "\"e\": {}\n}");
  EXPECT_EQ(
      render("{{ x|tojson(separators=(',', ':'), ensure_ascii=true, sort_keys=true) }}", extra),
      R"({"a":[1,1.0,null,true],"b":"<\u00f1&'>","e":{}})");
}

TEST(ChatTemplate, TrimsBlocksAndKeepsLineEndsAsJinja) {
  EXPECT_EQ(render("  {% if true %}\n    x\n  {% endif %}\n\ny\n"), "    x\n\ny");
  EXPECT_EQ(render("a\r\nb\rc\n\n"), "a\nb\nc\n");
}

TEST(ChatTemplate, HasPythonsStringMethods) {
  EXPECT_EQ(render("{{ ' a-b '.strip().split('-') }}{{ 'x'.startswith(('y', 'x')) }}"),
            "['a', 'b']True");
  EXPECT_EQ(render("{{ 'ñañ'.rfind('ñ') }}{{ 'a  b c'.rsplit(none, 1) }}{{ ''.isdigit() }}"),
            "2['a  b', 'c']False");
}

TEST(ChatTemplate, KeysThatAreNullAreNotThere) {
  const ChatTemplate chat(
      "{% for m in messages %}[{{ m.role }}|{{ m.content }}|{{ 'tool_calls' in m }}|"
      "{{ m.name is defined }}|{{ m.a }}]{% endfor %}",
      {});
  const Json messages =
      Json::parse(R"([{"role": "assistant", "content": null, "tool_calls": null, "name": null, )"
                  R"("a": {"b": null}}])");
  EXPECT_EQ(chat.render(messages, false).text, "[assistant||False|False|{'b': None}]")
      << "those inside values stay, as in transformers";
}

TEST(ChatTemplate, PrintsOneDateThatTheCallerSets) {
  ChatTemplate chat("{{ strftime_now('%d %b %Y %H:%M') }}", {});
  EXPECT_TRUE(chat.prints_date());
  EXPECT_EQ(chat.date(), default_date());
  chat.set_date("2024-07-26");
  EXPECT_EQ(chat.render(kHello, false).text, "26 Jul 2024 00:00");
  EXPECT_EQ(chat.date(), "2024-07-26");
  ChatTemplate zone("{{ strftime_now('%%Z%Z%z|%A %j') }}", {});
  zone.set_date("2024-12-31");
  EXPECT_EQ(zone.render(kHello, false).text, "%Z|Tuesday 366");
  for (const char* bad : {"2024-13-01", "2024-02-30", "26 Jul 2024", "2024-7-26", ""}) {
    EXPECT_THROWS_WITH(chat.set_date(bad), InputError, "is no day");
  }
  EXPECT_FALSE(ChatTemplate("{{ my_strftime_now }}", {}).prints_date());
}

TEST(DefaultDate, IsTheDayOfSourceDateEpochWhereItIsSet) {
  const auto day = [](const char* epoch) {
    EXPECT_EXIT(
        {
          ::setenv("SOURCE_DATE_EPOCH", epoch, 1);
          try {
            std::fprintf(stderr, "%s", default_date().c_str());
          } catch (const ConfigError& error) {
            std::fprintf(stderr, "%s", error.what());
          }
          std::_Exit(0);
        },
        ::testing::ExitedWithCode(0),
        epoch[0] == 'x' ? "expected seconds since 1970" : "2020-02-29");
  };
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  day("1582934400");
  day("x");
}

TEST(ChatTemplate, KnowsWhichWordsItsSourceNames) {
  const ChatTemplate chat("{{ m.tool_calls }}{{ tools_x }}{{ m['thinking'] }}", {});
  EXPECT_TRUE(chat.names("tool_calls"));
  EXPECT_TRUE(chat.names("thinking"));
  EXPECT_FALSE(chat.names("tools"));
  EXPECT_FALSE(chat.names("tool"));
}

TEST(ChatTemplate, RaisedMessagesAreTheError) {
  const ChatTemplate strict("{{ raise_exception('roles must alternate') }}",
                            nlohmann::json::object());
  EXPECT_THROWS_WITH((void)strict.render(kHello, false), InputError, "roles must alternate");
  const ChatTemplate deep(
      "{% macro m(x) %}{{ raise_exception('no ' ~ x) }}{% endmacro %}"
      "{% for x in messages %}{{ m(x.role) }}{% endfor %}",
      {});
  EXPECT_THROWS_WITH((void)deep.render(kHello, false), InputError,
                     "refuses the conversation: no user");
}

TEST(ChatTemplate, FaultsNameTheLine) {
  EXPECT_THROWS_WITH(ChatTemplate("a\n{% if %}", {}), InputError, "line 2");
  const ChatTemplate attribute("x\n\n{{ nothing.at.all }}", {});
  EXPECT_THROWS_WITH((void)attribute.render(kHello, false), InputError, "line 3", "undefined");
  const ChatTemplate loop("{% for t in tools %}{% endfor %}", {});
  EXPECT_THROWS_WITH((void)loop.render(kHello, false), InputError, "not iterable");
  EXPECT_THROWS_WITH((void)loop.render(Json::object(), false), InputError, "list of messages");
  EXPECT_THROWS_WITH((void)loop.render(Json::array({"hi"}), false), InputError, "\"role\"");
}

TEST(ChatTemplate, HostileTemplatesEnd) {
  const ChatTemplate busy(
      "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}", {});
  EXPECT_THROWS_WITH((void)busy.render(kHello, false), InputError, "fuel");
  const ChatTemplate deep("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", {});
  EXPECT_THROWS_WITH((void)deep.render(kHello, false), InputError, "recursion");
  const ChatTemplate cycle("{% set ns = namespace(a=1) %}{% set ns.a = [ns] %}{{ ns ~ '' }}", {});
  EXPECT_THROWS_WITH((void)cycle.render(kHello, false), InputError, "cannot hold a namespace");
  const ChatTemplate nested(
      "{% set ns = namespace(a=[]) %}{% for a in range(99999) %}"
      "{% set ns.a = [ns.a] %}{% endfor %}",
      {});
  EXPECT_THROWS_WITH((void)nested.render(kHello, false), InputError, "nested over 100 deep");
}

std::vector<std::string> spans(const std::string& source) {
  const ChatTemplate chat(source, {});
  EXPECT_TRUE(chat.marks_generation());
  const Rendered rendered = chat.render(kHello, false);
  std::vector<std::string> parts;
  for (const auto& [begin, end] : rendered.generation) {
    parts.push_back(rendered.text.substr(begin, end - begin));
  }
  parts.push_back(rendered.text);
  return parts;
}

TEST(ChatTemplate, TellsWhatGenerationBlocksGave) {
  using Parts = std::vector<std::string>;
  const std::string loop =
      "{%- for m in messages -%}\n[{{ m.role }}]"
      "{% if m.role == 'assistant' %}{%- generation -%} {{ m.content }}é{% endgeneration %}{% "
      "endif %};"
      "{%- endfor -%}";
  EXPECT_EQ(spans(loop), (Parts{"ho\xC3\xA9", "[user];[assistant]ho\xC3\xA9;"}));
  EXPECT_EQ(
      spans("{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}!{% endmacro %}"
            "{% for m in messages %}{{ say(m) }}{% endfor %}"),
      (Parts{"hi", "ho", "hi!ho!"}));
  EXPECT_EQ(spans("{% set x %}a{% generation %}b{% endgeneration %}{% endset %}{{ x }}c{{ x }}"),
            (Parts{"b", "b", "abcab"}));
  EXPECT_FALSE(ChatTemplate("{# {% generation %} #}{% raw %}{% generation %}{% endraw %}"
                            "{{ '{% generation %}' }}",
                            {})
                   .marks_generation());
}

TEST(ChatTemplate, RefusesMarksThatCannotBePlaced) {
  const ChatTemplate chat(
      "{% set x %}{% generation %} b {% endgeneration %}{% endset %}{{ x|trim }}", {});
  EXPECT_THROWS_WITH((void)chat.render(kHello, false), InputError, "generation");
}

TEST(ChatTemplate, FaultsNameItsFile) {
  EXPECT_THROWS_WITH(ChatTemplate("{% if %}", {}, "a.jinja"), InputError, "chat template a.jinja");
  const ChatTemplate refusing("{{ raise_exception('no system') }}", {}, "b.jinja");
  EXPECT_THROWS_WITH((void)refusing.render(kHello, false), InputError, "chat template b.jinja",
                     "no system");
  const tests::TempDir dir;
  const auto file = dir.write("chat_template.jinja", "{% if %}");
  EXPECT_THROWS_WITH((void)ChatTemplate::open(dir.path()), InputError, file.c_str());
}

TEST(ChatTemplate, IsFoundInEachOfItsPlaces) {
  const tests::TempDir dir;
  EXPECT_FALSE(ChatTemplate::open(dir.path()).has_value());
  dir.write("tokenizer_config.json",
            R"({"eos_token": {"content": "</s>"}, "chat_template": "one{{ eos_token }}"})");
  EXPECT_EQ(ChatTemplate::open(dir.path())->render(kHello, false).text, "one</s>");
  dir.write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "two"}]})");
  EXPECT_EQ(ChatTemplate::open(dir.path())->source(), "two");
  dir.write("chat_template.jinja", "three");
  const auto chat = ChatTemplate::open(dir.path());
  EXPECT_EQ(chat->source(), "three");
  EXPECT_EQ(chat->digest(), ChatTemplate("three", {}).digest());
  EXPECT_NE(chat->digest(), ChatTemplate("four", {}).digest());
}

}  // namespace
}  // namespace weft::text
