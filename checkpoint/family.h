#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// What the tensors of a model family are called and how they lie: one row of a table for each
// family, which readers of checkpoints, adapters, decoders and writers of GGUF share. What a family
// computes is in model/families/.

namespace weft::checkpoint {

/// What a tensor is for. "Each layer" ones have "{}" in their names, experts' a second one.
enum class Part : std::uint8_t {
  // once
  kEmbedding,      ///< [V, D]
  kPositions,      ///< Learned positions [P, D]
  kEmbeddingNorm,  ///< Of the embedding, before the first layer
  kFinalNorm,
  kHead,  ///< [V, D]; absent where the head is the embedding
  // each layer
  kInputNorm,  ///< Before attention
  kQuery,
  kKey,
  kValue,
  kQueryKeyValue,  ///< The three in one matrix, ordered as Layout says
  kQueryNorm,      ///< Of queries, per head or over all heads
  kKeyNorm,
  kSinks,  ///< [heads]: a score each that takes part in the softmax and has no value
  kOutput,
  kOutputNorm,  ///< Of what attention gives, before it is added
  kMlpNorm,     ///< Before the MLP
  kGate,
  kUp,  ///< Also the first matrix of an MLP without gate
  kGateUp,
  kDown,
  kMlpOutputNorm,  ///< Of what the MLP gives, before it is added
  kRouter,         ///< [E, D]
  kExpertGate,     ///< One matrix an expert
  kExpertUp,
  kExpertDown,
  kExpertsGateUp,  ///< [E, 2F, D]: all experts' in one stack
  kExpertsDown,    ///< [E, D, F]
  kSharedGate,     ///< Of the expert that every token visits
  kSharedUp,
  kSharedDown,
  kSharedRouter,  ///< [1, D]: how much of it
};

/// How the rows of a stored matrix lie. Fused ones hold q, k and v of `heads` heads of `d` rows, of
/// which n = heads / kv_heads share a head of keys.
enum class Layout : std::uint8_t {
  kPlain,        ///< [out, in]; fused: all of q, then k, then v; or gate, then up
  kTransposed,   ///< [in, out] (GPT-2's Conv1D), the outputs as in kPlain
  kPerHead,      ///< (heads, 3, d): q, k, v of each head (GPT-NeoX, BLOOM)
  kGrouped,      ///< (kv_heads, n + 2, d): the queries of a group, their key, their value (Falcon)
  kAlternating,  ///< [in, out], the outputs gate and up by turns (GPT-OSS)
};

/// One matrix of one expert, and a stack of all experts' in a layer.
[[nodiscard]] constexpr bool is_expert(Part part) noexcept {
  return part == Part::kExpertGate || part == Part::kExpertUp || part == Part::kExpertDown;
}
[[nodiscard]] constexpr bool is_stack(Part part) noexcept {
  return part == Part::kExpertsGateUp || part == Part::kExpertsDown;
}

struct TensorRow {
  Part part;
  std::string_view name;  ///< Without ".weight" and ".bias"; "{}": the layer's number.
  Layout layout = Layout::kPlain;
  std::string_view gguf = {};  ///< What GGUF calls it, where that is not gguf_name(part).
};

struct GgufForm;  // checkpoint/gguf_form.h

struct Family {
  std::string_view model_type;    ///< config.json
  std::string_view architecture;  ///< config.json: architectures
  std::span<const TensorRow> tensors;
  const GgufForm* gguf = nullptr;  ///< How llama.cpp stores it; null: llama.cpp lacks the family.
};

[[nodiscard]] std::span<const Family> families() noexcept;

/// By architectures[0], else by model_type; null for a family that weft does not know.
[[nodiscard]] const Family* find_family(const nlohmann::json& config) noexcept;

/// By model_type alone: also for a model with another head, and the parts of larger ones.
[[nodiscard]] const Family* find_family_of(std::string_view model_type) noexcept;

/// The row of a part; null where the family has none. Where a family has several spellings of one
/// part, the first whose name in layer 0 `has` knows, else the first.
[[nodiscard]] const TensorRow* find_row(const Family& family, Part part,
                                        const std::function<bool(std::string_view)>& has = {});

/// The row that a module's path ("model.layers.3.self_attn.q_proj") is an instance of; null for a
/// path that the family does not have.
[[nodiscard]] const TensorRow* find_row(const Family& family, std::string_view path);

/// `name` with the numbers of layer and expert in place of its "{}".
[[nodiscard]] std::string numbered(std::string_view name, std::int64_t layer,
                                   std::int64_t expert = 0);

/// For each row of the matrix as it is computed with (all of q, then k, then v; gate, then up): the
/// row of the stored one. Empty where they are the same.
[[nodiscard]] std::vector<std::int64_t> stored_row_order(Layout layout, std::int64_t heads,
                                                         std::int64_t kv_heads,
                                                         std::int64_t head_dim);

}  // namespace weft::checkpoint
