#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/number.h"

namespace weft::checkpoint {

/// How a tensor's numbers are stored. The plain ones are those of safetensors; the block formats
/// those of GGUF. kOther: named in `TensorInfo::storage_name`, listed by inspect, refused on use.
enum class Storage : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kMXFP4,
  kOther
};

/// A tensor of a model under its Hugging Face name ("model.layers.0.self_attn.q_proj.weight") and
/// shape (row-major, [out, in] for linear layers), wherever it is stored.
struct TensorInfo {
  std::string name;
  std::vector<std::int64_t> shape;
  Storage storage = Storage::kOther;
  std::string storage_name;    ///< "F32", "BF16", "Q4_1", "I64", ...
  std::uint64_t bytes = 0;     ///< As stored.
  std::filesystem::path file;  ///< The file that holds it.

  [[nodiscard]] std::int64_t elements() const;
  /// A row is what the last dimension counts, so that a stack of matrices has the rows of all of
  /// them; a vector or scalar is one row. A tensor of several dimensions that holds nothing has no
  /// rows.
  [[nodiscard]] std::int64_t rows() const;
  [[nodiscard]] std::int64_t row_elements() const;
};

/// What a model computes from its configuration and may or may not have stored, or never uses:
/// rotary frequencies, and the masks of attention that older files hold beside the weights.
[[nodiscard]] bool is_buffer(const TensorInfo& tensor);

enum class Kind { kHuggingFace, kGguf };

/// A base model on disk, read-only and mapped: a Hugging Face directory (config.json, safetensors
/// in one file or sharded with an index) or a GGUF file. GGUF tensors appear under their Hugging
/// Face names with the row permutation of q and k undone, and its metadata as a config.json, so
/// that the rest of weft knows one kind of model.
///
/// Everything is validated when opened: sizes, offsets, names, shapes against the file.
/// Throws InputError (file, tensor, what was expected and found). Const methods are thread-safe.
class Checkpoint {
 public:
  /// `path`: a Hugging Face directory or a GGUF file.
  [[nodiscard]] static Checkpoint open(const std::filesystem::path& path);
  /// The tensors of one safetensors file under their own names, without a configuration: what an
  /// adapter saves whole.
  [[nodiscard]] static Checkpoint open_weights(const std::filesystem::path& file);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  [[nodiscard]] Kind kind() const;
  [[nodiscard]] const std::filesystem::path& path() const;
  /// config.json as found, or made from GGUF metadata.
  [[nodiscard]] const nlohmann::json& config() const;
  /// In order of name. A tied head (config tie_word_embeddings) is absent.
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const;
  /// Null when there is none of that name.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;

  /// Rows [begin, end) as floats: exact for F32, F16, BF16; block formats dequantised with the
  /// arithmetic of the reference (gguf-py), bit for bit. out.size() == (end-begin)*row_elements().
  /// Throws InputError for Storage::kOther, naming the tensor and the storage types that work.
  void read_rows(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                 std::span<float> out) const;
  /// Columns [begin, end) of one matrix of a stack [matrices, rows, columns], or of a matrix (which
  /// is 0 then), each after the other: the numbers of read_rows(), turned. Whole rows of the file
  /// where it has the columns as rows. out.size() == (end - begin) * rows of the matrix.
  void read_columns(const TensorInfo& tensor, std::int64_t matrix, std::int64_t begin,
                    std::int64_t end, std::span<float> out) const;
  /// The same as blocks of Storage::kMXFP4, without touching a number, of a tensor that safetensors
  /// hold as MXFP4 (checkpoint/mxfp4.h). out.size() == their bytes.
  void read_mxfp4_columns(const TensorInfo& tensor, std::int64_t matrix, std::int64_t begin,
                          std::int64_t end, std::span<std::byte> out) const;
  /// The format of a tensor's blocks where each of its rows is whole blocks of one format, one
  /// after the other, and nothing is added to their numbers; rows may be moved. kOther for every
  /// other tensor, as those without blocks are.
  [[nodiscard]] Storage row_blocks(const TensorInfo& tensor) const;
  /// Rows [begin, end) as blocks of that format, without touching a number. out.size() == their
  /// bytes. Not for tensors whose row_blocks() is kOther (std::logic_error).
  void read_blocks(const TensorInfo& tensor, std::int64_t begin, std::int64_t end,
                   std::span<std::byte> out) const;
  /// The whole tensor as floats, using the threads of core/parallel.h.
  [[nodiscard]] std::vector<float> read(const TensorInfo& tensor) const;
  /// The bytes as stored; only where the stored layout is the canonical one (F32, F16, BF16 and
  /// not a permuted GGUF tensor; any type of safetensors), otherwise empty.
  [[nodiscard]] std::span<const std::byte> raw(const TensorInfo& tensor) const;
  /// Pages of this tensor will not be needed soon (keeps resident memory small while streaming).
  void release(const TensorInfo& tensor) const;
  /// The same for rows [begin, end).
  void release(const TensorInfo& tensor, std::int64_t begin, std::int64_t end) const;

  /// What the model's numbers are, whatever file holds them: SHA-256 over one line per tensor in
  /// order of name, "name shape sha256-of-its-values-as-little-endian-F32\n". Equal for a GGUF file
  /// and for its exact F32 conversion, for one file and for shards. Buffers that are not weights
  /// (rotary inv_freq) do not count. Costs one pass over the weights.
  [[nodiscard]] std::string weights_digest() const;

  /// Files that belong to the model but are not weights: tokenizer.json, tokenizer.model,
  /// tokenizer_config.json, special_tokens_map.json, chat_template.jinja, generation_config.json...
  /// Empty for GGUF.
  [[nodiscard]] std::vector<std::filesystem::path> side_files() const;
  /// GGUF metadata by key ("tokenizer.ggml.tokens"); null for Hugging Face directories.
  [[nodiscard]] const class Gguf* gguf() const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weft::checkpoint
