#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"

// Which tensors of a model are its input embedding and its output head: what a family stores them
// as, and whether its head is the embedding, is data about the family (transformers' modelling and
// configuration files), and never a guess from a name that is not there.

namespace weft::checkpoint {

/// The names under which a model stores them.
struct RoleNames {
  std::string embedding;  ///< Empty: none of the family's names is stored.
  std::string head;       ///< Empty: none is stored.
  /// What the family calls its own, stored or not; empty for a family that weft does not know.
  std::string usual_embedding;
  std::string usual_head;
};

/// `has` says whether a tensor of that name is stored. Of an unknown family the names of all known
/// ones are looked for.
[[nodiscard]] RoleNames role_names(const nlohmann::json& config,
                                   const std::function<bool(std::string_view)>& has);

/// True when the configuration says that the head is the embedding: tie_word_embeddings, also in
/// text_config, else the family's default. InputError where it is neither true, false nor null.
[[nodiscard]] bool ties_head(const nlohmann::json& config, std::string_view where);

/// Names that an adapter or another model may give to an output head ("lm_head.weight" for what
/// GPT-NeoX stores as "embed_out.weight").
[[nodiscard]] bool is_head_name(std::string_view tensor);

struct Roles {
  const TensorInfo* embedding = nullptr;  ///< Null: unknown.
  const TensorInfo* head = nullptr;       ///< Null: none is stored.
  std::string head_name;                  ///< Of a head of its own; empty: unknown.
  bool tied = false;                      ///< The head is the embedding, and none is stored.

  /// The tensor that the model computes its head with; null: unknown or missing.
  [[nodiscard]] const TensorInfo* effective_head() const noexcept {
    return head != nullptr ? head : tied ? embedding : nullptr;
  }
};

/// Of an opened model. A GGUF file's head is its embedding where it stores none.
[[nodiscard]] Roles roles_of(const Checkpoint& model);

/// The part of a name that a family's published files may lack ("transformer." of GPT-2's
/// "h.0.attn.c_attn.weight"); empty for other families.
[[nodiscard]] std::string_view optional_prefix(const nlohmann::json& config);

}  // namespace weft::checkpoint
