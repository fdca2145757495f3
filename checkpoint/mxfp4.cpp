#include "checkpoint/mxfp4.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "checkpoint/dequantize.h"
#include "checkpoint/open_model.h"
#include "checkpoint/printable.h"
#include "core/error.h"
#include "core/number.h"

namespace weft::checkpoint {
namespace {

constexpr std::string_view kBlocks = "_blocks";
constexpr std::string_view kScales = "_scales";
constexpr std::int64_t kBlockBytes = kMxfp4Group / 2;
/// Columns of the model that are turned at a time: a row of them is a line of the cache.
constexpr std::int64_t kTile = 16;

using core::index;

using Table = std::array<std::array<float, 2>, 256>;

/// Both numbers of each byte.
constexpr Table make_table() {
  constexpr std::array<float, 16> kValues{0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                          -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
  Table table{};
  for (std::size_t byte = 0; byte < table.size(); ++byte) {
    table[byte] = {kValues[byte % 16], kValues[byte / 16]};
  }
  return table;
}

constexpr Table kTable = make_table();

/// 2^(scale - 127); the largest is beyond floats, as it is for transformers.
std::array<float, 256> make_powers() {
  std::array<float, 256> powers{};
  for (int scale = 0; scale < 255; ++scale) {
    powers[static_cast<std::size_t>(scale)] = std::ldexp(1.0F, scale - 127);
  }
  powers[255] = std::numeric_limits<float>::infinity();
  return powers;
}

const std::array<float, 256>& powers() {
  static const std::array<float, 256> kPowers = make_powers();
  return kPowers;
}

/// Rows [first, last) of one group of one expert: `blocks` and `scales` are its first column's, the
/// next column's lie `groups` blocks further. Row `first` goes to out[0].
void read_group(const std::byte* blocks, const std::byte* scales, std::int64_t groups,
                std::int64_t width, std::int64_t first, std::int64_t last, float* out) {
  std::array<std::array<float, kMxfp4Group>, kTile> tile;
  for (std::int64_t column = 0; column < width; column += kTile) {
    const std::int64_t columns = std::min(kTile, width - column);
    for (std::int64_t i = 0; i < columns; ++i) {
      const std::byte* const block = blocks + (column + i) * groups * kBlockBytes;
      const float scale = powers()[std::to_integer<std::size_t>(scales[(column + i) * groups])];
      std::array<float, kMxfp4Group>& values = tile[index(i)];
      for (std::size_t k = 0; k < kBlockBytes; ++k) {
        const std::array<float, 2>& pair = kTable[std::to_integer<std::size_t>(block[k])];
        values[2 * k] = pair[0] * scale;
        values[2 * k + 1] = pair[1] * scale;
      }
    }
    for (std::int64_t row = first; row < last; ++row) {
      float* const to = out + (row - first) * width + column;
      if (columns == kTile) {
        for (std::size_t i = 0; i < kTile; ++i) to[i] = tile[i][index(row)];
      } else {
        for (std::int64_t i = 0; i < columns; ++i) to[i] = tile[index(i)][index(row)];
      }
    }
  }
}

/// The two tensors of a pair, as far as they were found.
struct Pair {
  const StoredTensor* blocks = nullptr;
  const StoredTensor* scales = nullptr;
};

void require_bytes(const StoredTensor& tensor) {
  if (tensor.info.storage_name == "U8") return;
  throw InputError("{}: tensor {} must be stored as U8 to be a part of MXFP4, found {}",
                   tensor.info.file.string(), printable(tensor.info.name),
                   tensor.info.storage_name);
}

StoredTensor joined(const std::string& name, const Pair& pair) {
  const StoredTensor& known = pair.blocks == nullptr ? *pair.scales : *pair.blocks;
  if (pair.blocks == nullptr || pair.scales == nullptr) {
    const std::string_view missing = pair.blocks == nullptr ? kBlocks : kScales;
    throw InputError("{}: tensor {} has no {} beside it; both are needed for MXFP4",
                     known.info.file.string(), printable(known.info.name),
                     printable(name + std::string(missing)));
  }
  require_bytes(*pair.blocks);
  require_bytes(*pair.scales);
  const std::vector<std::int64_t>& shape = pair.blocks->info.shape;
  if (shape.size() != 4 || shape.back() != kBlockBytes || std::ranges::count(shape, 0) != 0) {
    throw InputError("{}: tensor {} must have the shape [experts, out, in / {}, {}], found {}",
                     known.info.file.string(), printable(known.info.name), kMxfp4Group, kBlockBytes,
                     shape_text(pair.blocks->info.shape));
  }
  if (!std::ranges::equal(pair.scales->info.shape, std::span(shape).first(3))) {
    throw InputError("{}: tensor {} must have the shape [{}, {}, {}] to go with {}, found {}",
                     pair.scales->info.file.string(), printable(pair.scales->info.name), shape[0],
                     shape[1], shape[2], printable(pair.blocks->info.name),
                     shape_text(pair.scales->info.shape));
  }
  auto arranged = std::make_shared<Arrangement>();
  const std::int64_t rows = shape[0] * shape[1];
  arranged->pieces = {{pair.blocks->bytes, Storage::kOther, rows, pair.blocks->shard},
                      {pair.scales->bytes, Storage::kOther, rows, pair.scales->shard}};
  arranged->transposed = true;
  arranged->matrices = shape[0];
  StoredTensor stored = *pair.blocks;
  stored.info.name = name;
  stored.info.shape = {shape[0], shape[2] * kMxfp4Group, shape[1]};
  stored.info.storage = Storage::kBF16;
  stored.info.storage_name = kMxfp4;
  stored.info.bytes = pair.blocks->info.bytes + pair.scales->info.bytes;
  stored.arrangement = std::move(arranged);
  return stored;
}

}  // namespace

bool is_mxfp4(const TensorInfo& tensor) {
  return tensor.storage == Storage::kBF16 && tensor.storage_name == kMxfp4;
}

bool says_mxfp4(const nlohmann::json& config) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || !found->is_object()) return false;
  const auto method = found->find("quant_method");
  return method != found->end() && *method == "mxfp4";
}

bool is_mxfp4(const Arrangement& arranged) {
  return arranged.matrices > 0 && arranged.pieces.front().storage == Storage::kOther;
}

std::int64_t row_group(const TensorInfo& tensor) {
  if (is_mxfp4(tensor)) return kMxfp4Group;
  if (tensor.shape.size() != 3 || tensor.storage == Storage::kOther) return 1;
  return block_size(tensor.storage).elements;
}

void join_mxfp4(OpenModel& model) {
  if (!says_mxfp4(model.config)) return;
  std::map<std::string, Pair> pairs;
  std::vector<StoredTensor> tensors;
  for (const StoredTensor& tensor : model.tensors) {
    const std::string_view name = tensor.info.name;
    const auto stem = [&](std::string_view ending) {
      return std::string(name.substr(0, name.size() - ending.size()));
    };
    if (name.ends_with(kBlocks)) {
      pairs[stem(kBlocks)].blocks = &tensor;
    } else if (name.ends_with(kScales)) {
      pairs[stem(kScales)].scales = &tensor;
    } else {
      tensors.push_back(tensor);
    }
  }
  for (const StoredTensor& tensor : tensors) {
    if (!pairs.contains(tensor.info.name)) continue;
    throw InputError("{}: tensor {} is there both as it is and in MXFP4", tensor.info.file.string(),
                     printable(tensor.info.name));
  }
  for (const auto& [name, pair] : pairs) tensors.push_back(joined(name, pair));
  model.tensors = std::move(tensors);
}

void read_mxfp4_rows(const Arrangement& arranged, std::int64_t width, std::int64_t begin,
                     std::int64_t end, std::span<float> out) {
  const std::span<const std::byte> blocks = arranged.pieces[0].bytes;
  const std::span<const std::byte> scales = arranged.pieces[1].bytes;
  // [experts, width, groups]
  const std::int64_t groups = std::ssize(scales) / (arranged.matrices * width);
  for (std::int64_t row = begin; row < end;) {
    const std::int64_t group = row / kMxfp4Group;  // Counted through all experts.
    const std::int64_t first = row % kMxfp4Group;
    const std::int64_t last = std::min(kMxfp4Group, first + end - row);
    const std::int64_t block = group / groups * width * groups + group % groups;
    read_group(blocks.data() + block * kBlockBytes, scales.data() + block, groups, width, first,
               last, out.data() + (row - begin) * width);
    row += last - first;
  }
}

void read_mxfp4_columns(const Arrangement& arranged, std::int64_t width, std::int64_t matrix,
                        std::int64_t begin, std::int64_t end, std::span<std::byte> out) {
  const std::int64_t groups = std::ssize(arranged.pieces[1].bytes) / (arranged.matrices * width);
  const std::byte* const blocks = arranged.pieces[0].bytes.data();
  const std::byte* const scales = arranged.pieces[1].bytes.data();
  const std::int64_t first = (matrix * width + begin) * groups;
  std::byte* to = out.data();
  for (std::int64_t i = first; i < first + (end - begin) * groups; ++i) {
    const std::byte* const pairs = blocks + i * kBlockBytes;
    *to++ = scales[i];
    for (std::int64_t k = 0; k < kBlockBytes; ++k) {
      // Number n is a half of byte n / 2.
      const std::byte low = k % 2 == 0 ? pairs[k / 2] & std::byte{15} : pairs[k / 2] >> 4;
      const std::byte above = pairs[(k + kBlockBytes) / 2];
      const std::byte high = k % 2 == 0 ? above & std::byte{15} : above >> 4;
      *to++ = low | high << 4;
    }
  }
}

}  // namespace weft::checkpoint
