#include "merge/model_folder.h"

#include <algorithm>

#include "core/error.h"
#include "core/terminal.h"
#include "text/gguf_vocabulary.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
namespace fs = std::filesystem;

}  // namespace

void refuse_to_replace_input(const fs::path& target, std::span<const fs::path> inputs) {
  const fs::path out = fs::weakly_canonical(target);
  for (const fs::path& input : inputs) {
    const fs::path resolved = fs::weakly_canonical(input);
    const auto [end, ignored] = std::ranges::mismatch(out, resolved);
    if (end == out.end()) {
      throw InputError(
          "--out '{}' is, or holds, the input '{}', which would be replaced; give "
          "another folder",
          target.string(), input.string());
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

std::string config_text(nlohmann::json config, core::DType dtype, bool keep) {
  const bool present = config.contains("dtype") || config.contains("torch_dtype");
  if (keep && present) return config.dump(2) + "\n";
  const char* name = dtype == core::DType::kF32   ? "float32"
                     : dtype == core::DType::kF16 ? "float16"
                                                  : "bfloat16";
  if (!present) config["torch_dtype"] = name;
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key)) config[key] = name;
  }
  return config.dump(2) + "\n";
}

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

nlohmann::json output_config(const Checkpoint& base, const FoldPlan& plan, const core::Log& log) {
  nlohmann::json config = base.config();
  if (plan.untied) {
    config["tie_word_embeddings"] = false;
    core::tell(log, core::Level::kInfo,
               fmt::format("{}: the output has a head of its own (tie_word_embeddings: false)",
                           plan.untied_because));
  }
  if (plan.vocabulary) {
    config["vocab_size"] = *plan.vocabulary;
    core::tell(
        log, core::Level::kWarning,
        fmt::format("the adapters were trained with a vocabulary of {}: config.json says so, "
                    "the tokenizer written is the base's; put the extended one in its place",
                    *plan.vocabulary));
  }
  return config;
}

void check_tie(const fs::path& folder, const FoldPlan& plan) {
  const Checkpoint written = Checkpoint::open(folder);
  const auto has = [&](const std::string& name) { return written.find(name) != nullptr; };
  bool as_planned = written.tensors().size() == plan.tensors.size();
  for (const FoldPlan::Tensor& tensor : plan.tensors) as_planned &= has(tensor.name);
  const auto tied = written.config().find("tie_word_embeddings");
  if (plan.untied) as_planned &= tied != written.config().end() && *tied == false;
  if (as_planned) return;
  throw NumericError(
      "'{}' reads back with other tensors than were written: embedding and output head are "
      "tied in config.json and differ, or the other way round",
      folder.string());
}

MergeReport::Adapter check_adapter(const WeightedAdapter& adapter, const Checkpoint& base,
                                   const std::string& digest, bool allow_other_base,
                                   const core::Log& log) {
  const auto& provenance = adapter.file->provenance();
  MergeReport::Adapter result{adapter.file->directory(),
                              adapter.weight,
                              adapter.file->digest(),
                              adapter.file->keys(),
                              adapter.file->targets().size(),
                              0,
                              "same"};
  for (const lora::Target& target : adapter.file->targets())
    result.parameters += target.parameters();
  if (!provenance || provenance->base_weights.empty()) {
    result.base_check = "unrecorded";
  } else if (allow_other_base && provenance->base_weights != digest) {
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
  const auto below = std::ranges::count_if(
      report.folded, [](const FoldedTensor& tensor) { return tensor.retained < kRetainedEnough; });
  if (below == 0) return;
  const FoldedTensor& least = *std::ranges::min_element(report.folded, {}, &FoldedTensor::retained);
  core::tell(
      log, core::Level::kWarning,
      fmt::format("rounding to {} leaves {:.1f} % of the update, and less than {:.0f} % of {} "
                  "of {} tensors ('{}': {:.1f} %); --dtype f32 keeps all of it, --dtype auto "
                  "chooses",
                  core::name_of(report.dtype), 100 * retained(report.folded), 100 * kRetainedEnough,
                  below, report.folded.size(), least.name, 100 * least.retained));
}

}  // namespace weft::merge
