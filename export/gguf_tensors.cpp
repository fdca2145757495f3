#include "export/gguf_tensors.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstring>
#include <map>
#include <tuple>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_family.h"
#include "checkpoint/quantize.h"
#include "core/error.h"
#include "core/parallel.h"
#include "export/gguf_metadata.h"
#include "merge/rounding.h"

namespace weft::exporting {
namespace {

using checkpoint::RowOrder;
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

std::int64_t interleaved_head(RowOrder order, const Sizes& sizes, const TensorInfo& info) {
  if (order == RowOrder::kSame) return 0;
  const std::int64_t heads = order == RowOrder::kInterleavedQuery ? sizes.heads : sizes.key_heads;
  if (info.shape.empty() || info.shape[0] != heads * sizes.head_dim || sizes.head_dim % 2 != 0) {
    throw InputError("tensor '{}' must have {} rows ({} heads of {}), its shape is [{}]", info.name,
                     heads * sizes.head_dim, heads, sizes.head_dim, fmt::join(info.shape, ", "));
  }
  return sizes.head_dim;
}

/// Bytes of the base that are the output's already.
std::span<const std::byte> ready_bytes(const checkpoint::Checkpoint& base,
                                       const GgufTensorJob& job) {
  if (!job.uses.empty() || job.info->storage != job.plan.storage) return {};
  if (base.gguf() != nullptr) {
    const auto* tensor = base.gguf()->find_tensor(job.plan.name);
    return tensor == nullptr ? std::span<const std::byte>() : base.gguf()->bytes(*tensor);
  }
  return job.interleaved_head == 0 ? base.raw(*job.info) : std::span<const std::byte>();
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

ModelShape shape_of(const OpenInputs& inputs, const Sizes& sizes, bool importance) {
  return {.layers = sizes.layers,
          .tied_head = inputs.base.find("lm_head.weight") == nullptr,
          .importance = importance,
          .shared_heads_of_80_layers = sizes.layers == 80 && sizes.heads != sizes.key_heads};
}

/// Rotary factors: a tensor of a GGUF base that is no weight, or made of config.json.
void add_rotary_factors(const OpenInputs& inputs, const Sizes& sizes,
                        std::vector<GgufTensorJob>& jobs) {
  GgufTensorJob job;
  job.plan = {"rope_freqs.weight", {sizes.head_dim / 2}, Storage::kF32};
  if (const auto* gguf = inputs.base.gguf()) {
    const auto* tensor = gguf->find_tensor(job.plan.name);
    if (tensor == nullptr) return;
    job.stored = gguf->bytes(*tensor);
  } else {
    const auto scaling = llama3_scaling(inputs.base);
    if (!scaling) return;
    job.made =
        checkpoint::llama3_rope_factors(rope_theta(inputs.base.config()), sizes.head_dim, *scaling);
  }
  jobs.push_back(std::move(job));
}

/// Computes and stores tiles of rows of one tensor.
class TensorWriter {
 public:
  TensorWriter(const OpenInputs& inputs, const GgufTensorJob& job)
      : base_(inputs.base),
        job_(job),
        storage_(job.plan.storage),
        width_(job.info->row_elements()),
        update_(exporting::update_of(inputs, job)) {
    const auto block = checkpoint::block_size(storage_);
    row_bytes_ = static_cast<std::size_t>(width_) / block.elements * block.bytes;
    unit_ = job.interleaved_head > 0 ? job.interleaved_head : merge::Update::kRowBlock;
  }

  template <typename Emit>
  void run(const Emit& emit) {
    const std::int64_t rows = job_.info->rows();
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

  void store_rows(Scratch& scratch, std::int64_t begin, std::int64_t end, std::int64_t tile) {
    scratch.values.resize(static_cast<std::size_t>((end - begin) * width_));
    base_.read_rows(*job_.info, begin, end, scratch.values);
    if (update_) add_update(scratch, begin, end);
    if (!checkpoint::fits(storage_, scratch.values)) {
      overflow_ = true;
      return;
    }
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from =
          job_.interleaved_head > 0 ? model_row(row, job_.interleaved_head) : row;
      const auto values = std::span<const float>(scratch.values)
                              .subspan(static_cast<std::size_t>((from - begin) * width_),
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

/// A bias of q or k: one row, whose elements are interleaved.
std::vector<float> interleaved_vector(const checkpoint::Checkpoint& base,
                                      const GgufTensorJob& job) {
  const std::vector<float> values = base.read(*job.info);
  std::vector<float> out(values.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto from = model_row(static_cast<std::int64_t>(i), job.interleaved_head);
    out[i] = values[static_cast<std::size_t>(from)];
  }
  return out;
}

}  // namespace

std::vector<GgufTensorJob> plan_tensors(const OpenInputs& inputs, const FileType& type,
                                        const Importance* importance) {
  const merge::FoldPlan fold = merge::plan_fold(inputs.base, inputs.adapters, core::DType::kF32,
                                                checkpoint::kDefaultShardBytes);
  const checkpoint::GgufFamily& family = family_of(inputs.base);
  const Sizes sizes = sizes_of(inputs.base);
  const ModelShape shape = shape_of(inputs, sizes, importance != nullptr);
  std::vector<GgufTensorJob> jobs;
  if (fold.untied) {
    throw InputError(
        "{}, so that the output head can no longer be the embedding; fold the adapter first (weft "
        "merge) and export the result",
        fold.untied_because);
  }
  for (const merge::FoldPlan::Tensor& tensor : fold.tensors) {
    if (tensor.info->name.ends_with("rotary_emb.inv_freq")) continue;  // Follows from the config.
    const auto mapped = checkpoint::gguf_name(family, tensor.info->name);
    if (!mapped) {
      throw InputError("{}: tensor '{}' has no place in a GGUF file of the architecture '{}'",
                       inputs.base.path().string(), tensor.info->name, family.architecture);
    }
    GgufTensorJob job;
    job.info = tensor.info;
    job.plan = {mapped->name, tensor.info->shape,
                storage_for(type, mapped->name, tensor.info->shape, shape)};
    job.wanted = wanted_storage(type, mapped->name, tensor.info->shape, shape);
    job.interleaved_head = interleaved_head(mapped->rows, sizes, *tensor.info);
    job.uses = tensor.uses;
    job.importance = importance_of(importance, job);
    job.stored = ready_bytes(inputs.base, job);
    jobs.push_back(std::move(job));
  }
  add_rotary_factors(inputs, sizes, jobs);
  std::ranges::sort(jobs, {}, position);
  const std::int64_t layers = jobs.empty() ? 0 : position(jobs.back()).first + 1;
  if (layers != sizes.layers) {
    throw InputError("{}: config.json says num_hidden_layers = {}, the weights have {} layers",
                     inputs.base.path().string(), sizes.layers, layers);
  }
  return jobs;
}

std::optional<merge::Update> update_of(const OpenInputs& inputs, const GgufTensorJob& job) {
  if (job.uses.empty()) return std::nullopt;
  std::vector<merge::Term> terms;
  for (const merge::FoldPlan::Use& use : job.uses) {
    const merge::WeightedAdapter& adapter = inputs.adapters[use.adapter];
    terms.push_back({adapter.file->load(use.target), adapter.weight});
  }
  return merge::Update(std::move(terms), merge::Update::Layout::kOutIn);
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
  } else if (job.interleaved_head > 0 && job.info->shape.size() == 1) {
    const std::vector<float> values = interleaved_vector(inputs.base, job);
    emit(std::as_bytes(std::span(values)));
  } else {
    TensorWriter(inputs, job).run(emit);
  }
}

}  // namespace weft::exporting
