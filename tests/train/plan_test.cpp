#include "train/plan.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/parallel.h"
#include "model/memory.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
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

TEST_F(Plan, RanksOfAMachineDivideItsMemoryButNotTheirGpus) {
  config_.memory_limit = schema::Bytes{64ULL << 30};
  const auto plan = [&](const model::ComputeDevice& device, int ranks) {
    return plan_memory(config_, {.spec = spec_,
                                 .targets = targets_,
                                 .device = device,
                                 .compute = model::Compute::kBF16,
                                 .longest_example = 100,
                                 .data_tokens = 1'000'000,
                                 .ranks = ranks,
                                 .ranks_here = ranks});
  };
  const model::ComputeDevice gpu{.device = at::Device(at::kCUDA, 0), .capability = 80};
  EXPECT_EQ(plan({}, 2).room.now, 32ULL << 30);
  EXPECT_EQ(plan({}, 2).room.sharers, 2);
  EXPECT_EQ(plan(gpu, 2).room.now, 64ULL << 30);
  EXPECT_EQ(plan(gpu, 2).room.sharers, 1);
  // What travels takes memory of each, and alters no row.
  EXPECT_GT(total(plan(gpu, 2)), total(plan(gpu, 1)) + (200ULL << 20));
  EXPECT_EQ(plan(gpu, 2).row_tokens, plan(gpu, 1).row_tokens);
}

/// A model's shape, as its config.json says it.
struct Shape {
  const char* name;
  std::int64_t hidden, layers, heads, kv_heads, wide;
};

/// What a GPU of so many GiB does with it: "rows of 4096, 12 of 32 layers twice", or a dash.
std::string planned(const model::Spec& spec, model::BaseFormat base, double gib) {
  lora::AdapterConfig adapter;
  adapter.r = 16;
  adapter.target_modules.pattern = "all-linear";
  const auto targets = lora::resolve_targets(adapter, model::linear_modules(spec));
  TrainConfig config;
  config.sequence_len = 4096;
  config.tokens_per_update = 8192;
  config.base_quantization = base;
  // A tenth is the driver's and the screen's.
  config.memory_limit = schema::Bytes{static_cast<std::uint64_t>(0.9 * gib * (1ULL << 30))};
  const MemoryPlan plan =
      plan_memory(config, {.spec = spec,
                           .targets = targets,
                           .device = {.device = at::Device(at::kCUDA, 0), .capability = 80},
                           .compute = model::Compute::kBF16,
                           .longest_example = 1024,
                           .data_tokens = 10'000'000});
  std::uint64_t need = 0;
  for (const MemoryPart& part : plan.parts) need += part.bytes;
  if (need > plan.room.now) return "-";
  std::string text = fmt::format("rows of {}", plan.row_tokens);
  if (plan.recomputed_layers > 0)
    text += fmt::format(", {} of {} layers twice", plan.recomputed_layers, spec.depth());
  return text;
}

TEST(PlanForGpus, IsTheTableOfTheDocumentation) {
  const Shape shapes[] = {{"Llama 3.2 1B", 2048, 16, 32, 8, 8192},
                          {"Llama 3.1 8B", 4096, 32, 32, 8, 14336},
                          {"Llama 3.1 70B", 8192, 80, 64, 8, 28672}};
  std::string table =
      "| model | base | 8 GiB | 16 GiB | 24 GiB | 80 GiB |\n|---|---|---|---|---|---|\n";
  for (const Shape& shape : shapes) {
    const model::Spec spec = model::read_spec({{"architectures", {"LlamaForCausalLM"}},
                                               {"vocab_size", 128'256},
                                               {"hidden_size", shape.hidden},
                                               {"num_hidden_layers", shape.layers},
                                               {"num_attention_heads", shape.heads},
                                               {"num_key_value_heads", shape.kv_heads},
                                               {"intermediate_size", shape.wide},
                                               {"max_position_embeddings", 131'072},
                                               {"tie_word_embeddings", shape.hidden == 2048}},
                                              "config.json");
    for (const auto base : {model::BaseFormat::kDense, model::BaseFormat::kNf4}) {
      table += fmt::format("| {} | {} ", shape.name,
                           base == model::BaseFormat::kDense ? "bfloat16" : "nf4");
      for (const double gib : {8.0, 16.0, 24.0, 80.0})
        table += fmt::format("| {} ", planned(spec, base, gib));
      table += "|\n";
    }
  }
  EXPECT_THAT(tests::slurp(tests::source_dir() / "docs/gpu.md"), HasSubstr(table)) << table;
}

}  // namespace
}  // namespace weft::train
