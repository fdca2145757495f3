#include "train/optimizer.h"

#include <ATen/Parallel.h>
#include <ATen/ops/tensor.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::train {
namespace {

using Matrices = std::vector<std::vector<float>>;

nlohmann::json reference() {
  return nlohmann::json::parse(
      tests::slurp(tests::source_dir() / "tests/train/data/optimizer.json"));
}

/// All matrices in one list.
at::Tensor list_of(const Matrices& matrices) {
  std::vector<float> all;
  for (const auto& one : matrices) all.insert(all.end(), one.begin(), one.end());
  return at::tensor(all);
}

std::vector<float> numbers(const at::Tensor& list) {
  const float* const first = list.const_data_ptr<float>();
  return {first, first + list.numel()};
}

TEST(AdamW, EqualsTorchOverManyUpdatesWithDecayAndClipping) {
  for (const auto& one : reference()["adamw"]) {
    AdamW optimizer({one["beta1"], one["beta2"], one["epsilon"], one["weight_decay"]});
    const at::Tensor values = list_of(one["start"].get<Matrices>());
    for (std::size_t update = 0; update < one["gradients"].size(); ++update) {
      const at::Tensor gradients = list_of(one["gradients"][update].get<Matrices>());
      const double norm = gradient_norm(gradients);
      EXPECT_NEAR(norm, one["norms"][update].get<double>(), 1e-6 * norm);
      clip_gradients(gradients, norm, one["max_norm"]);
      optimizer.step(values, gradients, one["rates"][update]);
    }
    const auto found = numbers(values);
    const auto wanted = numbers(list_of(one["end"].get<Matrices>()));
    ASSERT_EQ(found.size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i)
      EXPECT_NEAR(found[i], wanted[i], 2e-6F * std::abs(wanted[i]) + 1e-7F);
  }
}

TEST(AdamW, FirstUpdateMovesByTheRateWhateverTheGradientsSize) {
  // m/(1-b1) = g and v/(1-b2) = g^2: the step is rate * g / (|g| + eps).
  const at::Tensor values = at::tensor({1.0F, 1.0F});
  AdamW optimizer({});
  optimizer.step(values, at::tensor({1e-3F, -50.0F}), 0.25);
  EXPECT_NEAR(numbers(values)[0], 0.75, 1e-5);
  EXPECT_NEAR(numbers(values)[1], 1.25, 1e-5);
}

TEST(AdamW, DecayActsOnTheWeightAndNotOnTheMoments) {
  const at::Tensor values = at::tensor({2.0F});
  AdamW optimizer({.weight_decay = 0.5});
  optimizer.step(values, at::tensor({0.0F}), 0.1);
  EXPECT_FLOAT_EQ(numbers(values)[0], 2.0F * (1 - 0.1F * 0.5F));
  EXPECT_EQ(numbers(optimizer.first_moments())[0], 0);
}

TEST(AdamW, RestoredStateGoesOnBitForBit) {
  const at::Tensor gradients = at::tensor({0.3F, 0.1F, -0.7F});
  const at::Tensor once = at::tensor({1.0F, -2.0F, 3.0F});
  AdamW whole({});
  for (int i = 0; i < 4; ++i) whole.step(once, gradients, 1e-2);

  const at::Tensor again = at::tensor({1.0F, -2.0F, 3.0F});
  AdamW before({});
  for (int i = 0; i < 2; ++i) before.step(again, gradients, 1e-2);
  AdamW after({});
  after.restore(before.updates(), before.first_moments(), before.second_moments());
  for (int i = 0; i < 2; ++i) after.step(again, gradients, 1e-2);
  EXPECT_EQ(numbers(once), numbers(again));
}

TEST(AdamW, SameBitsForAnyNumberOfThreads) {
  std::vector<float> start(257 * 1000), slopes(start.size());
  for (std::size_t i = 0; i < start.size(); ++i) {
    start[i] = std::sin(static_cast<float>(i));
    slopes[i] = std::cos(static_cast<float>(i % 257 + 3 * i));
  }
  const at::Tensor gradients = at::tensor(slopes);
  std::vector<std::vector<float>> results;
  std::vector<double> norms;
  const int before = at::get_num_threads();
  for (const int threads : {1, 3}) {
    at::set_num_threads(threads);
    const at::Tensor values = at::tensor(start);
    AdamW optimizer({.weight_decay = 0.01});
    for (int i = 0; i < 3; ++i) optimizer.step(values, gradients, 1e-2);
    results.push_back(numbers(values));
    norms.push_back(gradient_norm(gradients));
  }
  at::set_num_threads(before);
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(norms[0], norms[1]);
}

TEST(AdamW, RefusesSettingsOutOfRange) {
  EXPECT_THROWS_WITH(AdamW({.beta1 = 1.0}), ConfigError, "adam_beta1", "[0, 1)");
  EXPECT_THROWS_WITH(AdamW({.epsilon = 0}), ConfigError, "adam_epsilon");
  EXPECT_THROWS_WITH(AdamW({.weight_decay = -1}), ConfigError, "weight_decay");
}

TEST(ClipGradients, LeavesSmallGradientsAndZeroLimitAlone) {
  const at::Tensor gradients = at::tensor({3.0F, 4.0F});
  EXPECT_DOUBLE_EQ(gradient_norm(gradients), 5);
  clip_gradients(gradients, 5, 10);
  clip_gradients(gradients, 5, 0);
  EXPECT_EQ(numbers(gradients), (std::vector<float>{3, 4}));
  clip_gradients(gradients, 5, 1);
  EXPECT_NEAR(gradient_norm(gradients), 1, 1e-6);
}

}  // namespace
}  // namespace weft::train
