#include "merge/merge.h"

#include <chrono>

#include "core/error.h"
#include "merge/model_folder.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;

/// The opened inputs and what is known about them before anything is written.
struct Inputs {
  Checkpoint base;
  std::vector<lora::PeftFile> files;
  std::vector<WeightedAdapter> adapters;
};

Inputs open_inputs(const MergeRequest& request, const core::Log& log) {
  Inputs inputs{Checkpoint::open(request.model), {}, {}};
  for (const auto& adapter : request.adapters) {
    inputs.files.push_back(lora::PeftFile::open(adapter.directory, log));
  }
  for (std::size_t i = 0; i < inputs.files.size(); ++i) {
    inputs.adapters.push_back({&inputs.files[i], request.adapters[i].weight});
  }
  refuse_quantised_config(inputs.base);
  return inputs;
}

}  // namespace

double retained(const std::vector<FoldedTensor>& folded) {
  double kept = 0;
  double all = 0;
  for (const FoldedTensor& tensor : folded) {
    const double squared = tensor.update_norm * tensor.update_norm;
    kept += tensor.retained * squared;
    all += squared;
  }
  return all > 0 ? kept / all : 1;
}

MergeReport merge_model(const MergeRequest& request, const FoldControl& control,
                        const core::Log& log) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<fs::path> paths{request.model};
  for (const auto& adapter : request.adapters) paths.push_back(adapter.directory);
  refuse_to_replace_input(request.out, paths);
  core::require_writable(request.out, core::OutputKind::kFolder, request.overwrite);
  const Inputs inputs = open_inputs(request, log);
  const FoldPlan plan =
      plan_fold(inputs.base, inputs.adapters, request.dtype, request.max_shard_bytes);
  const std::map<std::string, std::string> embedded = embedded_files(inputs.base);
  core::AtomicDirectory folder(request.out, request.overwrite);
  require_space(folder.path(), plan.bytes);

  MergeReport report;
  report.model = request.model;
  report.base_digest = inputs.base.weights_digest();
  report.base_storage = storage_text(inputs.base);
  report.dtype = plan.model_dtype;
  for (const WeightedAdapter& adapter : inputs.adapters) {
    report.adapters.push_back(
        check_adapter(adapter, inputs.base, report.base_digest, request.allow_other_base, log));
  }
  if (plan.widened) {
    core::tell(
        log, core::Level::kInfo,
        fmt::format("the base is stored as {}; its exact numbers are written as F32 (--dtype "
                    "bf16 or f16 halves the size)",
                    report.base_storage));
  }

  report.folded = fold(inputs.base, inputs.adapters, plan, folder.path(), control);
  report.tensors = plan.tensors.size();
  report.files = plan.shards.size();
  report.bytes = plan.bytes;
  core::write_text(
      folder.path() / "config.json",
      config_text(inputs.base.config(), plan.model_dtype, !request.dtype && !plan.widened));
  write_side_files(inputs.base, embedded, folder.path());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  core::write_text(folder.path() / "merge.json", report_json(report).dump(2) + "\n");
  folder.commit();
  tell_about_loss(report, log);
  return report;
}

}  // namespace weft::merge
