// Stacks of experts: one tensor [experts, out, in] for all.
#include <gtest/gtest.h>

#include "core/error.h"
#include "merge/extract.h"
#include "merge/merge.h"
#include "tests/merge/models.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using tests::ModelTensor;
using tests::noisy;
using tests::TempDir;

constexpr std::size_t kExperts = 3;
constexpr std::size_t kOut = 5;  // No multiple of the rows that are computed at a time.
constexpr std::size_t kIn = 6;
constexpr std::size_t kRank = 2;

TEST(Experts, EveryExpertOfAStackGetsItsOwnUpdate) {
  const TempDir dir;
  const ModelTensor base = noisy("mlp.experts.down_proj", {kExperts, kOut, kIn});
  tests::write_model(dir / "base", {base}, R"({"model_type": "qwen3_moe"})");
  const std::string key = "base_model.model.mlp.experts.";
  const ModelTensor a = noisy(key + "lora_A.weight", {kRank * kExperts, kIn}, core::DType::kF32, 2);
  const ModelTensor b =
      noisy(key + "lora_B.weight", {kOut, kRank * kExperts}, core::DType::kF32, 3);
  tests::write_adapter(dir / "adapter",
                       R"({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": [],)"
                       R"("target_parameters": ["mlp.experts.down_proj"]})",
                       {a, b});
  MergeRequest request;
  request.model = dir / "base";
  request.adapters = {{dir / "adapter", 1}};
  request.out = dir / "out";
  (void)merge_model(request);
  const Checkpoint out = Checkpoint::open(dir / "out");
  const auto& info = *out.find("mlp.experts.down_proj");
  EXPECT_EQ(info.rows(), static_cast<std::int64_t>(kExperts * kOut));
  const std::vector<float> found = out.read(info);
  for (std::size_t e = 0; e < kExperts; ++e) {
    for (std::size_t o = 0; o < kOut; ++o) {
      for (std::size_t i = 0; i < kIn; ++i) {
        double update = 0;
        for (std::size_t k = 0; k < kRank; ++k) {
          update += static_cast<double>(b.values[o * kRank * kExperts + k * kExperts + e]) *
                    static_cast<double>(a.values[(e * kRank + k) * kIn + i]);
        }
        const std::size_t at = (e * kOut + o) * kIn + i;
        EXPECT_NEAR(found[at], static_cast<double>(base.values[at]) + 3 * update, 1e-6);
      }
    }
  }
}

/// An adapter of a stack [experts, out, in] with the numbers of its factors.
struct StackAdapter {
  ModelTensor a;
  ModelTensor b;

  StackAdapter(const TempDir& dir, const std::string& parameter, std::int64_t out)
      : a(noisy("base_model.model.model.layers.0.mlp.experts.lora_A.weight",
                {static_cast<std::int64_t>(kRank * kExperts), kIn}, core::DType::kF32, 2)),
        b(noisy("base_model.model.model.layers.0.mlp.experts.lora_B.weight",
                {out, static_cast<std::int64_t>(kRank * kExperts)}, core::DType::kF32, 3)) {
    tests::write_adapter(dir / "adapter",
                         R"({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": [],)"
                         R"("target_parameters": ["mlp.experts.)" +
                             parameter + R"("]})",
                         {a, b});
  }
  [[nodiscard]] double update(std::size_t expert, std::size_t row, std::size_t column) const {
    double sum = 0;
    for (std::size_t k = 0; k < kRank; ++k) {
      sum += static_cast<double>(b.values[row * kRank * kExperts + k * kExperts + expert]) *
             static_cast<double>(a.values[(expert * kRank + k) * kIn + column]);
    }
    return 3 * sum;
  }
};

TEST(Experts, AStackedAdapterIsFoldedIntoExpertsThatAreStoredOneByOne) {
  struct Case {
    const char* model_type;
    const char* folder;
    std::vector<const char*> names;  // gate, up
  };
  for (const Case& family : {Case{"qwen3_moe", "mlp.experts.", {"gate_proj", "up_proj"}},
                             Case{"mixtral", "block_sparse_moe.experts.", {"w1", "w3"}}}) {
    const TempDir dir;
    const std::string prefix = std::string("model.layers.0.") + family.folder;
    const bool mixtral = std::string_view(family.names[0]) == "w1";
    std::vector<ModelTensor> tensors;
    for (std::size_t e = 0; e < kExperts; ++e) {
      const std::string expert = prefix + std::to_string(e) + ".";
      for (const char* name : family.names) {
        tensors.push_back(noisy(expert + name + ".weight", {kOut, kIn}, core::DType::kF32,
                                static_cast<std::uint32_t>(10 + tensors.size())));
      }
      tensors.push_back(noisy(expert + (mixtral ? "w2" : "down_proj") + ".weight", {kIn, kOut}));
    }
    tests::write_model(dir / "base", tensors,
                       std::string(R"({"model_type": ")") + family.model_type + "\"}");
    const StackAdapter adapter(dir, "gate_up_proj", 2 * kOut);
    MergeRequest request;
    request.model = dir / "base";
    request.adapters = {{dir / "adapter", 1}};
    request.out = dir / "out";
    EXPECT_EQ(merge_model(request).folded.size(), 2 * kExperts);
    const Checkpoint out = Checkpoint::open(dir / "out");
    for (std::size_t e = 0; e < kExperts; ++e) {
      for (std::size_t part = 0; part < 2; ++part) {
        const ModelTensor& base = tensors[e * 3 + part];
        const std::vector<float> found = out.read(*out.find(base.name));
        for (std::size_t at = 0; at < found.size(); ++at) {
          const double wanted = static_cast<double>(base.values[at]) +
                                adapter.update(e, part * kOut + at / kIn, at % kIn);
          ASSERT_NEAR(found[at], wanted, 1e-6) << base.name;
        }
      }
    }
  }
}

TEST(Extract, RoutersAndPositionsAreNoLinearLayers) {
  const TempDir dir;
  const auto model = [&](const char* name, std::uint32_t seed) {
    tests::write_model(
        dir / name,
        {noisy("model.layers.0.self_attn.q_proj.weight", {4, 4}, core::DType::kF32, seed),
         noisy("model.layers.0.block_sparse_moe.gate.weight", {2, 4}, core::DType::kF32, seed),
         noisy("model.layers.0.block_sparse_moe.experts.0.w1.weight", {4, 4}, core::DType::kF32,
               seed),
         noisy("model.layers.0.mlp.router.weight", {2, 4}, core::DType::kF32, seed),
         noisy("vision.position_embedding.weight", {4, 4}, core::DType::kF32, seed)},
        R"({"model_type": "mixtral"})");
  };
  model("base", 1);
  model("tuned", 9);
  ExtractRequest request;
  request.model = dir / "tuned";
  request.base = dir / "base";
  request.rank = 4;
  request.out = dir / "adapter";
  const AdapterReport report = extract_adapter(request);
  ASSERT_EQ(report.modules.size(), 1U);
  EXPECT_EQ(report.modules[0].path, "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(report.left_out.size(), 4U);
}

}  // namespace
}  // namespace weft::merge
