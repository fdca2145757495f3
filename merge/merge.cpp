#include "merge/merge.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "core/error.h"
#include "core/terminal.h"
#include "text/gguf_vocabulary.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;

/// Below this share of the update, rounding to the output's type takes a visible part of it away.
constexpr double kRetainedWarning = 0.95;

void refuse_to_replace_input(const MergeRequest& request) {
  const fs::path out = fs::weakly_canonical(request.out);
  std::vector<fs::path> inputs{request.model};
  for (const auto& adapter : request.adapters) inputs.push_back(adapter.directory);
  for (const fs::path& input : inputs) {
    const fs::path resolved = fs::weakly_canonical(input);
    const auto [end, ignored] = std::ranges::mismatch(out, resolved);
    if (end == out.end()) {
      throw InputError(
          "--out '{}' is, or holds, the input '{}', which would be replaced; give "
          "another folder",
          request.out.string(), input.string());
    }
  }
}

void refuse_quantised_config(const Checkpoint& base) {
  const auto found = base.config().find("quantization_config");
  if (found == base.config().end() || found->is_null()) return;
  throw InputError(
      "'{}': config.json has a quantization_config; merge into the model before it was "
      "quantised",
      base.path().string());
}

void require_space(const fs::path& folder, std::uint64_t bytes) {
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= bytes) return;
  throw IoError("writing the model to '{}' needs {}, the disk has {} free", folder.string(),
                core::human_bytes(bytes), core::human_bytes(space.available));
}

std::string storage_text(const Checkpoint& base) {
  std::map<std::string, std::int64_t> counts;
  for (const auto& tensor : base.tensors()) counts[tensor.storage_name] += tensor.elements();
  std::vector<std::pair<std::string, std::int64_t>> sorted(counts.begin(), counts.end());
  std::ranges::stable_sort(sorted, std::greater(), [](const auto& count) { return count.second; });
  std::vector<std::string> names;
  for (const auto& [name, count] : sorted) names.push_back(name);
  return fmt::format("{}", fmt::join(names, "+"));
}

/// config.json of the output: the type is changed when it was asked for, had to change, or was not
/// there. transformers 5 writes "dtype", older ones "torch_dtype"; both are kept in step.
std::string output_config(const Checkpoint& base, const FoldPlan& plan, bool keep) {
  nlohmann::json config = base.config();
  const bool present = config.contains("dtype") || config.contains("torch_dtype");
  if (keep && present && !plan.widened) return config.dump(2) + "\n";
  const char* name = plan.model_dtype == core::DType::kF32   ? "float32"
                     : plan.model_dtype == core::DType::kF16 ? "float16"
                                                             : "bfloat16";
  if (!present) config["torch_dtype"] = name;
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key)) config[key] = name;
  }
  return config.dump(2) + "\n";
}

/// The tokenizer that a GGUF file embeds, as files; found wanting before any weight is written.
std::map<std::string, std::string> embedded_files(const Checkpoint& base) {
  if (base.gguf() == nullptr) return {};
  return text::tokenizer_files(*base.gguf());
}

void write_side_files(const Checkpoint& base, const std::map<std::string, std::string>& embedded,
                      const fs::path& folder) {
  for (const fs::path& file : base.side_files()) {
    std::error_code error;
    fs::copy_file(file, folder / file.filename(), error);
    if (error) throw IoError("copying '{}' failed: {}", file.string(), error.message());
  }
  for (const auto& [name, text] : embedded) core::write_text(folder / name, text);
}

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

MergeReport::Adapter check_adapter(const WeightedAdapter& adapter, const Checkpoint& base,
                                   const std::string& digest, const MergeRequest& request,
                                   const core::Log& log) {
  const auto& provenance = adapter.file->provenance();
  MergeReport::Adapter result{adapter.file->directory(),
                              adapter.weight,
                              adapter.file->digest(),
                              adapter.file->targets().size(),
                              0,
                              "same"};
  for (const lora::Target& target : adapter.file->targets())
    result.parameters += target.parameters();
  if (!provenance || provenance->base_weights.empty()) {
    result.base_check = "unrecorded";
  } else if (request.allow_other_base && provenance->base_weights != digest) {
    result.base_check = "other";
    core::tell(log, core::Level::kWarning,
               fmt::format("adapter '{}' was trained on other weights ({}) than '{}' ({})",
                           adapter.file->directory().string(), provenance->base_weights,
                           base.path().string(), digest));
  } else {
    lora::check_base(provenance, digest, base.path());
  }
  return result;
}

void tell_about_loss(const MergeReport& report, const core::Log& log) {
  const double part = retained(report.folded);
  if (part >= kRetainedWarning) return;
  core::tell(
      log, core::Level::kWarning,
      fmt::format("rounding to {} leaves {:.1f} % of the update; --dtype f32 keeps all of it",
                  core::name_of(report.dtype), 100 * part));
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
  refuse_to_replace_input(request);
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
        check_adapter(adapter, inputs.base, report.base_digest, request, log));
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
  core::write_text(folder.path() / "config.json", output_config(inputs.base, plan, !request.dtype));
  write_side_files(inputs.base, embedded, folder.path());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  core::write_text(folder.path() / "merge.json", report_json(report).dump(2) + "\n");
  folder.commit();
  tell_about_loss(report, log);
  return report;
}

}  // namespace weft::merge
