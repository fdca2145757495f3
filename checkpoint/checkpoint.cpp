#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "checkpoint/mxfp4.h"
#include "checkpoint/open_model.h"
#include "checkpoint/stored_rows.h"
#include "checkpoint/values_digest.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;

/// Floats that one thread reads at a time.
constexpr std::int64_t kChunk = std::int64_t{1} << 18;

// A tensor with a size of 0 holds nothing, however large its other sizes are: there are no rows to
// walk through, and no product of the others to overflow.
bool is_empty(const std::vector<std::int64_t>& shape) {
  return std::ranges::find(shape, 0) != shape.end();
}

}  // namespace

bool is_buffer(const TensorInfo& tensor) {
  const auto ends = [&](std::string_view ending) { return tensor.name.ends_with(ending); };
  static constexpr std::array<std::string_view, 5> kNames{
      "rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", "rotary_emb.cos_cached",
      "rotary_emb.sin_cached", "attention.masked_bias"};
  if (std::ranges::any_of(kNames, ends) || ends("attn.masked_bias")) return true;
  // Masks are no numbers to compute with, or squares; a bias is a vector.
  const bool is_mask = tensor.storage == Storage::kOther || tensor.shape.size() == 4;
  return is_mask && (ends(".attn.bias") || ends(".attention.bias"));
}

std::int64_t TensorInfo::elements() const {
  if (is_empty(shape)) return 0;
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::int64_t TensorInfo::rows() const {
  if (shape.size() < 2) return 1;
  if (is_empty(shape)) return 0;
  return std::accumulate(shape.begin(), shape.end() - 1, std::int64_t{1}, std::multiplies<>());
}

std::int64_t TensorInfo::row_elements() const {
  if (is_empty(shape)) return 0;
  return shape.empty() ? 1 : shape.back();
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
  /// Puts the tensors in order of name.
  void index() {
    std::ranges::sort(model.tensors, {},
                      [](const StoredTensor& t) -> const std::string& { return t.info.name; });
    for (const StoredTensor& tensor : model.tensors) infos.push_back(tensor.info);
  }
  void release(std::size_t shard, std::span<const std::byte> part) const {
    if (model.gguf) {
      model.gguf->release(part);
    } else {
      model.shards[shard].release(part);
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
  state->index();
  return Checkpoint(std::move(state));
}

Checkpoint Checkpoint::open_weights(const fs::path& file) {
  auto state = std::make_unique<State>();
  state->model = open_safetensors(file);
  state->index();
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
  read_stored_rows(state_->stored(tensor), begin, end, out);
}

void Checkpoint::read_columns(const TensorInfo& tensor, std::int64_t matrix, std::int64_t begin,
                              std::int64_t end, std::span<float> out) const {
  read_stored_columns(state_->stored(tensor), matrix, begin, end, out);
}

void Checkpoint::read_mxfp4_columns(const TensorInfo& tensor, std::int64_t matrix,
                                    std::int64_t begin, std::int64_t end,
                                    std::span<std::byte> out) const {
  read_stored_mxfp4(state_->stored(tensor), matrix, begin, end, out);
}

Storage Checkpoint::row_blocks(const TensorInfo& tensor) const {
  return stored_row_blocks(state_->stored(tensor));
}

void Checkpoint::read_blocks(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                             std::span<std::byte> out) const {
  read_stored_blocks(state_->stored(tensor), begin, end, out);
}

std::vector<float> Checkpoint::read(const TensorInfo& tensor) const {
  const StoredTensor& stored = state_->stored(tensor);
  const std::int64_t width = stored.info.row_elements();
  std::vector<float> values(static_cast<std::size_t>(stored.info.elements()));
  const std::int64_t group = row_group(stored.info);
  const std::int64_t grain =
      std::max(group, kChunk / std::max<std::int64_t>(1, width) / group * group);
  core::parallel_for(stored.info.rows(), grain, [&](std::int64_t begin, std::int64_t end) {
    read_stored_rows(stored, begin, end,
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
  if (storage == Storage::kOther && !state_->model.gguf) return stored.bytes;
  return plain && !stored.arrangement ? stored.bytes : std::span<const std::byte>{};
}

void Checkpoint::release(const TensorInfo& tensor) const {
  const StoredTensor& stored = state_->stored(tensor);
  if (!stored.arrangement) return state_->release(stored.shard, stored.bytes);
  for (const auto& piece : stored.arrangement->pieces) state_->release(piece.shard, piece.bytes);
}

void Checkpoint::release(const TensorInfo& tensor, std::int64_t begin, std::int64_t end) const {
  const StoredTensor& stored = state_->stored(tensor);
  for (const StoredPart& part : parts_of(stored, begin, end)) {
    state_->release(part.shard, part.bytes);
  }
}

std::string Checkpoint::weights_digest() const {
  std::vector<const StoredTensor*> tensors;
  for (const StoredTensor& tensor : state_->model.tensors) {
    if (!is_buffer(tensor.info)) tensors.push_back(&tensor);
  }
  const std::vector<std::string> digests = values_digests(
      tensors,
      [&](std::size_t shard, std::span<const std::byte> part) { state_->release(shard, part); });
  core::Sha256 hash;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i]->info;
    hash.update(fmt::format("{} {} {}\n", info.name, fmt::join(info.shape, "x"), digests[i]));
  }
  return hash.finish();
}

}  // namespace weft::checkpoint
