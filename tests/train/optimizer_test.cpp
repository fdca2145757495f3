#include "train/optimizer.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/parallel.h"
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

std::vector<Parameter> parameters_of(Matrices& values, Matrices& gradients) {
  std::vector<Parameter> parameters;
  for (std::size_t i = 0; i < values.size(); ++i) parameters.push_back({values[i], gradients[i]});
  return parameters;
}

TEST(AdamW, EqualsTorchOverManyUpdatesWithDecayAndClipping) {
  for (const auto& one : reference()["adamw"]) {
    AdamW optimizer({one["beta1"], one["beta2"], one["epsilon"], one["weight_decay"]});
    auto values = one["start"].get<Matrices>();
    for (std::size_t update = 0; update < one["gradients"].size(); ++update) {
      auto gradients = one["gradients"][update].get<Matrices>();
      const auto parameters = parameters_of(values, gradients);
      const double norm = gradient_norm(parameters);
      EXPECT_NEAR(norm, one["norms"][update].get<double>(), 1e-6 * norm);
      clip_gradients(parameters, norm, one["max_norm"]);
      optimizer.step(parameters, one["rates"][update]);
    }
    const auto wanted = one["end"].get<Matrices>();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      for (std::size_t j = 0; j < wanted[i].size(); ++j) {
        EXPECT_NEAR(values[i][j], wanted[i][j], 2e-6F * std::abs(wanted[i][j]) + 1e-7F);
      }
    }
  }
}

TEST(AdamW, FirstUpdateMovesByTheRateWhateverTheGradientsSize) {
  // m/(1-b1) = g and v/(1-b2) = g^2: the step is rate * g / (|g| + eps).
  Matrices values{{1.0F, 1.0F}};
  Matrices gradients{{1e-3F, -50.0F}};
  AdamW optimizer({});
  optimizer.step(parameters_of(values, gradients), 0.25);
  EXPECT_NEAR(values[0][0], 0.75, 1e-5);
  EXPECT_NEAR(values[0][1], 1.25, 1e-5);
}

TEST(AdamW, DecayActsOnTheWeightAndNotOnTheMoments) {
  Matrices values{{2.0F}};
  Matrices gradients{{0.0F}};
  AdamW optimizer({.weight_decay = 0.5});
  optimizer.step(parameters_of(values, gradients), 0.1);
  EXPECT_FLOAT_EQ(values[0][0], 2.0F * (1 - 0.1F * 0.5F));
  EXPECT_EQ(optimizer.moments()[0].first[0], 0);
}

TEST(AdamW, RestoredStateGoesOnBitForBit) {
  Matrices once{{1.0F, -2.0F, 3.0F}};
  Matrices gradients{{0.3F, 0.1F, -0.7F}};
  AdamW whole({});
  for (int i = 0; i < 4; ++i) whole.step(parameters_of(once, gradients), 1e-2);

  Matrices again{{1.0F, -2.0F, 3.0F}};
  AdamW before({});
  for (int i = 0; i < 2; ++i) before.step(parameters_of(again, gradients), 1e-2);
  AdamW after({});
  after.restore(before.updates(), before.moments());
  for (int i = 0; i < 2; ++i) after.step(parameters_of(again, gradients), 1e-2);
  EXPECT_EQ(once, again);
}

TEST(AdamW, SameBitsForAnyNumberOfThreads) {
  Matrices start(100, std::vector<float>(257));
  Matrices gradients = start;
  for (std::size_t i = 0; i < start.size(); ++i) {
    for (std::size_t j = 0; j < start[i].size(); ++j) {
      start[i][j] = std::sin(static_cast<float>(i * 257 + j));
      gradients[i][j] = std::cos(static_cast<float>(i + j * 3));
    }
  }
  std::vector<Matrices> results;
  for (const int threads : {1, 3}) {
    core::set_thread_count(threads);
    Matrices values = start;
    AdamW optimizer({.weight_decay = 0.01});
    for (int i = 0; i < 3; ++i) optimizer.step(parameters_of(values, gradients), 1e-2);
    results.push_back(values);
  }
  core::set_thread_count(0);
  EXPECT_EQ(results[0], results[1]);
}

TEST(AdamW, RefusesSettingsOutOfRange) {
  EXPECT_THROWS_WITH(AdamW({.beta1 = 1.0}), ConfigError, "adam_beta1", "[0, 1)");
  EXPECT_THROWS_WITH(AdamW({.epsilon = 0}), ConfigError, "adam_epsilon");
  EXPECT_THROWS_WITH(AdamW({.weight_decay = -1}), ConfigError, "weight_decay");
}

TEST(ClipGradients, LeavesSmallGradientsAndZeroLimitAlone) {
  Matrices values{{0, 0}};
  Matrices gradients{{3, 4}};
  const auto parameters = parameters_of(values, gradients);
  EXPECT_DOUBLE_EQ(gradient_norm(parameters), 5);
  clip_gradients(parameters, 5, 10);
  clip_gradients(parameters, 5, 0);
  EXPECT_EQ(gradients, (Matrices{{3, 4}}));
  clip_gradients(parameters, 5, 1);
  EXPECT_NEAR(gradient_norm(parameters), 1, 1e-6);
}

}  // namespace
}  // namespace weft::train
