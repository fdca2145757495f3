#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>

#include "checkpoint/checkpoint.h"

// Experts in MXFP4, as GPT-OSS is published: of a parameter X [experts, in, out] the file holds
// X_blocks U8 [experts, out, in / 32, 16] and X_scales U8 [experts, out, in / 32]. Number 2 i of a
// block is the low half of byte i, number 2 i + 1 the high half; each half is a float of 4 bits (a
// sign, two bits of exponent, one of fraction: 0, 0.5, 1, 1.5, 2, 3, 4, 6), times 2^(scale - 127)
// (OCP Microscaling Formats 1.0; transformers/integrations/mxfp4.py, convert_moe_packed_tensors).
// Such a pair is one tensor of the model, with storage_name "MXFP4" and Storage::kBF16, which holds
// its numbers exactly.

namespace weft::checkpoint {

struct Arrangement;
struct OpenModel;

inline constexpr std::string_view kMxfp4 = "MXFP4";
/// Numbers that have a scale in common: rows of the model, since the file has `in` last.
inline constexpr std::int64_t kMxfp4Group = 32;

/// Whether the tensor is a pair of blocks and scales.
[[nodiscard]] bool is_mxfp4(const TensorInfo& tensor);
/// Whether a configuration says that its experts are stored so.
[[nodiscard]] bool says_mxfp4(const nlohmann::json& config);
/// Whether the pieces are such a pair.
[[nodiscard]] bool is_mxfp4(const Arrangement& arranged);
/// Rows that are best read together, beginning at a multiple of as many: to read one of them is to
/// read all. Of stacks in blocks too, which are transposed (checkpoint/open_gguf.cpp).
[[nodiscard]] std::int64_t row_group(const TensorInfo& tensor);

/// Makes one tensor of each pair of a model whose configuration says so. InputError where one of
/// the two is missing, has another type than U8, or shapes that do not belong together.
void join_mxfp4(OpenModel& model);

/// Rows [begin, end) of such a tensor, whose rows are `width` wide. Thread-safe.
void read_mxfp4_rows(const Arrangement& arranged, std::int64_t width, std::int64_t begin,
                     std::int64_t end, std::span<float> out);

/// Columns [begin, end) of one matrix, of `width`, as blocks of GGUF (Storage::kMXFP4), column
/// after column: the scale, then byte i with number i in its low half and number i + 16 in its high
/// one. Thread-safe.
void read_mxfp4_columns(const Arrangement& arranged, std::int64_t width, std::int64_t matrix,
                        std::int64_t begin, std::int64_t end, std::span<std::byte> out);

}  // namespace weft::checkpoint
