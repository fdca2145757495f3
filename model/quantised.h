#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "model/kernels/blocks.h"

namespace weft::model {

/// How the frozen matrices of a base are kept in memory.
enum class BaseFormat {
  kDense,  ///< In the type that is computed with
  kInt8,   ///< One byte an element, a scale a row: bitsandbytes' vector-wise absmax
  kNf4,    ///< Half a byte an element, blocks of 64 with scales quantised in turn: QLoRA
  /// A GGUF file's own blocks, as they are stored, embedding and head included; in the type that is
  /// computed with where the file has none. The numbers are those of kDense, bit for bit; few rows
  /// are multiplied faster.
  kStored,
};

/// "none", "int8", "nf4", "stored": in configurations and records.
[[nodiscard]] std::string_view name_of(BaseFormat format);

/// Whether a model has tensors that kStored keeps as blocks.
[[nodiscard]] bool stores_blocks(const checkpoint::Checkpoint& checkpoint);

/// Bytes that a matrix takes in a format but kStored; `element` bytes each in kDense.
[[nodiscard]] std::uint64_t frozen_bytes(BaseFormat format, std::int64_t rows, std::int64_t columns,
                                         std::int64_t element);

/// A matrix in kInt8, kNf4 or kStored, read back block by block when it is multiplied.
///
/// kInt8: element = code * s, s = max |row| / 127, code = round(element 127 / max), ties to even.
/// kNf4 (arXiv 2305.14314): elements lie one row after the other in blocks of 64; element = table[
/// code] * m, m = max |block|, code the nearest entry of the NormalFloat table. The m, less their
/// mean, are kept as codes of 8 bits of the dynamic tree (arXiv 1511.04561) with a scale for each
/// 256. These are bitsandbytes'
/// values (quantize_4bit with compress_statistics, compared in the tests), 4.13 bits an element;
/// where its own CPU code takes a neighbour of the nearest code for 0.3 % of the m, the nearest is
/// taken here.
/// kStored: rows of blocks of a GGUF format, whose numbers are those of checkpoint::dequantize();
/// woven 16 rows at a time where model/kernels/blocks.h can.
class QuantisedMatrix {
 public:
  /// values [rows, columns]; all finite. Uses core::parallel_for.
  QuantisedMatrix(BaseFormat format, std::span<const float> values, std::int64_t rows,
                  std::int64_t columns);

  /// Room for such a matrix, not filled (Meter).
  QuantisedMatrix(BaseFormat format, std::int64_t rows, std::int64_t columns);

  /// kStored: rows [rows, bytes of a row] uint8, contiguous, of blocks or of BFloat16 or float,
  /// that hold `columns` elements; its bytes are taken over and woven in place. Uses
  /// core::parallel_for.
  QuantisedMatrix(checkpoint::Storage storage, at::Tensor rows, std::int64_t columns);

  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t columns() const { return columns_; }

  /// The rows of kStored where they are woven; else without data.
  [[nodiscard]] kernel::WovenRows woven() const;

  struct Block {
    std::int64_t row = 0, rows = 0, column = 0, columns = 0;
  };
  /// Elements of a block, rounded once to `to`'s type; its rows lie `stride` apart. T: float,
  /// double or BFloat16.
  template <typename T>
  void read(const Block& block, T* to, std::int64_t stride) const;

  /// What the elements are read from, for kernels that do it themselves.
  struct Codes {
    const at::Tensor& codes;         ///< uint8; kNf4: two a byte, the first in the high half
    const at::Tensor& scales;        ///< fp32; kInt8: [rows]; kNf4: one for 256 blocks
    const at::Tensor& scale_codes;   ///< kNf4: uint8, one a block of 64 elements
    float scale_mean = 0;            ///< kNf4
    std::span<const float> table{};  ///< kNf4: of the elements' codes, [16]
    std::span<const float> tree{};   ///< kNf4: of the scales' codes, [256]
  };
  [[nodiscard, gnu::visibility("default")]] Codes codes() const;

  /// Moves the codes to a device, where dense() gives elements from then on.
  void move_to(at::Device device);

  /// All elements, likewise, by operations of any device: [rows, columns].
  [[nodiscard]] at::Tensor dense(at::ScalarType type) const;

 private:
  void make_int8(std::span<const float> values);
  void make_nf4(std::span<const float> values);
  void weave();
  void compress_scales(std::span<const float> scales);
  [[nodiscard]] float scale_of(std::int64_t block) const;

  template <typename T>
  void read_stored(std::int64_t row, std::int64_t column, std::int64_t count, T* to) const;

  BaseFormat format_;
  checkpoint::Storage storage_ = checkpoint::Storage::kOther;  // kStored
  bool is_woven_ = false;
  std::int64_t rows_, columns_;
  // uint8; kNf4: two a byte, the first in the high half; kStored: [rows, bytes of a row], woven 16
  // at a time, zeros after the last
  at::Tensor codes_;
  at::Tensor scales_;       // kInt8: [rows] fp32; kNf4: [ceil(blocks / 256)] fp32
  at::Tensor scale_codes_;  // kNf4: [blocks] uint8
  float scale_mean_ = 0;    // kNf4
};

}  // namespace weft::model
