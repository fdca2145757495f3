#include "model/decode_batch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/model/tiny.h"
#include "tests/support/throws.h"

namespace weft::tests {
namespace {

using model::BatchOptions;
using model::Decoder;
using model::GeneratedIds;
using model::GenerateOptions;
using model::KvCache;

/// The window of all layers; 0: none.
class Step : public testing::TestWithParam<std::int64_t> {
 protected:
  Step() { set_windows(spec_, GetParam()); }
  Decoder decoder(at::ScalarType type) const {
    Decoder decoder = Decoder::from_weights(spec_, random_weights(spec_, 1), type);
    decoder.attach(random_adapter(spec_, 2, 1, 2), Decoder::Use::kInference);
    return decoder;
  }
  model::Spec spec_ = tiny_spec();
};

TEST_P(Step, GivesTheLogitsOfEachWholeSequence) {
  Decoder decoder = this->decoder(at::kDouble);
  const std::vector<std::int32_t> tokens = random_row(spec_, {300}, 3).tokens;
  const std::span<const std::int32_t> all(tokens);
  const at::Tensor whole = decoder.logits(all);
  const at::Tensor other = decoder.logits(all.subspan(50));
  KvCache a, b;
  (void)decoder.next_logits(all.first(251), a);  // grows beyond the first capacity below
  (void)decoder.next_logits(all.subspan(50, 3), b);
  for (std::int64_t i = 0; i < 12; ++i) {
    const std::vector<std::int32_t> next{tokens[static_cast<std::size_t>(251 + i)],
                                         tokens[static_cast<std::size_t>(53 + i)]};
    KvCache* const caches[] = {&a, &b};
    const at::Tensor logits = decoder.step_logits(next, caches);
    ASSERT_EQ(logits.size(0), 2);
    // attend_row() rounds log-sums by tile; head logits of double models are double.
    EXPECT_LT(relative_difference(logits[0], whole[251 + i]), 1e-12);
    EXPECT_LT(relative_difference(logits[1], other[3 + i]), 1e-12);
  }
  EXPECT_EQ(a.length, 263);
  EXPECT_EQ(b.length, 15);
}
INSTANTIATE_TEST_SUITE_P(Windows, Step, testing::Values(0, 9));

std::vector<std::vector<std::int32_t>> prompts_of(const model::Spec& spec) {
  const std::vector<std::int32_t> tokens = random_row(spec, {200}, 5).tokens;
  std::vector<std::vector<std::int32_t>> prompts;
  for (std::size_t i = 0; i < 37; ++i) {
    std::vector<std::int32_t> prompt(tokens.begin(), tokens.begin() + 4);  // all begin with
    const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(4 + 3 * i);
    prompt.insert(prompt.end(), from, from + static_cast<std::ptrdiff_t>(1 + i % 5));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

TEST(DecodeBatch, AnswersAsOneByOne) {
  const model::Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kDouble);
  const auto prompts = prompts_of(spec);
  const GenerateOptions options{
      .sampling = {.repetition_penalty = 1.3}, .max_tokens = 25, .stop_ids = {7, 11}};
  std::vector<std::int64_t> told;
  const std::vector<GeneratedIds> answers =
      generate_batch(decoder, prompts, options,
                     {.sequences = 6, .progress = [&](std::int64_t n) { told.push_back(n); }});
  ASSERT_EQ(answers.size(), prompts.size());
  std::size_t stopped = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    KvCache cache;
    const GeneratedIds alone = generate_ids(decoder, prompts[i], options, cache);
    EXPECT_EQ(answers[i].ids, alone.ids) << i;
    EXPECT_EQ(answers[i].finish, alone.finish) << i;
    stopped += alone.finish == model::Finish::kStopId ? 1 : 0;
  }
  EXPECT_GT(stopped, 5U);  // both ways to end are tried
  EXPECT_LT(stopped, 32U);
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_EQ(told.back(), 37);
}

TEST(DecodeBatch, AnswersOfSomePromptsAreThoseOfAll) {
  const model::Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  auto prompts = prompts_of(spec);
  const GenerateOptions options{.max_tokens = 25, .stop_ids = {7, 11}};
  const auto all = generate_batch(decoder, prompts, options, {.sequences = 6});
  for (const std::vector<std::size_t>& only :
       {std::vector<std::size_t>{}, {5}, {0, 17, 36}, {1, 2, 3, 4, 8, 9, 20, 21, 22, 30}}) {
    std::int64_t told = 0;
    const auto some = generate_batch(
        decoder, prompts, options,
        {.sequences = 4, .progress = [&](std::int64_t n) { told = n; }, .only = only});
    ASSERT_EQ(some.size(), all.size());
    EXPECT_EQ(told, std::ssize(only));
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool is_asked = std::ranges::find(only, i) != only.end();
      EXPECT_EQ(some[i].ids, is_asked ? all[i].ids : std::vector<std::int32_t>()) << i;
    }
  }
}

/// Shapes and element types as in real models, for which libraries have kernels for few rows.
class BatchSize : public testing::TestWithParam<at::ScalarType> {};

TEST_P(BatchSize, LeavesTheBitsOfLogitsAsTheyAre) {
  WEFT_SKIP_WITHOUT_KERNELS();
  const model::Spec spec = tiny_spec(
      {{"vocab_size", 1000}, {"hidden_size", 192}, {"head_dim", 64}, {"intermediate_size", 512}});
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), GetParam());
  decoder.attach(random_adapter(spec, 8, 1, 2), Decoder::Use::kInference);
  const std::vector<std::int32_t> tokens = random_row(spec, {130}, 5).tokens;
  const auto logits = [&](std::size_t sequences) {
    std::vector<KvCache> caches(sequences);
    std::vector<KvCache*> pointers;
    std::vector<std::int32_t> next;
    for (std::size_t i = 0; i < sequences; ++i) {
      (void)decoder.next_logits(std::span(tokens).subspan(i, 5 + i % 3), caches[i]);
      pointers.push_back(&caches[i]);
      next.push_back(tokens[100 + i % 30]);
    }
    return decoder.step_logits(next, pointers).clone();
  };
  const at::Tensor most = logits(100);
  for (const std::size_t sequences : {1U, 2U, 15U, 16U, 17U, 33U, 64U, 99U}) {
    const auto rows = static_cast<std::int64_t>(sequences);
    EXPECT_TRUE(at::equal(logits(sequences), most.narrow(0, 0, rows))) << sequences;
  }
}
INSTANTIATE_TEST_SUITE_P(Types, BatchSize, testing::Values(at::kFloat, at::kBFloat16));

TEST(DecodeBatch, RefusesWhatCannotBeAnswered) {
  const model::Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  EXPECT_TRUE(generate_batch(decoder, {}, {}).empty());
  const std::vector<std::vector<std::int32_t>> empty{{1}, {}};
  EXPECT_THROWS_WITH((void)generate_batch(decoder, empty, {}), InputError, "prompt has no tokens");
  const std::vector<std::vector<std::int32_t>> outside{{1}, {1, 37}};
  EXPECT_THROWS_WITH((void)generate_batch(decoder, outside, {}), InputError, "37", "vocabulary");
  EXPECT_THROWS_WITH((void)generate_batch(decoder, outside, {}, {.sequences = 0}), ConfigError,
                     "at least 1");
}

}  // namespace
}  // namespace weft::tests
