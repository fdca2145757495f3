#include "merge/model_folder.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/mxfp4.h"
#include "checkpoint/python_json.h"
#include "core/error.h"
#include "core/terminal.h"
#include "text/gguf_vocabulary.h"

namespace weft::merge {
namespace {

using checkpoint::Checkpoint;
namespace fs = std::filesystem;

/// The largest root mean square error of a row, relative to the row's own, that one rounding may
/// leave: far above what it does, far below what another row or a lost update does.
double largest_relative_error(const Sample& sample) {
  const double wider = sample.rounding == Rounding::kNearest ? 1 : 3;
  switch (sample.dtype) {
    case core::DType::kF16: return wider * 1e-3;
    case core::DType::kBF16: return wider * 8e-3;
    default: return 1e-6;
  }
}

/// Half a step of F16's smallest numbers, which have no more digits.
constexpr double kSmallestStep = 0x1p-24;

void compare(const Checkpoint& written, const Sample& sample) {
  const checkpoint::TensorInfo& tensor = *written.find(sample.name);
  const std::int64_t width = tensor.row_elements();
  const bool fits = sample.row < tensor.rows() &&
                    Sample::count_of(width) == std::ssize(sample.values) &&
                    tensor.storage_name == core::name_of(sample.dtype);
  double error = 0;
  double size = 0;
  if (fits) {
    std::vector<float> row(static_cast<std::size_t>(width));
    written.read_rows(tensor, sample.row, sample.row + 1, row);
    written.release(tensor, sample.row, sample.row + 1);
    for (std::size_t i = 0; i < sample.values.size(); ++i) {
      const double wanted = sample.values[i];
      const double found =
          row[static_cast<std::size_t>(Sample::column_of(static_cast<std::int64_t>(i), width))];
      if (!std::isfinite(wanted)) continue;  // A base's own, which is passed on.
      error += (found - wanted) * (found - wanted);
      size += wanted * wanted;
    }
  }
  const auto count = static_cast<double>(std::max<std::size_t>(1, sample.values.size()));
  const double allowed = largest_relative_error(sample) * std::sqrt(size) +
                         (sample.dtype == core::DType::kF16 ? kSmallestStep * std::sqrt(count) : 0);
  if (fits && std::sqrt(error) <= allowed) return;
  throw NumericError("row {} of tensor '{}' in '{}' reads back otherwise than it was written",
                     sample.row, sample.name, written.path().string());
}

}  // namespace

bool unpacks_config(const Checkpoint& base) { return checkpoint::says_mxfp4(base.config()); }

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
  if (keep && present) return checkpoint::unquote_constants(config.dump(2) + "\n");
  const char* name = dtype == core::DType::kF32   ? "float32"
                     : dtype == core::DType::kF16 ? "float16"
                                                  : "bfloat16";
  if (!present) config["torch_dtype"] = name;
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (config.contains(key)) config[key] = name;
  }
  return checkpoint::unquote_constants(config.dump(2) + "\n");
}

std::map<std::string, std::string> embedded_files(const Checkpoint& base) {
  if (base.gguf() == nullptr) return {};
  return text::tokenizer_files(*base.gguf());
}

void write_side_files(const Checkpoint& base, const std::map<std::string, std::string>& embedded,
                      const fs::path& folder) {
  for (const fs::path& file : base.side_files()) {
    const core::MappedFile bytes(file);
    core::AtomicFile copy(
        folder / file.lexically_relative(base.path()));  // Reaches the disk, as the weights do.
    copy.write(bytes.bytes());
    copy.commit();
  }
  for (const auto& [name, text] : embedded) core::write_text(folder / name, text);
}

nlohmann::json output_config(const Checkpoint& base, const FoldPlan& plan, const core::Log& log) {
  nlohmann::json config = base.config();
  if (unpacks_config(base)) config.erase("quantization_config");
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

void check_written(const fs::path& folder, std::span<const std::string> names, bool untied,
                   std::span<const Sample> samples) {
  const Checkpoint written = Checkpoint::open(folder);
  bool as_planned = written.tensors().size() == names.size();
  for (const std::string& name : names) as_planned &= written.find(name) != nullptr;
  const auto tied = written.config().find("tie_word_embeddings");
  if (untied) as_planned &= tied != written.config().end() && *tied == false;
  if (!as_planned) {
    throw NumericError(
        "'{}' reads back with other tensors than were written: embedding and output head are "
        "tied in config.json and differ, or the other way round",
        folder.string());
  }
  for (const Sample& sample : samples) compare(written, sample);
}

void account_for_keys(
    MergeReport& report, std::span<const UsedKey> without_effect,
    const std::function<bool(const std::string&, const std::string&)>& elsewhere) {
  std::map<std::pair<std::string, std::string>, std::string> used;
  for (const FoldedTensor& tensor : report.folded) {
    for (const UsedKey& key : tensor.keys) used[{key.adapter, key.key}] = key.tensor;
  }
  for (const UsedKey& key : without_effect) used.try_emplace({key.adapter, key.key}, key.tensor);
  for (MergeReport::Adapter& adapter : report.adapters) {
    for (lora::KeyUse& use : adapter.keys) {
      if (use.tensor.starts_with('(')) continue;  // A copy of another.
      const auto found = used.find({adapter.directory.string(), use.key});
      if (found != used.end()) {
        use.tensor = found->second;
      } else if (elsewhere && elsewhere(adapter.directory.string(), use.tensor)) {
        use.tensor = fmt::format("(of '{}', which the recipe leaves out)", use.tensor);
      } else {
        throw NumericError("'{}' of adapter '{}' was read and not folded into any tensor", use.key,
                           adapter.directory.string());
      }
    }
  }
}

MergeReport::Adapter check_adapter(const WeightedAdapter& adapter, const Checkpoint& base,
                                   const std::string& digest, bool allow_other_base,
                                   const core::Log& log) {
  const auto& provenance = adapter.file->provenance();
  MergeReport::Adapter result{adapter.file->directory(),
                              adapter.weight,
                              adapter.file->digest(),
                              adapter.file->keys().size(),
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
