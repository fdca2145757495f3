#pragma once

#include <cstdint>
#include <span>
#include <string_view>

// How llama.cpp's converter stores a family, beyond the names of its tensors (checkpoint/family.h):
// the order of rows, and the metadata that stand for config.json. One row a family, used by the
// reader of GGUF files and by the writer (ggml-org/llama.cpp, conversion/*.py and
// src/models/*.cpp).

namespace weft::checkpoint {

/// A number of config.json and the metadata that hold it.
struct GgufKey {
  enum class Kind : std::uint8_t { kCount, kReal, kFlag };
  /// What a configuration means that lacks the key. Where it says null, that is the same, but for
  /// kDefault: null then switches off what the format cannot switch off.
  enum class Absent : std::uint8_t {
    kRefused,
    kOmitted,   ///< The file lacks it too.
    kDefault,   ///< `fallback`
    kFourfold,  ///< Four times embedding_length.
    kHeads,     ///< attention.head_count
    kWidth,     ///< embedding_length
    /// Must be embedding_length / attention.head_count, which is what it means to be absent, unless
    /// the family's own is `fallback`. Never written.
    kQuotient,
  };

  std::string_view gguf;    ///< Without the architecture: "embedding_length".
  std::string_view config;  ///< "hidden_size"; "a|b": the first of them that is there.
  Kind kind = Kind::kCount;
  Absent absent = Absent::kRefused;
  double fallback = 0;
};

/// A key of config.json that says whether projections have biases (or norms), and a part of the
/// names of tensors that then exist.
struct BiasRule {
  std::string_view gguf;    ///< ".attn_q.bias"
  std::string_view config;  ///< "attention_bias"
};

/// A key of config.json that the architecture does not know, and the value at which the model
/// computes without it.
struct NeutralKey {
  std::string_view config;
  double neutral = 0;
  /// Whether the family's configuration has that value where it lacks the key.
  bool by_default = true;
};

/// Metadata that every file of an architecture has.
struct GgufText {
  std::string_view gguf;
  std::string_view value;
};

/// Rotary positions.
struct GgufRotation {
  double theta = 10000;           ///< Of a configuration that does not say; 0: none.
  bool states_theta = true;       ///< Else rope.freq_base is written where it is not 10000.
  bool states_width = false;      ///< Whether rope.dimension_count is written.
  std::string_view partial = {};  ///< The key of the part of a head that turns; empty: all of it.
  double part = 1;                ///< That part where the configuration does not say.
  bool llama3 = false;            ///< Has the tensor rope_freqs.
  bool longrope = false;          ///< Has the tensors rope_factors_long and rope_factors_short.
  std::string_view ratio = {};    ///< The key that says theta / 10000, where none says theta.
  double local_theta = 0;         ///< Of layers that slide, where they have their own.
  /// YaRN is the family's own: it is meant where a configuration says nothing, and its bounds are
  /// no whole dimensions ("truncate"), which no file says and llama.cpp does not compute.
  bool own_yarn = false;
};

enum class GgufHead : std::uint8_t {
  kAny,
  kTied,  ///< Is always the embedding.
  kOwn    ///< Is always stored.
};

struct GgufForm {
  std::string_view architecture;  ///< general.architecture
  std::span<const GgufKey> keys;
  GgufRotation rotation{};
  /// q and k have the two halves of each head interleaved for the rotary kernel: with head width h,
  /// Hugging Face row head h + j h/2 + i (j = 0, 1) is row head h + 2 i + j of the file.
  bool interleaved = false;
  bool split = false;    ///< A matrix of q, k and v becomes three tensors.
  float norm_shift = 0;  ///< Added to the weights of norms.
  GgufHead head = GgufHead::kAny;
  std::string_view activation_key = "hidden_act";
  std::string_view activation = "silu";  ///< What it computes, as config.json spells it.
  std::span<const BiasRule> biases{};
  std::span<const NeutralKey> neutral{};  ///< Beside those of every family.
  std::span<const GgufText> texts{};
  std::int64_t window_period = 0;  ///< Layers of which the last attends to everything.
};

namespace gguf {
extern const GgufForm kLlama;
extern const GgufForm kQwen2;
extern const GgufForm kQwen3;
extern const GgufForm kMixtral;
extern const GgufForm kQwen2Moe;
extern const GgufForm kQwen3Moe;
extern const GgufForm kGptOss;
extern const GgufForm kSmolLm3;
extern const GgufForm kGranite;
extern const GgufForm kGemma;
extern const GgufForm kGemma2;
extern const GgufForm kGemma3;
extern const GgufForm kOlmo2;
extern const GgufForm kInternLm2;
extern const GgufForm kOrion;
extern const GgufForm kBaichuan;
extern const GgufForm kPhi3;
extern const GgufForm kPhi2;
extern const GgufForm kGpt2;
extern const GgufForm kGptNeox;
extern const GgufForm kBloom;
extern const GgufForm kFalcon;
extern const GgufForm kCohere;
extern const GgufForm kCohere2;
extern const GgufForm kGlm;
extern const GgufForm kGlm4;
extern const GgufForm kChatGlm;
}  // namespace gguf

}  // namespace weft::checkpoint
