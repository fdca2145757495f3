#include "merge/undo.h"

#include <zstd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/number.h"
#include "core/output_claim.h"
#include "core/version.h"
#include "merge/undo_words.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Safetensors;
using checkpoint::SafetensorsEntry;

// The file: kMagic, the compressed blocks (a length of 4 bytes and a zstd frame each), JSON that
// names the base's files, and the length of the JSON in 8 bytes.
constexpr std::string_view kMagic = "weftundo";
constexpr std::size_t kBlockBytes = std::size_t{4} << 20;
constexpr int kLevel = 3;
constexpr std::uint64_t kMaxJson = std::uint64_t{256} << 20;

/// The tensors of a merged folder by name.
class Merged {
 public:
  explicit Merged(const fs::path& folder) {
    if (!fs::is_directory(folder)) {
      throw InputError("'{}' is no folder; give the one that weft merge wrote", folder.string());
    }
    std::vector<fs::path> paths;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
    }
    std::ranges::sort(paths);
    for (const fs::path& path : paths) files_.push_back(Safetensors::open(path));
    for (const Safetensors& file : files_) {
      for (const SafetensorsEntry& entry : file.entries()) {
        tensors_.try_emplace(entry.name, std::pair(&file, &entry));
      }
    }
  }

  /// The bytes of a tensor and its type; empty where there is none with as many numbers.
  [[nodiscard]] std::pair<std::span<const std::byte>, std::string> find(
      const std::string& name, const std::vector<std::int64_t>& shape) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end() || found->second.second->shape != shape) return {};
    return {found->second.first->bytes(*found->second.second), found->second.second->dtype};
  }
  /// The pages of a tensor that was read are not needed again.
  void release(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) found->second.first->release(*found->second.second);
  }

 private:
  std::vector<Safetensors> files_;
  std::map<std::string, std::pair<const Safetensors*, const SafetensorsEntry*>> tensors_;
};

/// Bytes of a base file that are coded alike: a tensor's, or what lies before and between them.
struct Segment {
  std::uint64_t bytes = 0;
  std::string tensor{};  ///< Empty: not a tensor's.
  std::string dtype{};
  std::vector<std::int64_t> shape{};
};

/// What merged numbers say about the bytes of a segment, a block at a time.
class Prediction {
 public:
  Prediction(const Segment& segment, const Merged& merged)
      : own_(core::parse_dtype(segment.dtype)), width_(own_ ? core::size_of(*own_) : 1) {
    if (segment.tensor.empty()) return;
    const auto [bytes, dtype] = merged.find(segment.tensor, segment.shape);
    if (own_ && core::parse_dtype(dtype)) {
      from_ = core::parse_dtype(dtype);
      bytes_ = bytes;
    } else if (dtype == segment.dtype) {
      bytes_ = bytes;
    }
    // An undo file that was tampered with may name other sizes than a tensor has.
    const auto from_width =
        static_cast<std::uint64_t>(core::size_of(from_.value_or(core::DType::kF32)));
    const std::uint64_t numbers = from_ ? bytes_.size() / from_width : bytes_.size();
    if (numbers * (from_ ? width() : 1) != segment.bytes) bytes_ = {};
    if (segment.bytes % width() != 0) width_ = 1;
  }

  /// Bytes of a word that differences are taken of.
  [[nodiscard]] std::size_t width() const noexcept { return static_cast<std::size_t>(width_); }
  /// For the bytes from `at` on, in the base's type.
  void fill(std::uint64_t at, std::span<std::byte> out) const {
    std::ranges::fill(out, std::byte{0});
    if (bytes_.empty()) return;
    if (!from_ || from_ == own_) {
      std::ranges::copy(bytes_.subspan(at, out.size()), out.begin());
      return;
    }
    const auto from_width = static_cast<std::size_t>(core::size_of(*from_));
    convert_words(*from_,
                  bytes_.subspan(at / width() * from_width, out.size() / width() * from_width),
                  *own_, out);
  }

 private:
  std::optional<core::DType> own_;
  std::optional<core::DType> from_;
  std::int64_t width_;
  std::span<const std::byte> bytes_;
};

/// Calls body(segment's prediction, offset in the segment, offset in the file, bytes) block by
/// block.
void for_blocks(
    std::span<const Segment> segments, const Merged& merged,
    const std::function<void(const Prediction&, std::uint64_t, std::uint64_t, std::size_t)>& body) {
  std::uint64_t place = 0;
  for (const Segment& segment : segments) {
    const Prediction prediction(segment, merged);
    for (std::uint64_t at = 0; at < segment.bytes; at += kBlockBytes) {
      const auto bytes =
          static_cast<std::size_t>(std::min<std::uint64_t>(kBlockBytes, segment.bytes - at));
      body(prediction, at, place + at, bytes);
    }
    place += segment.bytes;
    merged.release(segment.tensor);
  }
}

nlohmann::json json_of(const Segment& segment) {
  nlohmann::json json = {{"bytes", segment.bytes}};
  if (segment.tensor.empty()) return json;
  json["tensor"] = segment.tensor;
  json["dtype"] = segment.dtype;
  json["shape"] = segment.shape;
  return json;
}

Segment segment_of(const nlohmann::json& json) {
  Segment segment{json.at("bytes").get<std::uint64_t>()};
  if (!json.contains("tensor")) return segment;
  segment.tensor = json.at("tensor").get<std::string>();
  segment.dtype = json.at("dtype").get<std::string>();
  segment.shape = json.at("shape").get<std::vector<std::int64_t>>();
  return segment;
}

/// A safetensors file as header, tensors and what may lie between.
std::vector<Segment> segments_of(const core::MappedFile& file) {
  const Safetensors tensors = Safetensors::open(file.path());  // Well formed, or it throws.
  std::uint64_t header = 0;
  std::memcpy(&header, file.bytes().data(), sizeof header);
  std::vector<const SafetensorsEntry*> entries;
  for (const SafetensorsEntry& entry : tensors.entries()) {
    if (entry.bytes() > 0) entries.push_back(&entry);
  }
  std::ranges::sort(entries, {}, &SafetensorsEntry::begin);
  std::vector<Segment> segments;
  std::uint64_t done = 0;
  const auto add_until = [&](std::uint64_t place) {
    if (place > done) segments.push_back({place - done});
    done = place;
  };
  for (const SafetensorsEntry* entry : entries) {
    add_until(sizeof header + header + entry->begin);
    segments.push_back({entry->bytes(), entry->name, entry->dtype, entry->shape});
    done += entry->bytes();
  }
  add_until(file.bytes().size());
  return segments;
}

/// The files of a base that are restored: those that its tensors are in, and small ones beside.
std::vector<fs::path> files_of(const checkpoint::Checkpoint& base) {
  static constexpr std::array<std::string_view, 9> kOtherWeights{
      ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot"};
  std::set<fs::path> files;
  for (const checkpoint::TensorInfo& tensor : base.tensors()) files.insert(tensor.file);
  for (const fs::directory_entry& entry : fs::directory_iterator(base.path())) {
    const std::string extension = entry.path().extension().string();
    if (!entry.is_regular_file() || std::ranges::count(kOtherWeights, extension) != 0) continue;
    files.insert(entry.path());
  }
  return {files.begin(), files.end()};
}

[[noreturn]] void refuse(const fs::path& undo, std::string_view why) {
  throw InputError("'{}' {}", undo.string(), why);
}

/// Blocks one after the other, as they were written.
class Blocks {
 public:
  Blocks(const fs::path& undo, std::span<const std::byte> bytes) : undo_(undo), rest_(bytes) {}

  void next(std::span<std::byte> out) {
    std::uint32_t length = 0;
    if (rest_.size() < sizeof length) refuse(undo_, "is cut: blocks are missing");
    std::memcpy(&length, rest_.data(), sizeof length);
    rest_ = rest_.subspan(sizeof length);
    if (length > rest_.size()) refuse(undo_, "is cut: a block ends beyond it");
    const std::size_t got = ZSTD_decompress(out.data(), out.size(), rest_.data(), length);
    if (ZSTD_isError(got) != 0 || got != out.size()) refuse(undo_, "is damaged");
    rest_ = rest_.subspan(length);
  }

 private:
  const fs::path& undo_;
  std::span<const std::byte> rest_;
};

class UndoWriter {
 public:
  explicit UndoWriter(const fs::path& path) : file_(path) { file_.write(kMagic); }

  void add(std::span<const std::byte> block) {
    packed_.resize(ZSTD_compressBound(block.size()));
    const std::size_t size =
        ZSTD_compress(packed_.data(), packed_.size(), block.data(), block.size(), kLevel);
    if (ZSTD_isError(size) != 0) throw IoError("zstd: {}", ZSTD_getErrorName(size));
    const auto length = static_cast<std::uint32_t>(size);
    file_.write(std::as_bytes(std::span(&length, 1)));
    file_.write(std::span<const std::byte>(packed_).first(size));
  }

  std::uint64_t finish(const nlohmann::json& json) {
    const std::string text = json.dump();
    const auto length = static_cast<std::uint64_t>(text.size());
    file_.write(text);
    file_.write(std::as_bytes(std::span(&length, 1)));
    file_.commit();
    return file_.size();
  }

 private:
  core::AtomicFile file_;
  std::vector<std::byte> packed_;
};

nlohmann::json index_of(const fs::path& undo, std::span<const std::byte>& bytes) {
  std::uint64_t length = 0;
  const auto begins = std::as_bytes(std::span(kMagic));
  if (bytes.size() < kMagic.size() + sizeof length ||
      !std::ranges::equal(bytes.first(kMagic.size()), begins)) {
    refuse(undo, "is no undo file (weft merge --undo writes one)");
  }
  std::memcpy(&length, bytes.data() + bytes.size() - sizeof length, sizeof length);
  bytes = bytes.subspan(kMagic.size(), bytes.size() - kMagic.size() - sizeof length);
  if (length > bytes.size() || length > kMaxJson) refuse(undo, "is cut or damaged");
  const auto text = bytes.last(length);
  bytes = bytes.first(bytes.size() - length);
  const auto* begin = reinterpret_cast<const char*>(text.data());
  nlohmann::json json = nlohmann::json::parse(begin, begin + length, nullptr, false);
  if (!json.is_object()) refuse(undo, "is cut or damaged");
  if (json.value("format", 0) != 1) refuse(undo, "was written by a newer version of weft");
  return json;
}

}  // namespace

void require_undo_possible(const fs::path& base) {
  if (fs::is_directory(base)) return;
  throw InputError(
      "--undo restores a base of safetensors files; '{}' is a GGUF file, which stays as it is",
      base.string());
}

UndoReport write_undo(const fs::path& base, const fs::path& merged, const fs::path& undo,
                      core::Overwrite overwrite) {
  require_undo_possible(base);
  const std::array inputs{base, merged};
  core::claim_output({undo, core::OutputKind::kFile, "--undo"}, inputs, overwrite);
  const auto opened = checkpoint::Checkpoint::open(base);
  const Merged result(merged);
  UndoWriter writer(undo);
  UndoReport report;
  nlohmann::json files = nlohmann::json::array();
  for (const fs::path& path : files_of(opened)) {
    const core::MappedFile file(path);
    const bool tensors = path.extension() == ".safetensors";
    const std::uint64_t size = file.bytes().size();
    const auto segments = tensors ? segments_of(file) : std::vector<Segment>{{size}};
    std::vector<std::byte> predicted;
    std::vector<std::byte> block;
    core::Sha256 digest;
    for_blocks(segments, result,
               [&](const Prediction& prediction, std::uint64_t at, std::uint64_t place,
                   std::size_t bytes) {
                 predicted.resize(bytes);
                 block.resize(bytes);
                 prediction.fill(at, predicted);
                 const auto own = file.bytes().subspan(place, bytes);
                 digest.update(own);
                 encode_words(prediction.width(), own, predicted, block);
                 writer.add(block);
                 file.release(own);
               });
    files.push_back({{"name", path.filename().string()},
                     {"sha256", digest.finish()},
                     {"segments", nlohmann::json::array()}});
    for (const Segment& segment : segments) files.back()["segments"].push_back(json_of(segment));
    report.files += 1;
    report.base_bytes += size;
  }
  report.undo_bytes =
      writer.finish({{"format", 1}, {"weft_version", core::kVersion}, {"files", std::move(files)}});
  return report;
}

UndoReport unmerge(const fs::path& merged, const fs::path& undo, const fs::path& out,
                   core::Overwrite overwrite) {
  const std::array inputs{merged, undo};
  core::claim_output({out, core::OutputKind::kFolder}, inputs, overwrite);
  const core::MappedFile file(undo);
  std::span<const std::byte> bytes = file.bytes();
  UndoReport report{0, 0, bytes.size()};
  const nlohmann::json json = index_of(undo, bytes);
  const Merged result(merged);
  Blocks blocks(undo, bytes);
  core::AtomicDirectory folder(out, overwrite);
  try {
    for (const nlohmann::json& entry : json.at("files")) {
      const fs::path name = fs::path(entry.at("name").get<std::string>()).filename();
      if (name.empty() || name == "." || name == "..") refuse(undo, "is damaged");
      std::vector<Segment> segments;
      for (const auto& segment : entry.at("segments")) segments.push_back(segment_of(segment));
      core::AtomicFile restored(folder.path() / name);
      core::Sha256 digest;
      std::vector<std::byte> predicted;
      std::vector<std::byte> block;
      for_blocks(segments, result,
                 [&](const Prediction& prediction, std::uint64_t at, std::uint64_t /*place*/,
                     std::size_t size) {
                   predicted.resize(size);
                   block.resize(size);
                   prediction.fill(at, predicted);
                   blocks.next(block);
                   decode_words(prediction.width(), block, predicted);
                   digest.update(predicted);
                   restored.write(predicted);
                 });
      if (digest.finish() != entry.at("sha256").get<std::string>()) {
        throw InputError(
            "'{}' of the base does not come out of '{}' and '{}': the folder is not the merged "
            "model that the undo file was written for, or has been changed",
            name.string(), merged.string(), undo.string());
      }
      report.files += 1;
      report.base_bytes += restored.size();
      restored.commit();
    }
  } catch (const nlohmann::json::exception&) {
    refuse(undo, "is damaged");
  }
  folder.commit();
  return report;
}

}  // namespace weft::merge
