#include "model/generate.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "model/answer.h"
#include "tests/model/tiny.h"
#include "tests/support/throws.h"

namespace weft::tests {
namespace {

using model::Decoder;
using model::KvCache;
using model::Sampler;
using model::Sampling;

class Cache : public testing::TestWithParam<std::int64_t> {};

TEST_P(Cache, GivesTheLogitsOfTheWholeSequence) {
  model::Spec spec = tiny_spec();
  set_windows(spec, GetParam());
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  decoder.attach(random_adapter(spec, 2, 1, 2), Decoder::Use::kInference);
  const std::vector<std::int32_t> tokens =
      random_row(spec, {300}, 3).tokens;  // beyond the first capacity
  const at::Tensor whole = decoder.logits(tokens);
  KvCache cache;
  std::size_t read = 0;
  for (const std::size_t step : {5U, 1U, 1U, 40U, 1U, 240U, 12U}) {
    const at::Tensor last = decoder.next_logits({tokens.data() + read, step}, cache);
    read += step;
    EXPECT_LT(relative_difference(last, whole[static_cast<std::int64_t>(read) - 1]), 1e-5) << read;
  }
  EXPECT_EQ(read, tokens.size());
  EXPECT_EQ(cache.length, 300);
  cache.truncate(100);
  EXPECT_LT(relative_difference(decoder.next_logits({tokens.data() + 100, 7}, cache), whole[106]),
            1e-5);
}
INSTANTIATE_TEST_SUITE_P(KvCache, Cache, testing::Values(0, 9));

TEST(Generate, GreedyFollowsTheLargestLogitAndStopsWhereTold) {
  const model::Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  std::vector<std::int32_t> tokens{3, 1, 4};
  std::vector<std::int32_t> wanted;
  for (int i = 0; i < 12; ++i) {
    wanted.push_back(static_cast<std::int32_t>(
        decoder.logits(tokens)[static_cast<std::int64_t>(tokens.size()) - 1]
            .argmax()
            .item<std::int64_t>()));
    tokens.push_back(wanted.back());
  }
  KvCache cache;
  const std::vector<std::int32_t> prompt{3, 1, 4};
  const model::GeneratedIds all = generate_ids(decoder, prompt, {.max_tokens = 12}, cache);
  EXPECT_EQ(all.ids, wanted);
  EXPECT_EQ(all.finish, model::Finish::kLength);
  EXPECT_EQ(cache.length, 3 + 11);

  const std::int32_t stop = wanted[5];
  const auto first = std::ranges::find(wanted, stop) - wanted.begin();
  KvCache again;
  const model::GeneratedIds stopped =
      generate_ids(decoder, prompt, {.max_tokens = 12, .stop_ids = {99, stop}}, again);
  EXPECT_EQ(stopped.ids, std::vector<std::int32_t>(wanted.begin(), wanted.begin() + first));
  EXPECT_EQ(stopped.finish, model::Finish::kStopId);

  KvCache cancelled;
  int left = 3;
  const auto cut = generate_ids(decoder, prompt, {.max_tokens = 12}, cancelled,
                                [&](std::int32_t) { return --left > 0; });
  EXPECT_EQ(cut.ids.size(), 3U);
  EXPECT_EQ(cut.finish, model::Finish::kCancelled);
  EXPECT_THROWS_WITH((void)generate_ids(decoder, {}, {}, cancelled), InputError,
                     "prompt has no tokens");
}

TEST(Generate, SeedsRepeatAndDiffer) {
  const model::Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  const auto run = [&](std::uint64_t seed) {
    KvCache cache;
    return generate_ids(decoder, std::vector<std::int32_t>{1, 2},
                        {.sampling = {.temperature = 1.5, .seed = seed}, .max_tokens = 20}, cache)
        .ids;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
}

/// The processors of transformers' generation/logits_process.py, as ATen formulas: what stays has a
/// finite score.
at::Tensor processed(at::Tensor scores, const Sampling& s, const std::vector<std::int32_t>& seen) {
  const double removed = -std::numeric_limits<double>::infinity();
  if (s.repetition_penalty != 1) {
    const at::Tensor ids = at::tensor(seen, at::kInt).to(at::kLong);
    const at::Tensor score = scores.gather(0, ids);
    scores = scores.scatter(
        0, ids, at::where(score < 0, score * s.repetition_penalty, score / s.repetition_penalty));
  }
  scores = scores / s.temperature;
  if (s.top_k > 0) {
    const at::Tensor least = std::get<0>(scores.topk(std::min(s.top_k, scores.size(0))))[-1];
    scores = scores.masked_fill(scores < least, removed);
  }
  if (s.top_p < 1) {
    const auto [sorted, order] = scores.sort();
    at::Tensor remove = sorted.softmax(-1).cumsum(-1) <= 1 - s.top_p;
    remove[-1] = false;
    scores = scores.masked_fill(remove.scatter(0, order, remove), removed);
  }
  if (s.min_p > 0) {
    const at::Tensor p = scores.softmax(-1);
    scores = scores.masked_fill(p < s.min_p * p.max(), removed);
  }
  return scores;
}

TEST(Sampler, KeepsWhatTransformersKeepsWithItsProbabilities) {
  std::mt19937_64 random(3);
  const std::vector<std::int32_t> seen{5, 5, 17, 80, 3};
  const Sampling cases[] = {
      {.temperature = 0.7},
      {.temperature = 1, .top_k = 5},
      {.temperature = 1.3, .top_k = 500},
      {.temperature = 1, .top_p = 0.8},
      {.temperature = 0.5, .top_p = 0.3},
      {.temperature = 1, .top_p = 1e-6},
      {.temperature = 1, .min_p = 0.1},
      {.temperature = 2, .min_p = 0.4, .repetition_penalty = 1.4},
      {.temperature = 0.9, .top_k = 20, .top_p = 0.9, .min_p = 0.05, .repetition_penalty = 1.2},
      {.temperature = 1, .repetition_penalty = 0.5},
  };
  for (const Sampling& sampling : cases) {
    for (int round = 0; round < 20; ++round) {
      const at::Tensor logits = random_tensor({100}, 2, random).to(at::kFloat);
      const at::Tensor wanted = processed(logits, sampling, seen).softmax(-1);
      at::Tensor got = at::zeros({100}, at::kFloat);
      float before = 2;
      for (const Sampler::Candidate& c : Sampler(sampling).candidates(logits, seen)) {
        got[c.id] = c.probability;
        EXPECT_LE(c.probability, before);
        before = c.probability;
      }
      EXPECT_TRUE(at::equal(got > 0, wanted > 0));
      EXPECT_LT((got - wanted).abs().max().item<float>(), 1e-6);
    }
  }
}

TEST(Sampler, DrawsInProportion) {
  const at::Tensor logits = at::log(at::tensor({0.1F, 0.6F, 0.3F}, at::kFloat));
  Sampler sampler({.temperature = 1, .seed = 4});
  std::vector<int> counts(3);
  for (int i = 0; i < 20000; ++i) ++counts.at(static_cast<std::size_t>(sampler.next(logits, {})));
  EXPECT_NEAR(counts[0], 2000, 200);
  EXPECT_NEAR(counts[1], 12000, 350);
}

TEST(Sampler, GreedyHeedsThePenaltyOnly) {
  const at::Tensor logits = at::tensor({1.0F, 3.0F, 2.9F, -1.0F}, at::kFloat);
  const std::vector<std::int32_t> seen{1};
  EXPECT_EQ(Sampler({}).next(logits, seen), 1);
  EXPECT_EQ(Sampler({.top_k = 1, .repetition_penalty = 1.1}).next(logits, seen), 2);
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  at::Tensor logits = at::tensor({1.0F, 3.0F, 2.9F, -1.0F}, at::kFloat);
  logits[2] = std::nanf("");
  for (const model::Sampling& sampling :
       {model::Sampling{}, model::Sampling{.temperature = 0.8}, model::Sampling{.top_k = 2},
        model::Sampling{.repetition_penalty = 1.1}}) {
    EXPECT_THROWS_WITH((void)Sampler(sampling).next(logits, {}), NumericError, "no numbers");
  }
}

TEST(StopStrings, CutBeforeTheFirstAndHoldBackWhatMayBecomeOne) {
  model::StopStrings stops({"\n\n", "END", "ENOUGH"});
  EXPECT_EQ(stops.push("one"), "one");
  EXPECT_EQ(stops.push(" two\n"), " two");
  EXPECT_EQ(stops.push("three E"), "\nthree ");
  EXPECT_EQ(stops.push("N"), "");
  EXPECT_EQ(stops.push("T EN"), "ENT ");
  EXPECT_FALSE(stops.found());
  EXPECT_EQ(stops.push("DLESS"), "");
  EXPECT_TRUE(stops.found());
  EXPECT_EQ(stops.push("more"), "");
  EXPECT_EQ(stops.finish(), "");

  model::StopStrings open({"abc", ""});
  EXPECT_EQ(open.push("xab"), "x");
  EXPECT_EQ(open.finish(), "ab");
  EXPECT_FALSE(open.found());
  model::StopStrings none({});
  EXPECT_EQ(none.push("anything"), "anything");
  model::StopStrings whole({"stop"});
  EXPECT_EQ(whole.push("do not stop here, nor stop there"), "do not ");
}

TEST(Sampler, RefusesValuesOutOfRange) {
  EXPECT_THROWS_WITH((void)Sampler({.temperature = -1}), ConfigError, "temperature", "-1");
  EXPECT_THROWS_WITH((void)Sampler({.temperature = 1, .top_p = 0}), ConfigError, "top-p");
  EXPECT_THROWS_WITH((void)Sampler({.temperature = 1, .min_p = 1.5}), ConfigError, "min-p");
  EXPECT_THROWS_WITH((void)Sampler({.repetition_penalty = 0}), ConfigError, "repetition-penalty");
  EXPECT_THROWS_WITH((void)Sampler({.top_k = -2}), ConfigError, "top-k");
}

}  // namespace
}  // namespace weft::tests
