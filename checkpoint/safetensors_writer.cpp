#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <utility>

#include "checkpoint/printable.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/utf8.h"

namespace weft::checkpoint {
namespace {

constexpr std::size_t kHeaderAlignment = 8;

std::size_t dtype_rank(std::string_view dtype) {
  const auto names = safetensors_dtypes();
  return static_cast<std::size_t>(std::ranges::find(names, dtype) - names.begin());
}

void check_plan(std::span<const TensorPlan> tensors, const std::filesystem::path& path) {
  std::vector<std::string_view> names;
  names.reserve(tensors.size());
  for (const TensorPlan& tensor : tensors) {
    if (tensor.name == "__metadata__" || !core::is_utf8(tensor.name)) {
      throw InputError("{}: a tensor cannot be called {}", path.string(), printable(tensor.name));
    }
    names.push_back(tensor.name);
  }
  std::ranges::sort(names);
  if (const auto twice = std::ranges::adjacent_find(names); twice != names.end()) {
    throw InputError("{}: two tensors are called {}", path.string(), printable(*twice));
  }
}

/// Length and JSON of the header, padded with spaces as the reference writer does.
std::string header_of(std::span<const TensorPlan> tensors,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const TensorPlan& tensor : tensors) {
    const std::uint64_t end = offset + tensor.bytes();
    // Appended, not looked up: names are unique, and an ordered object is searched linearly.
    nlohmann::ordered_json entry;
    entry["dtype"] = tensor.dtype;
    entry["shape"] = tensor.shape;
    entry["data_offsets"] = {offset, end};
    header.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(tensor.name, std::move(entry));
    offset = end;
  }
  std::string text = header.dump();
  text.append((kHeaderAlignment - text.size() % kHeaderAlignment) % kHeaderAlignment, ' ');
  const auto length = static_cast<std::uint64_t>(text.size());
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::vector<TensorPlan> tensors,
                                     std::map<std::string, std::string> metadata)
    : tensors_(std::move(tensors)), file_(path) {
  check_plan(tensors_, path);
  std::ranges::sort(tensors_, [](const TensorPlan& a, const TensorPlan& b) {
    const std::size_t first = dtype_rank(a.dtype);
    const std::size_t second = dtype_rank(b.dtype);
    return first != second ? first > second : a.name < b.name;
  });
  for (const TensorPlan& tensor : tensors_) {
    if (__builtin_add_overflow(missing_, tensor.bytes(), &missing_)) {
      throw InputError("{}: the tensors together exceed 64 bits of bytes", path.string());
    }
  }
  header_ = header_of(tensors_, metadata);
  if (header_.size() - sizeof(std::uint64_t) > kMaxSafetensorsHeader) {
    throw InputError("{}: a header of {} bytes is needed, the format allows {}", path.string(),
                     header_.size() - sizeof(std::uint64_t), kMaxSafetensorsHeader);
  }
  file_.write(header_);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  if (bytes.size() > missing_) throw std::logic_error("more tensor data than planned");
  file_.write(bytes);
  missing_ -= bytes.size();
}

void SafetensorsWriter::finish() {
  if (missing_ != 0) throw std::logic_error("less tensor data than planned");
  file_.commit();
}

std::vector<Shard> plan_shards(std::vector<TensorPlan> tensors, std::uint64_t max_shard_bytes) {
  std::vector<Shard> shards(1);
  std::uint64_t filled = 0;
  for (TensorPlan& tensor : tensors) {
    const std::uint64_t bytes = tensor.bytes();
    // filled never exceeds the limit unless one tensor alone does.
    if (!shards.back().tensors.empty() &&
        (filled >= max_shard_bytes || bytes > max_shard_bytes - filled)) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().tensors.push_back(std::move(tensor));
    filled += bytes;
  }
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].file = shards.size() == 1
                         ? "model.safetensors"
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  }
  return shards;
}

void write_shard_index(const std::filesystem::path& folder, std::span<const Shard> shards) {
  if (shards.size() < 2) return;
  std::uint64_t total = 0;
  nlohmann::json weight_map = nlohmann::json::object();
  for (const Shard& shard : shards) {
    for (const TensorPlan& tensor : shard.tensors) {
      total += tensor.bytes();
      weight_map[tensor.name] = shard.file;
    }
  }
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total;
  index["weight_map"] = weight_map;
  core::write_text(folder / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace weft::checkpoint
