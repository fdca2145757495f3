#include "merge/fold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "merge/rounding.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
using core::DType;
using tests::config_of;
using tests::ModelTensor;
using tests::noisy;
using tests::TempDir;
using tests::write_model;
using tests::write_noisy_adapter;

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
constexpr const char* kUp = "model.layers.0.mlp.up_proj";
const std::vector<lora::Module> kModules{{kQ, 20, 24}, {kUp, 20, 30}};

std::vector<ModelTensor> small_model(DType dtype) {
  return {noisy("model.embed_tokens.weight", {40, 20}, dtype, 1),
          noisy(std::string(kQ) + ".weight", {24, 20}, dtype, 2),
          noisy(std::string(kUp) + ".weight", {30, 20}, dtype, 3),
          noisy("model.norm.weight", {20}, DType::kF32, 4)};
}

struct Folded {
  std::vector<FoldedTensor> tensors;
  std::filesystem::path file;
};

Folded fold_into(const TempDir& dir, const std::filesystem::path& model,
                 const std::vector<std::pair<std::filesystem::path, double>>& adapters,
                 std::optional<DType> dtype = {}, const FoldControl& control = {}) {
  const Checkpoint base = Checkpoint::open(model);
  std::vector<lora::PeftFile> files;
  for (const auto& [path, weight] : adapters) files.push_back(lora::PeftFile::open(path));
  std::vector<WeightedAdapter> weighted;
  for (std::size_t i = 0; i < files.size(); ++i)
    weighted.push_back({&files[i], adapters[i].second});
  const FoldPlan plan = plan_fold(base, weighted, dtype, checkpoint::kDefaultShardBytes);
  std::filesystem::create_directories(dir / "out");
  return {fold(base, weighted, plan, dir / "out", control).folded, dir / "out/model.safetensors"};
}

/// W + weight * scale * B A in double, not rounded.
std::vector<double> exact_fold(const ModelTensor& tensor, const std::filesystem::path& adapter,
                               double weight) {
  std::vector<double> result(tensor.values.begin(), tensor.values.end());
  for (const lora::Factors& factors : lora::read_peft(adapter).factors) {
    const lora::Target& target = factors.target;
    if (target.module.path + ".weight" != tensor.name) continue;
    for (std::int64_t i = 0; i < target.module.out; ++i) {
      for (std::int64_t j = 0; j < target.module.in; ++j) {
        double sum = 0;
        for (std::int64_t k = 0; k < target.rank; ++k) {
          sum += static_cast<double>(factors.b[static_cast<std::size_t>(i * target.rank + k)]) *
                 static_cast<double>(factors.a[static_cast<std::size_t>(k * target.module.in + j)]);
        }
        result[static_cast<std::size_t>(i * target.module.in + j)] += weight * target.scale * sum;
      }
    }
  }
  return result;
}

class FoldTo : public ::testing::TestWithParam<DType> {};

TEST_P(FoldTo, EqualsTheFormulaRoundedOnce) {
  const TempDir dir;
  const auto tensors = small_model(GetParam());
  const auto model = write_model(dir / "base", tensors);
  const auto adapter =
      write_noisy_adapter(dir / "a", kModules, config_of({"q_proj", "up_proj"}, 4, 6));
  const Folded folded = fold_into(dir, model, {{adapter, 0.5}});
  ASSERT_EQ(folded.tensors.size(), 2U);
  for (const ModelTensor& tensor : tensors) {
    const auto written = tests::stored(folded.file, tensor.name);
    ASSERT_EQ(written.dtype, core::name_of(tensor.dtype));
    const std::vector<double> exact = exact_fold(tensor, adapter, 0.5);
    const auto width = static_cast<std::size_t>(core::size_of(tensor.dtype));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      const float got = tests::decode(tensor.dtype, written.bytes.data() + i * width);
      // Single rounding: nothing of the type lies nearer. Sums in another order may differ by
      // 1e-15.
      const float nearest = tensor.dtype == DType::kF32 ? static_cast<float>(exact[i])
                            : tensor.dtype == DType::kF16
                                ? core::f16_to_float(round_to_f16(exact[i]))
                                : core::bf16_to_float(round_to_bf16(exact[i]));
      ASSERT_NEAR(static_cast<double>(got), exact[i],
                  std::abs(static_cast<double>(nearest) - exact[i]) + 1e-14)
          << tensor.name << " " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Fold, FoldTo, ::testing::Values(DType::kF32, DType::kF16, DType::kBF16),
                         [](const auto& test) { return std::string(core::name_of(test.param)); });

TEST(Fold, CopiesUnchangedTensorsByteForByte) {
  const TempDir dir;
  auto tensors = small_model(DType::kBF16);
  tensors[0].values[3] = std::numeric_limits<float>::quiet_NaN();  // not ours to judge
  const auto model = write_model(dir / "base", tensors);
  const auto adapter = write_noisy_adapter(dir / "a", {kModules[0]}, config_of({"q_proj"}, 2, 2));
  const Folded folded = fold_into(dir, model, {{adapter, 1}});
  for (const char* name :
       {"model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"}) {
    EXPECT_EQ(tests::stored(folded.file, name).bytes,
              tests::stored(model / "model.safetensors", name).bytes)
        << name;
  }
  EXPECT_NE(tests::stored(folded.file, std::string(kQ) + ".weight").bytes,
            tests::stored(model / "model.safetensors", std::string(kQ) + ".weight").bytes);
}

TEST(Fold, OfAnUntrainedAdapterOrWithWeightZeroIsTheBase) {
  const TempDir dir;
  const auto model = write_model(dir / "base", small_model(DType::kF16));
  const auto zero =
      write_noisy_adapter(dir / "zero", kModules, config_of({"q_proj", "up_proj"}, 4, 6), 5,
                          [](lora::Adapter& adapter) {
                            for (auto& f : adapter.factors) f.b.assign(f.b.size(), 0);
                          });
  const auto noise =
      write_noisy_adapter(dir / "noise", kModules, config_of({"q_proj", "up_proj"}, 4, 6));
  const Folded folded = fold_into(dir, model, {{zero, 1}, {noise, 0}});
  EXPECT_EQ(tests::slurp(folded.file), tests::slurp(model / "model.safetensors"));
  EXPECT_EQ(folded.tensors[0].changed, 0);
  EXPECT_EQ(folded.tensors[0].update_norm, 0);
  EXPECT_EQ(folded.tensors[0].retained, 1);
}

TEST(Fold, OfTwoAdaptersIsTheSumOfTheirUpdates) {
  const TempDir dir;
  const auto tensors = small_model(DType::kF32);
  const auto model = write_model(dir / "base", tensors);
  const auto a = write_noisy_adapter(dir / "a", {kModules[0]}, config_of({"q_proj"}, 4, 6), 5);
  const auto b =
      write_noisy_adapter(dir / "b", kModules, config_of({"q_proj", "up_proj"}, 3, 1), 50);
  const Folded folded = fold_into(dir, model, {{a, 0.5}, {b, -2}});
  ASSERT_EQ(folded.tensors.size(), 2U);
  EXPECT_EQ(folded.tensors[1].name, std::string(kQ) + ".weight");
  EXPECT_EQ(folded.tensors[1].rank, 7);
  const auto first = exact_fold(tensors[1], a, 0.5);
  const auto second = exact_fold(tensors[1], b, -2);
  const auto written = tests::stored(folded.file, tensors[1].name);
  for (std::size_t i = 0; i < first.size(); ++i) {
    const double exact = first[i] + second[i] - static_cast<double>(tensors[1].values[i]);
    ASSERT_FLOAT_EQ(tests::decode(DType::kF32, written.bytes.data() + 4 * i),
                    static_cast<float>(exact));
  }
}

TEST(Fold, DoesNotDependOnTheNumberOfThreads) {
  const TempDir one;
  const TempDir many;
  const TempDir dir;
  const std::vector<lora::Module> modules{{kQ, 515, 701}};
  const auto model =
      write_model(dir / "base", {noisy(std::string(kQ) + ".weight", {701, 515}, DType::kBF16, 2)});
  const auto adapter = write_noisy_adapter(dir / "a", modules, config_of({"q_proj"}, 4, 6));
  core::set_thread_count(1);
  const Folded first = fold_into(one, model, {{adapter, 1}});
  core::set_thread_count(5);
  const Folded second = fold_into(many, model, {{adapter, 1}});
  core::set_thread_count(0);
  EXPECT_EQ(tests::slurp(first.file), tests::slurp(second.file));
  EXPECT_EQ(first.tensors[0].update_norm, second.tensors[0].update_norm);
  EXPECT_EQ(first.tensors[0].retained, second.tensors[0].retained);
}

TEST(Fold, OfAConv1DTransposesTheUpdate) {
  const TempDir dir;
  const lora::Module module{"h.0.attn.c_attn", 20, 24};
  const ModelTensor weight = noisy("h.0.attn.c_attn.weight", {20, 24}, DType::kF32, 2);
  const auto model = write_model(dir / "base", {weight}, R"({"model_type": "gpt2"})");
  const auto adapter = write_noisy_adapter(dir / "a", {module}, config_of({"c_attn"}, 3, 6));
  const Folded folded = fold_into(dir, model, {{adapter, 1}});
  const auto written = tests::stored(folded.file, "transformer." + weight.name);
  ModelTensor transposed{weight.name, {24, 20}, DType::kF32, std::vector<float>(480)};
  for (std::size_t i = 0; i < 24; ++i) {
    for (std::size_t j = 0; j < 20; ++j) transposed.values[i * 20 + j] = weight.values[j * 24 + i];
  }
  const auto exact = exact_fold(transposed, adapter, 1);
  for (std::size_t i = 0; i < 24; ++i) {
    for (std::size_t j = 0; j < 20; ++j) {
      ASSERT_FLOAT_EQ(tests::decode(DType::kF32, written.bytes.data() + 4 * (j * 24 + i)),
                      static_cast<float>(exact[i * 20 + j]));
    }
  }
}

TEST(Fold, ReportsNormsChangeAndWhatRoundingLeaves) {
  const TempDir dir;
  const auto tensors = small_model(DType::kF32);
  const auto model = write_model(dir / "base", tensors);
  const auto shrink = [](lora::Adapter& adapter) {
    for (auto& f : adapter.factors) {
      for (float& b : f.b) b *= 1e-3F;
    }
  };
  const auto adapter =
      write_noisy_adapter(dir / "a", {kModules[0]}, config_of({"q_proj"}, 4, 4), 5, shrink);
  const FoldedTensor f32 = fold_into(dir, model, {{adapter, 1}}).tensors.front();
  const FoldedTensor bf16 = fold_into(dir, model, {{adapter, 1}}, DType::kBF16).tensors.front();
  const auto exact = exact_fold(tensors[1], adapter, 1);
  double base = 0;
  double update = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const auto w = static_cast<double>(tensors[1].values[i]);
    base += w * w;
    update += (exact[i] - w) * (exact[i] - w);
  }
  EXPECT_NEAR(f32.base_norm, std::sqrt(base), 1e-12);
  EXPECT_NEAR(f32.update_norm, std::sqrt(update), 1e-9);
  EXPECT_GT(f32.changed, 0.98);
  EXPECT_NEAR(f32.retained, 1, 1e-4);
  EXPECT_LT(f32.largest_error, 1e-8);
  EXPECT_LT(bf16.changed, 0.8);  // the update is smaller than most steps of bf16
  EXPECT_GT(std::abs(bf16.retained - 1), 0.001);
  EXPECT_LE(bf16.largest_error, 0x1p-12);  // half a step below 0.125
}

TEST(Fold, ANumberBeyondF16NamesTheTensor) {
  const TempDir dir;
  auto tensors = small_model(DType::kF32);
  tensors[1].values[7] = 70000;
  const auto model = write_model(dir / "base", tensors);
  const auto adapter = write_noisy_adapter(dir / "a", {kModules[1]}, config_of({"up_proj"}, 4, 6));
  EXPECT_THROWS_WITH(fold_into(dir, model, {{adapter, 1}}, DType::kF16), NumericError,
                     "q_proj.weight", "65504", "--dtype");
  EXPECT_NO_THROW(fold_into(dir, model, {{adapter, 1}}, DType::kBF16));
}

TEST(Fold, AnUpdateThatLeavesF32NamesTheTensor) {
  const TempDir dir;
  const auto model = write_model(dir / "base", small_model(DType::kF32));
  const auto adapter = write_noisy_adapter(dir / "a", {kModules[1]}, config_of({"up_proj"}, 4, 6));
  EXPECT_THROWS_WITH(fold_into(dir, model, {{adapter, 1e300}}), NumericError, "up_proj.weight",
                     "F32");
}

TEST(Fold, StopsWhenAsked) {
  const TempDir dir;
  const auto model = write_model(dir / "base", small_model(DType::kF32));
  const std::atomic<bool> stop{true};
  EXPECT_THROW(fold_into(dir, model, {}, {}, {{}, &stop}), Interrupted);
  EXPECT_FALSE(std::filesystem::exists(dir / "out/model.safetensors"));
}

TEST(FoldPlan, AnAdapterOfAnotherModelNamesTheTensor) {
  const TempDir dir;
  const auto model = write_model(dir / "base", small_model(DType::kF32));
  const auto deeper = write_noisy_adapter(
      dir / "deep", {{"model.layers.1.self_attn.q_proj", 20, 24}}, config_of({"q_proj"}, 2, 2));
  EXPECT_THROWS_WITH(fold_into(dir, model, {{deeper, 1}}), InputError,
                     "model.layers.1.self_attn.q_proj.weight", "nearest");
  const auto wider = write_noisy_adapter(dir / "wide", {{kQ, 28, 24}}, config_of({"q_proj"}, 2, 2));
  EXPECT_THROWS_WITH(fold_into(dir, model, {{wider, 1}}), InputError, "q_proj.weight", "[24, 28]",
                     "[24, 20]");
}

TEST(FoldPlan, ALayerThatTheConfigurationChoosesWithoutFactorsIsAnError) {
  const TempDir dir;
  const auto model = write_model(dir / "base", small_model(DType::kF32));
  lora::AdapterConfig config = config_of({"q_proj"}, 2, 2);
  const auto partial =
      write_noisy_adapter(dir / "a", {kModules[0]}, config, 5, [](lora::Adapter& adapter) {
        adapter.config.target_modules.names = {"q_proj", "up_proj"};
      });
  EXPECT_THROWS_WITH(fold_into(dir, model, {{partial, 1}}), InputError, kUp, "incomplete");
}

TEST(FoldPlan, KeepsEachTensorsTypeAndNamesThePrevailingOne) {
  const TempDir dir;
  const auto base = Checkpoint::open(write_model(dir / "base", small_model(DType::kBF16)));
  const FoldPlan plan = plan_fold(base, {}, {}, checkpoint::kDefaultShardBytes);
  EXPECT_EQ(plan.model_dtype, DType::kBF16);
  EXPECT_EQ(plan.tensors.back().info->name, "model.norm.weight");
  EXPECT_EQ(plan.tensors.back().dtype, DType::kF32);
}

TEST(FoldPlan, ShardsHoldEveryTensorOnce) {
  const TempDir dir;
  const auto tensors = small_model(DType::kF32);
  const Checkpoint base = Checkpoint::open(write_model(dir / "base", tensors));
  const FoldPlan plan = plan_fold(base, {}, {}, 4000);
  EXPECT_GT(plan.shards.size(), 1U);
  std::filesystem::create_directories(dir / "out");
  std::ofstream(dir / "out/config.json") << R"({"model_type": "llama"})";
  (void)fold(base, {}, plan, dir / "out");
  const Checkpoint sharded = Checkpoint::open(dir / "out");
  EXPECT_EQ(sharded.tensors().size(), tensors.size());
  EXPECT_EQ(sharded.weights_digest(), base.weights_digest());
}

}  // namespace
}  // namespace weft::merge
