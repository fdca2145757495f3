#include "train/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/parallel.h"
#include "model/memory.h"
#include "train/gradient_sum.h"

namespace weft::train {
namespace {

using testing::HasSubstr;

/// Of the shape of a model of 8 G parameters; nothing is allocated.
model::Spec large_spec() {
  return model::read_spec({{"architectures", {"LlamaForCausalLM"}},
                           {"vocab_size", 128'256},
                           {"hidden_size", 4096},
                           {"num_hidden_layers", 32},
                           {"num_attention_heads", 32},
                           {"num_key_value_heads", 8},
                           {"intermediate_size", 14'336}},
                          "config.json");
}

class Plan : public testing::Test {
 protected:
  Plan() {
    lora::AdapterConfig adapter;
    adapter.r = 4;  // sums of larger gradients take more than rows below 256 tokens save
    adapter.target_modules.pattern = "all-linear";
    targets_ = lora::resolve_targets(adapter, model::linear_modules(spec_));
    config_.sequence_len = 4096;
  }

  MemoryPlan with_limit(double gib, int ranks = 1) {
    config_.memory_limit = schema::Bytes{static_cast<std::uint64_t>(gib * (1ULL << 30))};
    return plan_memory(config_, {.spec = spec_,
                                 .targets = targets_,
                                 .compute = model::Compute::kBF16,
                                 .longest_example = 100,
                                 .data_tokens = 1'000'000,
                                 .ranks = ranks});
  }

  static std::uint64_t total(const MemoryPlan& plan) {
    std::uint64_t sum = 0;
    for (const MemoryPart& part : plan.parts) sum += part.bytes;
    return sum;
  }

  model::Spec spec_ = large_spec();
  std::vector<lora::Target> targets_;
  TrainConfig config_;
};

TEST_F(Plan, GivesUpRowsThenKeptLayersThenShortRowsAndFits) {
  const MemoryPlan roomy = with_limit(64);
  EXPECT_EQ(roomy.row_tokens, 4096);
  EXPECT_EQ(roomy.recomputed_layers, 0);
  MemoryPlan last = roomy;
  bool halved = false, partly = false, shortest = false;
  for (double gib = 40; gib > 15.5; gib -= gib > 18 ? 0.25 : 0.01) {
    const MemoryPlan plan = with_limit(gib);
    if (total(plan) > plan.room.now) break;
    EXPECT_LE(plan.row_tokens, last.row_tokens) << gib;
    EXPECT_GE(plan.recomputed_layers, last.recomputed_layers) << gib;
    // Rows of 256 tokens come before anything is computed twice, shorter ones after everything is.
    EXPECT_TRUE(plan.recomputed_layers == 0 || plan.row_tokens <= 256) << gib;
    EXPECT_TRUE(plan.row_tokens >= 256 || plan.recomputed_layers == 32) << gib;
    halved |= plan.row_tokens == 2048;
    partly |= plan.recomputed_layers > 0 && plan.recomputed_layers < 32;
    shortest |= plan.row_tokens == 100;
    last = plan;
  }
  EXPECT_TRUE(halved && partly && shortest) << halved << partly << shortest;
}

TEST_F(Plan, RanksHaveTheRowsOfOneProcessAndRoomForWhatTheyExchange) {
  config_.tokens_per_update = 16'384;
  for (const double gib : {40.0, 19.0, 17.0})
    EXPECT_EQ(with_limit(gib, 4).row_tokens, with_limit(gib).row_tokens) << gib;
  // Where one process just fits, ranks compute some layers again.
  config_.packing = false;
  const double alone_fits = static_cast<double>(total(with_limit(64)) + 1) / (1ULL << 30);
  EXPECT_EQ(with_limit(alone_fits).recomputed_layers, 0);
  EXPECT_GT(with_limit(alone_fits, 4).recomputed_layers, 0);
  EXPECT_EQ(with_limit(alone_fits, 4).row_tokens, 100);
  config_.packing = true;
  std::uint64_t gradient = 0;
  for (const lora::Target& target : targets_)
    gradient += static_cast<std::uint64_t>(4 * target.parameters());
  const auto alone = static_cast<double>(total(with_limit(64)));
  EXPECT_NEAR(static_cast<double>(total(with_limit(64, 4))) - alone,
              (gradients_held(5, 4) - sums_held(5)) * static_cast<double>(gradient), 1.0);
}

TEST_F(Plan, EachThreadBeyondTwoCountsWithItsBuffers) {
  const int before = core::thread_count();
  const auto of_threads = [this](int threads) {
    core::set_thread_count(threads);
    return total(with_limit(64));
  };
  EXPECT_EQ(of_threads(1), of_threads(2));
  EXPECT_EQ(of_threads(12) - of_threads(2), std::uint64_t{30} << 20);
  core::set_thread_count(before);
}

TEST_F(Plan, TheSmallestIsRefusedWithWhatItNeeds) {
  const MemoryPlan plan = with_limit(4);
  EXPECT_EQ(plan.row_tokens, 100);
  EXPECT_EQ(plan.recomputed_layers, 32);
  EXPECT_THROW(require_memory(plan.parts, plan.room), InputError);
}

TEST_F(Plan, CheckpointingIsAsTheUserSays) {
  config_.gradient_checkpointing = Checkpointing::kNone;
  EXPECT_EQ(with_limit(16).recomputed_layers, 0);
  config_.gradient_checkpointing = Checkpointing::kAll;
  EXPECT_EQ(with_limit(64).recomputed_layers, 32);
  EXPECT_EQ(with_limit(64).row_tokens, 4096);
  EXPECT_THAT(describe_savings(with_limit(64), config_, 32), HasSubstr("32 of 32 layers"));
}

TEST_F(Plan, WithoutALimitRowsAreOfTheWantedLength) {
  const auto row_tokens = [this] {
    return plan_memory(config_, {.spec = spec_,
                                 .targets = targets_,
                                 .compute = model::Compute::kBF16,
                                 .longest_example = 100,
                                 .data_tokens = 1'000'000})
        .row_tokens;
  };
  EXPECT_EQ(row_tokens(), 4096);
  // Short examples share rows of 1024 tokens, but not of more than an update has.
  config_.sequence_len = 128;
  EXPECT_EQ(row_tokens(), 1024);
  config_.tokens_per_update = 600;
  EXPECT_EQ(row_tokens(), 600);
  config_.packing = false;
  EXPECT_EQ(row_tokens(), 100);
}

}  // namespace
}  // namespace weft::train
