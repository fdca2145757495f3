#include "export/gguf_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_writer.h"
#include "core/error.h"
#include "core/rejected.h"
#include "core/terminal.h"
#include "export/checked_file.h"
#include "export/gguf_metadata.h"
#include "export/gguf_tensors.h"

namespace weft::exporting {
namespace {

namespace fs = std::filesystem;
using checkpoint::Storage;

/// Rows of each changed tensor that are read back.
constexpr std::int64_t kSampledRows = 64;

void require_space(const fs::path& out, std::uint64_t bytes) {
  std::error_code error;
  const fs::path folder = out.has_parent_path() ? out.parent_path() : fs::path(".");
  const fs::space_info space = fs::space(folder, error);
  if (error || space.available >= bytes) return;
  throw IoError("writing '{}' needs {}, the disk has {} free", out.string(),
                core::human_bytes(bytes), core::human_bytes(space.available));
}

std::string model_name(const GgufRequest& request) {
  if (!request.name.empty()) return request.name;
  fs::path path = fs::weakly_canonical(request.inputs.model);
  // A GGUF base has a name of its own, which is carried over.
  return fs::is_directory(path) ? path.filename().string() : "";
}

/// Whether it is a tensor of the file, or the first matrix of a stack: what is counted.
bool begins_tensor(const GgufTensorJob& job) { return job.expert == 0; }

/// Quantising what is quantised already adds its errors up (llama-quantize refuses it unless told).
void tell_about_requantising(const OpenInputs& inputs, const std::vector<GgufTensorJob>& jobs,
                             const core::Log& log) {
  const auto is_plain = [](Storage storage) {
    return storage == Storage::kF32 || storage == Storage::kF16 || storage == Storage::kBF16;
  };
  const auto again = std::ranges::count_if(jobs, [&](const GgufTensorJob& job) {
    return job.info != nullptr && begins_tensor(job) && job.stored.empty() &&
           !is_plain(job.info->storage) && !is_plain(job.plan.storage);
  });
  if (again == 0) return;
  core::tell(log, core::Level::kWarning,
             fmt::format("{} tensors of '{}' are quantised already and are quantised again; their "
                         "errors add up: start from the model as it was published, if you can",
                         again, inputs.base.path().string()));
}

/// Rows that are no whole number of the blocks that were asked for are stored otherwise, and
/// larger. Where that is so of every matrix the file is not of the type that was asked for.
void tell_about_fallback(const GgufRequest& request, const std::vector<GgufTensorJob>& jobs,
                         const core::Log& log) {
  std::size_t quantised = 0;
  std::size_t matrices = 0;
  std::map<std::string, std::size_t> others;
  for (const GgufTensorJob& job : jobs) {
    if (job.info == nullptr || checkpoint::block_size(job.wanted).elements == 1) continue;
    if (!begins_tensor(job)) continue;
    matrices += 1;
    quantised += checkpoint::block_size(job.plan.storage).elements > 1 ? 1 : 0;
    if (job.plan.storage == job.wanted) continue;
    others[fmt::format("{} instead of {}", checkpoint::name_of(job.plan.storage),
                       checkpoint::name_of(job.wanted))] += 1;
  }
  if (others.empty()) return;
  if (quantised == 0) {
    throw InputError(
        "no matrix of '{}' can be written as {}: their rows are no whole number of its blocks; "
        "write --type f16",
        request.inputs.model.string(), request.type->name);
  }
  std::string text;
  for (const auto& [what, count] : others) {
    text += fmt::format("{}{} as {}", text.empty() ? "" : ", ", count, what);
  }
  core::tell(log, core::Level::kWarning,
             fmt::format("of {} matrices, these have rows that are no whole number of the blocks "
                         "of {}, and are stored otherwise: {}",
                         matrices, request.type->name, text));
}

/// What the converter says of a file whose experts are in MXFP4 and whose other matrices are plain.
bool says_mxfp4_type(const FileType& type, const std::vector<GgufTensorJob>& jobs) {
  return checkpoint::block_size(type.storage).elements == 1 &&
         std::ranges::any_of(jobs,
                             [](const auto& job) { return job.plan.storage == Storage::kMXFP4; });
}

/// Blocks that have a fit with importance (checkpoint/quantize.h).
bool takes_importance(const GgufTensorJob& job) {
  return checkpoint::block_size(job.plan.storage).elements > 1 &&
         job.plan.storage != Storage::kQ8_0 && job.plan.storage != Storage::kMXFP4 &&
         job.stored.empty();
}

/// The keys that llama-quantize adds; a file without a matrix of the layers is told.
void use_importance(const Importance& importance, const std::vector<GgufTensorJob>& jobs,
                    checkpoint::GgufFields& fields, const core::Log& log) {
  std::size_t missing = 0;
  std::string first;
  for (const GgufTensorJob& job : jobs) {
    if (!takes_importance(job) || !job.importance.empty()) continue;
    if (!job.plan.name.starts_with("blk.") || !begins_tensor(job)) continue;
    if (missing++ == 0) first = job.plan.name;
  }
  if (std::ranges::all_of(jobs, [](const auto& job) { return job.importance.empty(); })) {
    throw InputError("{}: has none of the model's matrices; is it of another architecture?",
                     importance.path().string());
  }
  if (missing > 0) {
    core::tell(log, core::Level::kWarning,
               fmt::format("{} matrices, the first '{}', are not in '{}': they are quantised "
                           "without importance",
                           missing, first, importance.path().string()));
  }
  fields.set_string("quantize.imatrix.file", importance.path().filename().string());
  if (!importance.dataset().empty()) {
    fields.set_string("quantize.imatrix.dataset", importance.dataset());
  }
  fields.set_u32("quantize.imatrix.entries_count", static_cast<std::int64_t>(importance.size()));
  if (importance.chunks() > 0) {
    fields.set_u32("quantize.imatrix.chunks_count", importance.chunks());
  }
}

/// The largest root mean square error of a row, relative to the row's own, that rounding can leave:
/// far above what the formats do, far below what a wrong row or scale does.
double largest_relative_error(Storage storage) {
  switch (storage) {
    case Storage::kF32: return 1e-6;
    case Storage::kF16: return 2e-3;
    case Storage::kBF16: return 1e-2;
    case Storage::kQ8_0: return 5e-2;
    case Storage::kQ6_K: return 0.1;
    default: return 0.5;
  }
}

struct RowComparison {
  double kept = 0;    ///< <M - W, D>
  double update = 0;  ///< <D, D>
  double error = 0;   ///< |M - (W + D)|^2
  double exact = 0;   ///< |W + D|^2

  void add(std::span<const float> base, const double* delta, std::span<const float> written) {
    for (std::size_t j = 0; j < base.size(); ++j) {
      const double w = base[j];
      const double m = written[j];
      const double d = delta[j];
      kept += (m - w) * d;
      update += d * d;
      error += (m - w - d) * (m - w - d);
      exact += (w + d) * (w + d);
    }
  }
};

/// NumericError where the rows that were compared are not what was to be written.
WrittenUpdate judge(const GgufTensorJob& job, const RowComparison& sums) {
  const double relative = sums.exact > 0 ? std::sqrt(sums.error / sums.exact) : 0;
  if (!(relative <= largest_relative_error(job.plan.storage))) {
    throw NumericError("tensor '{}' read back differs from what was written by {:.2g} of itself",
                       job.info->name, relative);
  }
  return {job.info->name, std::string(checkpoint::name_of(job.plan.storage)),
          sums.update > 0 ? sums.kept / sums.update : 1,
          sums.update > 0 ? std::sqrt(sums.error / sums.update) : 0};
}

/// Reads sampled rows of one changed tensor back through the reader of models, which undoes the
/// order of rows by itself.
WrittenUpdate compare(const OpenInputs& inputs, const GgufTensorJob& job,
                      const checkpoint::Checkpoint& written) {
  const checkpoint::TensorInfo* const tensor = written.find(job.info->name);
  if (tensor == nullptr || tensor->shape != job.info->shape) {
    throw NumericError("the tensor '{}' was not read back", job.info->name);
  }
  const std::optional<merge::Update> update = update_of(
      inputs, job, job.transposed ? merge::Update::Layout::kInOut : merge::Update::Layout::kOutIn);
  const std::int64_t rows = job.transposed ? job.info->rows() : job.plan.shape.front();
  const auto width = static_cast<std::size_t>(job.info->row_elements());
  const std::int64_t step = std::max<std::int64_t>(1, rows / kSampledRows);
  std::vector<float> base(width);
  std::vector<float> back(width);
  std::vector<double> delta(static_cast<std::size_t>(merge::Update::kRowBlock * update->stride()));
  RowComparison sums;
  for (std::int64_t place = 0; place < rows; place += step) {
    const std::int64_t row = job.rows.empty() ? place : job.rows[static_cast<std::size_t>(place)];
    inputs.base.read_rows(*job.info, row, row + 1, base);
    written.read_rows(*tensor, row, row + 1, back);
    update->compute(row, delta);
    sums.add(base, delta.data(), back);
  }
  inputs.base.release(*job.info);
  written.release(*tensor);
  return judge(job, sums);
}

/// A stack of the model, whose matrices lie in the file as those of `stack`. Some rows of each are
/// read as they lie there: the reader of models may have them one by one.
WrittenUpdate compare_stack(const OpenInputs& inputs, std::span<const GgufTensorJob> stack,
                            const checkpoint::Gguf& written) {
  const GgufTensorJob& any = stack.front();
  const auto bytes = written.bytes(*written.find_tensor(any.plan.name));
  const std::int64_t rows = any.plan.shape.front();
  const auto width = static_cast<std::size_t>(any.plan.shape.back());
  const auto block = checkpoint::block_size(any.plan.storage);
  const std::size_t row_bytes = width / block.elements * block.bytes;
  const std::int64_t step = std::max<std::int64_t>(1, rows * std::ssize(stack) / kSampledRows);
  std::vector<float> base(width);
  std::vector<float> back(width);
  RowComparison sums;
  for (const GgufTensorJob& job : stack) {
    const std::optional<merge::Update> update = update_of(inputs, job);
    std::vector<double> delta(
        static_cast<std::size_t>(merge::Update::kRowBlock * update->stride()));
    for (std::int64_t row = job.expert % rows; row < rows; row += step) {
      const std::int64_t output = job.output(row);
      read_outputs(inputs.base, job, output, output + 1, base);
      const auto at = static_cast<std::size_t>(job.expert * rows + row) * row_bytes;
      checkpoint::dequantize(any.plan.storage, bytes.subspan(at, row_bytes), back);
      update->compute(output, delta);
      sums.add(base, delta.data(), back);
    }
  }
  inputs.base.release(*any.info);
  return judge(any, sums);
}

std::vector<WrittenUpdate> compare_all(const OpenInputs& inputs,
                                       const std::vector<GgufTensorJob>& jobs,
                                       const fs::path& out) {
  const auto written = checkpoint::Checkpoint::open(out);
  std::vector<WrittenUpdate> updates;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    const GgufTensorJob& job = jobs[i];
    // Of rows that were divided by their length nothing is left to compare with.
    if (job.uses.empty() || job.unit_rows) continue;
    if (job.experts == 0 || job.info->shape.size() < 3) {
      updates.push_back(compare(inputs, job, written));
    } else if (job.expert == 0) {
      const auto experts = static_cast<std::size_t>(job.experts);
      updates.push_back(
          compare_stack(inputs, std::span(jobs).subspan(i, experts), *written.gguf()));
    }
  }
  std::ranges::sort(updates, {}, &WrittenUpdate::name);
  return updates;
}

std::vector<std::pair<std::string, std::size_t>> count_storages(
    const std::vector<checkpoint::GgufTensorPlan>& tensors) {
  std::map<std::string, std::size_t> counts;
  for (const checkpoint::GgufTensorPlan& tensor : tensors) {
    ++counts[std::string(checkpoint::name_of(tensor.storage))];
  }
  return {counts.begin(), counts.end()};
}

void write_all(const OpenInputs& inputs, const std::vector<GgufTensorJob>& jobs,
               checkpoint::GgufWriter& writer, const merge::FoldControl& control) {
  merge::FoldProgress progress{0, writer.total_bytes()};
  for (const GgufTensorJob& job : jobs) {
    write_tensor(inputs, job, [&](std::span<const std::byte> bytes) {
      if (control.stop != nullptr && control.stop->load()) {
        throw Interrupted("stopped; nothing was written");
      }
      writer.write(bytes);
      progress.done += bytes.size();
      if (control.progress) control.progress(progress);
    });
  }
}

}  // namespace

GgufReport write_gguf(const GgufRequest& request, const merge::FoldControl& control,
                      const core::Log& log) {
  const auto start = std::chrono::steady_clock::now();
  CheckedFile file(request.out, all_paths(request.inputs), request.overwrite);
  const OpenInputs inputs = open_inputs(request.inputs, log, Output::kModel);
  std::optional<Importance> importance;
  if (!request.importance.empty()) importance = Importance::read(request.importance);
  const std::vector<GgufTensorJob> jobs =
      plan_tensors(inputs, *request.type, importance ? &*importance : nullptr);
  checkpoint::GgufFields fields =
      model_fields(inputs.base, *request.type, {model_name(request), request.pre}, log);
  if (says_mxfp4_type(*request.type, jobs)) fields.set_u32("general.file_type", kMxfp4FileType);
  if (importance) use_importance(*importance, jobs, fields, log);
  tell_about_requantising(inputs, jobs, log);
  tell_about_fallback(request, jobs, log);

  std::vector<checkpoint::GgufTensorPlan> plans = tensors_of(jobs);
  GgufReport report;
  report.storages = count_storages(plans);
  report.tensors = plans.size();
  {
    checkpoint::GgufWriter writer(file.path(), fields, std::move(plans));
    require_space(request.out, writer.total_bytes());
    write_all(inputs, jobs, writer, control);
    writer.finish();
    report.bytes = writer.total_bytes();
  }
  file.check([&] { report.updates = compare_all(inputs, jobs, file.path()); });
  report.base_digest = inputs.base_digest;
  report.weighted = static_cast<std::size_t>(std::ranges::count_if(jobs, [](const auto& job) {
    return begins_tensor(job) && takes_importance(job) && !job.importance.empty();
  }));
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (request.verify) report.verification = request.verify(file.path());
  if (report.verification && !report.verification->accepted()) {
    file.reject();
    merge::refuse(*report.verification, request.out);
  }
  file.accept();
  core::tell_about_rejected(request.out, log);
  return report;
}

std::uint64_t planned_gguf_bytes(const fs::path& model, const FileType& type) {
  const OpenInputs inputs = open_inputs({.model = model, .adapters = {}}, {}, Output::kModel);
  std::uint64_t bytes = 0;
  for (const checkpoint::GgufTensorPlan& tensor : tensors_of(plan_tensors(inputs, type)))
    bytes += tensor.bytes();
  return bytes;
}

}  // namespace weft::exporting
