#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/family.h"
#include "model/spec.h"

// What the families' readers share: checked access to config.json, rotary positions, windows, and
// layers made of a family's row of tensors.
namespace weft::model::families {

using HasTensor = std::function<bool(std::string_view)>;

/// config.json of one model. It remembers which keys were asked for: refuse_unread() refuses those
/// that are known to change the numbers of some family and that this one did not read.
class Reader {
 public:
  /// `has` says which tensors are stored; empty where only the configuration is at hand.
  Reader(const nlohmann::json& config, const std::string& where, HasTensor has);

  [[nodiscard]] const checkpoint::Family& family() const { return *family_; }
  [[nodiscard]] const std::string& where() const { return where_; }

  /// The value, or null where the key is absent or null.
  [[nodiscard]] const nlohmann::json& at(const char* key) const;
  [[nodiscard]] static const nlohmann::json& at(const nlohmann::json& object, const char* key);
  [[nodiscard]] bool names(const char* key) const { return config_.contains(key); }

  // Values of a key; `fallback` where it is absent or null, else it must be there.
  [[nodiscard]] std::int64_t size(const char* key, std::optional<std::int64_t> fallback = {}) const;
  /// The same where 0 has a meaning.
  [[nodiscard]] std::int64_t count(const char* key, std::int64_t fallback) const;
  /// Of whichever key the file has: families and their older files spell sizes in several ways.
  [[nodiscard]] std::int64_t size(std::initializer_list<const char*> keys,
                                  std::optional<std::int64_t> fallback = {}) const;
  [[nodiscard]] double number(const char* key, std::optional<double> fallback) const;
  [[nodiscard]] double number(const nlohmann::json& object, const char* key,
                              std::optional<double> fallback) const;
  [[nodiscard]] double positive(const nlohmann::json& object, const char* key,
                                std::optional<double> fallback) const;
  [[nodiscard]] double not_negative(const char* key, double fallback) const;
  [[nodiscard]] bool flag(const char* key, bool fallback) const;
  [[nodiscard]] bool flag(const nlohmann::json& object, const char* key, bool fallback) const;
  [[nodiscard]] Activation activation(std::initializer_list<const char*> keys,
                                      Activation fallback) const;

  /// Says that the family's numbers need `key` to be `wanted`.
  void require(const char* key, const nlohmann::json& wanted) const;
  [[noreturn]] void refuse(std::string_view key, const nlohmann::json& value,
                           std::string_view supported) const;
  void refuse_unread() const;

  /// The tensors of a part; null where the family has none.
  [[nodiscard]] const checkpoint::TensorRow* row(checkpoint::Part part) const;
  /// The path of a part in a layer, with the prefix that this checkpoint's names have.
  [[nodiscard]] std::string path(checkpoint::Part part, std::int64_t layer = 0,
                                 std::int64_t expert = 0) const;
  [[nodiscard]] bool stores(std::string_view tensor) const { return has_ && has_(tensor); }
  /// What the names of tensors begin with that belong to other parts of the model than its text.
  [[nodiscard]] std::vector<std::string> other_parts() const;
  [[nodiscard]] bool knows_tensors() const { return static_cast<bool>(has_); }
  /// The head is the embedding: as tie_word_embeddings says, or by the family's default.
  [[nodiscard]] bool ties_head() const;

 private:
  /// A row's name as this checkpoint has it.
  [[nodiscard]] std::string stored_name(std::string_view name) const;

  nlohmann::json config_;
  std::string where_;
  std::string prefix_;  ///< In place of "model." where the text model is a part of another
  HasTensor has_;
  const checkpoint::Family* family_ = nullptr;
  mutable std::set<std::string, std::less<>> read_;
};

/// Sizes that nearly all families say: vocab_size, hidden_size, the context. Layers are not made.
[[nodiscard]] Spec sizes(const Reader& reader, std::int64_t default_positions,
                         std::optional<std::int64_t> default_vocabulary = {});

/// What absent keys of attention mean: 0 is as many heads of keys as heads, and hidden / heads.
struct HeadDefaults {
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::optional<std::int64_t> heads{};
};

/// heads, kv_heads and head_dim, checked; the scale is 1 / sqrt(head_dim).
[[nodiscard]] AttentionSpec attention(const Reader& reader, const Spec& spec,
                                      const HeadDefaults& defaults = {});

/// What differs between families in reading rotary positions.
struct RopeDefaults {
  double theta = 10000;
  double partial = 1;  ///< Share of head_dim that turns
  bool interleaved = false;
};

/// rope_scaling or rope_parameters, rope_theta and the share that turns. `layer_type` chooses among
/// rope_parameters by kind of layer ("full_attention").
[[nodiscard]] Rope rope(const Reader& reader, const Spec& spec, std::int64_t head_dim,
                        const RopeDefaults& defaults = {}, const char* layer_type = nullptr);

/// Which layers slide: layer_types where given, else `slides(i)`.
[[nodiscard]] std::vector<bool> sliding_layers(const Reader& reader, std::int64_t layers,
                                               const std::function<bool(std::int64_t)>& slides);

/// What makes a layer besides its tensors' names. Norms take kind, eps and the rest from `norm` and
/// `head_norm`; those that the family's row lacks do not exist.
struct Block {
  AttentionSpec attention;
  MlpSpec mlp;
  NormSpec norm;
  /// Of queries and keys: absent, of each head, or of all heads together.
  std::optional<NormSpec> head_norm{};
  enum class HeadNorm { kShared, kOfItsOwn, kWhole } head_norm_kind = HeadNorm::kShared;
  bool qkv_bias = false;
  bool o_bias = false;
  bool up_bias = false;
  bool down_bias = false;
  bool parallel = false;
  double residual_scale = 1;
};

/// Adds the next layer.
void add_layer(const Reader& reader, const Block& block, Spec& spec);

/// The same with experts in place of an MLP: `count` of `width`, of which `chosen` are visited;
/// shared: the width of the one that all tokens visit, 0: none.
struct ExpertSizes {
  std::int64_t count = 0;
  std::int64_t chosen = 0;
  std::int64_t width = 0;
  bool normalised = false;
  std::int64_t shared = 0;
  bool bias = false;  ///< Of router and experts
};
void add_expert_layer(const Reader& reader, const Block& block, const ExpertSizes& sizes,
                      Spec& spec);

/// `layers` layers that are all alike, and the ends.
[[nodiscard]] Spec finish(const Reader& reader, const Block& block, std::int64_t layers, Spec spec);

/// Embedding, final norm and head, as the family's row names them; `norm` gives the final norm's
/// kind.
void set_ends(const Reader& reader, const NormSpec& norm, Spec& spec);

}  // namespace weft::model::families
