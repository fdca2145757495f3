#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "merge/merge.h"
#include "tests/merge/models.h"

namespace weft::merge {
namespace {

/// Memory of this process that is not a mapped file, in MiB.
double anonymous_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("RssAnon:")) return std::stod(line.substr(8)) / 1024;
  }
  return 0;
}

/// Writes a model of `count` matrices of 4096 x 4096 (64 MiB each), piece by piece.
void write_large_model(const std::filesystem::path& folder, int count) {
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << R"({"model_type": "llama"})";
  std::vector<checkpoint::TensorPlan> plans;
  for (int i = 0; i < count; ++i) {
    plans.push_back({"model.layers." + std::to_string(i) + ".q_proj.weight", "F32", {4096, 4096}});
  }
  checkpoint::SafetensorsWriter writer(folder / "model.safetensors", plans);
  const std::vector<float> rows = tests::noise(64 * 4096, 0.1F, 9);
  for (int i = 0; i < count * 64; ++i) writer.write(std::span<const float>(rows));
  writer.finish();
}

TEST(Memory, OfAMergeStaysFarBelowTheModelsSize) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep freed memory";
#endif
  const tests::TempDir dir;
  write_large_model(dir / "base", 6);  // 384 MiB
  lora::AdapterConfig config;
  config.r = 64;
  config.target_modules.names = {"q_proj"};
  MergeRequest request;
  request.model = dir / "base";
  request.adapters = {
      {tests::write_noisy_adapter(dir / "adapter",
                                  lora::linear_modules(checkpoint::Checkpoint::open(dir / "base")),
                                  config),
       1}};
  request.out = dir / "out";
  request.dtype = core::DType::kBF16;
  const double before = anonymous_mib();
  double peak = before;
  int samples = 0;
  const FoldControl control{[&](FoldProgress) {
                              peak = std::max(peak, anonymous_mib());
                              ++samples;
                            },
                            nullptr};
  (void)merge_model(request, control);
  EXPECT_GE(samples, 6 * 4);  // several in each tensor
  EXPECT_LT(peak - before, 100) << "MiB; the model has 384";
  RecordProperty("peak_mib", std::to_string(peak - before));
  fmt::print("peak {:.1f} MiB beyond the mapped files\n", peak - before);
}

}  // namespace
}  // namespace weft::merge
