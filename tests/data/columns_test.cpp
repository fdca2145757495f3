// What rows say besides their texts: marks, tools, verdicts, columns that weft does not know. None
// of it is dropped in silence.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "data/dataset.h"
#include "data/examples.h"
#include "data/preflight.h"
#include "tests/data/tiny_tokenizer.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::kPlainTemplate;
using tests::TinyTokenizer;

/// Shows tools and calls, as the templates of models that know them do.
constexpr const char* kToolTemplate =
    "{%- if tools %}<|system|>{% for t in tools %}{{ t.function.name }}{% endfor %}<|end|>\n"
    "{% endif %}{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}call {{ c.function.name }}({{ c.function.arguments | tojson "
    "}}){% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

constexpr const char* kMarkingTemplate =
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// One file of rows, and what becomes of them.
struct Rows {
  explicit Rows(const std::string& text, const char* source = kPlainTemplate,
                const char* name = "r.jsonl")
      : chat_template(source, tiny.tokenizer.special_tokens(), "t.jinja") {
    config.path = {dir.write(name, text)};
  }

  Examples load() {
    const PromptBuilder builder(tiny.tokenizer, &chat_template, options);
    return load_examples({config}, builder, [&](core::Level, std::string_view line) {
      said += std::string(line) + "\n";
    });
  }

  /// The examples' texts, learned parts in [ ].
  std::vector<std::string> shown() {
    std::vector<std::string> all;
    for (const Example& example : load().examples) {
      std::string out;
      for (std::size_t t = 0; t < example.tokens.size(); ++t) {
        const bool before = t > 0 && example.supervised[t - 1] != 0;
        const bool now = example.supervised[t] != 0;
        if (before && !now) out += "]";
        if (!before && now) out += "[";
        out += tiny.tokenizer.decode({&example.tokens[t], 1});
      }
      all.push_back(out + (example.supervised.back() != 0 ? "]" : ""));
    }
    return all;
  }

  std::string plan() {
    const Examples data = load();
    return to_text(inspect_examples(data, tiny.tokenizer));
  }

  weft::tests::TempDir dir;
  TinyTokenizer tiny{{.merges = {}, .eos = "<|end|>"}};
  text::ChatTemplate chat_template;
  DatasetConfig config;
  PromptOptions options;
  std::string said;
};

std::string chat(const std::string& messages, const std::string& more = "") {
  return fmt::format("{{\"messages\": [{}]{}}}\n", messages, more);
}
std::string user(const std::string& text) {
  return fmt::format(R"({{"role": "user", "content": "{}"}})", text);
}
std::string answer(const std::string& text, const std::string& more = "") {
  return fmt::format(R"({{"role": "assistant", "content": "{}"{}}})", text, more);
}

TEST(Marks, AMessageMarkedNotToBeLearnedWasLearned) {
  for (const char* mark : {R"("weight": 0)", R"("train": false)", R"("trainable": false)",
                           R"("loss": false)", R"("weight": 0.0)"}) {
    Rows rows(chat(user("a") + "," + answer("wrong", std::string(", ") + mark) + "," + user("b") +
                   "," + answer("right", R"(, "weight": 1)")));
    EXPECT_THAT(rows.shown(), ElementsAre("<|user|>a<|end|>\n<|assistant|>wrong<|end|>\n"
                                          "<|user|>b<|end|>\n<|assistant|>[right<|end|>]"))
        << mark;
    EXPECT_EQ(rows.load().examples.at(0).answer_bytes, 5) << mark;
  }
}

TEST(Marks, AConversationEndsWithItsLastLearnedMessage) {
  Rows rows(chat(user("a") + "," + answer("good") + "," + user("b") + "," +
                 answer("bad", R"(, "train": false)")));
  rows.options.train_on_turns = Turns::kLast;
  EXPECT_THAT(rows.shown(), ElementsAre("<|user|>a<|end|>\n<|assistant|>[good<|end|>]"));
}

TEST(Marks, AMessageSetAsideIsNotLearnedWithTheInputsEither) {
  Rows rows(chat(user("a") + "," + answer("bad", R"(, "weight": 0)") + "," + user("b") + "," +
                 answer("good")));
  rows.options.train_on_inputs = true;
  EXPECT_THAT(rows.shown(), ElementsAre("<|user|>[a<|end|>\n<|assistant|>]bad<|end|>\n[<|user|>b"
                                        "<|end|>\n<|assistant|>good<|end|>]"));
}

TEST(Marks, TemplatesThatMarkGenerationHonourThemToo) {
  const std::string row = chat(user("a") + "," + answer("bad", R"(, "weight": 0)") + "," +
                               user("b") + "," + answer("good"));
  Rows rows(row, kMarkingTemplate);
  EXPECT_THAT(rows.shown(), ElementsAre("<|user|>a<|end|>\n<|assistant|>bad<|end|>\n"
                                        "<|user|>b<|end|>\n<|assistant|>[good<|end|>]"));
  Rows unclear(row,
               "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
               "<|end|>{% endfor %}");
  EXPECT_THROWS_WITH((void)unclear.load(), InputError, "marks 4 parts as generated in 2");
}

TEST(Marks, WhatCannotBeHonouredIsRefusedByName) {
  const auto refusal = [](const std::string& messages) {
    Rows rows(chat(messages));
    try {
      (void)rows.load();
    } catch (const InputError& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refusal(user("a") + "," + answer("b", R"(, "weight": 0.5)")),
              HasSubstr("message 1: 'weight' is 0.5"));
  EXPECT_THAT(refusal(user("a") + "," + answer("b", R"(, "train_detail": [])")),
              HasSubstr("message 1 marks parts of its text with 'train_detail'"));
  EXPECT_THAT(refusal(R"({"role": "user", "content": "a", "train": true},)" + answer("b")),
              HasSubstr("message 0 (user) is marked to be learned"));
  EXPECT_THAT(refusal(user("a") + R"(,{"role": "assistant", "content": [{"type": "text", )"
                                  R"("text": "b", "train": false}]})"),
              HasSubstr("message 1 marks a part of its text with 'train'"));
  EXPECT_THAT(refusal(user("a") + "," + answer("b", R"(, "weight": 0)")),
              HasSubstr("every assistant message of the conversation is marked not to be learned"));
  EXPECT_THAT(refusal(user("a") + "," + answer("b", R"(, "weight": 0, "train": true)")),
              HasSubstr("'train' contradicts"));
}

TEST(NullKeys, AnEmptyAnswerWithoutCallsIsNotHiddenByThem) {
  for (const char* message :
       {R"({"role": "assistant", "content": "", "tool_calls": null, "name": null})",
        R"({"role": "assistant", "content": "", "tool_calls": []})"}) {
    Rows rows(chat(user("a") + "," + message));
    EXPECT_THROWS_WITH((void)rows.load(), InputError, "message 1 (assistant) is empty");
  }
  for (const char* message : {R"({"role": "assistant", "content": null, "tool_calls": null})",
                              R"({"role": "assistant", "content": null, "tool_calls": []})"}) {
    Rows rows(chat(user("a") + "," + message));
    EXPECT_THROWS_WITH((void)rows.load(), InputError, "message 1 has no text");
  }
  Rows rows(chat(R"({"role": "user", "content": null, "tool_calls": null},)" + answer("b")));
  EXPECT_THROWS_WITH((void)rows.load(), InputError, "message 0 has no text");
}

TEST(Tools, OfARowReachTheTemplateAndCallsAreLearned) {
  const std::string call =
      R"({"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": )"
      R"({"name": "warm", "arguments": {"town": "x"}}}]})";
  const std::string tool = R"({"type": "function", "function": {"name": "warm"}})";
  const std::string messages =
      user("q") + "," + call + R"(,{"role": "tool", "content": "27"},)" + answer("27 degrees");
  const char* wanted =
      "<|system|>warm<|end|>\n<|user|>q<|end|>\n<|assistant|>[call warm({\"town\": \"x\"})<|end|>]"
      "\n<|tool|>27<|end|>\n<|assistant|>[27 degrees<|end|>]";
  Rows list(chat(messages, ", \"tools\": [" + tool + "]"), kToolTemplate);
  EXPECT_THAT(list.shown(), ElementsAre(wanted));
  EXPECT_EQ(
      list.load().examples.at(0).answer_bytes,
      static_cast<std::int64_t>(std::string("call warm({\"town\": \"x\"})27 degrees").size()));
  const std::string text = nlohmann::json("[" + tool + "]").dump();
  Rows as_text(chat(messages, ", \"tools\": " + text), kToolTemplate);
  EXPECT_THAT(as_text.shown(), ElementsAre(wanted));
  Rows none(chat(user("q") + "," + answer("a"), R"(, "tools": null)"), kToolTemplate);
  EXPECT_THAT(none.shown(), ElementsAre("<|user|>q<|end|>\n<|assistant|>[a<|end|>]"));
  Rows wrong(chat(messages, R"(, "tools": {"name": "warm"})"), kToolTemplate);
  EXPECT_THROWS_WITH((void)wrong.load(), InputError, "'tools' holds an object, expected a list");
  Rows unread(chat(messages, ", \"tools\": [" + tool + "]"));
  EXPECT_THROWS_WITH((void)unread.load(), InputError, "message 1 calls a tool",
                     "no place for tool_calls", "chat_template: FILE.jinja");
  Rows unnamed(chat(user("q") + "," + answer("a"), ", \"tools\": [" + tool + "]"));
  EXPECT_THAT(unnamed.plan(), HasSubstr("no effect   tools (1)"));
}

TEST(Tools, TheReferenceOfAQuestionIsTheCallAndNotAnEmptyText) {
  Rows rows(chat(user("q") + R"(,{"role": "assistant", "tool_calls": [{"function": {"name": )"
                             R"("warm", "arguments": {}}}]})"),
            kToolTemplate);
  const PromptBuilder builder(rows.tiny.tokenizer, &rows.chat_template);
  EXPECT_EQ(builder.question(load_samples(rows.config).at(0)).reference, "call warm({})");
}

TEST(ShareGpt, FunctionCallsAreLearnedAsCallsAndObservationsAreTools) {
  Rows rows(
      R"({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": )"
      R"("{\"name\": \"warm\", \"arguments\": {\"town\": \"x\"}}"}, {"from": "observation", )"
      R"("value": "27"}, {"from": "gpt", "value": "27 degrees"}], "tools": "[{\"function\": )"
      R"({\"name\": \"warm\"}}]"})",
      kToolTemplate);
  EXPECT_THAT(rows.shown(),
              ElementsAre("<|system|>warm<|end|>\n<|user|>q<|end|>\n<|assistant|>[call warm("
                          "{\"town\": \"x\"})<|end|>]\n<|tool|>27<|end|>\n"
                          "<|assistant|>[27 degrees<|end|>]"));
  Rows wrong(R"({"conversations": [{"from": "function_call", "value": "call it"}]})");
  EXPECT_THROWS_WITH((void)wrong.load(), InputError, "message 0 is a function call",
                     "\"arguments\"");
}

TEST(ShareGpt, RolesThatNobodyKnowsAreNamed) {
  Rows rows(
      R"({"conversations": [{"from": "human", "value": "q"}, {"from": "critic", "value": "c"},)"
      R"( {"from": "gpt", "value": "a"}]})");
  EXPECT_THROWS_WITH((void)rows.load(), InputError, "message 1 has the role 'critic'",
                     "system, developer, user");
  Rows known(
      R"({"messages": [{"role": "critic", "content": "c"}, {"role": "bot", "content": "a"}]})",
      "{% for m in messages %}{% if m.role == 'critic' %}({{ m.content }}){% else %}"
      "<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}");
  EXPECT_THAT(known.shown(), ElementsAre("(c)<|assistant|>[a<|end|>]"));
}

std::string refusal(const std::string& row, const char* name = "r.jsonl",
                    const std::vector<std::string>& ignore = {}) {
  Rows rows(row, kPlainTemplate, name);
  rows.config.ignore = ignore;
  try {
    (void)rows.load();
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Columns, AnswersThatAreNotWantedWereLearnedAsGood) {
  const std::string kto = R"({"prompt": "q", "completion": "bad", "label": false})";
  EXPECT_THAT(refusal(kto), HasSubstr("'label' is false: an answer that is not wanted"));
  EXPECT_EQ(refusal(kto, "r.jsonl", {"label"}), "accepted");
  EXPECT_EQ(refusal(R"({"prompt": "q", "completion": "good", "label": true})"), "accepted");
  EXPECT_THAT(refusal(chat(user("q") + "," + answer("a"), R"(, "kto_tag": false)")),
              HasSubstr("'kto_tag' is false"));
  EXPECT_THAT(refusal("prompt,completion,label\nq,a,False\n", "r.csv"),
              HasSubstr("'label' is false"));
  EXPECT_EQ(refusal(R"({"text": "a review", "label": false})"), "accepted") << "a class of texts";
  Rows mixed(kto + "\n" + R"({"prompt": "q", "completion": "good", "label": true})");
  mixed.config.on_bad_row = OnBadRow::kSkip;
  EXPECT_THAT(mixed.shown(), ElementsAre("q[good<|end|>]"));
}

TEST(Columns, PreferencesWereLeftOutWithoutAWord) {
  const std::string row =
      chat(user("q") + "," + answer("earlier") + "," + user("r"),
           R"(, "chosen": {"role": "assistant", "content": "c"}, "rejected": {"content": "r"})");
  EXPECT_THAT(refusal(row), HasSubstr("the column 'rejected' holds a worse answer"));
  EXPECT_EQ(refusal(row, "r.jsonl", {"chosen", "rejected"}), "accepted");
  EXPECT_THAT(refusal(R"({"prompt": "q", "chosen": "c", "rejected": "r"})"),
              testing::AllOf(HasSubstr("learns no preferences"), HasSubstr("output: \"{chosen}\""),
                             testing::Not(HasSubstr("{rejected}"))));
  Rows chosen(R"({"prompt": "q", "chosen": "c", "rejected": "r"})");
  chosen.config.fields = {{"instruction", "{prompt}"}, {"output", "{chosen}"}};
  EXPECT_THAT(chosen.plan(), HasSubstr("columns rejected (1)"));
}

TEST(Columns, PicturesWereLeftOutAndTheirMarksLearned) {
  const std::string row =
      chat(user("<image>What is it?") + "," + answer("a"), R"(, "images": ["a.png"])");
  EXPECT_THAT(refusal(row), HasSubstr("the row has images (column 'images')"));
  EXPECT_EQ(refusal(row, "r.jsonl", {"images"}), "accepted");
  EXPECT_THAT(refusal("instruction,output,image\n<image> q,a,a.png\n", "r.csv"),
              HasSubstr("column 'image'"));
  EXPECT_EQ(refusal("instruction,output,image\nq,a,http://x/a.png\n", "r.csv"), "accepted");
  EXPECT_EQ(refusal(chat(user("q") + "," + answer("a"), R"(, "images": [], "videos": null)")),
            "accepted");
}

TEST(Columns, AlpacasHistoryIsEarlierTurnsAndLearned) {
  Rows rows(R"({"instruction": "And in French?", "input": "", "output": "bonjour", )"
            R"("history": [["Hello in Spanish?", "hola"]], "system": "s"})");
  EXPECT_THAT(rows.shown(),
              ElementsAre("<|system|>s<|end|>\n<|user|>Hello in Spanish?<|end|>\n"
                          "<|assistant|>[hola<|end|>]\n<|user|>And in French?<|end|>\n"
                          "<|assistant|>[bonjour<|end|>]"));
  EXPECT_THAT(refusal(R"({"instruction": "q", "output": "a", "history": [["only one"]]})"),
              HasSubstr("turn 0 of 'history' is no pair"));
}

TEST(Columns, ThoseWithoutAPartAreListedOnce) {
  Rows rows(R"({"instruction": "q", "output": "a", "id": 1, "source": "x", "empty": null})"
            "\n"
            R"({"instruction": "r", "output": "b", "id": 2, "empty": ""})");
  const std::string plan = rows.plan();
  EXPECT_THAT(plan, HasSubstr("not used    columns id (2), source (1) (rows that fill them)\n"));
  rows.config.ignore = {"id", "source"};
  EXPECT_EQ(rows.plan().find("not used"), std::string::npos);
  Rows system(chat(R"({"role": "system", "content": "own"},)" + user("q") + "," + answer("a"),
                   R"(, "system": "of the row")"));
  EXPECT_THAT(system.plan(), HasSubstr("columns system (1)"));
}

TEST(Columns, KeysOfMessagesThatTheTemplateDoesNotNameAreListed) {
  Rows rows(
      chat(user("q") + "," + answer("a", R"(, "reasoning_content": "because", "name": null)")));
  EXPECT_THAT(rows.plan(), HasSubstr("no effect   messages.reasoning_content (1)"));
  Rows named(chat(user("q") + "," + answer("a", R"(, "reasoning_content": "because")")),
             "{% for m in messages %}<|{{ m.role }}|>{{ m.thinking or '' }}{{ m.content }}<|end|>"
             "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}");
  EXPECT_EQ(named.plan().find("no effect"), std::string::npos);
}

TEST(Columns, TheInputOfAnInstructionIsInTheContentAndNotToldAsWithoutEffect) {
  Rows rows(R"({"instruction": "q", "input": "x", "output": "a"})");
  EXPECT_THAT(rows.shown(), ElementsAre("<|user|>q\nx<|end|>\n<|assistant|>[a<|end|>]"));
  EXPECT_EQ(rows.plan().find("no effect"), std::string::npos) << rows.plan();
}

TEST(Columns, ANullColumnOfMessagesDoesNotHideTheConversation) {
  Rows rows(R"({"messages": null, "conversations": [{"from": "human", "value": "a"}, )"
            R"({"from": "gpt", "value": "b"}]})");
  EXPECT_THAT(rows.shown(), ElementsAre("<|user|>a<|end|>\n<|assistant|>[b<|end|>]"));
  EXPECT_THAT(refusal(chat(user("q") + "," + answer("a")) + R"({"text": "t"})"),
              HasSubstr("expected a list of messages in 'messages'"));
}

TEST(Columns, PromptAndCompletionMayBeLists) {
  Rows rows(
      R"({"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, )"
      R"({"role": "user", "content": "c"}], "completion": [{"role": "assistant", )"
      R"("content": "d"}]})");
  EXPECT_THAT(rows.shown(),
              ElementsAre("<|user|>a<|end|>\n<|assistant|>b<|end|>\n<|user|>c<|end|>\n"
                          "<|assistant|>[d<|end|>]"));
  EXPECT_THAT(refusal(R"({"prompt": [{"role": "user", "content": "a"}], "completion": "b"})"),
              HasSubstr("one of prompt and completion is a list of messages"));
}

TEST(BadRows, ThoseThatTheTemplateRefusesAreSkippedAndCounted) {
  std::string text;
  for (int i = 0; i < 40; ++i) {
    text += chat(i % 10 == 3 ? answer("alone") : user("q") + "," + answer(fmt::format("a{}", i)));
  }
  const char* strict =
      "{% if messages[0].role != 'user' %}{{ raise_exception('begins with no user') }}{% endif %}"
      "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}";
  Rows raise(text, strict);
  EXPECT_THROWS_WITH((void)raise.load(), InputError, "r.jsonl:4: ", "begins with no user",
                     "4 bad rows in 40", "on_bad_row: skip");
  Rows skip(text, strict);
  skip.config.on_bad_row = OnBadRow::kSkip;
  const Examples data = skip.load();
  EXPECT_EQ(data.examples.size(), 36U);
  EXPECT_EQ(data.rows.rows, 36);
  EXPECT_EQ(data.rows.bad_rows, 4);
  EXPECT_EQ(data.prompts.samples, 36);
  EXPECT_EQ(data.rows.faults.at(0).origin.line, 4);
  EXPECT_THAT(skip.said, HasSubstr("4 of 40 rows were left out"));
  EXPECT_THAT(inspect_examples(data, skip.tiny.tokenizer).violations,
              testing::Contains(HasSubstr("10 % of the rows are bad")));
  Rows none(chat(answer("alone")), strict);
  none.config.on_bad_row = OnBadRow::kSkip;
  EXPECT_THROWS_WITH((void)none.load(), InputError, "no row in it can be used");
}

}  // namespace
}  // namespace weft::data
