#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "checkpoint/dequantize.h"
#include "checkpoint/open_model.h"
#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Floats that one thread holds while it hashes or reads.
constexpr std::int64_t kChunk = std::int64_t{1} << 18;

/// The row of the file that holds row `row` of the model (RowOrder).
constexpr std::int64_t stored_row(std::int64_t row, std::int64_t head_dim) noexcept {
  const std::int64_t head = row / head_dim;
  const std::int64_t within = row % head_dim;
  const std::int64_t half = head_dim / 2;
  return head * head_dim + 2 * (within % half) + within / half;
}

std::span<const std::byte> rows_of(const StoredTensor& tensor, std::int64_t begin,
                                   std::int64_t end) {
  const std::int64_t rows = tensor.info.rows();
  const std::size_t row_bytes =
      rows == 0 ? 0 : tensor.bytes.size() / static_cast<std::size_t>(rows);
  return tensor.bytes.subspan(static_cast<std::size_t>(begin) * row_bytes,
                              static_cast<std::size_t>(end - begin) * row_bytes);
}

/// A bias whose elements are interleaved: it is one row.
void read_interleaved_vector(const StoredTensor& tensor, std::span<float> out) {
  std::vector<float> stored(out.size());
  dequantize(tensor.info.storage, tensor.bytes, stored);
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto from = stored_row(static_cast<std::int64_t>(i), tensor.interleaved_head);
    out[i] = stored[static_cast<std::size_t>(from)];
  }
}

void read_stored(const StoredTensor& tensor, std::int64_t begin, std::int64_t end,
                 std::span<float> out) {
  const TensorInfo& info = tensor.info;
  if (info.storage == Storage::kOther) {
    throw InputError("{}: tensor {} is stored as {}, which cannot be computed with; {} can",
                     info.file.string(), printable(info.name), info.storage_name,
                     readable_storages());
  }
  if (begin < 0 || end < begin || end > info.rows() ||
      out.size() != static_cast<std::size_t>((end - begin) * info.row_elements())) {
    throw std::logic_error("read_rows: rows or room do not fit the tensor " + info.name);
  }
  if (tensor.interleaved_head == 0 || out.empty()) {
    dequantize(info.storage, rows_of(tensor, begin, end), out);
  } else if (info.shape.size() < 2) {
    read_interleaved_vector(tensor, out);
  } else {
    const auto width = static_cast<std::size_t>(info.row_elements());
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = stored_row(row, tensor.interleaved_head);
      dequantize(info.storage, rows_of(tensor, from, from + 1),
                 out.subspan(static_cast<std::size_t>(row - begin) * width, width));
    }
  }
}

/// SHA-256 of a tensor's values as floats; of its bytes where they are no numbers of ours.
/// `done` hears which bytes have been read.
template <typename Done>
std::string values_digest(const StoredTensor& tensor, const Done& done) {
  core::Sha256 hash;
  const TensorInfo& info = tensor.info;
  const bool as_stored = info.storage == Storage::kF32 && tensor.interleaved_head == 0;
  if (as_stored || info.storage == Storage::kOther) {
    constexpr std::size_t kBytes = kChunk * sizeof(float);
    for (std::size_t at = 0; at < tensor.bytes.size(); at += kBytes) {
      const auto part = tensor.bytes.subspan(at, std::min(kBytes, tensor.bytes.size() - at));
      hash.update(part);
      done(part);
    }
    return hash.finish();
  }
  const std::int64_t width = std::max<std::int64_t>(1, info.row_elements());
  const std::int64_t step = std::max<std::int64_t>(1, kChunk / width);
  std::vector<float> values;
  for (std::int64_t begin = 0; begin < info.rows(); begin += step) {
    const std::int64_t end = std::min(info.rows(), begin + step);
    values.resize(static_cast<std::size_t>((end - begin) * info.row_elements()));
    read_stored(tensor, begin, end, values);
    hash.update(std::as_bytes(std::span(values)));
    done(rows_of(tensor, begin, end));
  }
  return hash.finish();
}

/// What a model computes from its configuration and may or may not have stored.
bool is_buffer(std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") || name.ends_with("rotary_emb.cos_cached") ||
         name.ends_with("rotary_emb.sin_cached");
}

}  // namespace

std::int64_t TensorInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t TensorInfo::rows() const { return shape.size() < 2 ? 1 : shape[0]; }

std::int64_t TensorInfo::row_elements() const {
  const auto skip = shape.size() < 2 ? 0 : 1;
  return std::accumulate(shape.begin() + skip, shape.end(), std::int64_t{1}, std::multiplies<>());
}

struct Checkpoint::State {
  OpenModel model;
  std::vector<TensorInfo> infos;  ///< Of model.tensors, in the same order.

  [[nodiscard]] const StoredTensor* find(std::string_view name) const {
    const auto found = std::ranges::lower_bound(infos, name, {}, &TensorInfo::name);
    if (found == infos.end() || found->name != name) return nullptr;
    return &model.tensors[static_cast<std::size_t>(found - infos.begin())];
  }
  /// By name, so that a copy of a TensorInfo serves as well.
  [[nodiscard]] const StoredTensor& stored(const TensorInfo& tensor) const {
    const StoredTensor* const found = find(tensor.name);
    if (found == nullptr) throw std::logic_error("not a tensor of this model: " + tensor.name);
    return *found;
  }
  void release(const StoredTensor& tensor, std::span<const std::byte> part) const {
    if (model.gguf) {
      model.gguf->release(part);
    } else {
      model.shards[tensor.shard].release(part);
    }
  }
};

Checkpoint Checkpoint::open(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw InputError("no such model: {} (expected a Hugging Face folder or a GGUF file)",
                     path.string());
  }
  auto state = std::make_unique<State>();
  if (fs::is_directory(path, error)) {
    state->model = open_hugging_face(path);
  } else if (path.extension() == ".safetensors") {
    throw InputError("{}: weights alone are no model; name the folder that holds config.json too",
                     path.string());
  } else {
    state->model = open_gguf(path);
  }
  std::ranges::sort(state->model.tensors, {},
                    [](const StoredTensor& t) -> const std::string& { return t.info.name; });
  for (const StoredTensor& tensor : state->model.tensors) state->infos.push_back(tensor.info);
  return Checkpoint(std::move(state));
}

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Kind Checkpoint::kind() const { return state_->model.kind; }
const fs::path& Checkpoint::path() const { return state_->model.path; }
const nlohmann::json& Checkpoint::config() const { return state_->model.config; }
const std::vector<TensorInfo>& Checkpoint::tensors() const { return state_->infos; }
std::vector<fs::path> Checkpoint::side_files() const { return state_->model.side_files; }
const Gguf* Checkpoint::gguf() const { return state_->model.gguf ? &*state_->model.gguf : nullptr; }

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(state_->infos, name, {}, &TensorInfo::name);
  return found != state_->infos.end() && found->name == name ? &*found : nullptr;
}

void Checkpoint::read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                           std::span<float> out) const {
  read_stored(state_->stored(tensor), begin, end, out);
}

std::vector<float> Checkpoint::read(const TensorInfo& tensor) const {
  const StoredTensor& stored = state_->stored(tensor);
  const std::int64_t width = stored.info.row_elements();
  std::vector<float> values(static_cast<std::size_t>(stored.info.elements()));
  const std::int64_t grain = std::max<std::int64_t>(1, kChunk / std::max<std::int64_t>(1, width));
  core::parallel_for(stored.info.rows(), grain, [&](std::int64_t begin, std::int64_t end) {
    read_stored(stored, begin, end,
                std::span(values).subspan(static_cast<std::size_t>(begin * width),
                                          static_cast<std::size_t>((end - begin) * width)));
  });
  return values;
}

std::span<const std::byte> Checkpoint::raw(const TensorInfo& tensor) const {
  const StoredTensor& stored = state_->stored(tensor);
  const Storage storage = stored.info.storage;
  const bool plain =
      storage == Storage::kF32 || storage == Storage::kF16 || storage == Storage::kBF16;
  return plain && stored.interleaved_head == 0 ? stored.bytes : std::span<const std::byte>{};
}

void Checkpoint::release(const TensorInfo& tensor) const {
  const StoredTensor& stored = state_->stored(tensor);
  state_->release(stored, stored.bytes);
}

void Checkpoint::release(const TensorInfo& tensor, std::int64_t begin, std::int64_t end) const {
  const StoredTensor& stored = state_->stored(tensor);
  state_->release(stored, rows_of(stored, begin, end));
}

std::string Checkpoint::weights_digest() const {
  const std::vector<StoredTensor>& tensors = state_->model.tensors;
  // Large tensors first, taken one by one, so that the threads end together.
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](std::size_t i) { return tensors[i].info.elements(); });
  std::vector<std::string> digests(tensors.size());
  std::atomic<std::size_t> next{0};
  core::parallel_for(core::thread_count(), 1, [&](std::int64_t, std::int64_t) {
    for (std::size_t at = next++; at < order.size(); at = next++) {
      const StoredTensor& tensor = tensors[order[at]];
      if (is_buffer(tensor.info.name)) continue;
      digests[order[at]] = values_digest(
          tensor, [&](std::span<const std::byte> part) { state_->release(tensor, part); });
    }
  });
  core::Sha256 hash;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i].info;
    if (is_buffer(info.name)) continue;
    hash.update(fmt::format("{} {} {}\n", info.name, fmt::join(info.shape, "x"), digests[i]));
  }
  return hash.finish();
}

}  // namespace weft::checkpoint
