#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/file.h"

// The importance matrix ("imatrix") of ggml-org/llama.cpp: for every matrix of a model the mean
// square of each of its input columns over some text. Quantisers that have it spend their precision
// where the input is large (checkpoint/quantize.h). Formats as of tools/imatrix/imatrix.cpp.

namespace weft::exporting {

/// What was summed for one matrix.
struct ColumnSquares {
  std::vector<float> sums;  ///< Of x^2 over the tokens, for each input column.
  double tokens = 0;
};

/// All of one model, under GGUF names ("blk.0.attn_q.weight").
struct ImportanceSums {
  std::map<std::string, ColumnSquares> matrices;
  std::string dataset;            ///< Name of the text.
  std::int64_t chunks = 0;        ///< Pieces of text that were read one by one,
  std::int64_t chunk_tokens = 0;  ///< each so long.
};

/// Writes the GGUF form: tensors NAME.in_sum2 and NAME.counts, imatrix.datasets, .chunk_count and
/// .chunk_size, which llama-quantize --imatrix reads.
void write_importance(const ImportanceSums& sums, const std::filesystem::path& out,
                      core::Overwrite overwrite);

/// An importance matrix as quantisers want it.
class Importance {
 public:
  /// Reads the GGUF form, or the older binary one. InputError naming the file, and the matrix,
  /// for anything else, and for numbers that are not finite or negative.
  [[nodiscard]] static Importance read(const std::filesystem::path& path);

  /// Mean squares of the columns of a matrix, of a stack those of its matrices one after the other;
  /// empty: the file does not have it.
  [[nodiscard]] std::span<const float> find(std::string_view gguf_name) const;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::size_t size() const noexcept { return means_.size(); }
  [[nodiscard]] const std::string& dataset() const noexcept { return dataset_; }
  [[nodiscard]] std::int64_t chunks() const noexcept { return chunks_; }

 private:
  std::filesystem::path path_;
  std::map<std::string, std::vector<float>, std::less<>> means_;
  std::string dataset_;
  std::int64_t chunks_ = 0;
};

}  // namespace weft::exporting
