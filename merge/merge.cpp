#include "merge/merge.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "checkpoint/digest_store.h"
#include "checkpoint/mxfp4.h"
#include "core/error.h"
#include "core/output_claim.h"
#include "core/rejected.h"
#include "merge/beside.h"
#include "merge/certificate.h"
#include "merge/model_folder.h"
#include "merge/resume.h"

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
  if (!unpacks_config(inputs.base)) refuse_quantised_config(inputs.base);
  return inputs;
}

/// The plan with the types that were asked for, or that hold the update.
FoldPlan plan_types(const MergeRequest& request, const Inputs& inputs,
                    std::optional<TypeChoice>& choice, const core::Log& log) {
  FoldPlan plan = plan_fold(inputs.base, inputs.adapters, request.dtype, request.max_shard_bytes);
  if (request.auto_dtype) {
    choice = choose_dtype(inputs.base, inputs.adapters, plan);
    core::tell(log, choice->dtype ? core::Level::kWarning : core::Level::kInfo,
               text_of(*choice, plan, request.rounding));
    if (request.rounding != Rounding::kNearest) choice->dtype.reset();
    if (choice->dtype) {
      plan = plan_fold(inputs.base, inputs.adapters, choice->dtype, request.max_shard_bytes);
    }
  }
  plan.seed = request.seed;
  std::map<std::string_view, double> enough;
  if (choice) {
    for (const RetainedShare& tensor : choice->tensors) enough[tensor.name] = tensor.as_planned;
  }
  for (FoldPlan::Tensor& tensor : plan.tensors) {
    const auto found = enough.find(tensor.name);
    const bool kept = found != enough.end() && found->second >= kRetainedEnough;
    if (!kept) tensor.rounding = request.rounding;
  }
  return plan;
}

void tell_about_unpacking(const FoldPlan& plan, const core::Log& log) {
  const auto packed = std::ranges::find_if(plan.tensors, [](const FoldPlan::Tensor& tensor) {
    return tensor.info != nullptr && checkpoint::is_mxfp4(*tensor.info);
  });
  if (packed == plan.tensors.end()) return;
  core::tell(log, core::Level::kInfo,
             fmt::format("the base's experts are stored as MXFP4, which is read and not written: "
                         "they become {}, and config.json loses its quantization_config",
                         core::name_of(packed->dtype)));
}

/// All that the bytes of the output depend on.
ResumeKey key_of(const Inputs& inputs, const FoldPlan& plan) {
  ResumeKey key{fmt::format("fold, seed {}\n", plan.seed)};
  key.add(inputs.base);
  for (const WeightedAdapter& adapter : inputs.adapters) {
    key.parameters += fmt::format("adapter {} {}\n", adapter.file->digest(), adapter.weight);
  }
  for (const FoldPlan::Tensor& tensor : plan.tensors) {
    if (!tensor.uses.empty()) {
      key.parameters += fmt::format("{} {}\n", tensor.name, name_of(tensor.rounding));
    }
  }
  return key;
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

void claim_outputs(const MergeRequest& request) {
  std::vector<fs::path> inputs = request.also_reads;
  inputs.push_back(request.model);
  for (const auto& adapter : request.adapters) inputs.push_back(adapter.directory);
  std::vector<core::Output> outputs{{.path = request.out,
                                     .kind = core::OutputKind::kFolder,
                                     .may_be_rejected = request.verify != nullptr}};
  if (!request.undo.empty()) {
    outputs.push_back({request.undo, core::OutputKind::kFile, "--undo"});
  }
  core::claim_outputs(outputs, inputs, request.overwrite);
}

MergeReport merge_model(const MergeRequest& request, const FoldControl& control,
                        const core::Log& log) {
  const auto start = std::chrono::steady_clock::now();
  claim_outputs(request);
  const Inputs inputs = open_inputs(request, log);
  std::optional<TypeChoice> choice;
  const FoldPlan plan = plan_types(request, inputs, choice, log);
  const std::map<std::string, std::string> embedded = embedded_files(inputs.base);
  core::AtomicDirectory folder(request.out, request.overwrite);
  Resume resume(
      request.out, folder.path(), plan.shards, [&] { return key_of(inputs, plan); }, log);
  require_space(folder.path(), resume.missing());

  MergeReport report;
  report.model = request.model;
  if (control.engine != nullptr) report.device = control.engine->description();
  report.base_storage = storage_text(inputs.base);
  report.dtype = plan.model_dtype;
  report.rounding = request.rounding;
  if (request.rounding == Rounding::kStochastic) report.seed = request.seed;
  if (plan.widened) {
    core::tell(
        log, core::Level::kInfo,
        fmt::format("the base is stored as {}; its exact numbers are written as F32 (--dtype "
                    "bf16 or f16 halves the size)",
                    report.base_storage));
  }

  tell_about_unpacking(plan, log);

  Written written;
  const auto stream = [&] {
    run_beside(
        control,
        [&] {
          report.base_digest =
              checkpoint::known_weights_digest(inputs.base, &report.base_digest_kept);
          resume.set_digest(report.base_digest);
          for (const WeightedAdapter& adapter : inputs.adapters) {
            report.adapters.push_back(check_adapter(adapter, inputs.base, report.base_digest,
                                                    request.allow_other_base, log));
          }
        },
        [&](const FoldControl& watched) {
          written = resume.write(
              [&](std::span<const checkpoint::Shard> shards, const FoldControl& part) {
                FoldPlan part_of_plan = plan;
                part_of_plan.shards.assign(shards.begin(), shards.end());
                return fold(inputs.base, inputs.adapters, part_of_plan, folder.path(), part);
              },
              watched);
        });
  };
  resume.guard(folder, stream);
  report.folded = std::move(written.folded);
  report.outputs = std::move(written.files);
  report.choice = std::move(choice);
  report.tensors = plan.tensors.size();
  report.files = plan.shards.size();
  report.bytes = plan.bytes;
  core::write_text(folder.path() / "config.json",
                   config_text(output_config(inputs.base, plan, log), plan.model_dtype,
                               !request.dtype && !(choice && choice->dtype) && !plan.widened));
  write_side_files(inputs.base, embedded, folder.path());
  std::vector<std::string> names;
  for (const FoldPlan::Tensor& tensor : plan.tensors) names.push_back(tensor.name);
  check_written(folder.path(), names, plan.untied, written.samples);
  account_for_keys(report, plan.without_effect);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (request.verify) {
    resume.guard(folder, [&] { report.verification = request.verify(folder.path()); });
  }
  resume.finish();
  write_certificate(report, folder.path());
  if (report.verification && !report.verification->accepted()) {
    folder.commit_to(core::rejected_path(request.out));
    refuse(*report.verification, request.out);
  }
  folder.commit();
  core::tell_about_rejected(request.out, log);
  tell_about_loss(report, log);
  return report;
}

}  // namespace weft::merge
