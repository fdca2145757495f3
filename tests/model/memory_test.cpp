#include "model/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model/arena.h"
#include "tests/model/tiny.h"

namespace weft::tests {
namespace {

using model::Compute;
using model::Decoder;

/// Large enough that tensors are in the arena and its granularity does not count.
model::Spec small_spec() {
  return tiny_spec({{"vocab_size", 3000},
                    {"hidden_size", 128},
                    {"num_hidden_layers", 8},
                    {"head_dim", 32},
                    {"intermediate_size", 320},
                    {"max_position_embeddings", 2048}});
}

struct Case {
  const char* name;
  at::ScalarType type = at::kFloat;
  std::vector<int> segments{512};
  bool training = true;
  std::int64_t recomputed = 0;
  const char* only = "";
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class MemoryNeed : public testing::TestWithParam<Case> {};

TEST_P(MemoryNeed, IsAnUpperBoundNearWhatIsUsed) {
  WEFT_SKIP_WITHOUT_KERNELS();
  const Case& c = GetParam();
  model::Arena& arena = model::install_arena();
  const model::Spec spec = small_spec();
  const TensorMap weights = random_weights(spec, 1);
  const lora::Adapter adapter = random_adapter(spec, 8, 1, 2, [&](const std::string& path) {
    return path.find(c.only) != std::string::npos;
  });
  const data::Row row = random_row(spec, c.segments, 3);
  std::vector<lora::Target> targets;
  for (const lora::Factors& factors : adapter.factors) targets.push_back(factors.target);

  const std::uint64_t before = arena.usage().now;
  arena.reset_most();
  Decoder decoder = Decoder::from_weights(spec, weights, c.type);
  if (c.training) decoder.attach(adapter, Decoder::Use::kTraining);
  for (int pass = 0; pass < 2; ++pass) {
    if (c.training) {
      decoder.train(row, {.recomputed_layers = c.recomputed});
    } else {
      (void)decoder.loss(row);
    }
  }
  const auto used = static_cast<double>(arena.usage().most - before);

  const auto need =
      model::memory_need(spec, c.training ? targets : std::vector<lora::Target>{},
                         {.compute = c.type == at::kFloat ? Compute::kF32 : Compute::kBF16,
                          .row_tokens = static_cast<std::int64_t>(row.tokens.size()),
                          .training = c.training,
                          .recomputed_layers = c.recomputed});
  // Adam's moments are the optimiser's, not tensors; small tensors are not in the arena.
  double expected = static_cast<double>(need.total());
  for (const lora::Target& target : targets) {
    if (c.training) expected -= 8.0 * static_cast<double>(target.parameters());
  }
  EXPECT_LE(used, expected * 1.02) << "weights " << need.weights << " activations "
                                   << need.activations << " adapter " << need.adapter;
  EXPECT_GE(used, expected * 0.70) << "weights " << need.weights << " activations "
                                   << need.activations << " adapter " << need.adapter;
}

INSTANTIATE_TEST_SUITE_P(
    Decoder, MemoryNeed,
    testing::Values(Case{"one_segment"}, Case{"bf16", at::kBFloat16},
                    Case{"packed", at::kFloat, {100, 200, 60, 152}},
                    Case{"long_row", at::kFloat, {2048}},
                    Case{"recomputed", at::kFloat, {512}, true, 8},
                    Case{"half_recomputed", at::kBFloat16, {512}, true, 4},
                    Case{"upper_layers", at::kFloat, {512}, true, 0, "layers.6."},
                    Case{"inference", at::kFloat, {512}, false},
                    Case{"inference_long_bf16", at::kBFloat16, {2048}, false}),
    [](const testing::TestParamInfo<Case>& tested) { return tested.param.name; });

}  // namespace
}  // namespace weft::tests
