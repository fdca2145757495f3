#include "model/decoder.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "data/pack.h"
#include "model/layer.h"
#include "model/weights.h"
#include "tests/model/family_cases.h"
#include "tests/model/reference.h"
#include "tests/model/tiny.h"
#include "tests/support/throws.h"

namespace weft::tests {
namespace {

using model::Compute;
using model::Decoder;
using model::Spec;
using model::TrainPass;

class AgainstAutograd : public testing::TestWithParam<Case> {};

TEST_P(AgainstAutograd, LossAndAdapterGradientsAgreeInDouble) {
  const Case& c = GetParam();
  const Spec spec = tiny_spec(c.changes);
  const TensorMap weights = random_weights(spec, 1);
  const auto wanted = [&](const std::string& path) {
    return path.find(c.only) != std::string::npos;
  };
  const lora::Adapter adapter = random_adapter(spec, 3, 0.7, 2, wanted);
  ASSERT_FALSE(adapter.factors.empty());
  const data::Row row = random_row(spec, {9, 1, 5, 14}, 3);

  Decoder decoder = Decoder::from_weights(spec, weights, at::kDouble);
  decoder.attach(adapter, Decoder::Use::kTraining);
  const TrainPass pass{
      .gradient_scale = 0.25, .dropout = c.dropout, .dropout_seed = 0x123456789abcULL};
  const model::LossSum sum = decoder.train(row, pass);

  Reference reference(spec, weights);
  reference.attach(adapter, true);
  const at::Tensor loss = reference.loss(row, {.p = c.dropout, .seed = pass.dropout_seed});
  (loss * pass.gradient_scale).backward();

  EXPECT_NEAR(sum.loss, loss.item<double>(), 1e-9 * loss.item<double>());
  ASSERT_EQ(decoder.parameters().size(), adapter.factors.size());
  for (const model::AdapterParameter& p : decoder.parameters()) {
    const ReferenceFactors& factors = reference.factors(p.target.module.path).front();
    // Gradients are kept in fp32; everything before that is double.
    EXPECT_LT(relative_difference(p.grad_a, factors.a.grad()), 2e-7)
        << p.target.module.path << " A";
    EXPECT_LT(relative_difference(p.grad_b, factors.b.grad()), 2e-7)
        << p.target.module.path << " B";
    EXPECT_GT(p.grad_a.abs().max().item<float>(), 0);
  }
}

const nlohmann::json kMistral = family("MistralForCausalLM", {{"sliding_window", 4}});
const nlohmann::json kWindows =
    family("Qwen2ForCausalLM",
           {{"use_sliding_window", true}, {"sliding_window", 3}, {"max_window_layers", 1}});

INSTANTIATE_TEST_SUITE_P(
    Decoder, AgainstAutograd,
    testing::Values(Case{"grouped_queries_tied_not"}, Case{"tied", {{"tie_word_embeddings", true}}},
                    Case{"biases", {{"attention_bias", true}, {"mlp_bias", true}}},
                    Case{"qkv_bias", family("Qwen2ForCausalLM")},
                    Case{"one_kv_head", {{"num_key_value_heads", 1}}},
                    Case{"as_many_kv_heads", {{"num_key_value_heads", 4}}},
                    Case{"window", kMistral}, Case{"window_in_upper_layers", kWindows},
                    Case{"dropout", {}, 0.3}, Case{"dropout_biases_window", kWindows, 0.1},
                    Case{"only_q", {}, 0, "q_proj"}, Case{"only_v_dropout", {}, 0.5, "v_proj"},
                    Case{"only_o", {}, 0, "o_proj"}, Case{"only_up", {}, 0, "up_proj"},
                    Case{"only_down", {}, 0, "down_proj"}, Case{"upper_layers", {}, 0, "layers.2."},
                    Case{"one_module_in_the_middle", {}, 0.1, "layers.1.mlp.gate_proj"},
                    Case{"middle_o", {}, 0, "layers.1.self_attn.o_proj"}),
    [](const testing::TestParamInfo<Case>& tested) { return tested.param.name; });

INSTANTIATE_TEST_SUITE_P(Families, AgainstAutograd, testing::ValuesIn(cases_of_families()),
                         [](const testing::TestParamInfo<Case>& tested) {
                           return tested.param.name;
                         });

TEST(Decoder, ScaledGradientsAccumulateOverRows) {
  const Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kDouble);
  decoder.attach(random_adapter(spec, 2, 1, 2), Decoder::Use::kTraining);
  const data::Row one = random_row(spec, {6}, 1);
  decoder.train(one, {.gradient_scale = 1});
  const at::Tensor once = decoder.parameters()[4].grad_b.clone();
  decoder.train(one, {.gradient_scale = 2});
  EXPECT_LT(relative_difference(decoder.parameters()[4].grad_b, 3 * once), 1e-6);
  decoder.zero_gradients();
  EXPECT_EQ(decoder.parameters()[4].grad_b.abs().max().item<float>(), 0);
}

TEST(Decoder, AQuantisedBaseTrainsAsItsRoundedWeightsWould) {
  const Spec spec = tiny_spec();
  for (const auto format : {model::BaseFormat::kInt8, model::BaseFormat::kNf4}) {
    const TensorMap weights = random_weights(spec, 4);
    TensorMap rounded = weights;
    for (const lora::Module& module : model::linear_modules(spec)) {
      const at::Tensor values = weights.at(module.path + ".weight").to(at::kFloat);
      const auto count = static_cast<std::size_t>(values.numel());
      at::Tensor read = at::empty_like(values);
      model::QuantisedMatrix(format, {values.const_data_ptr<float>(), count}, module.out, module.in)
          .read({0, module.out, 0, module.in}, read.mutable_data_ptr<float>(), module.in);
      EXPECT_GT(relative_difference(read, values), 1e-4) << "nothing was rounded";
      rounded[module.path + ".weight"] = read.to(at::kDouble);
    }
    Decoder quantised = Decoder::from_weights(spec, weights, at::kFloat, format);
    Decoder dense = Decoder::from_weights(spec, rounded, at::kFloat);
    const data::Row row = random_row(spec, {7, 12}, 6);
    for (Decoder* decoder : {&quantised, &dense})
      decoder->attach(random_adapter(spec, 2, 1, 5), Decoder::Use::kTraining);
    const model::LossSum of_quantised = quantised.train(row, {});
    EXPECT_DOUBLE_EQ(of_quantised.loss, dense.train(row, {}).loss);
    for (std::size_t i = 0; i < dense.parameters().size(); ++i) {
      EXPECT_LT(relative_difference(quantised.parameters()[i].grad_a, dense.parameters()[i].grad_a),
                1e-5);
      EXPECT_LT(relative_difference(quantised.parameters()[i].grad_b, dense.parameters()[i].grad_b),
                1e-5);
    }
  }
}

class Packing : public testing::TestWithParam<at::ScalarType> {};

TEST_P(Packing, GivesTheLossesAndGradientsOfSeparateRows) {
  // Made for fewer positions than some segments have: their frequencies differ.
  const Spec spec = tiny_spec({{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}},
                               {"max_position_embeddings", 8}});
  Decoder packed = Decoder::from_weights(spec, random_weights(spec, 4), GetParam());
  Decoder separate = Decoder::from_weights(spec, random_weights(spec, 4), GetParam());
  packed.attach(random_adapter(spec, 2, 1, 5), Decoder::Use::kTraining);
  separate.attach(random_adapter(spec, 2, 1, 5), Decoder::Use::kTraining);
  const data::Row row = random_row(spec, {7, 12, 3, 20}, 6);

  const model::LossSum together = packed.train(row, {});
  model::LossSum sum;
  std::vector<float> losses;
  for (std::size_t i = 0; i < row.segments.size(); ++i) {
    const data::Row alone = segment_row(row, i);
    const model::LossSum part = separate.train(alone, {});
    sum.loss += part.loss;
    sum.tokens += part.tokens;
    for (const float loss : separate.token_losses(alone)) losses.push_back(loss);
  }
  EXPECT_EQ(together.tokens, sum.tokens);
  EXPECT_NEAR(together.loss, sum.loss, 1e-5 * sum.loss);
  const std::vector<float> packed_losses = packed.token_losses(row);
  ASSERT_EQ(packed_losses.size(), losses.size());
  for (std::size_t i = 0; i < losses.size(); ++i) EXPECT_NEAR(packed_losses[i], losses[i], 1e-5);
  for (std::size_t i = 0; i < packed.parameters().size(); ++i) {
    EXPECT_LT(relative_difference(packed.parameters()[i].grad_a, separate.parameters()[i].grad_a),
              1e-5);
    EXPECT_LT(relative_difference(packed.parameters()[i].grad_b, separate.parameters()[i].grad_b),
              1e-5);
  }
}
INSTANTIATE_TEST_SUITE_P(Decoder, Packing, testing::Values(at::kFloat, at::kDouble));

/// Examples whose first tokens are those of the template they belong to, and whose answers are
/// learned.
std::vector<data::Example> examples_of(const std::vector<std::vector<int>>& beginnings,
                                       std::int64_t vocabulary) {
  std::mt19937_64 random(11);
  const auto token = [&] {
    return static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(vocabulary));
  };
  // One stock of tokens for each depth: the n-th part of a beginning is the same wherever it is
  // named.
  std::map<std::pair<std::size_t, int>, std::vector<std::int32_t>> parts;
  std::vector<data::Example> examples;
  for (const std::vector<int>& beginning : beginnings) {
    data::Example& example = examples.emplace_back();
    for (std::size_t depth = 0; depth < beginning.size(); ++depth) {
      std::vector<std::int32_t>& part = parts[{depth, beginning[depth]}];
      while (part.size() < 20 + 3 * depth) part.push_back(token());
      example.tokens.insert(example.tokens.end(), part.begin(), part.end());
    }
    const std::size_t asked = example.tokens.size() + 1 + random() % 5;
    while (example.tokens.size() < asked) example.tokens.push_back(token());
    example.supervised.assign(example.tokens.size(), 0);
    const std::size_t end = asked + 1 + random() % 9;
    while (example.tokens.size() < end) example.tokens.push_back(token());
    example.supervised.resize(end, 1);
  }
  return examples;
}

struct SharingCase {
  const char* name;
  std::vector<std::vector<int>> beginnings;
};
void PrintTo(const SharingCase& c, std::ostream* out) { *out << c.name; }

class Sharing : public testing::TestWithParam<SharingCase> {};

TEST_P(Sharing, GivesTheLossesAndGradientsOfSeparateRows) {
  for (const std::int64_t window : {0, 25}) {
    Spec spec = tiny_spec({{"max_position_embeddings", 256}});
    set_windows(spec, window);
    const std::vector<data::Example> examples = examples_of(GetParam().beginnings, spec.vocabulary);
    Decoder shared = Decoder::from_weights(spec, random_weights(spec, 4), at::kFloat);
    Decoder separate = Decoder::from_weights(spec, random_weights(spec, 4), at::kFloat);
    shared.attach(random_adapter(spec, 2, 1, 5), Decoder::Use::kTraining);
    separate.attach(random_adapter(spec, 2, 1, 5), Decoder::Use::kTraining);

    std::vector<const data::Example*> all;
    double loss = 0;
    std::int64_t tokens = 0;
    for (const data::Example& example : examples) {
      all.push_back(&example);
      const data::Example* const one = &example;
      const model::LossSum sum = separate.train(data::make_row({&one, 1}), {});
      loss += sum.loss;
      tokens += sum.tokens;
    }
    const data::Row row = data::make_row(all, true);
    EXPECT_EQ(std::ssize(row.tokens) < row.example_tokens, examples.size() > 1);
    const model::LossSum together = shared.train(row, {});
    EXPECT_EQ(together.tokens, tokens);
    EXPECT_NEAR(together.loss, loss, 1e-5 * loss);
    for (std::size_t i = 0; i < shared.parameters().size(); ++i) {
      EXPECT_LT(relative_difference(shared.parameters()[i].grad_a, separate.parameters()[i].grad_a),
                1e-5);
      EXPECT_LT(relative_difference(shared.parameters()[i].grad_b, separate.parameters()[i].grad_b),
                1e-5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Decoder, Sharing,
    testing::Values(SharingCase{"one_branch", {{0}}}, SharingCase{"two_branches", {{0}, {0}}},
                    SharingCase{"fifty_branches", std::vector<std::vector<int>>(50, {0})},
                    SharingCase{"nested",
                                {{0, 1}, {0, 1}, {0, 2, 3}, {0, 2, 3}, {0, 2, 4}, {0}, {0, 2, 3}}},
                    SharingCase{"two_trees", {{0, 1}, {5}, {0, 1}, {5}, {7}, {0}}}),
    [](const testing::TestParamInfo<SharingCase>& tested) { return tested.param.name; });

TEST(Decoder, LongSegmentsGiveTheSameAcrossBlocksOfQueries) {
  // 600 tokens: three blocks of queries, with and without a window that spans them.
  for (const std::int64_t window : {std::int64_t{0}, std::int64_t{300}}) {
    Spec spec = tiny_spec({{"num_hidden_layers", 1}});
    set_windows(spec, window);
    const TensorMap weights = random_weights(spec, 7);
    const lora::Adapter adapter = random_adapter(spec, 2, 1, 8);
    const data::Row row = random_row(spec, {600, 20}, 9);
    Decoder decoder = Decoder::from_weights(spec, weights, at::kDouble);
    decoder.attach(adapter, Decoder::Use::kTraining);
    Reference reference(spec, weights);
    reference.attach(adapter, true);
    const at::Tensor loss = reference.loss(row);
    loss.backward();
    EXPECT_NEAR(decoder.train(row, {}).loss, loss.item<double>(), 1e-9 * loss.item<double>());
    for (const model::AdapterParameter& p : decoder.parameters()) {
      const ReferenceFactors& factors = reference.factors(p.target.module.path).front();
      EXPECT_LT(relative_difference(p.grad_a, factors.a.grad()), 2e-7) << p.target.module.path;
    }
  }
}

TEST(Decoder, AdapterWithZeroBChangesNothing) {
  const Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  const std::vector<std::int32_t> tokens{3, 1, 4, 1, 5, 9, 2, 6};
  const at::Tensor base = decoder.logits(tokens);
  lora::Adapter adapter = random_adapter(spec, 4, 1, 2);
  for (lora::Factors& f : adapter.factors) std::ranges::fill(f.b, 0.0F);
  decoder.attach(adapter, Decoder::Use::kInference);
  EXPECT_TRUE(at::equal(decoder.logits(tokens), base));
}

TEST(Decoder, AdaptersAddUpWithTheirWeightsAndEqualTheFold) {
  const Spec spec = tiny_spec();
  TensorMap weights = random_weights(spec, 1);
  const lora::Adapter first = random_adapter(spec, 2, 0.5, 2);
  const lora::Adapter second = random_adapter(spec, 3, 1.5, 3, [](const std::string& path) {
    return path.find("q_proj") != std::string::npos || path.find("up_proj") != std::string::npos;
  });
  Decoder decoder = Decoder::from_weights(spec, weights, at::kDouble);
  decoder.attach(first, Decoder::Use::kInference, 0.3);
  decoder.attach(second, Decoder::Use::kInference);
  const auto fold = [&](const lora::Adapter& adapter, double weight) {
    for (const lora::Factors& f : adapter.factors) {
      const at::Tensor a = at::tensor(f.a, at::kFloat).to(at::kDouble).view({f.target.rank, -1});
      const at::Tensor b = at::tensor(f.b, at::kFloat).to(at::kDouble).view({-1, f.target.rank});
      at::Tensor& w = weights[f.target.module.path + ".weight"];
      w = w + weight * f.target.scale * at::matmul(b, a);
    }
  };
  fold(first, 0.3);
  fold(second, 1);
  Decoder folded = Decoder::from_weights(spec, weights, at::kDouble);
  const std::vector<std::int32_t> tokens{3, 1, 4, 1, 5, 9, 2, 6};
  // scale * B is rounded to fp32 masters' precision on its way into the compute type.
  EXPECT_LT(relative_difference(decoder.logits(tokens), folded.logits(tokens)), 1e-6);
  EXPECT_TRUE(decoder.parameters().empty());
  decoder.detach_all();
  Decoder base = Decoder::from_weights(spec, random_weights(spec, 1), at::kDouble);
  EXPECT_TRUE(at::equal(decoder.logits(tokens), base.logits(tokens)));
}

TEST(Decoder, TrainsOneAdapterOverAFrozenOne) {
  const Spec spec = tiny_spec();
  const TensorMap weights = random_weights(spec, 1);
  const lora::Adapter frozen = random_adapter(spec, 2, 1, 2);
  const lora::Adapter trained = random_adapter(spec, 3, 1, 3);
  const data::Row row = random_row(spec, {8, 6}, 4);
  Decoder decoder = Decoder::from_weights(spec, weights, at::kDouble);
  decoder.attach(frozen, Decoder::Use::kInference);
  decoder.attach(trained, Decoder::Use::kTraining);
  Reference reference(spec, weights);
  reference.attach(frozen, false);
  reference.attach(trained, true);
  const at::Tensor loss = reference.loss(row, {.p = 0.2, .seed = 5});
  loss.backward();
  EXPECT_NEAR(decoder.train(row, {.dropout = 0.2, .dropout_seed = 5}).loss, loss.item<double>(),
              1e-8);
  ASSERT_EQ(decoder.parameters().size(), trained.factors.size());
  for (const model::AdapterParameter& p : decoder.parameters()) {
    const ReferenceFactors& factors = reference.factors(p.target.module.path).back();
    EXPECT_LT(relative_difference(p.grad_a, factors.a.grad()), 2e-7);
    EXPECT_LT(relative_difference(p.grad_b, factors.b.grad()), 2e-7);
  }
}

TEST(Decoder, RefreshTakesOverChangedMasters) {
  const Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  decoder.attach(random_adapter(spec, 2, 1, 2), Decoder::Use::kTraining);
  const std::vector<std::int32_t> tokens{3, 1, 4, 1, 5};
  const at::Tensor before = decoder.logits(tokens);
  for (model::AdapterParameter& p : decoder.parameters()) p.b.zero_();
  EXPECT_TRUE(at::equal(decoder.logits(tokens), before));
  decoder.refresh();
  Decoder base = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  EXPECT_TRUE(at::equal(decoder.logits(tokens), base.logits(tokens)));
  const std::vector<lora::Factors> factors = decoder.factors();
  ASSERT_EQ(factors.size(), decoder.linear_modules().size());
  EXPECT_EQ(factors.front().b, std::vector<float>(factors.front().b.size(), 0.0F));
  EXPECT_TRUE(
      std::ranges::is_sorted(factors, {}, [](const auto& f) { return f.target.module.path; }));
}

TEST(Decoder, BackwardEndsAtTheLowestTrainedModule) {
  const Spec spec = tiny_spec();
  // Only `down` is trained: in the lowest layer nothing is added to the gradient that comes from
  // above.
  const TensorMap weights = random_weights(spec, 1);
  model::Weights all = model::make_weights(spec, at::kDouble, model::BaseFormat::kDense,
                                           [&](const std::string& name, const at::Tensor& into,
                                               std::int64_t) { into.copy_(weights.at(name)); });
  model::Layer& layer = all.layers.front();
  const at::Tensor a = at::ones({2, spec.layers[0].down.in}, at::kFloat);
  const at::Tensor b = at::ones({spec.hidden, 2}, at::kFloat);
  layer.mlp.exit.linear.attach(
      {.a = a, .b = b, .grad_a = at::zeros_like(a), .grad_b = at::zeros_like(b)});

  const data::Row row = random_row(spec, {5}, 1);
  const model::RowContext context{model::Visibility(row.segments, row.positions),
                                  {model::rotary_table(spec.rotaries[0], spec.max_positions,
                                                       row.positions, row.segments, at::kDouble)},
                                  {}};
  std::mt19937_64 random(2);
  const at::Tensor x = random_tensor({5, spec.hidden}, 1, random);
  const at::Tensor gradient = random_tensor({5, spec.hidden}, 1, random);
  for (const bool lowest : {true, false}) {
    model::LayerState state;
    const at::Tensor y = layer.forward(x, context, &state);
    const at::Tensor d = gradient.clone();
    layer.backward(d, context, state, lowest);
    EXPECT_EQ(at::equal(d, gradient), lowest);
  }
}

TEST(Decoder, RecomputedLayersGiveTheSameBits) {
  const Spec spec = tiny_spec();
  const TensorMap weights = random_weights(spec, 1);
  const data::Row row = random_row(spec, {9, 5, 14}, 3);
  for (const char* only : {"", "layers.1.", "v_proj", "down_proj"}) {
    const auto wanted = [&](const std::string& path) {
      return path.find(only) != std::string::npos;
    };
    std::vector<std::vector<at::Tensor>> gradients;
    std::vector<double> losses;
    for (const std::int64_t recomputed : {0, 1, 2, 99}) {
      Decoder decoder = Decoder::from_weights(spec, weights, at::kBFloat16);
      decoder.attach(random_adapter(spec, 3, 0.7, 2, wanted), Decoder::Use::kTraining);
      losses.push_back(
          decoder.train(row, {.dropout = 0.2, .dropout_seed = 5, .recomputed_layers = recomputed})
              .loss);
      auto& these = gradients.emplace_back();
      for (const model::AdapterParameter& p : decoder.parameters())
        these.insert(these.end(), {p.grad_a, p.grad_b});
    }
    for (std::size_t i = 1; i < gradients.size(); ++i) {
      EXPECT_EQ(losses[i], losses[0]);
      for (std::size_t k = 0; k < gradients[0].size(); ++k)
        EXPECT_TRUE(gradients[i][k].equal(gradients[0][k]));
    }
  }
}

TEST(Decoder, SameSeedAndDataGiveTheSameBits) {
  const Spec spec = tiny_spec();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    std::vector<at::Tensor> gradients[2];
    double losses[2] = {};
    for (int run = 0; run < 2; ++run) {
      Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), type);
      decoder.attach(random_adapter(spec, 4, 1, 2), Decoder::Use::kTraining);
      losses[run] =
          decoder.train(random_row(spec, {40, 30}, 3), {.dropout = 0.1, .dropout_seed = 9}).loss;
      for (const auto& p : decoder.parameters()) gradients[run].push_back(p.grad_a.clone());
    }
    EXPECT_EQ(losses[0], losses[1]);
    for (std::size_t i = 0; i < gradients[0].size(); ++i)
      EXPECT_TRUE(at::equal(gradients[0][i], gradients[1][i]));
  }
}

TEST(Decoder, BFloat16StaysNearFloat) {
  const Spec spec = tiny_spec();
  const data::Row row = random_row(spec, {30, 25}, 3);
  Decoder exact = Decoder::from_weights(spec, random_weights(spec, 1), at::kDouble);
  Decoder rounded = Decoder::from_weights(spec, random_weights(spec, 1), at::kBFloat16);
  exact.attach(random_adapter(spec, 4, 1, 2), Decoder::Use::kTraining);
  rounded.attach(random_adapter(spec, 4, 1, 2), Decoder::Use::kTraining);
  const double wanted = exact.train(row, {}).loss;
  EXPECT_NEAR(rounded.train(row, {}).loss, wanted, 0.03 * wanted);
  for (std::size_t i = 0; i < exact.parameters().size(); ++i) {
    const at::Tensor x = exact.parameters()[i].grad_a.flatten();
    const at::Tensor y = rounded.parameters()[i].grad_a.flatten();
    EXPECT_GT((at::dot(x, y) / (x.norm() * y.norm())).item<double>(), 0.98);
  }
}

TEST(Decoder, LossesAgreeWithLogits) {
  const Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  const data::Row row = random_row(spec, {17}, 5);
  const at::Tensor log_p = at::log_softmax(decoder.logits(row.tokens), 1);
  EXPECT_EQ(log_p.scalar_type(), at::kFloat);
  const std::vector<float> losses = decoder.token_losses(row);
  std::size_t next = 0;
  double sum = 0;
  for (std::size_t t = 0; t < row.targets.size(); ++t) {
    if (row.targets[t] < 0) continue;
    const float wanted = -log_p[static_cast<std::int64_t>(t)][row.targets[t]].item<float>();
    EXPECT_NEAR(losses.at(next++), wanted, 1e-5);
    sum += wanted;
  }
  EXPECT_EQ(next, losses.size());
  EXPECT_NEAR(decoder.loss(row).loss, sum, 1e-4);
  EXPECT_EQ(decoder.loss(row).tokens, static_cast<std::int64_t>(losses.size()));
}

TEST(Decoder, RowsWithoutTargetsCostNothing) {
  const Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  data::Row row = random_row(spec, {5}, 1);
  std::ranges::fill(row.targets, data::kNoTarget);
  EXPECT_EQ(decoder.train(row, {}).tokens, 0);
  EXPECT_TRUE(decoder.token_losses(row).empty());
}

TEST(Decoder, RefusesWhatDoesNotFit) {
  const Spec spec = tiny_spec();
  Decoder decoder = Decoder::from_weights(spec, random_weights(spec, 1), at::kFloat);
  lora::Adapter other = random_adapter(spec, 2, 1, 2);
  other.factors[3].target.module.path = "model.layers.0.self_attn.oproj";
  EXPECT_THROWS_WITH(decoder.attach(other, Decoder::Use::kTraining), InputError,
                     "model.layers.0.self_attn.oproj",
                     "nearest: 'model.layers.0.self_attn.o_proj'");
  other = random_adapter(spec, 2, 1, 2);
  other.factors[5].a.pop_back();
  EXPECT_THROWS_WITH(decoder.attach(other, Decoder::Use::kTraining), InputError, "mlp.up_proj",
                     "39 and 56", "40 and 56");
  EXPECT_TRUE(decoder.parameters().empty());

  data::Row row = random_row(spec, {5}, 1);
  row.tokens[2] = 37;
  EXPECT_THROWS_WITH(decoder.train(row, {}), InputError, "token id 37 at position 2",
                     "vocabulary of 37");
  row = random_row(spec, {5}, 1);
  row.targets[1] = 99;
  EXPECT_THROWS_WITH((void)decoder.loss(row), InputError, "target id 99 at position 1");
  row = random_row(spec, {5, 4}, 1);
  row.segments[1].begin = 6;
  EXPECT_THROWS_WITH((void)decoder.loss(row), InputError, "[6, 9)", "ends at 5");
  row = random_row(spec, {5, 4}, 1);
  row.segments.pop_back();
  EXPECT_THROWS_WITH((void)decoder.loss(row), InputError, "end at 5", "9 tokens");
  TensorMap missing = random_weights(spec, 1);
  missing.erase("model.layers.1.mlp.down_proj.weight");
  EXPECT_THROWS_WITH((void)Decoder::from_weights(spec, missing, at::kFloat), InputError,
                     "model.layers.1.mlp.down_proj.weight");
}

}  // namespace
}  // namespace weft::tests
