#include "eval/run/stages.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "eval/statistics/figures.h"
#include "lora/adapter.h"
#include "lora/provenance.h"
#include "model/decoder.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::eval {
namespace {

using tests::TempDir;
namespace fs = std::filesystem;

constexpr std::string_view kText =
    "tlaxcalli, atl; in xochitl in cuicatl. Niltze \xF0\x9F\x8C\xBD\n";

/// Losses of bytes[1..] and of bytes[0] from BOS, straight from logits of the whole text.
double loss_by_hand(model::Decoder& decoder, std::string_view text) {
  std::vector<std::int32_t> tokens{1};
  for (const char byte : text) tokens.push_back(static_cast<std::uint8_t>(byte) + 3);
  const at::Tensor log_p = at::log_softmax(decoder.logits(tokens).to(at::kDouble), 1);
  double loss = 0;
  for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
    loss -= log_p[static_cast<std::int64_t>(t)][tokens[t + 1]].item<double>();
  }
  return loss;
}

/// An adapter for `base` whose B is not zero.
lora::Adapter strong_adapter(const fs::path& base) {
  const auto checkpoint = checkpoint::Checkpoint::open(base);
  lora::AdapterConfig config;
  config.r = 4;
  config.lora_alpha = 32;
  config.target_modules.pattern = "all-linear";
  const auto targets = lora::resolve_targets(config, lora::linear_modules(checkpoint));
  lora::Adapter adapter = lora::make_adapter(config, targets, 5);
  for (lora::Factors& factors : adapter.factors) {
    for (std::size_t i = 0; i < factors.b.size(); ++i) {
      factors.b[i] = 0.05F * static_cast<float>(static_cast<int>(i % 7) - 3);
    }
  }
  return adapter;
}

fs::path write_adapter(const lora::Adapter& adapter, const fs::path& folder) {
  fs::create_directories(folder);
  lora::write_peft(adapter, folder);
  return folder;
}

class Stages : public ::testing::Test {
 protected:
  TempDir folder_;
  fs::path base_ = tests::write_tiny_model(folder_ / "base");
  fs::path text_ = folder_.write("corpus.txt", kText);
};

TEST_F(Stages, TextLossIsThatOfTheLogits) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  const Evaluation evaluation = evaluate(config, {});
  ASSERT_EQ(evaluation.stages.size(), 1U);
  EXPECT_EQ(evaluation.sequence_len, 512);  // the model's limit
  const SuiteResult& suite = evaluation.stages[0].suites.at(0);
  EXPECT_EQ(suite.name, "corpus");
  ASSERT_EQ(suite.items.size(), 1U);
  EXPECT_EQ(suite.items[0].tokens, static_cast<std::int64_t>(kText.size()));  // one a byte
  EXPECT_EQ(suite.items[0].bytes, static_cast<std::int64_t>(kText.size()));
  auto decoder = model::Decoder::load(checkpoint::Checkpoint::open(base_), model::Compute::kF32);
  EXPECT_NEAR(suite.items[0].loss / loss_by_hand(decoder, kText), 1, 1e-6);
}

TEST_F(Stages, WindowsShareOutTokensAndBytes) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  config.sequence_len = 16;
  const Evaluation evaluation = evaluate(config, {});
  const SuiteResult& suite = evaluation.stages[0].suites.at(0);
  EXPECT_EQ(suite.unit, Unit::kWindow);
  ASSERT_EQ(suite.items.size(), (kText.size() + 15) / 16);
  std::int64_t tokens = 0, bytes = 0;
  for (const Item& item : suite.items) {
    tokens += item.tokens;
    bytes += item.bytes;
    EXPECT_GE(item.bytes, 0);
  }
  EXPECT_EQ(tokens, static_cast<std::int64_t>(kText.size()));
  EXPECT_EQ(bytes, static_cast<std::int64_t>(kText.size()));
}

TEST_F(Stages, AdapterCountsOnlyInItsStage) {
  const lora::Adapter adapter = strong_adapter(base_);
  EvalConfig config;
  config.base_model = base_;
  config.adapter = write_adapter(adapter, folder_ / "adapter");
  config.merged = base_;  // not folded: has to score as the base does
  config.text = {text_};
  const Evaluation evaluation = evaluate(config, {});
  ASSERT_EQ(evaluation.stages.size(), 3U);
  const auto loss = [&](std::size_t stage) {
    return evaluation.stages[stage].suites.at(0).items.at(0).loss;
  };
  EXPECT_EQ(evaluation.stages[1].name, "base+adapter");
  EXPECT_EQ(evaluation.stages[1].adapters, std::vector<fs::path>{folder_ / "adapter"});
  EXPECT_EQ(evaluation.stages[2].name, "merged");
  EXPECT_EQ(loss(2), loss(0));
  auto decoder = model::Decoder::load(checkpoint::Checkpoint::open(base_), model::Compute::kF32);
  decoder.attach(adapter, model::Decoder::Use::kInference);
  const double expected = loss_by_hand(decoder, kText);
  EXPECT_NEAR(loss(1) / expected, 1, 1e-6);
  EXPECT_GT(std::abs(loss(1) - loss(0)), 0.01 * loss(0));
}

TEST_F(Stages, AnyLadderOfModelsAndAdaptersIsMeasuredInItsOrder) {
  const fs::path adapter = write_adapter(strong_adapter(base_), folder_ / "adapter");
  const fs::path other = tests::write_tiny_model(folder_ / "other", {.seed = 2});
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  config.allow_other_base = true;
  config.stages = {{.name = "other", .model = other, .adapter = {}},
                   {.name = "plain", .model = {}, .adapter = {}},
                   {.name = "twice", .model = {}, .adapter = {adapter, adapter}},
                   {.name = "once", .model = {}, .adapter = {adapter}},
                   {.name = "again", .model = {}, .adapter = {}}};
  std::vector<std::string> loaded;
  const Evaluation evaluation =
      evaluate(config, {.before_load = [&](const std::string& what, std::uint64_t, std::uint64_t) {
                 loaded.push_back(what);
               }});
  EXPECT_EQ(loaded, (std::vector<std::string>{"'other'", "'plain'"}));
  ASSERT_EQ(evaluation.stages.size(), 5U);
  const auto loss = [&](std::size_t stage) {
    return evaluation.stages[stage].suites.at(0).items.at(0).loss;
  };
  EXPECT_EQ(loss(1), loss(4));
  EXPECT_NE(loss(0), loss(1));
  EXPECT_NE(loss(2), loss(3));
  EXPECT_NE(loss(1), loss(3));
  auto decoder = model::Decoder::load(checkpoint::Checkpoint::open(base_), model::Compute::kF32);
  decoder.attach(strong_adapter(base_), model::Decoder::Use::kInference, 2);
  EXPECT_NEAR(loss(2) / loss_by_hand(decoder, kText), 1, 1e-5);
  config.stages[4].name = "plain";
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "two stages are called 'plain'");
  config.stages.pop_back();
  config.merged = other;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "leave stages out");
}

TEST_F(Stages, GatesAreReadBeforeModelsAreLoaded) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  const Hooks hooks{
      .before_load = [](const std::string&, std::uint64_t, std::uint64_t) { FAIL() << "loaded"; }};
  config.gates = {"loss.base <= 1", "loss.merged <= 1"};
  EXPECT_THROWS_WITH((void)evaluate(config, hooks), ConfigError, "no stage 'merged'", "base");
  config.gates = {"los.base <= 1"};
  EXPECT_THROWS_WITH((void)evaluate(config, hooks), ConfigError, "'los' is no figure");
  config.gates = {};
  config.gate_confidence = schema::Share{0.3, true};
  EXPECT_THROWS_WITH((void)evaluate(config, hooks), ConfigError, "gate_confidence is 30%");
}

TEST_F(Stages, CompletionsCountOnlyTheAnswersBytes) {
  const fs::path data =
      folder_.write("pairs.jsonl",
                    "{\"prompt\": \"agua = \", \"completion\": \"atl\"}\n"
                    "{\"prompt\": \"ma\\u00edz = \", \"completion\": \"c\\u0113ntli\"}\n");
  EvalConfig config;
  config.base_model = base_;
  config.data.emplace_back().path = {data};
  config.generate = GenerateSection{.examples = 2, .max_tokens = 5};
  const Evaluation evaluation = evaluate(config, {});
  const SuiteResult& suite = evaluation.stages[0].suites.at(0);
  EXPECT_EQ(suite.kind, SuiteKind::kInstruction);
  ASSERT_EQ(suite.items.size(), 2U);
  EXPECT_EQ(suite.items[0].bytes, 3);
  EXPECT_EQ(suite.items[0].tokens, 4);  // and EOS
  EXPECT_EQ(suite.items[1].bytes, 7);
  EXPECT_EQ(suite.items[1].tokens, 8);
  ASSERT_EQ(suite.generations.size(), 2U);
  EXPECT_EQ(suite.generations[1].prompt, "maíz = ");
  EXPECT_EQ(suite.generations[1].reference, "cēntli");
  EXPECT_EQ(suite.generations[0].chrf.size(), 6U);
  EXPECT_EQ(suite.generations[0].chrf_plus_plus.size(), 8U);
}

TEST_F(Stages, AnswersDoNotDependOnHowManyAreWrittenAtOnce) {
  std::string rows;
  for (int i = 0; i < 20; ++i) {
    rows +=
        fmt::format("{{\"prompt\": \"traduce: {} \", \"completion\": \"atl\"}}\n",
                    std::string(static_cast<std::size_t>(1 + i % 7), static_cast<char>('a' + i)));
  }
  EvalConfig config;
  config.base_model = base_;
  config.data.emplace_back().path = {folder_.write("pairs.jsonl", rows)};
  config.generate = GenerateSection{.examples = 20, .max_tokens = 12};
  const auto outputs = [&](std::int64_t batch) {
    config.generate->batch = batch;
    const Evaluation evaluation = evaluate(config, {});
    std::vector<std::string> all;
    for (const Generation& g : evaluation.stages[0].suites.at(0).generations)
      all.push_back(g.output);
    return all;
  };
  const std::vector<std::string> together = outputs(64);
  ASSERT_EQ(together.size(), 20U);
  EXPECT_GT(std::set<std::string>(together.begin(), together.end()).size(), 5U);
  EXPECT_EQ(outputs(1), together);
  EXPECT_EQ(outputs(7), together);
}

TEST_F(Stages, ExampleLongerThanTheModelReadsIsRefused) {
  const fs::path data =
      folder_.write("pairs.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"" +
                                       std::string(40, 'x') + "\", \"completion\": \"b\"}\n");
  EvalConfig config;
  config.base_model = base_;
  config.data.emplace_back().path = {data};
  config.sequence_len = 32;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, "pairs.jsonl:2",
                     "raise sequence_len (--sequence-len) or leave the row out");
  try {
    (void)evaluate(config, {});
  } catch (const InputError& error) {
    EXPECT_EQ(std::string_view(error.what()).find("over_length"), std::string_view::npos)
        << "weft eval has no such key";
  }
}

TEST_F(Stages, DataOfTypeTextIsScoredAsTheSameTextInAFile) {
  const fs::path table = folder_.write("pairs.csv", "es,nah\nagua,atl in tepetl\nflor,xochitl\n");
  const fs::path rows =
      folder_.write("rows.jsonl", "{\"text\": \"atl in tepetl\"}\n{\"text\": \"xochitl\"}\n");
  EvalConfig config;
  config.base_model = base_;
  SuiteSection& from_data = config.suites.emplace_back();
  from_data.name = "table";
  data::DatasetConfig& data = from_data.data.emplace();
  data.path = {table};
  data.type = data::DatasetType::kText;
  data.fields = {{"text", "{nah}"}};
  SuiteSection& from_file = config.suites.emplace_back();
  from_file.name = "file";
  from_file.text = {rows};
  const Evaluation evaluation = evaluate(config, {});
  const auto& suites = evaluation.stages.at(0).suites;
  ASSERT_EQ(suites.size(), 2U);
  ASSERT_EQ(suites[0].items.size(), 2U);
  EXPECT_GT(suites[0].items[0].loss, 0);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(suites[0].items[i].loss, suites[1].items[i].loss);
    EXPECT_EQ(suites[0].items[i].bytes, suites[1].items[i].bytes);
  }
}

TEST_F(Stages, SuitesOfOneNameAreNumbered) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_, folder_.write("other/corpus.txt", "ixtli")};
  const Evaluation evaluation = evaluate(config, {});
  EXPECT_EQ(evaluation.stages[0].suites.at(1).name, "corpus-2");
}

TEST_F(Stages, AdapterOfOtherWeightsIsRefused) {
  lora::Adapter adapter = strong_adapter(base_);
  adapter.provenance.emplace();
  adapter.provenance->base_weights = std::string(64, 'a');
  EvalConfig config;
  config.base_model = base_;
  config.adapter = write_adapter(adapter, folder_ / "adapter");
  config.text = {text_};
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, "trained on");
  config.allow_other_base = true;
  EXPECT_EQ(evaluate(config, {}).stages.size(), 2U);
}

/// A template whose answers are marked; `sign` tells one from another.
std::string chat_template(const std::string& sign) {
  return "{% for message in messages %}" + sign +
         "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}</s>"
         "{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}";
}

TEST_F(Stages, MergedModelWithAnotherTemplateIsNotCompared) {
  const fs::path merged = tests::write_tiny_model(folder_ / "merged");
  folder_.write("base/chat_template.jinja", chat_template("a"));
  folder_.write("merged/chat_template.jinja", chat_template("b"));
  EvalConfig config;
  config.base_model = base_;
  config.merged = merged;
  config.data.emplace_back().path = {
      folder_.write("pairs.jsonl", "{\"instruction\": \"agua\", \"output\": \"atl\"}\n")};
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, base_.c_str(), merged.c_str(),
                     "chat template");
  folder_.write("merged/chat_template.jinja", chat_template("a"));
  const Evaluation evaluation = evaluate(config, {});
  EXPECT_EQ(evaluation.stages.at(1).suites.at(0).items.at(0).loss,
            evaluation.stages.at(0).suites.at(0).items.at(0).loss);
}

/// The tiny model with a tokenizer in which two letters have changed places.
fs::path write_other_tokenizer(const TempDir& folder) {
  const fs::path other = tests::write_tiny_model(folder / "merged");
  nlohmann::ordered_json tokenizer = tests::tiny_tokenizer();
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  (void)folder.write("merged/tokenizer.json", tokenizer.dump());
  return other;
}

TEST_F(Stages, ModelWithAnotherTokenizerIsComparedByBitsPerByteOnly) {
  EvalConfig config;
  config.base_model = base_;
  config.merged = write_other_tokenizer(folder_);
  config.text = {text_};
  std::string warning;
  const Evaluation evaluation =
      evaluate(config, {.log = [&](core::Level, std::string_view text) { warning += text; }});
  EXPECT_NE(warning.find("only bits per byte"), std::string::npos) << warning;
  const SuiteResult& base = evaluation.stages[0].suites.at(0);
  const SuiteResult& other = evaluation.stages[1].suites.at(0);
  EXPECT_TRUE(other.other_tokenizer);
  EXPECT_NE(other.items[0].loss, base.items[0].loss);
  const std::vector<Measured> figures = measure(other, &base);
  ASSERT_EQ(figures.size(), 1U);
  EXPECT_EQ(figures[0].name, "bits_per_byte");
  EXPECT_TRUE(figures[0].difference);
}

TEST_F(Stages, ModelWithAnotherTokenizerNeedsPlainText) {
  EvalConfig config;
  config.base_model = base_;
  config.merged = write_other_tokenizer(folder_);
  data::DatasetConfig& data = config.data.emplace_back();
  data.path = {folder_.write("pairs.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n")};
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, base_.c_str(), "tokenizer", "no",
                     "text");
}

TEST_F(Stages, SimulatedQuantisationDiffersAndTheReferenceDoesNot) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  config.stages = {{.name = "base", .model = {}, .adapter = {}},
                   {.name = "same", .model = {}, .adapter = {}},
                   {.name = "q8", .model = {}, .adapter = {}, .quantise = "q8_0"}};
  config.reference = "same";  // Measured first, though it stands second.
  config.distribution.emplace();
  const Evaluation evaluation = evaluate(config, {});
  const auto suite = [&](std::size_t stage) { return evaluation.stages[stage].suites.at(0); };
  EXPECT_TRUE(suite(1).distances.empty());
  EXPECT_EQ(suite(0).distances.size(), kText.size());
  for (const TokenDistance& token : suite(0).distances) {
    EXPECT_EQ(token.kl, 0);
    EXPECT_TRUE(token.same_top);
    EXPECT_EQ(token.loss, token.reference_loss);
  }
  EXPECT_EQ(suite(0).items[0].loss, suite(1).items[0].loss);
  const auto kl = sampled_figure(suite(2), "kl");
  ASSERT_TRUE(kl);
  EXPECT_GT(kl->figure({}), 0);
  EXPECT_NE(suite(2).items[0].loss, suite(0).items[0].loss);
}

TEST_F(Stages, ChoicesAreScoredAsTheirLogitsSay) {
  EvalConfig config;
  config.base_model = base_;
  SuiteSection& suite = config.suites.emplace_back();
  suite.name = "quiz";
  suite.choices.emplace();
  suite.choices->path = {folder_.write(
      "quiz.jsonl",
      "{\"context\": \"in xochitl \", \"choices\": [\"in cuicatl\", \"atl\"], \"answer\": 1}\n"
      "{\"context\": \"in xochitl in\", \"choices\": [\"a\", \"b\"], \"answer\": \"b\"}\n")};
  const Evaluation evaluation = evaluate(config, {});
  const SuiteResult& quiz = evaluation.stages[0].suites.at(0);
  ASSERT_EQ(quiz.choices.size(), 2U);
  EXPECT_EQ(quiz.choices[1].answer, 1);
  auto decoder = model::Decoder::load(checkpoint::Checkpoint::open(base_), model::Compute::kF32);
  const auto log_p = [&](std::string_view before, std::string_view text) {
    std::vector<std::int32_t> tokens;
    if (before.empty()) tokens.push_back(1);
    for (const char byte : std::string(before) + std::string(text))
      tokens.push_back(static_cast<std::uint8_t>(byte) + 3);
    const at::Tensor all = at::log_softmax(decoder.logits(tokens).to(at::kDouble), 1);
    double sum = 0;
    for (std::size_t t = tokens.size() - text.size(); t < tokens.size(); ++t)
      sum += all[static_cast<std::int64_t>(t) - 1][tokens[t]].item<double>();
    return sum;
  };
  // The space at the end of the context belongs to the choice.
  EXPECT_NEAR(quiz.choices[0].log_p[0], log_p("in xochitl", "  in cuicatl"), 1e-3);
  EXPECT_NEAR(quiz.choices[0].log_p_alone[1], log_p("", " atl"), 1e-3);
  EXPECT_NEAR(quiz.choices[1].log_p[1], log_p("in xochitl in", " b"), 1e-3);
}

TEST_F(Stages, AdapterOfAnotherTokenizerIsRefused) {
  lora::Adapter adapter = strong_adapter(base_);
  adapter.provenance.emplace();
  adapter.provenance->tokenizer = std::string(64, 'b');
  EvalConfig config;
  config.base_model = base_;
  config.adapter = write_adapter(adapter, folder_ / "adapter");
  config.text = {text_};
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, "tokenizer",
                     adapter.provenance->tokenizer.c_str());
  config.allow_other_base = true;
  EXPECT_EQ(evaluate(config, {}).stages.size(), 2U);
}

TEST_F(Stages, AsksBeforeLoadingAndStopsWhenTold) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  std::uint64_t asked = 0;
  const Hooks refusing{
      .before_load = [&](const std::string&, std::uint64_t weights, std::uint64_t) {
        asked = weights;
        throw Refused("no");
      }};
  EXPECT_THROW((void)evaluate(config, refusing), Refused);
  EXPECT_GT(asked, fs::file_size(base_ / "model.safetensors") / 2);
  const std::atomic<bool> stop{true};
  EXPECT_THROWS_WITH((void)evaluate(config, {.stop = &stop}), Interrupted, "base");
}

TEST_F(Stages, BrokenWeightsAreNotAResult) {
  // A not-a-number in the final norm reaches every logit.
  const fs::path file = base_ / "model.safetensors";
  const std::string bytes = tests::slurp(file);
  std::uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size));
  const std::uint64_t begin = header["model.norm.weight"]["data_offsets"][0];
  const float none = std::nanf("");
  std::fstream out(file, std::ios::in | std::ios::out | std::ios::binary);
  out.seekp(static_cast<std::streamoff>(8 + header_size + begin));
  out.write(reinterpret_cast<const char*>(&none), sizeof none);
  out.close();
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, "'model.norm.weight' holds nan");
}

TEST_F(Stages, LimitIsOfTheSuiteAndNotOfEachFile) {
  std::string rows;
  for (int i = 0; i < 20; ++i) rows += "{\"text\": \"atl " + std::to_string(i) + "\"}\n";
  EvalConfig config;
  config.base_model = base_;
  SuiteSection& suite = config.suites.emplace_back();
  suite.name = "both";
  suite.text = {folder_.write("a.jsonl", rows), folder_.write("b.jsonl", rows)};
  suite.limit = 10;
  const Evaluation evaluation = evaluate(config, {});
  const SuiteResult& measured = evaluation.stages[0].suites.at(0);
  EXPECT_EQ(measured.items.size(), 10U);
  EXPECT_EQ(measured.labels.source_names.size(), 2U) << "spread over both files";
}

TEST_F(Stages, OtherMaxTokensScoreTheSameItems) {
  EvalConfig config;
  config.base_model = base_;
  config.data.emplace_back().path = {
      folder_.write("pairs.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n")};
  config.generate = GenerateSection{.examples = 1, .max_tokens = 2};
  const auto suite = [&] { return evaluate(config, {}).stages[0].suites.at(0); };
  const SuiteResult two = suite();
  config.generate->max_tokens = 3;
  const SuiteResult three = suite();
  config.generate.reset();
  const SuiteResult none = suite();
  EXPECT_EQ(two.digest, three.digest);
  EXPECT_EQ(two.digest, none.digest);
  EXPECT_NE(two.asked_digest, three.asked_digest);
  EXPECT_TRUE(none.asked_digest.empty());
}

TEST_F(Stages, AGateOnAFigureThatIsNotMeasuredIsRefusedBeforeTheWork) {
  EvalConfig config;
  config.base_model = base_;
  config.adapter = write_adapter(strong_adapter(base_), folder_ / "adapter");
  config.text = {text_};
  bool loaded = false;
  const Hooks hooks{.before_load = [&](const auto&, auto, auto) { loaded = true; }};
  const auto refused = [&](const std::string& gate, const std::string& why) {
    config.gates = {gate};
    EXPECT_THROWS_WITH((void)evaluate(config, hooks), ConfigError, gate.c_str(), why.c_str());
    EXPECT_FALSE(loaded) << gate;
  };
  refused("chrf.base >= 20", "scores of answers need instruction data, and generate");
  refused("acc.adapter >= 0.5", "accuracy needs a suite with choices");
  refused("kl.adapter <= 0.1", "distances need distribution");
  config.gate_confidence = schema::Share{.value = 0.95, .relative = true};
  refused("loss.adapter <= 9", "at least 10 units");
  config.gate_confidence.reset();
  config.distribution.emplace();
  refused("kl.base <= 0.1", "not the reference");
  config.gates = {"kl.adapter <= 99", "loss.base <= 99"};
  EXPECT_EQ(evaluate(config, hooks).stages.size(), 2U);
  EXPECT_TRUE(loaded);
}

TEST_F(Stages, AGateOnEarlierItemsThatAreOthersNowIsRefusedBeforeTheWork) {
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  Evaluation earlier = evaluate(config, {});
  config.gates = {"loss.base - loss.base@against <= 0"};
  EXPECT_EQ(evaluate(config, {.earlier = &earlier}).stages.size(), 1U);
  earlier.stages[0].suites[0].digest = "other";
  EXPECT_THROWS_WITH((void)evaluate(config, {.earlier = &earlier}), ConfigError,
                     "had other items then");
}

/// Calls are written as text.
constexpr const char* kCallTemplate =
    "{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}"
    "{% if message.content %}{{ message.content }}{% endif %}"
    "{% for call in message.tool_calls or [] %}<{{ call.function.name }}>{% endfor %}</s>"
    "{% endgeneration %}{% else %}{{ message.content }}{% endif %}{% endfor %}";

TEST_F(Stages, AToolCallIsComparedWithWhatTheTemplateWritesAndNotWithNothing) {
  folder_.write("base/chat_template.jinja", kCallTemplate);
  EvalConfig config;
  config.base_model = base_;
  config.data.emplace_back().path = {
      folder_.write("calls.jsonl",
                    "{\"messages\": [{\"role\": \"user\", \"content\": \"hot?\"}, {\"role\": "
                    "\"assistant\", \"content\": \"\", \"tool_calls\": [{\"type\": \"function\", "
                    "\"function\": {\"name\": \"get_temp\", \"arguments\": {}}}]}]}\n")};
  config.generate = GenerateSection{.examples = 1, .max_tokens = 3};
  config.generate->metrics = {"exact_match"};
  const Evaluation evaluation = evaluate(config, {});
  const Generation& generation = evaluation.stages[0].suites.at(0).generations.at(0);
  EXPECT_EQ(generation.reference, "<get_temp>");
  const std::vector<Measured> figures = measure(evaluation.stages[0].suites[0], nullptr);
  EXPECT_EQ(figure_named(figures, "exact_match")->figure.value, 0);
}

/// A suite of one question in the file.
SuiteResult asked(const fs::path& base, const data::ChoiceSection& choices) {
  EvalConfig config;
  config.base_model = base;
  SuiteSection& suite = config.suites.emplace_back();
  suite.name = "quiz";
  suite.choices = choices;
  return evaluate(config, {}).stages[0].suites.at(0);
}

TEST_F(Stages, LayoutsOfBelebeleHellaSwagAndArcAreReadByTheirColumns) {
  data::ChoiceSection plain;
  plain.path = {
      folder_.write("plain.jsonl",
                    "{\"context\": \"agua?\", \"choices\": [\"atl\", \"tetl\"], \"answer\": 1}\n")};
  const ChoiceResult expected = asked(base_, plain).choices.at(0);
  const auto equals = [&](const data::ChoiceSection& choices) {
    const ChoiceResult found = asked(base_, choices).choices.at(0);
    EXPECT_EQ(found.log_p, expected.log_p);
    EXPECT_EQ(found.answer, 1);
  };
  data::ChoiceSection belebele;
  belebele.path = {folder_.write("belebele.jsonl",
                                 "{\"question\": \"agua?\", \"mc_answer1\": \"atl\", "
                                 "\"mc_answer2\": \"tetl\", \"correct_answer_num\": \"2\"}\n")};
  belebele.context = "{question}";
  belebele.choices = {"{mc_answer1}", "{mc_answer2}"};
  belebele.answer = "correct_answer_num";
  belebele.answer_from = 1;
  equals(belebele);
  belebele.choices = {"mc_answer1", "mc_answer2"};
  EXPECT_THROWS_WITH((void)asked(base_, belebele), InputError, "is the name of a column",
                     "{mc_answer1}");
  belebele.choices = {"A", "B"};  // lm-eval scores the letters
  EXPECT_EQ(asked(base_, belebele).choices.at(0).bytes, (std::vector<std::int64_t>{1, 1}));
  belebele.answer_from = 0;
  EXPECT_THROWS_WITH((void)asked(base_, belebele), InputError, "counted from 0 (answer_from)");

  data::ChoiceSection hellaswag;
  hellaswag.path = {
      folder_.write("hellaswag.jsonl",
                    "{\"ctx\": \"agua?\", \"endings\": [\"atl\", \"tetl\"], \"label\": \"1\"}\n")};
  hellaswag.context = "{ctx}";
  hellaswag.choices = {"endings"};
  hellaswag.answer = "label";
  equals(hellaswag);

  data::ChoiceSection arc;
  arc.path = {
      folder_.write("arc.jsonl",
                    "{\"question\": \"agua?\", \"choices\": {\"text\": [\"atl\", \"tetl\"], "
                    "\"label\": [\"1\", \"2\"]}, \"answerKey\": \"2\"}\n")};
  arc.context = "{question}";
  arc.choices = {"choices.text"};
  arc.labels = "choices.label";
  arc.answer = "answerKey";
  equals(arc);
  arc.labels = "choices.lable";
  EXPECT_THROWS_WITH((void)asked(base_, arc), InputError, "there is no column 'choices.lable'");
}

TEST_F(Stages, StrideGivesEveryTokenContextAndScoresEachOnce) {
  EvalConfig config;
  config.base_model = base_;
  SuiteSection& suite = config.suites.emplace_back();
  suite.name = "text";
  suite.text = {text_};
  suite.window_tokens = 16;
  suite.stride = 4;
  const SuiteResult measured = evaluate(config, {}).stages[0].suites.at(0);
  ASSERT_EQ(measured.items.size(), 1 + (kText.size() - 16 + 3) / 4);
  std::int64_t tokens = 0, bytes = 0;
  for (const Item& item : measured.items) {
    tokens += item.tokens;
    bytes += item.bytes;
  }
  EXPECT_EQ(tokens, static_cast<std::int64_t>(kText.size()));
  EXPECT_EQ(bytes, static_cast<std::int64_t>(kText.size()));
  config.suites[0].stride = 17;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "stride 17 is more than");
  config.suites[0].stride = 4;
  config.suites[0].windows = data::Windows::kLlama;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "stride of its own");
}

TEST_F(Stages, AnswersEndBeforeAStopText) {
  EvalConfig config;
  config.base_model = base_;
  config.data.emplace_back().path = {
      folder_.write("pairs.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\"}\n")};
  config.generate = GenerateSection{.examples = 1, .max_tokens = 24};
  const auto answered = [&] {
    return evaluate(config, {}).stages[0].suites.at(0).generations.at(0).output;
  };
  const std::string whole = answered();
  ASSERT_GE(whole.size(), 8U);
  const std::string stop = whole.substr(4, 2);
  config.generate->stop = {"never", stop};
  EXPECT_EQ(answered(), whole.substr(0, whole.find(stop)));
  const std::string asked = evaluate(config, {}).stages[0].suites.at(0).asked_digest;
  config.generate->stop = {"never"};
  EXPECT_EQ(answered(), whole);
  EXPECT_NE(evaluate(config, {}).stages[0].suites.at(0).asked_digest, asked);
  config.generate->stop = {""};
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "generate.stop");
}

TEST_F(Stages, SeveralReferencesOfAnAnswerCount) {
  EvalConfig config;
  config.base_model = base_;
  SuiteSection& suite = config.suites.emplace_back();
  suite.name = "pairs";
  suite.data.emplace().path = {folder_.write(
      "pairs.jsonl", "{\"prompt\": \"a\", \"completion\": \"b\", \"others\": [\"c\", \"d\"]}\n")};
  suite.references = "others";
  config.generate = GenerateSection{.examples = 1, .max_tokens = 6};
  config.generate->metrics = {"exact_match", "chrf"};
  const std::string output = evaluate(config, {}).stages[0].suites.at(0).generations.at(0).output;
  const nlohmann::json row{{"prompt", "a"}, {"completion", "b"}, {"others", {"c", output + " "}}};
  folder_.write("pairs.jsonl", row.dump() + "\n");
  const SuiteResult measured = evaluate(config, {}).stages[0].suites.at(0);
  EXPECT_EQ(measured.generations.at(0).more_references.size(), 2U);
  EXPECT_EQ(figure_named(measure(measured, nullptr), "exact_match")->figure.value, 1);
  folder_.write("pairs.jsonl", row.dump() +
                                   "\n{\"prompt\": \"e\", \"completion\": \"f\", "
                                   "\"others\": [\"g\"]}\n");
  config.generate->examples = 2;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, "pairs.jsonl:2", "give each as many");
  config.suites[0].references = "other";
  EXPECT_THROWS_WITH((void)evaluate(config, {}), InputError, "no column 'other'");
  config.generate.reset();
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "references of suite 'pairs'");
}

TEST_F(Stages, NothingToMeasureIsSaid) {
  EvalConfig config;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "--model");
  config.base_model = base_;
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "nothing to measure");
  config.text = {text_};
  config.generate.emplace();
  EXPECT_THROWS_WITH((void)evaluate(config, {}), ConfigError, "--generate", "--data");
}

TEST(EvalConfigFile, ReadsTheDocumentedKeys) {
  const auto config = schema::parse_config<EvalConfig>(R"(
base_model: m
adapter: a
merged: g
text: [one.txt, two.jsonl]
data:
  - path: pairs.csv
    type: instruction
    fields: {instruction: "{es}", output: "{nah}"}
generate: {examples: 7, max_tokens: 9, show: 0}
sequence_len: 128
limit: 100
dtype: bfloat16
bootstrap: {resamples: 500, seed: 3}
output: out.json
)",
                                                       {.name = "e.yaml", .directory = "/d"});
  EXPECT_EQ(config.text.at(1), fs::path("/d/two.jsonl"));
  EXPECT_EQ(config.data.at(0).path.at(0), fs::path("/d/pairs.csv"));
  EXPECT_EQ(config.generate->examples, 7);
  EXPECT_EQ(config.dtype, DType::kBFloat16);
  EXPECT_EQ(bootstrap_options(config).resamples, 500);
  EXPECT_THROWS_WITH((void)schema::parse_config<EvalConfig>("base_model: m\nsequence_length: 3\n"),
                     ConfigError, "sequence_len");
  EXPECT_EQ(schema::parse_config<EvalConfig>("base_model: m\ndtype: bf16\n").dtype,
            DType::kBFloat16);
}

TEST(EvalDocument, ListsTheKeysAsTheSchemaHasThem) {
  // Made by: weft eval --config-reference
  const std::string page = tests::slurp(tests::source_dir() / "docs/eval.md");
  EXPECT_NE(page.find("<!-- weft eval --config-reference -->\n\n" +
                      schema::config_reference<EvalConfig>() + "<!-- end of keys -->"),
            std::string::npos);
}

/// A GPU that WEFT_TEST_DEVICE names (script/check-gpu).
TEST_F(Stages, OnAGpuHaveTheFiguresOfAProcessor) {
  const char* const device = std::getenv("WEFT_TEST_DEVICE");
  if (device == nullptr) GTEST_SKIP() << "WEFT_TEST_DEVICE names no GPU";
  EvalConfig config;
  config.base_model = base_;
  config.text = {text_};
  config.data.emplace_back().path = {
      folder_.write("pairs.jsonl", "{\"prompt\": \"agua = \", \"completion\": \"atl\"}\n")};
  config.generate = GenerateSection{.examples = 1, .max_tokens = 5};
  config.distribution.emplace();
  config.allow_other_base = true;
  const fs::path adapter = write_adapter(strong_adapter(base_), folder_ / "adapter");
  config.stages = {{.name = "base", .model = {}, .adapter = {}},
                   {.name = "adapter", .model = {}, .adapter = {adapter}},
                   {.name = "f16", .model = {}, .adapter = {adapter}, .quantise = "f16"}};
  const Evaluation here = evaluate(config, {});
  config.device = device;
  const Evaluation there = evaluate(config, {});
  for (std::size_t stage = 0; stage < config.stages.size(); ++stage) {
    for (std::size_t i = 0; i < here.stages[stage].suites.size(); ++i) {
      const SuiteResult& wanted = here.stages[stage].suites[i];
      const SuiteResult& found = there.stages[stage].suites.at(i);
      ASSERT_EQ(found.items.size(), wanted.items.size());
      EXPECT_NEAR(found.items[0].loss, wanted.items[0].loss, 1e-4 * wanted.items[0].loss);
      ASSERT_EQ(found.distances.size(), wanted.distances.size());
      for (std::size_t t = 0; t < wanted.distances.size(); ++t)
        EXPECT_NEAR(found.distances[t].kl, wanted.distances[t].kl, 1e-4);
      EXPECT_EQ(found.generations.size(), wanted.generations.size());
    }
  }
}

}  // namespace
}  // namespace weft::eval
