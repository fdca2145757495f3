#include <algorithm>
#include <array>
#include <cstring>

#include "checkpoint/dequantize.h"
#include "model/kernels/blocks.h"

// blocks_lanes.h says how woven blocks lie.

namespace weft::model::kernel {
namespace {

using checkpoint::Storage;

constexpr int kUnit = 32, kPairs = 16;

/// Where codes lie. In the file's block: the byte of element 0, and of its upper bits.
struct Form {
  Storage storage;
  int codes = 0;   ///< In the block
  int upper = -1;  ///< In the block: of fifth bits, or two bits; -1: none
  int head = 0;    ///< Bytes of sixteen woven heads
};

constexpr std::array kForms{Form{Storage::kQ8_0, 2, -1, 32},   Form{Storage::kQ4_0, 2, -1, 32},
                            Form{Storage::kQ4_1, 4, -1, 64},   Form{Storage::kQ5_0, 6, 2, 32},
                            Form{Storage::kQ5_1, 8, 4, 64},    Form{Storage::kQ4_K, 16, -1, 256},
                            Form{Storage::kQ5_K, 48, 16, 256}, Form{Storage::kQ6_K, 0, 128, 288}};

const Form* find(Storage storage) {
  const auto found = std::ranges::find(kForms, storage, &Form::storage);
  return found == kForms.end() ? nullptr : &*found;
}

std::int64_t units_of(const Form& form) {
  return static_cast<std::int64_t>(checkpoint::block_size(form.storage).elements) / kUnit;
}

/// Calls copy(byte of a block, byte of the woven head, count) for what a head is made of.
template <typename Copy>
void for_head(const Form& form, std::int64_t row, const Copy& copy) {
  switch (form.storage) {
    case Storage::kQ4_1:
    case Storage::kQ5_1: copy(0, 2 * row, 2); return copy(2, 2 * kLanes + 2 * row, 2);
    case Storage::kQ4_K:
    case Storage::kQ5_K:
      copy(0, 2 * row, 2);
      copy(2, 2 * kLanes + 2 * row, 2);
      for (std::int64_t byte = 0; byte < 12; ++byte)
        copy(4 + byte, 4 * kLanes + kLanes * byte + row, 1);
      return;
    case Storage::kQ6_K:
      copy(208, 2 * row, 2);
      for (std::int64_t scale = 0; scale < 16; ++scale)
        copy(192 + scale, 2 * kLanes + kLanes * scale + row, 1);
      return;
    default: return copy(0, 2 * row, 2);
  }
}

using Codes = std::array<std::uint8_t, 256>;

/// The byte of a block that holds the lower bits of element `e`, and by how much they are shifted.
struct Place {
  std::int64_t byte = 0;
  int shift = 0;
};

Place lower_of(const Form& form, std::int64_t e) {
  const std::int64_t unit = e / kUnit, i = e % kUnit;
  switch (form.storage) {
    case Storage::kQ8_0: return {form.codes + e, 0};
    case Storage::kQ4_K:
    case Storage::kQ5_K: return {form.codes + unit / 2 * kUnit + i, static_cast<int>(unit % 2 * 4)};
    case Storage::kQ6_K:
      return {unit / 4 * 64 + unit % 2 * kUnit + i, static_cast<int>(unit % 4 / 2 * 4)};
    default: return {form.codes + i % 16, i < 16 ? 0 : 4};
  }
}

Place upper_of(const Form& form, std::int64_t e) {
  const std::int64_t unit = e / kUnit, i = e % kUnit;
  switch (form.storage) {
    case Storage::kQ5_K: return {form.upper + i, static_cast<int>(unit)};
    case Storage::kQ6_K:
      return {form.upper + unit / 4 * kUnit + i, static_cast<int>(2 * (unit % 4))};
    default: return {form.upper + i / 8, static_cast<int>(i % 8)};
  }
}

unsigned lower_mask(const Form& form) { return form.storage == Storage::kQ8_0 ? 255U : 15U; }
unsigned upper_mask(const Form& form) { return form.storage == Storage::kQ6_K ? 3U : 1U; }

/// Tables of the places of all elements of a block, so that the loops over codes are plain.
struct Places {
  explicit Places(const Form& form) {
    for (std::int64_t e = 0; e < units_of(form) * kUnit; ++e) {
      lower[static_cast<std::size_t>(e)] = lower_of(form, e);
      if (form.upper >= 0) upper[static_cast<std::size_t>(e)] = upper_of(form, e);
    }
  }
  std::array<Place, 256> lower{}, upper{};
};

const Places& places_of(const Form& form) {
  static const auto kAll = [] {
    std::array<Places, kForms.size()> all{Places(kForms[0]), Places(kForms[1]), Places(kForms[2]),
                                          Places(kForms[3]), Places(kForms[4]), Places(kForms[5]),
                                          Places(kForms[6]), Places(kForms[7])};
    return all;
  }();
  return kAll[static_cast<std::size_t>(&form - kForms.data())];
}

/// Where the woven codes of a pair lie, from the first of the sixteen blocks on.
struct PairPlace {
  std::int64_t lower = 0, upper = 0;
};

PairPlace place_of(const Form& form, std::int64_t pair) {
  const std::int64_t all = units_of(form) * kPairs;
  if (form.storage == Storage::kQ8_0) return {form.head + 32 * pair, 0};
  const std::int64_t upper = form.head + 16 * all;
  return {form.head + 16 * pair, upper + (form.storage == Storage::kQ6_K ? 8 : 4) * pair};
}

/// The woven codes of a pair from those of its 32 lanes.
void put_lanes(const Form& form, const std::array<std::uint8_t, 32>& lanes, std::int64_t pair,
               std::uint8_t* to) {
  const PairPlace place = place_of(form, pair);
  if (form.storage == Storage::kQ8_0) {
    std::copy(lanes.begin(), lanes.end(), to + place.lower);
    return;
  }
  for (std::size_t l = 0; l < 16; ++l) {
    to[place.lower + static_cast<std::int64_t>(l)] =
        static_cast<std::uint8_t>((lanes[l] & 15U) | (lanes[16 + l] & 15U) << 4U);
  }
  if (form.upper < 0) return;
  if (form.storage == Storage::kQ6_K) {
    for (std::size_t l = 0; l < 8; ++l) {
      to[place.upper + static_cast<std::int64_t>(l)] =
          static_cast<std::uint8_t>(lanes[l] >> 4U | (lanes[8 + l] >> 4U) << 2U |
                                    (lanes[16 + l] >> 4U) << 4U | (lanes[24 + l] >> 4U) << 6U);
    }
    return;
  }
  std::uint32_t bits = 0;
  for (std::size_t l = 0; l < 32; ++l) bits |= static_cast<std::uint32_t>(lanes[l] >> 4U) << l;
  std::memcpy(to + place.upper, &bits, sizeof bits);
}

/// The code of one lane of a pair.
unsigned lane_at(const Form& form, const std::uint8_t* from, std::int64_t pair, std::int64_t lane) {
  const PairPlace place = place_of(form, pair);
  if (form.storage == Storage::kQ8_0) return from[place.lower + lane];
  const std::int64_t l = lane % 16;
  const unsigned code = from[place.lower + l] >> (lane / 16 * 4) & 15U;
  if (form.upper < 0) return code;
  if (form.storage == Storage::kQ6_K)
    return code | (from[place.upper + l % 8] >> (lane / 16 * 4 + l / 8 * 2) & 3U) << 4U;
  return code | (from[place.upper + lane / 8] >> (lane % 8) & 1U) << 4U;
}

void weave_blocks(const Form& form, const std::uint8_t* rows, std::int64_t row_bytes,
                  std::uint8_t* to) {
  const Places& places = places_of(form);
  const std::int64_t elements = units_of(form) * kUnit;
  std::array<Codes, kLanes> codes;
  for (std::int64_t row = 0; row < kLanes; ++row) {
    const std::uint8_t* const block = rows + row * row_bytes;
    for_head(form, row, [&](std::int64_t from, std::int64_t at, int count) {
      std::copy_n(block + from, count, to + at);
    });
    for (std::size_t e = 0; e < static_cast<std::size_t>(elements); ++e) {
      const Place lower = places.lower[e];
      unsigned code = block[lower.byte] >> lower.shift & lower_mask(form);
      if (form.upper >= 0) {
        const Place upper = places.upper[e];
        code |= (block[upper.byte] >> upper.shift & upper_mask(form)) << 4U;
      }
      codes[static_cast<std::size_t>(row)][e] = static_cast<std::uint8_t>(code);
    }
  }
  for (std::int64_t pair = 0; pair < elements / 2; ++pair) {
    std::array<std::uint8_t, 32> lanes;
    for (std::size_t row = 0; row < static_cast<std::size_t>(kLanes); ++row)
      std::memcpy(&lanes[2 * row], &codes[row][static_cast<std::size_t>(2 * pair)], 2);
    put_lanes(form, lanes, pair, to);
  }
}

void unweave_block(const Form& form, const std::uint8_t* woven, std::int64_t row,
                   std::uint8_t* block) {
  const Places& places = places_of(form);
  const std::int64_t elements = units_of(form) * kUnit;
  std::fill_n(block, checkpoint::block_size(form.storage).bytes, std::uint8_t{0});
  for_head(form, row, [&](std::int64_t to, std::int64_t at, int count) {
    std::copy_n(woven + at, count, block + to);
  });
  for (std::int64_t e = 0; e < elements; ++e) {
    const auto i = static_cast<std::size_t>(e);
    const unsigned code = lane_at(form, woven, e / 2, 2 * row + e % 2);
    std::uint8_t& lower = block[places.lower[i].byte];
    lower = static_cast<std::uint8_t>(lower | (code & lower_mask(form)) << places.lower[i].shift);
    if (form.upper < 0) continue;
    std::uint8_t& upper = block[places.upper[i].byte];
    upper = static_cast<std::uint8_t>(upper | (code >> 4U) << places.upper[i].shift);
  }
}

constexpr std::int64_t kPlainBytes = 64;  // of 32 BFloat16

}  // namespace

bool is_woven(Storage storage) { return storage == Storage::kBF16 || find(storage) != nullptr; }

std::int64_t woven_elements(Storage storage) {
  return storage == Storage::kBF16
             ? kUnit
             : static_cast<std::int64_t>(checkpoint::block_size(storage).elements);
}

void weave(Storage storage, const std::uint8_t* rows, std::int64_t row_bytes, std::uint8_t* strip) {
  if (storage == Storage::kBF16) {
    for (std::int64_t at = 0; at < row_bytes; at += 4) {
      for (std::int64_t row = 0; row < kLanes; ++row)
        std::memcpy(strip + at * kLanes + 4 * row, rows + row * row_bytes + at, 4);
    }
    return;
  }
  const Form& form = *find(storage);
  const auto bytes = static_cast<std::int64_t>(checkpoint::block_size(storage).bytes);
  for (std::int64_t at = 0; at < row_bytes; at += bytes)
    weave_blocks(form, rows + at, row_bytes, strip + at * kLanes);
}

void unweave(const WovenRows& b, std::int64_t row, std::int64_t index, std::byte* block) {
  const std::uint8_t* const strip = b.data + row / kLanes * kLanes * b.row_bytes;
  auto* const to = reinterpret_cast<std::uint8_t*>(block);
  if (b.storage == Storage::kBF16) {
    const std::uint8_t* const woven = strip + index * kPlainBytes * kLanes;
    for (std::int64_t at = 0; at < kPlainBytes; at += 4)
      std::memcpy(to + at, woven + at * kLanes + 4 * (row % kLanes), 4);
    return;
  }
  const auto bytes = static_cast<std::int64_t>(checkpoint::block_size(b.storage).bytes);
  unweave_block(*find(b.storage), strip + index * bytes * kLanes, row % kLanes, to);
}

}  // namespace weft::model::kernel
