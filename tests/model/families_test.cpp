#include <gtest/gtest.h>

#include <cstdlib>

#include "data/pack.h"
#include "model/arena.h"
#include "model/decoder.h"
#include "model/device.h"
#include "model/generate.h"
#include "model/memory.h"
#include "tests/model/family_cases.h"

// What the decoder can do, it can do with every family.
namespace weft::tests {
namespace {

using model::Decoder;
using model::Spec;

class Families : public testing::TestWithParam<Case> {
 protected:
  Decoder decoder(at::ScalarType type, model::BaseFormat format = model::BaseFormat::kDense) const {
    return Decoder::from_weights(spec_, weights_, type, format);
  }
  Decoder training(at::ScalarType type,
                   model::BaseFormat format = model::BaseFormat::kDense) const {
    Decoder result = decoder(type, format);
    result.attach(adapter_, Decoder::Use::kTraining);
    return result;
  }
  static void expect_equal_gradients(Decoder& a, Decoder& b, double tolerance) {
    ASSERT_EQ(a.parameters().size(), b.parameters().size());
    for (std::size_t i = 0; i < a.parameters().size(); ++i) {
      const std::string& path = a.parameters()[i].target.module.path;
      const auto near = [&](const at::Tensor& x, const at::Tensor& y) {
        if (tolerance == 0) return at::equal(x, y);
        // A shared expert's gate may have no gradient to speak of.
        return relative_difference(x, y) <= tolerance || y.abs().max().item<float>() < 1e-6F;
      };
      EXPECT_TRUE(near(a.parameters()[i].grad_a, b.parameters()[i].grad_a)) << path << " A";
      EXPECT_TRUE(near(a.parameters()[i].grad_b, b.parameters()[i].grad_b)) << path << " B";
    }
  }

  const Spec spec_ = tiny_spec(GetParam().changes);
  const TensorMap weights_ = random_weights(spec_, 1);
  const lora::Adapter adapter_ = random_adapter(spec_, 2, 0.7, 2);
};

TEST_P(Families, LayersComputedAgainGiveTheSameBits) {
  const data::Row row = random_row(spec_, {9, 14}, 3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    Decoder kept = training(type);
    Decoder again = training(type);
    const model::TrainPass pass{.gradient_scale = 0.1, .dropout = 0.2, .dropout_seed = 7};
    model::TrainPass twice = pass;
    twice.recomputed_layers = 2;
    EXPECT_EQ(kept.train(row, pass).loss, again.train(row, twice).loss);
    expect_equal_gradients(again, kept, 0);
  }
}

TEST_P(Families, PackedExamplesHaveTheLossesAndGradientsOfSeparateRows) {
  Decoder packed = training(at::kDouble);
  Decoder separate = training(at::kDouble);
  const data::Row row = random_row(spec_, {7, 12, 3, 20}, 6);
  const double together = packed.train(row, {}).loss;
  double sum = 0;
  for (std::size_t i = 0; i < row.segments.size(); ++i)
    sum += separate.train(segment_row(row, i), {}).loss;
  EXPECT_NEAR(together, sum, 1e-6 * sum);
  expect_equal_gradients(packed, separate, 1e-5);
}

TEST_P(Families, ABeginningInCommonIsComputedOnce) {
  std::vector<data::Example> examples(3);
  std::mt19937_64 random(5);
  std::vector<std::int32_t> beginning;
  for (int i = 0; i < 11; ++i) beginning.push_back(static_cast<std::int32_t>(random() % 37));
  for (data::Example& example : examples) {
    example.tokens = beginning;
    for (int i = 0; i < 6; ++i) example.tokens.push_back(static_cast<std::int32_t>(random() % 37));
    example.supervised.assign(12, 0);
    example.supervised.resize(example.tokens.size(), 1);
  }
  Decoder shared = training(at::kDouble);
  Decoder separate = training(at::kDouble);
  std::vector<const data::Example*> all;
  double sum = 0;
  for (const data::Example& example : examples) {
    all.push_back(&example);
    const data::Example* const one = &example;
    sum += separate.train(data::make_row({&one, 1}), {}).loss;
  }
  const data::Row row = data::make_row(all, true);
  EXPECT_LT(std::ssize(row.tokens), row.example_tokens);
  EXPECT_NEAR(shared.train(row, {}).loss, sum, 1e-6 * sum);
  expect_equal_gradients(shared, separate, 1e-5);
}

TEST_P(Families, CachedAndSteppedLogitsAreThoseOfTheWholeSequence) {
  Decoder decoder = this->decoder(at::kDouble);
  decoder.attach(adapter_, Decoder::Use::kInference);
  const std::vector<std::int32_t> tokens = random_row(spec_, {40}, 3).tokens;
  const std::span<const std::int32_t> all(tokens);
  const at::Tensor whole = decoder.logits(all);
  model::KvCache cache;
  model::KvCache other;
  (void)decoder.next_logits(all.first(17), cache);
  EXPECT_LT(relative_difference(decoder.next_logits(all.subspan(17, 9), cache), whole[25]), 1e-10);
  (void)decoder.next_logits(all.first(5), other);
  for (std::int64_t i = 0; i < 8; ++i) {
    const std::vector<std::int32_t> next{tokens[static_cast<std::size_t>(26 + i)],
                                         tokens[static_cast<std::size_t>(5 + i)]};
    model::KvCache* const caches[] = {&cache, &other};
    const at::Tensor logits = decoder.step_logits(next, caches);
    EXPECT_LT(relative_difference(logits[0], whole[26 + i]), 1e-10);
    EXPECT_LT(relative_difference(logits[1], whole[5 + i]), 1e-10);
  }
}

TEST_P(Families, AQuantisedBaseTrains) {
  const data::Row row = random_row(spec_, {9, 14}, 3);
  const double exact = training(at::kFloat).train(row, {}).loss;
  for (const auto format : {model::BaseFormat::kInt8, model::BaseFormat::kNf4}) {
    Decoder quantised = training(at::kFloat, format);
    const double loss = quantised.train(row, {}).loss;
    EXPECT_NE(loss, exact);
    EXPECT_NEAR(loss, exact, (format == model::BaseFormat::kInt8 ? 0.05 : 0.3) * exact);
    for (const model::AdapterParameter& p : quantised.parameters())
      EXPECT_TRUE(p.grad_b.isfinite().all().item<bool>()) << p.target.module.path;
  }
}

TEST_P(Families, InputSquaresAreOfEveryModule) {
  Decoder decoder = this->decoder(at::kFloat);
  model::InputSquares squares;
  decoder.add_input_squares(random_row(spec_, {30}, 3).tokens, squares);
  const std::vector<lora::Module> modules = decoder.linear_modules();
  ASSERT_EQ(squares.size(), modules.size());
  for (std::size_t i = 0; i < modules.size(); ++i) {
    EXPECT_EQ(std::ssize(squares[i]), modules[i].in) << modules[i].path;
    EXPECT_GT(*std::ranges::max_element(squares[i]), 0) << modules[i].path;
  }
}

TEST_P(Families, TheFactorsComeBackAsTheyWentIn) {
  Decoder decoder = training(at::kBFloat16);
  const std::vector<lora::Factors> factors = decoder.factors();
  ASSERT_EQ(factors.size(), adapter_.factors.size());
  for (const lora::Factors& one : factors) {
    const auto given = std::ranges::find(adapter_.factors, one.target.module.path,
                                         [](const auto& f) { return f.target.module.path; });
    EXPECT_EQ(one.a, given->a);
    EXPECT_EQ(one.b, given->b);
  }
}

TEST_P(Families, MemoryIsPlannedAsItIsUsed) {
  WEFT_SKIP_WITHOUT_KERNELS();
  // Rows long enough that their tensors are in the arena.
  constexpr std::int64_t kTokens = 3000;
  nlohmann::json changes =
      GetParam().changes.is_null() ? nlohmann::json::object() : GetParam().changes;
  for (const char* key : {"max_position_embeddings", "n_positions", "seq_length"})
    changes[key] = 4096;
  const Spec spec = tiny_spec(changes);
  std::vector<lora::Target> targets;
  for (const lora::Factors& factors : adapter_.factors) targets.push_back(factors.target);
  const model::MemoryNeed need =
      model::memory_need(spec, targets, {.row_tokens = kTokens, .training = true, .dropout = true});
  model::Arena& arena = model::install_arena();
  const std::uint64_t before = arena.usage().now;
  arena.reset_most();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  decoder.attach(adapter_, Decoder::Use::kTraining);
  data::Row row = random_row(spec, {static_cast<int>(kTokens)}, 3);
  for (std::int32_t& target : row.targets) target = std::max(target, 0);
  arena.reset_most();
  const std::uint64_t start = arena.usage().now;
  for (int pass = 0; pass < 2; ++pass) decoder.train(row, {.dropout = 0.5});
  const auto used = static_cast<double>(arena.usage().most - start);
  EXPECT_GE(static_cast<double>(need.activations), 0.98 * used) << before;
  // Experts are planned for tokens that all choose the same.
  const bool experts = std::ranges::any_of(spec.layers, [](const auto& l) { return !!l.experts; });
  EXPECT_LE(static_cast<double>(need.activations), (experts ? 1.6 : 1.05) * used);
}

/// The GPU that WEFT_TEST_DEVICE names (script/check-gpu).
model::ComputeDevice gpu() {
  const char* const name = std::getenv("WEFT_TEST_DEVICE");
  return name == nullptr ? model::ComputeDevice() : model::open_device(name);
}

TEST_P(Families, OnAGpuLearnWhatTheyLearnOnAProcessor) {
  const model::ComputeDevice device = gpu();
  if (!device.is_gpu()) GTEST_SKIP() << "WEFT_TEST_DEVICE names no GPU";
  const data::Row row = random_row(spec_, {9, 14, 1, 30}, 3);
  const model::TrainPass pass{.gradient_scale = 0.1, .dropout = 0.2, .dropout_seed = 7};
  for (const auto format :
       {model::BaseFormat::kDense, model::BaseFormat::kInt8, model::BaseFormat::kNf4}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      if (type == at::kBFloat16 && device.capability < 80) continue;
      Decoder here = training(type, format);
      Decoder there = Decoder::from_weights(spec_, weights_, type, format, device.device);
      there.attach(adapter_, Decoder::Use::kTraining);
      const double wanted = here.train(row, pass).loss;
      const double found = there.train(row, pass).loss;
      EXPECT_NEAR(found, wanted, (type == at::kFloat ? 1e-5 : 2e-2) * wanted)
          << model::name_of(format);
      expect_equal_gradients(there, here, type == at::kFloat ? 1e-3 : 0.1);
    }
  }
}

TEST_P(Families, OnAGpuGiveTheSameBitsTwice) {
  const model::ComputeDevice device = gpu();
  if (!device.is_gpu()) GTEST_SKIP() << "WEFT_TEST_DEVICE names no GPU";
  const data::Row row = random_row(spec_, {40, 60}, 3);
  const auto trained = [&] {
    Decoder one = Decoder::from_weights(spec_, weights_, at::kFloat, model::BaseFormat::kDense,
                                        device.device);
    one.attach(adapter_, Decoder::Use::kTraining);
    one.train(row, {.gradient_scale = 0.1});
    return one.trainables().gradients.cpu();
  };
  EXPECT_TRUE(trained().equal(trained()));
}

TEST_P(Families, OnAGpuGoOnAsOnAProcessor) {
  const model::ComputeDevice device = gpu();
  if (!device.is_gpu()) GTEST_SKIP() << "WEFT_TEST_DEVICE names no GPU";
  Decoder here = decoder(at::kFloat);
  Decoder there =
      Decoder::from_weights(spec_, weights_, at::kFloat, model::BaseFormat::kDense, device.device);
  const data::Row row = random_row(spec_, {17}, 5);
  const std::span<const std::int32_t> tokens(row.tokens);
  model::KvCache ours, wanted;
  EXPECT_LT(relative_difference(there.next_logits(tokens.first(9), ours),
                                here.next_logits(tokens.first(9), wanted)),
            1e-4);
  for (std::size_t i = 9; i < tokens.size(); ++i) {
    model::KvCache* const of_ours = &ours;
    model::KvCache* const of_wanted = &wanted;
    EXPECT_LT(relative_difference(there.step_logits(tokens.subspan(i, 1), {&of_ours, 1}),
                                  here.step_logits(tokens.subspan(i, 1), {&of_wanted, 1})),
              1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Decoder, Families, testing::ValuesIn([] {
                           // The cases without a choice of modules: one a family or more.
                           std::vector<Case> result;
                           for (const Case& one : cases_of_families()) {
                             if (*one.only == 0) result.push_back(one);
                           }
                           return result;
                         }()),
                         [](const testing::TestParamInfo<Case>& tested) {
                           return tested.param.name;
                         });

}  // namespace
}  // namespace weft::tests
