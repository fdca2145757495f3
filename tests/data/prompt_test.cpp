#include "data/prompt.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.h"
#include "data/examples.h"
#include "data/preflight.h"
#include "tests/data/tiny_tokenizer.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {

using ::testing::HasSubstr;
using tests::kPlainTemplate;
using tests::TinyTokenizer;

constexpr const char* kFile = "f.jsonl";

Sample chat_sample(const std::string& messages) {
  Sample sample;
  sample.type = DatasetType::kChat;
  sample.messages = nlohmann::ordered_json::parse(messages);
  sample.origin = {std::make_shared<const std::string>(kFile), 3};
  return sample;
}

Sample turns(const std::vector<std::string>& contents) {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < contents.size(); ++i) {
    messages.push_back({{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", contents[i]}});
  }
  return chat_sample(messages.dump());
}

Sample completion(std::string prompt, std::string answer) {
  Sample sample;
  sample.type = DatasetType::kCompletion;
  sample.prompt = std::move(prompt);
  sample.completion = std::move(answer);
  return sample;
}

Sample plain(std::string text) {
  Sample sample;
  sample.text = std::move(text);
  sample.origin = {std::make_shared<const std::string>(kFile), 9};
  return sample;
}

/// A builder with everything it refers to.
struct Bench {
  explicit Bench(const TinyTokenizer::Options& tokens, const char* source = kPlainTemplate,
                 PromptOptions options = {})
      : tiny(tokens),
        chat_template(source, tiny.tokenizer.special_tokens(), "t.jinja"),
        builder(tiny.tokenizer, &chat_template, std::move(options)) {}

  Example one(const Sample& sample) {
    std::vector<Example> examples = builder.build(sample, statistics);
    EXPECT_EQ(examples.size(), 1U);
    return examples.empty() ? Example{} : examples[0];
  }

  /// The example's text, learned parts in [ ].
  std::string shown(const Example& example) const {
    std::string out;
    for (std::size_t t = 0; t < example.tokens.size(); ++t) {
      const bool before = t > 0 && example.supervised[t - 1] != 0;
      const bool now = example.supervised[t] != 0;
      if (before && !now) out += "]";
      if (!before && now) out += "[";
      out += tiny.tokenizer.decode({&example.tokens[t], 1});
    }
    return out + (!example.supervised.empty() && example.supervised.back() != 0 ? "]" : "");
  }
  std::string shown(const Sample& sample) { return shown(one(sample)); }

  TinyTokenizer tiny;
  text::ChatTemplate chat_template;
  PromptBuilder builder;
  PromptStatistics statistics;
};

TinyTokenizer::Options ending(const std::string& eos) { return {.merges = {}, .eos = eos}; }

TEST(Prompt, LearnsEachAnswerWithItsEndTokenAndNothingElse) {
  Bench bench(ending("<|end|>"));
  EXPECT_EQ(bench.shown(turns({"hi", "yes", "more", "no"})),
            "<|user|>hi<|end|>\n<|assistant|>[yes<|end|>]\n<|user|>more<|end|>\n"
            "<|assistant|>[no<|end|>]");
  EXPECT_EQ(bench.one(turns({"hi", "yes", "more", "no"})).answer_bytes, 5);
  EXPECT_EQ(bench.statistics.appended_end, 0);
}

TEST(Prompt, LastTurnOnlyWhenAsked) {
  Bench bench(ending("<|end|>"), kPlainTemplate, {.train_on_turns = Turns::kLast});
  EXPECT_EQ(bench.shown(turns({"hi", "yes", "more", "no"})),
            "<|user|>hi<|end|>\n<|assistant|>yes<|end|>\n<|user|>more<|end|>\n"
            "<|assistant|>[no<|end|>]");
}

TEST(Prompt, WhatFollowsTheLastAnswerIsCutOff) {
  Bench bench(ending("<|end|>"));
  EXPECT_EQ(bench.shown(turns({"hi", "yes", "unanswered"})),
            "<|user|>hi<|end|>\n<|assistant|>[yes<|end|>]");
}

TEST(Prompt, InputsAreLearnedWhenAsked) {
  Bench bench(ending("<|end|>"), kPlainTemplate, {.train_on_inputs = true});
  EXPECT_EQ(bench.shown(turns({"hi", "yes"})), "<|user|>[hi<|end|>\n<|assistant|>yes<|end|>]")
      << "all but the first token, which nothing precedes";
}

TEST(Prompt, EndOfTextIsAddedWhereTheTemplateDoesNotEndTheTurn) {
  Bench differs(ending("</s>"));
  EXPECT_EQ(differs.shown(turns({"hi", "yes"})), "<|user|>hi<|end|>\n<|assistant|>[yes<|end|></s>]")
      << "generation stops at </s> only, so it has to be learned";
  EXPECT_EQ(differs.statistics.appended_end, 1);
  Bench bare(ending("</s>"),
             "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
             "{% if add_generation_prompt %}assistant:{% endif %}");
  EXPECT_EQ(bare.shown(turns({"hi", "yes"})), "user: hi\nassistant:[ yes\n</s>]");
}

TEST(Prompt, EndTokenIsLearnedEvenWhenItPads) {
  Bench bench(ending("<|end|>"));
  const Example example = bench.one(turns({"hi", "yes"}));
  EXPECT_EQ(example.tokens.back(), bench.tiny.id("<|end|>"));
  EXPECT_EQ(example.supervised.back(), 1);
}

TEST(Prompt, TemplatesThatMarkGenerationDecideWhatIsLearned) {
  Bench bench(
      ending("<|end|>"),
      "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
      "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
      "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}");
  EXPECT_EQ(bench.shown(turns({"hi", "yes", "more", "no"})),
            "<|user|>hi<|end|>\n<|assistant|>[yes<|end|>]\n<|user|>more<|end|>\n"
            "<|assistant|>[no<|end|>]");
}

TEST(Prompt, TemplatesThatRewriteHistoryAreRefusedUnlessOnlyTheLastTurnCounts) {
  // As Qwen3 does: the reasoning of earlier turns is left out.
  constexpr const char* kRewrites =
      "{% for m in messages %}<|{{ m.role }}|>{% if loop.last %}think {% endif %}{{ m.content }}"
      "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
  Bench all(ending("<|end|>"), kRewrites);
  EXPECT_THROWS_WITH((void)all.one(turns({"hi", "yes", "more", "no"})), InputError,
                     "f.jsonl:3: ", "message 1 differently", "train_on_turns: last");
  Bench last(ending("<|end|>"),
             "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' %}"
             "think {% endif %}{{ m.content }}<|end|>\n{% endfor %}"
             "{% if add_generation_prompt %}<|assistant|>{% endif %}",
             {.train_on_turns = Turns::kLast});
  EXPECT_EQ(last.shown(turns({"hi", "yes", "more", "no"})),
            "<|user|>hi<|end|>\n<|assistant|>yes<|end|>\n<|user|>more<|end|>\n"
            "<|assistant|>[think no<|end|>]");
}

TEST(Prompt, WithoutTemplateSaysWhatToDo) {
  const TinyTokenizer tiny({});
  const PromptBuilder builder(tiny.tokenizer, nullptr);
  PromptStatistics statistics;
  EXPECT_THROWS_WITH((void)builder.build(turns({"q", "a"}), statistics), InputError, "f.jsonl:3",
                     "no chat template", "chat_template:");
  EXPECT_THROWS_WITH((void)builder.question(turns({"q", "a"})), InputError, "no chat template");
}

TEST(Prompt, TemplateErrorsHaveFileAndLine) {
  Bench bench({}, "{{ raise_exception('roles must alternate') }}");
  EXPECT_THROWS_WITH((void)bench.one(turns({"q", "a"})), InputError,
                     "f.jsonl:3: ", "roles must alternate");
}

TEST(Prompt, MergeAcrossTheBoundaryIsUndone) {
  // Joint: "Q", ": ", "a"; at inference the prompt is "Q", ":".
  Bench bench({.merges = {{":", " "}, {" ", "a"}}});
  const Example example = bench.one(completion("Q:", " a"));
  EXPECT_EQ(example.tokens,
            (std::vector<std::int32_t>{bench.tiny.id("Q"), bench.tiny.id(":"), bench.tiny.id("Ġa"),
                                       bench.tiny.id("</s>")}));
  EXPECT_EQ(bench.shown(example), "Q:[ a</s>]");
  EXPECT_EQ(bench.statistics.unmerged, 1);
  EXPECT_EQ(bench.builder.question(completion("Q:", " a")).prompt,
            (std::vector<std::int32_t>{bench.tiny.id("Q"), bench.tiny.id(":")}));
}

TEST(Prompt, BoundaryWithoutMergeIsEncodedAsOneText) {
  Bench bench({.merges = {{" ", "a"}}});
  EXPECT_EQ(bench.shown(completion("Q:", " a")), "Q:[ a</s>]");
  EXPECT_EQ(bench.statistics.unmerged, 0);
}

TEST(Prompt, MergeAcrossTheBoundaryOfAChatIsUndone) {
  Bench bench({.merges = {{"\n", "\n"}}},
              "{% for m in messages %}{{ m.role }}:\n{{ m.content }}</s>{% endfor %}"
              "{% if add_generation_prompt %}assistant:\n{% endif %}");
  const Sample sample = turns({"q", "\na"});
  const Example example = bench.one(sample);
  EXPECT_EQ(bench.shown(example), "user:\nq</s>assistant:\n[\na</s>]");
  EXPECT_EQ(bench.statistics.unmerged, 1);
  const auto prompt = bench.builder.question(sample).prompt;
  ASSERT_LT(prompt.size(), example.tokens.size());
  EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), example.tokens.begin()));
}

TEST(Prompt, BosIsAddedOnceByTheTokenizersRule) {
  Bench with({.merges = {}, .add_bos = true});
  EXPECT_EQ(with.shown(completion("q", "a")), "<s>q[a</s>]");
  EXPECT_EQ(with.shown(completion("<s>q", "a")), "<s>q[a</s>]");
  EXPECT_EQ(with.shown(plain("text")), "<s>[text</s>]");
  EXPECT_EQ(with.shown(plain("text</s>")), "<s>[text</s>]") << "EOS once as well";
  Bench without({});
  EXPECT_EQ(without.shown(plain("text")), "t[ext</s>]") << "nothing precedes the first token";
  Bench writes({.merges = {}, .add_bos = true, .eos = "<|end|>"},
               "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>"
               "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}");
  EXPECT_EQ(writes.shown(turns({"q", "a"})), "<s><|user|>q<|end|><|assistant|>[a<|end|>]");
  EXPECT_EQ(with.builder.question(completion("q", "a")).prompt.front(), with.tiny.id("<s>"));
}

TEST(Prompt, WithoutEndOfTextTokenThereIsNoEndToLearn) {
  Bench bench({.merges = {}, .eos = ""});
  EXPECT_THROWS_WITH((void)bench.one(plain("text")), InputError, "f.jsonl:9",
                     "no end-of-text token");
}

TEST(Prompt, LongExamplesAreDroppedAndCounted) {
  Bench bench({}, kPlainTemplate, {.sequence_len = 8});
  EXPECT_TRUE(bench.builder.build(completion("0123456", "789"), bench.statistics).empty());
  EXPECT_EQ(bench.builder.build(completion("01234", "56"), bench.statistics).size(), 1U)
      << "exactly sequence_len with EOS";
  EXPECT_EQ(bench.statistics.dropped, 1);
  EXPECT_EQ(bench.statistics.examples, 1);
  EXPECT_EQ(bench.statistics.longest, 11);
}

TEST(Prompt, TruncationKeepsBosAndTheAnswer) {
  Bench bench({.merges = {}, .add_bos = true}, kPlainTemplate,
              {.sequence_len = 6, .over_length = OverLength::kTruncate});
  const Example example = bench.one(completion("0123456", "789"));
  EXPECT_EQ(bench.shown(example), "<s>6[789</s>]");
  EXPECT_EQ(example.answer_bytes, 3);
  EXPECT_EQ(bench.statistics.truncated, 1);
  EXPECT_TRUE(bench.builder.build(completion("q", "0123456789"), bench.statistics).empty())
      << "an answer without any of its question";
  EXPECT_EQ(bench.statistics.dropped, 1);
  EXPECT_EQ(bench.shown(plain("0123456789")), "<s>[01234]") << "text keeps its start";
}

TEST(Prompt, TruncationKeepsAChatWhereverTheCutFalls) {
  // 21 tokens a turn of question and answer, three turns.
  const Sample sample =
      turns({"question", "answered", "question", "answered", "question", "answered"});
  Bench whole(ending("<|end|>"));
  const auto tokens = static_cast<std::int64_t>(whole.one(sample).tokens.size());
  const auto turn = (tokens + 1) / 3;
  for (std::int64_t keep = tokens - 1; keep > turn; --keep) {
    Bench bench(ending("<|end|>"), kPlainTemplate,
                {.sequence_len = keep, .over_length = OverLength::kTruncate});
    const Example example = bench.one(sample);
    const std::string shown = bench.shown(example);
    EXPECT_EQ(static_cast<std::int64_t>(example.tokens.size()), keep);
    EXPECT_TRUE(shown.ends_with("<|assistant|>[answered<|end|>]")) << shown;
    // An answer is learned whole, after a question, or not at all.
    const std::size_t learned = shown.find('[');
    EXPECT_NE(shown.rfind("<|assistant|>", learned), std::string::npos) << shown;
    EXPECT_EQ(bench.statistics.truncated, 1);
  }
  Bench alone(ending("<|end|>"), kPlainTemplate,
              {.sequence_len = 8, .over_length = OverLength::kTruncate});
  EXPECT_TRUE(alone.builder.build(sample, alone.statistics).empty())
      << "no question is left before the last answer";
  EXPECT_EQ(alone.statistics.dropped, 1);
}

TEST(Preflight, SplitTextsEndOnceAndTruncatedOnesNever) {
  for (const OverLength choice : {OverLength::kSplit, OverLength::kTruncate}) {
    Bench bench({.merges = {}}, kPlainTemplate, {.sequence_len = 4, .over_length = choice});
    Examples data;
    for (const char* text : {"abcdefghijkl", "mnopqrstuv", "ab"}) {
      for (Example& example : bench.builder.build(plain(text), data.prompts)) {
        data.examples.push_back(std::move(example));
      }
    }
    const Preflight p = inspect_examples(data, bench.tiny.tokenizer);
    EXPECT_EQ(p.end_share(), 1) << static_cast<int>(choice);
    EXPECT_THAT(p.violations, testing::IsEmpty());
    const Preflight again = preflight_from_json(to_json(p));
    EXPECT_EQ(to_json(again), to_json(p));
  }
}

TEST(Prompt, SplittingLearnsEveryTokenOnce) {
  Bench bench({.merges = {}, .add_bos = true}, kPlainTemplate,
              {.sequence_len = 4, .over_length = OverLength::kSplit});
  std::vector<std::string> pieces;
  std::int64_t bytes = 0;
  for (const Example& piece : bench.builder.build(plain("abcdefgh"), bench.statistics)) {
    pieces.push_back(bench.shown(piece));
    bytes += piece.answer_bytes;
  }
  EXPECT_THAT(pieces, testing::ElementsAre("<s>[abc]", "c[def]", "f[gh</s>]"));
  EXPECT_EQ(bytes, 8);
  EXPECT_EQ(bench.statistics.split, 1);
}

TEST(Prompt, RaisingNamesTheRow) {
  Bench bench({}, kPlainTemplate, {.sequence_len = 4, .over_length = OverLength::kRaise});
  EXPECT_THROWS_WITH((void)bench.one(plain("abcdefgh")), InputError,
                     "f.jsonl:9: ", "9 tokens, more than sequence_len 4");
}

TEST(Prompt, NothingToLearnIsAnErrorUnlessAllowed) {
  constexpr const char* kMarksNothing =
      "{% for m in messages %}{{ m.content }}{% if m.role == 'tool' %}{% generation %}x"
      "{% endgeneration %}{% endif %}{% endfor %}";
  Bench strict(ending("<|end|>"), kMarksNothing);
  EXPECT_THROWS_WITH((void)strict.builder.build(turns({"q", "a"}), strict.statistics), InputError,
                     "f.jsonl:3: no token of the example is learned", "the chat template t.jinja",
                     "allow_answerless: true");
  Bench lenient(ending("<|end|>"), kMarksNothing, {.allow_answerless = true});
  EXPECT_TRUE(lenient.builder.build(turns({"q", "a"}), lenient.statistics).empty());
  EXPECT_EQ(lenient.statistics.answerless, 1);
}

TEST(Preflight, CountsAndRefuses) {
  Bench bench(ending("<|end|>"));
  Examples data;
  for (const auto& sample : {turns({"q", "a"}), turns({"q", "a"}), turns({"question", "answer"})}) {
    for (Example& example : bench.builder.build(sample, data.prompts)) {
      data.examples.push_back(std::move(example));
    }
  }
  data.rows.rows = 3;
  data.rows.bad_rows = 1;
  Fault& fault = data.rows.faults.emplace_back();
  fault.origin.file = std::make_shared<const std::string>("x");
  fault.origin.line = 4;
  fault.what = "broken";
  const Preflight p = inspect_examples(data, bench.tiny.tokenizer);
  EXPECT_EQ(p.prompts.examples, 3);
  EXPECT_EQ(p.tokens, 7 + 7 + 19);
  EXPECT_EQ(p.supervised, 2 + 2 + 7);
  EXPECT_EQ(p.longest, 19);
  EXPECT_EQ(p.ends, 3);
  EXPECT_EQ(p.duplicates, 1);
  EXPECT_EQ(p.sample, "<|user|>q<|end|>\n<|assistant|>⟦a<|end|>⟧");
  ASSERT_EQ(p.violations.size(), 1U);
  EXPECT_THAT(p.violations[0], HasSubstr("25 % of the rows are bad"));
  EXPECT_THAT(to_text(p), HasSubstr("bad row     x:4: broken"));
  EXPECT_EQ(to_json(p)["supervised_tokens"], 11);
  EXPECT_TRUE(
      inspect_examples(data, bench.tiny.tokenizer, {.max_bad_share = 0.3}).violations.empty());
}

TEST(Preflight, SeesDoubledBosAndMissingEnds) {
  Bench bench({.merges = {}, .add_bos = true});
  Examples data;
  const std::int32_t bos = bench.tiny.id("<s>");
  data.examples.push_back({{bos, bos, 5, 6}, {0, 0, 1, 1}, 2, {}});
  data.prompts.samples = data.prompts.examples = 1;
  const Preflight p = inspect_examples(data, bench.tiny.tokenizer);
  EXPECT_EQ(p.doubled_bos, 1);
  EXPECT_EQ(p.ends, 0);
  EXPECT_THAT(p.violations, testing::Contains(HasSubstr("two BOS")));
  EXPECT_THAT(p.violations, testing::Contains(HasSubstr("learn where to stop")));
  EXPECT_THAT(inspect_examples({}, bench.tiny.tokenizer).violations,
              testing::Contains(HasSubstr("0 examples")));
}

TEST(LoadExamples, KeepsOrderAndReportsTheFirstBadSampleOnAnyNumberOfThreads) {
  Bench bench({.merges = {}, .add_bos = true}, kPlainTemplate, {.sequence_len = 12});
  const weft::tests::TempDir dir;
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += fmt::format("{{\"text\": \"{}\"}}\n", i);
  DatasetConfig good;
  good.path = {dir.write("good.jsonl", lines + "{\"text\": \"much too long\"}\n")};
  std::vector<std::string> log;
  const Examples data =
      load_examples({good, good}, bench.builder,
                    [&](core::Level, std::string_view line) { log.emplace_back(line); });
  ASSERT_EQ(data.examples.size(), 2000U);
  for (std::size_t i = 0; i < 2000; ++i) {
    EXPECT_EQ(data.examples[i].origin.line, static_cast<std::int64_t>(i % 1000) + 1);
  }
  EXPECT_EQ(data.prompts.samples, 2002);
  EXPECT_EQ(data.prompts.dropped, 2);
  EXPECT_EQ(data.prompts.longest, 15);
  EXPECT_THAT(log.back(), HasSubstr("2 of 2002 examples are longer than sequence_len"));

  const PromptBuilder strict(bench.tiny.tokenizer, nullptr,
                             {.sequence_len = 5, .over_length = OverLength::kRaise});
  EXPECT_THROWS_WITH((void)load_examples({good}, strict), InputError, "good.jsonl:1001: ");
  DatasetConfig chats;
  std::string rows;
  for (int i = 0; i < 500; ++i) rows += "{\"instruction\": \"q\", \"output\": \"a\"}\n";
  chats.path = {dir.write("chats.jsonl", rows)};
  EXPECT_THROWS_WITH((void)load_examples({chats}, strict), InputError, "chats.jsonl:1: ");
}

std::filesystem::path cache() {
  if (const char* given = std::getenv("WEFT_CACHE")) return given;
  if (const char* xdg = std::getenv("XDG_CACHE_HOME")) return std::filesystem::path(xdg) / "weft";
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : ".") / ".cache/weft";
}

TEST(RealData, NahuatlPairsThroughSmolLM2) {
  const auto model = cache() / "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  const auto pairs = cache() / "data/elotl/axolotl.csv";
  if (!std::filesystem::exists(model) || !std::filesystem::exists(pairs)) {
    GTEST_SKIP() << "script/setup --tests fetches " << model << " and " << pairs;
  }
  const text::Tokenizer tokenizer = text::Tokenizer::open(model);
  const auto chat_template = text::ChatTemplate::open(model);
  ASSERT_TRUE(chat_template);
  DatasetConfig config;
  config.path = {pairs};
  config.columns = {"es", "nah", "variant", "document", "iso"};
  config.fields = {{"instruction", "Traduce al náhuatl: {es}"}, {"output", "{nah}"}};
  config.limit = 500;
  config.shuffle_seed = 1;
  ReadStatistics rows;
  const std::vector<Sample> samples = load_samples(config, {}, &rows);
  EXPECT_EQ(rows.rows, 16'111) << "as Python's csv reads the file";
  EXPECT_EQ(rows.bad_rows, 0);
  const PromptBuilder builder(tokenizer, &*chat_template);
  PromptStatistics statistics;
  for (const Sample& sample : samples) {
    const auto examples = builder.build(sample, statistics);
    ASSERT_EQ(examples.size(), 1U);
    const Example& example = examples[0];
    const auto question = builder.question(sample);
    ASSERT_LT(question.prompt.size(), example.tokens.size());
    EXPECT_TRUE(std::equal(question.prompt.begin(), question.prompt.end(), example.tokens.begin()))
        << "the prompt's tokens are those of inference";
    std::vector<std::int32_t> learned;
    for (std::size_t t = 0; t < example.tokens.size(); ++t) {
      EXPECT_EQ(example.supervised[t] != 0, t >= question.prompt.size());
      if (example.supervised[t] != 0) learned.push_back(example.tokens[t]);
    }
    EXPECT_EQ(tokenizer.decode(learned), question.reference + "<|im_end|>");
    EXPECT_EQ(example.answer_bytes, static_cast<std::int64_t>(question.reference.size()));
  }
  EXPECT_EQ(statistics.appended_end, 0);
  EXPECT_EQ(statistics.straddled, 0);
}

}  // namespace
}  // namespace weft::data
