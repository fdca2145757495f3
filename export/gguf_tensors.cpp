#include "export/gguf_tensors.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/quantize.h"
#include "checkpoint/roles.h"
#include "checkpoint/stored_rows.h"
#include "core/error.h"
#include "core/parallel.h"
#include "export/gguf_metadata.h"
#include "merge/rounding.h"

namespace weft::exporting {
namespace {

using checkpoint::Storage;
using checkpoint::TensorInfo;

/// Numbers read, computed and written at a time: 16 MiB of floats and less of output.
constexpr std::int64_t kTileElements = std::int64_t{4} << 20;
constexpr std::size_t kCopyBytes = std::size_t{16} << 20;

/// Outside the layers first, then by layer, then by name: as llama-quantize orders its output.
std::pair<std::int64_t, std::string_view> position(const GgufTensorJob& job) {
  std::int64_t layer = -1;
  const std::string_view name = job.plan.name;
  if (name.starts_with("blk.")) {
    std::from_chars(name.data() + 4, name.data() + name.size(), layer);
  }
  return {layer, name};
}

/// Bytes of the base that are the output's already.
std::span<const std::byte> ready_bytes(const checkpoint::Checkpoint& base,
                                       const GgufTensorJob& job) {
  if (!job.uses.empty() || job.info->storage != job.plan.storage) return {};
  if (base.gguf() != nullptr) {
    const auto* tensor = base.gguf()->find_tensor(job.plan.name);
    return tensor == nullptr ? std::span<const std::byte>() : base.gguf()->bytes(*tensor);
  }
  return job.as_stored() ? base.raw(*job.info) : std::span<const std::byte>();
}

/// The importance of a matrix's columns, as llama-quantize looks it up. The embedding is read row
/// by row, so that its columns have none.
std::span<const float> importance_of(const Importance* importance, const GgufTensorJob& job) {
  if (importance == nullptr || job.plan.shape.size() < 2) return {};
  const std::span<const float> found = importance->find(job.plan.name);
  if (found.empty() || std::ssize(found) == job.plan.shape.back()) return found;
  if (job.plan.name == "token_embd.weight") return {};
  throw InputError("{}: '{}' has {} columns, the model's has {}; is it of another model?",
                   importance->path().string(), job.plan.name, found.size(), job.plan.shape.back());
}

ModelShape shape_of(const OpenInputs& inputs, const checkpoint::GgufForm& form,
                    const checkpoint::GgufSizes& sizes, bool importance) {
  const bool of_80_layers = form.architecture == "llama" && sizes.layers == 80;
  return {.layers = sizes.layers,
          .tied_head = checkpoint::roles_of(inputs.base).head == nullptr,
          .importance = importance,
          .shared_heads_of_80_layers = of_80_layers && sizes.heads != sizes.key_heads,
          .falcon = form.architecture == "falcon"};
}

/// Rotary factors: tensors of a GGUF base that are no weights, or made of config.json.
void add_rotary_factors(const OpenInputs& inputs, const checkpoint::GgufForm& form,
                        const checkpoint::GgufSizes& sizes, std::vector<GgufTensorJob>& jobs) {
  const checkpoint::Checkpoint& base = inputs.base;
  const auto made = [&](std::string_view name) -> std::vector<float> {
    if (name == "rope_factors_long.weight") return longrope_factors(base, "long_factor");
    if (name == "rope_factors_short.weight") return longrope_factors(base, "short_factor");
    const auto scaling = form.rotation.llama3 ? llama3_scaling(base) : std::nullopt;
    if (!scaling) return {};
    return checkpoint::llama3_rope_factors(rope_theta(base.config(), form), sizes.head_dim,
                                           *scaling);
  };
  for (const char* name :
       {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}) {
    GgufTensorJob job;
    job.plan.name = name;
    if (const auto* gguf = base.gguf()) {
      const auto* tensor = gguf->find_tensor(name);
      if (tensor == nullptr) continue;
      job.plan.shape = tensor->shape;
      job.stored = gguf->bytes(*tensor);
    } else {
      job.made = made(name);
      if (job.made.empty()) continue;
      job.plan.shape = {std::ssize(job.made)};
    }
    jobs.push_back(std::move(job));
  }
}

/// Computes and stores tiles of rows of one tensor.
class TensorWriter {
 public:
  TensorWriter(const OpenInputs& inputs, const GgufTensorJob& job)
      : base_(inputs.base),
        job_(job),
        storage_(job.plan.storage),
        width_(job.plan.shape.back()),
        update_(exporting::update_of(inputs, job)) {
    const auto block = checkpoint::block_size(storage_);
    row_bytes_ = static_cast<std::size_t>(width_) / block.elements * block.bytes;
    unit_ = job.rows.empty() ? merge::Update::kRowBlock : job.group;
    if (job.transposed) unit_ = kColumns;
  }

  template <typename Emit>
  void run(const Emit& emit) {
    std::int64_t rows = 1;
    for (std::size_t i = 0; i + 1 < job_.plan.shape.size(); ++i) rows *= job_.plan.shape[i];
    const std::int64_t tile =
        std::max<std::int64_t>(1, kTileElements / std::max<std::int64_t>(1, width_) / unit_) *
        unit_;
    for (std::int64_t begin = 0; begin < rows; begin += tile) {
      const std::int64_t end = std::min(rows, begin + tile);
      bytes_.resize(static_cast<std::size_t>(end - begin) * row_bytes_);
      core::parallel_for((end - begin + unit_ - 1) / unit_, 1,
                         [&](std::int64_t first, std::int64_t last) {
                           Scratch scratch;
                           for (std::int64_t u = first; u < last; ++u) {
                             const std::int64_t at = begin + u * unit_;
                             store_rows(scratch, at, std::min(end, at + unit_), begin);
                           }
                         });
      if (overflow_) complain();
      emit(std::span<const std::byte>(bytes_));
      base_.release(*job_.info);  // An embedding alone can be larger than the memory wanted here.
    }
  }

 private:
  struct Scratch {
    std::vector<float> values;    ///< Rows of the unit, in the model's order.
    std::vector<double> updates;  ///< kRowBlock rows of the update.
  };

  /// Columns of a matrix stored as [in, out] that are read at a time: whole lines of the cache.
  static constexpr std::int64_t kColumns = 32;

  /// Outputs of a matrix stored as [in, out]: its columns, or rows of a GGUF base.
  void read_transposed(std::int64_t begin, std::int64_t end, std::span<float> out) const {
    if (const auto* gguf = base_.gguf()) {
      const auto* tensor = gguf->find_tensor(job_.plan.name);
      const auto bytes = gguf->bytes(*tensor);
      const std::size_t size = bytes.size() / static_cast<std::size_t>(tensor->shape.front());
      checkpoint::dequantize(job_.info->storage,
                             bytes.subspan(static_cast<std::size_t>(begin) * size,
                                           static_cast<std::size_t>(end - begin) * size),
                             out);
    } else {
      checkpoint::gather_columns(job_.info->storage, base_.raw(*job_.info), job_.info->shape[0],
                                 job_.info->shape[1], begin, end, out);
    }
  }

  void divide_by_length(std::span<float> values) const {
    for (std::size_t at = 0; at < values.size(); at += static_cast<std::size_t>(width_)) {
      const auto row = values.subspan(at, static_cast<std::size_t>(width_));
      double sum = 0;
      for (const float value : row) sum += static_cast<double>(value) * value;
      const double length = std::max(std::sqrt(sum), 1e-12);
      for (float& value : row) value = static_cast<float>(value / length);
    }
  }

  /// The first output of the model that rows [begin, end) of the file are.
  [[nodiscard]] std::int64_t first_output(std::int64_t begin, std::int64_t end) const {
    if (job_.rows.empty()) return begin;
    return *std::min_element(job_.rows.begin() + begin, job_.rows.begin() + end);
  }

  void store_rows(Scratch& scratch, std::int64_t begin, std::int64_t end, std::int64_t tile) {
    scratch.values.resize(static_cast<std::size_t>((end - begin) * width_));
    const std::int64_t first = first_output(begin, end);
    const std::int64_t last = first + end - begin;
    if (job_.transposed) {
      read_transposed(first, last, scratch.values);
    } else {
      base_.read_rows(*job_.info, first, last, scratch.values);
    }
    if (update_) add_update(scratch, first, last);
    if (job_.unit_rows) divide_by_length(scratch.values);
    if (!checkpoint::fits(storage_, scratch.values)) {
      overflow_ = true;
      return;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = job_.rows.empty() ? row : job_.rows[static_cast<std::size_t>(row)];
      const auto values = std::span<const float>(scratch.values)
                              .subspan(static_cast<std::size_t>((from - first) * width_),
                                       static_cast<std::size_t>(width_));
      const auto out =
          std::span(bytes_).subspan(static_cast<std::size_t>(row - tile) * row_bytes_, row_bytes_);
      checkpoint::quantize_row(storage_, values, job_.importance, out);
    }
  }

  /// W + D, rounded so that storing it rounds once in all: to odd before F16 and BF16.
  void add_update(Scratch& scratch, std::int64_t begin, std::int64_t end) const {
    constexpr std::int64_t kBlock = merge::Update::kRowBlock;
    const std::int64_t stride = update_->stride();
    const bool halves = storage_ == Storage::kF16 || storage_ == Storage::kBF16;
    scratch.updates.resize(static_cast<std::size_t>(kBlock * stride));
    for (std::int64_t row = begin; row < end; row += kBlock) {
      update_->compute(row, scratch.updates);
      for (std::int64_t i = 0; i < std::min(kBlock, end - row); ++i) {
        float* const values = scratch.values.data() + (row + i - begin) * width_;
        const double* const update = scratch.updates.data() + i * stride;
        for (std::int64_t j = 0; j < width_; ++j) {
          const double exact = static_cast<double>(values[j]) + update[j];
          values[j] = halves ? merge::round_to_odd(exact) : static_cast<float>(exact);
        }
      }
    }
  }

  [[noreturn]] void complain() const {
    throw NumericError(
        "tensor '{}' holds numbers that are not finite or beyond the range of {}; are the model, "
        "the adapter and its weight right?",
        job_.info->name, checkpoint::name_of(storage_));
  }

  const checkpoint::Checkpoint& base_;
  const GgufTensorJob& job_;
  Storage storage_;
  std::int64_t width_;
  std::optional<merge::Update> update_;
  std::size_t row_bytes_ = 0;
  std::int64_t unit_ = 1;
  std::vector<std::byte> bytes_;
  std::atomic<bool> overflow_ = false;
};

/// A bias or a norm: one row, whose elements are moved or shifted.
std::vector<float> arranged_vector(const checkpoint::Checkpoint& base, const GgufTensorJob& job) {
  const std::vector<float> values = base.read(*job.info);
  std::vector<float> out(static_cast<std::size_t>(job.plan.shape.front()));
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = values[job.rows.empty() ? i : static_cast<std::size_t>(job.rows[i])] + job.shift;
  }
  return out;
}

/// Baichuan 2 divides the rows of its head by their length when it computes, which llama.cpp does
/// not (modeling_baichuan.py, NormHead); the vocabulary of 64000 tokens tells the first from it.
bool has_unit_head(const checkpoint::Checkpoint& base) {
  constexpr std::int64_t kFirstVocabulary = 64000;
  const nlohmann::json& config = base.config();
  if (base.gguf() != nullptr || config.value("model_type", nlohmann::json()) != "baichuan")
    return false;
  const nlohmann::json stated = config.value("norm_head", nlohmann::json());
  if (stated.is_boolean()) return stated.get<bool>();
  return config.value("vocab_size", nlohmann::json()) != kFirstVocabulary;
}

/// One tensor of the model, in the one or three that the file has of it.
void add_jobs(const OpenInputs& inputs, const merge::FoldPlan::Tensor& tensor,
              const checkpoint::GgufPlaces& places, const FileType& type, const ModelShape& shape,
              const Importance* importance, std::vector<GgufTensorJob>& jobs) {
  for (const checkpoint::GgufPlace& place : places.tensors) {
    GgufTensorJob job;
    job.info = tensor.info;
    job.plan = {place.name, tensor.info->shape, Storage::kF32};
    if (places.transposed) std::swap(job.plan.shape[0], job.plan.shape[1]);
    job.plan.shape[0] = place.outputs;
    job.plan.storage = storage_for(type, place.name, job.plan.shape, shape);
    job.wanted = wanted_storage(type, place.name, job.plan.shape, shape);
    job.rows = place.rows;
    job.group = places.group;
    job.transposed = places.transposed;
    job.shift = places.shift;
    job.unit_rows = place.name == "output.weight" && has_unit_head(inputs.base);
    job.uses = tensor.uses;
    job.importance = importance_of(importance, job);
    job.stored = ready_bytes(inputs.base, job);
    jobs.push_back(std::move(job));
  }
}

}  // namespace

std::vector<GgufTensorJob> plan_tensors(const OpenInputs& inputs, const FileType& type,
                                        const Importance* importance) {
  const merge::FoldPlan fold = merge::plan_fold(inputs.base, inputs.adapters, core::DType::kF32,
                                                checkpoint::kDefaultShardBytes);
  const checkpoint::Family& family = family_of(inputs.base);
  const checkpoint::GgufForm& form = *family.gguf;
  const checkpoint::GgufSizes sizes = sizes_of(inputs.base);
  const ModelShape shape = shape_of(inputs, form, sizes, importance != nullptr);
  std::vector<GgufTensorJob> jobs;
  if (fold.untied) {
    throw InputError(
        "{}, so that the output head can no longer be the embedding; fold the adapter first (weft "
        "merge) and export the result",
        fold.untied_because);
  }
  for (const merge::FoldPlan::Tensor& tensor : fold.tensors) {
    if (checkpoint::is_buffer(*tensor.info)) continue;
    const auto places =
        checkpoint::gguf_places(family, sizes, tensor.info->name, tensor.info->shape);
    if (!places) {
      throw InputError("{}: tensor '{}' has no place in a GGUF file of the architecture '{}'",
                       inputs.base.path().string(), tensor.info->name, form.architecture);
    }
    add_jobs(inputs, tensor, *places, type, shape, importance, jobs);
  }
  add_rotary_factors(inputs, form, sizes, jobs);
  std::ranges::sort(jobs, {}, position);
  const std::int64_t layers = jobs.empty() ? 0 : position(jobs.back()).first + 1;
  if (layers != sizes.layers) {
    throw InputError("{}: config.json says num_hidden_layers = {}, the weights have {} layers",
                     inputs.base.path().string(), sizes.layers, layers);
  }
  return jobs;
}

std::optional<merge::Update> update_of(const OpenInputs& inputs, const GgufTensorJob& job,
                                       merge::Update::Layout layout) {
  if (job.uses.empty()) return std::nullopt;
  std::vector<merge::Term> terms;
  for (const merge::FoldPlan::Use& use : job.uses) {
    const merge::WeightedAdapter& adapter = inputs.adapters[use.adapter];
    terms.push_back({adapter.file->load(use.target), adapter.weight});
  }
  return merge::Update(std::move(terms), layout);
}

void write_tensor(const OpenInputs& inputs, const GgufTensorJob& job,
                  const std::function<void(std::span<const std::byte>)>& emit) {
  if (!job.stored.empty()) {
    for (std::size_t at = 0; at < job.stored.size(); at += kCopyBytes) {
      emit(job.stored.subspan(at, std::min(kCopyBytes, job.stored.size() - at)));
      if (job.info != nullptr) inputs.base.release(*job.info);
    }
  } else if (job.info == nullptr) {
    emit(std::as_bytes(std::span(job.made)));
  } else if (!job.as_stored() && job.info->shape.size() == 1) {
    const std::vector<float> values = arranged_vector(inputs.base, job);
    emit(std::as_bytes(std::span(values)));
  } else {
    TensorWriter(inputs, job).run(emit);
  }
}

}  // namespace weft::exporting
