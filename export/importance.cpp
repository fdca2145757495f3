#include "export/importance.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/gguf.h"
#include "checkpoint/gguf_writer.h"
#include "core/error.h"

namespace weft::exporting {
namespace {

using checkpoint::Gguf;
using checkpoint::GgufTensor;

constexpr std::string_view kSums = ".in_sum2";
constexpr std::string_view kCounts = ".counts";

/// sums / count, as llama-quantize divides; a matrix that no token reached has columns of 1.
std::vector<float> means(std::vector<float> sums, float count, const std::filesystem::path& path,
                         const std::string& name) {
  for (float& value : sums) {
    if (!std::isfinite(value) || value < 0 || !std::isfinite(count) || count < 0) {
      throw InputError("{}: the importance of '{}' holds numbers that are no sums of squares",
                       path.string(), name);
    }
    value = count > 0 ? value / count : 1.0F;
  }
  return sums;
}

/// The same for a stack: the sums of its matrices one after the other, and a count for each.
std::vector<float> means_of_experts(const std::vector<float>& sums,
                                    const std::vector<float>& counts,
                                    const std::filesystem::path& path, const std::string& name) {
  if (counts.empty() || sums.size() % counts.size() != 0) {
    throw InputError("{}: the matrix '{}' has {} sums, which {} counts cannot share", path.string(),
                     name, sums.size(), counts.size());
  }
  const auto width = static_cast<std::ptrdiff_t>(sums.size() / counts.size());
  std::vector<float> all;
  auto at = sums.begin();
  for (const float count : counts) {
    const std::vector<float> one = means({at, at + width}, count, path, name);
    all.insert(all.end(), one.begin(), one.end());
    at += width;
  }
  return all;
}

std::vector<float> floats_of(const Gguf& file, const GgufTensor& tensor) {
  if (tensor.type->name != "F32") {
    throw InputError("{}: tensor '{}' is {}, importance is F32", file.path().string(), tensor.name,
                     tensor.type->name);
  }
  const auto bytes = file.bytes(tensor);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// The older form: counts and names before each matrix, all little-endian.
class BinaryReader {
 public:
  explicit BinaryReader(const std::filesystem::path& path) : file_(path), rest_(file_.bytes()) {}

  [[nodiscard]] bool at_end() const { return rest_.empty(); }

  std::int32_t number() {
    std::int32_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::int32_t count() {
    const std::int32_t value = number();
    if (value < 0) complain();
    return value;
  }
  std::string text() {
    const auto bytes = take(static_cast<std::size_t>(count()));
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  std::vector<float> floats(std::int32_t count) {
    const auto bytes = take(static_cast<std::size_t>(count) * sizeof(float));
    std::vector<float> values(static_cast<std::size_t>(count));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  [[noreturn]] void complain() const {
    throw InputError("{}: is no importance matrix (weft imatrix and llama-imatrix make them)",
                     file_.path().string());
  }

 private:
  std::span<const std::byte> take(std::size_t bytes) {
    if (bytes > rest_.size()) complain();
    const auto taken = rest_.first(bytes);
    rest_ = rest_.subspan(bytes);
    return taken;
  }

  core::MappedFile file_;
  std::span<const std::byte> rest_;
};

bool is_gguf(const std::filesystem::path& path) {
  const core::MappedFile file(path);
  return file.bytes().size() >= 4 && std::memcmp(file.bytes().data(), "GGUF", 4) == 0;
}

}  // namespace

void write_importance(const ImportanceSums& sums, const std::filesystem::path& out,
                      core::Overwrite overwrite) {
  core::require_writable(out, core::OutputKind::kFile, overwrite);
  checkpoint::GgufFields fields;
  fields.set_string("general.type", "imatrix");
  fields.set_strings("imatrix.datasets", std::span(&sums.dataset, 1));
  fields.set_u32("imatrix.chunk_count", sums.chunks);
  fields.set_u32("imatrix.chunk_size", sums.chunk_tokens);
  std::vector<checkpoint::GgufTensorPlan> plans;
  for (const auto& [name, matrix] : sums.matrices) {
    plans.push_back({name + std::string(kSums), {1, std::ssize(matrix.sums)}});
    plans.push_back({name + std::string(kCounts), {1, 1}});
  }
  checkpoint::GgufWriter writer(out, fields, std::move(plans));
  for (const auto& [name, matrix] : sums.matrices) {
    const auto count = static_cast<float>(matrix.tokens);
    writer.write(std::as_bytes(std::span(matrix.sums)));
    writer.write(std::as_bytes(std::span(&count, 1)));
  }
  writer.finish();
}

Importance Importance::read(const std::filesystem::path& path) {
  Importance result;
  result.path_ = path;
  if (is_gguf(path)) {
    const Gguf file = Gguf::open(path);
    for (const GgufTensor& tensor : file.tensors()) {
      if (!tensor.name.ends_with(kSums)) continue;
      const std::string name = tensor.name.substr(0, tensor.name.size() - kSums.size());
      const GgufTensor* const count = file.find_tensor(name + std::string(kCounts));
      if (count == nullptr) {
        throw InputError("{}: the matrix '{}' has no '{}'", path.string(), name, kCounts);
      }
      result.means_[name] =
          means_of_experts(floats_of(file, tensor), floats_of(file, *count), path, name);
    }
    if (const auto datasets = file.strings("imatrix.datasets"); datasets && !datasets->empty()) {
      result.dataset_ = datasets->front();
    }
    result.chunks_ = file.integer("imatrix.chunk_count").value_or(0);
  } else {
    BinaryReader file(path);
    for (std::int32_t left = file.count(); left > 0; --left) {
      const std::string name = file.text();
      const std::int32_t calls = file.count();
      result.means_[name] =
          means(file.floats(file.count()), static_cast<float>(std::max(1, calls)), path, name);
    }
    // What follows is optional.
    if (!file.at_end()) result.chunks_ = file.count();
    if (!file.at_end()) result.dataset_ = file.text();
  }
  if (result.means_.empty()) {
    throw InputError("{}: is no importance matrix (weft imatrix and llama-imatrix make them)",
                     path.string());
  }
  return result;
}

std::span<const float> Importance::find(std::string_view gguf_name) const {
  const auto found = means_.find(gguf_name);
  return found == means_.end() ? std::span<const float>() : std::span<const float>(found->second);
}

}  // namespace weft::exporting
