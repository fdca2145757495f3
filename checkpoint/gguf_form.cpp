#include "checkpoint/gguf_form.h"

#include <algorithm>
#include <array>
#include <cstddef>

namespace weft::checkpoint {
namespace {

using enum GgufKey::Kind;
using enum GgufKey::Absent;

template <typename T, std::size_t... kSizes>
constexpr auto joined(const std::array<T, kSizes>&... parts) {
  std::array<T, (kSizes + ...)> result{};
  auto out = result.begin();
  ((out = std::copy(parts.begin(), parts.end(), out)), ...);
  return result;
}

constexpr std::array kSizeKeys{GgufKey{"block_count", "num_hidden_layers"},
                               GgufKey{"embedding_length", "hidden_size"},
                               GgufKey{"feed_forward_length", "intermediate_size"},
                               GgufKey{"attention.head_count", "num_attention_heads"}};
constexpr std::array kContext{GgufKey{"context_length", "max_position_embeddings"}};
constexpr std::array kSharedHeads{
    GgufKey{"attention.head_count_kv", "num_key_value_heads", kCount, kHeads}};
constexpr std::array kHeadDim{GgufKey{"attention.key_length", "head_dim", kCount, kOmitted},
                              GgufKey{"attention.value_length", "head_dim", kCount, kOmitted}};
constexpr std::array kRmsEpsilon{
    GgufKey{"attention.layer_norm_rms_epsilon", "rms_norm_eps", kReal, kDefault, 1e-6}};
constexpr std::array kWiderRmsEpsilon{
    GgufKey{"attention.layer_norm_rms_epsilon", "rms_norm_eps", kReal, kDefault, 1e-5}};
constexpr std::array kLayerEpsilon{
    GgufKey{"attention.layer_norm_epsilon", "layer_norm_eps", kReal, kDefault, 1e-5}};
constexpr std::array kVocabulary{GgufKey{"vocab_size", "vocab_size"}};

/// conversion/base.py, TextModel.set_gguf_parameters
constexpr std::array kPlainKeys = joined(kSizeKeys, kContext, kSharedHeads, kHeadDim, kRmsEpsilon);
constexpr std::array kLlamaKeys = joined(kPlainKeys, kVocabulary);

template <std::size_t kSize>
constexpr auto with(std::array<GgufKey, kSize> keys, const GgufKey& other) {
  for (GgufKey& key : keys) {
    if (key.gguf == other.gguf) key = other;
  }
  return keys;
}

constexpr GgufKey shared_heads(double fallback) {
  return {"attention.head_count_kv", "num_key_value_heads", kCount, kDefault, fallback};
}
constexpr std::array<GgufKey, 2> expert_counts(std::string_view config, double count,
                                               double chosen) {
  return {GgufKey{"expert_count", config, kCount, kDefault, count},
          GgufKey{"expert_used_count", "num_experts_per_tok", kCount, kDefault, chosen}};
}
constexpr GgufKey expert_width(double fallback) {
  return {"expert_feed_forward_length", "moe_intermediate_size", kCount, kDefault, fallback};
}
constexpr std::array kMixtralKeys =
    joined(with(with(kLlamaKeys, kWiderRmsEpsilon[0]), shared_heads(8)),
           expert_counts("num_local_experts|num_experts", 8, 2));
constexpr std::array kQwen2MoeKeys =
    joined(with(kPlainKeys, shared_heads(16)), expert_counts("num_experts", 60, 4),
           std::array{expert_width(1408),
                      GgufKey{"expert_shared_feed_forward_length",
                              "shared_expert_intermediate_size", kCount, kDefault, 5632}});
constexpr std::array kQwen3MoeKeys =
    joined(with(kPlainKeys, shared_heads(4)),
           expert_counts("num_experts|num_local_experts", 128, 8), std::array{expert_width(768)});
constexpr std::array kQwen2MoeBiases{BiasRule{".attn_q.bias", "qkv_bias"}};
// llama.cpp has experts in every layer, and one way to weigh them.
constexpr std::array kQwen2MoeNeutral{NeutralKey{"norm_topk_prob", 0},
                                      NeutralKey{"decoder_sparse_step", 1}};
constexpr std::array kQwen3MoeNeutral{NeutralKey{"norm_topk_prob", 1, false},
                                      NeutralKey{"decoder_sparse_step", 1},
                                      NeutralKey{"use_qk_norm", 1}};

constexpr std::array kLlamaBiases{BiasRule{".attn_q.bias", "attention_bias"},
                                  BiasRule{".ffn_up.bias", "mlp_bias"}};
constexpr std::array kQueryBiases{BiasRule{".attn_q.bias", "attention_bias"}};

constexpr std::array kGraniteKeys =
    joined(kSizeKeys, kContext, kSharedHeads, kRmsEpsilon, kVocabulary,
           std::array{GgufKey{"attention.scale", "attention_multiplier", kReal, kDefault, 1},
                      GgufKey{"embedding_scale", "embedding_multiplier", kReal, kDefault, 1},
                      GgufKey{"residual_scale", "residual_multiplier", kReal, kDefault, 1},
                      GgufKey{"logit_scale", "logits_scaling", kReal, kDefault, 1}});

constexpr std::array kWideHeadDim{
    GgufKey{"attention.key_length", "head_dim", kCount, kDefault, 256},
    GgufKey{"attention.value_length", "head_dim", kCount, kDefault, 256}};
constexpr std::array kWindow{
    GgufKey{"attention.sliding_window", "sliding_window", kCount, kDefault, 4096}};
constexpr std::array kGemmaKeys =
    joined(kSizeKeys, kContext, kSharedHeads, kWideHeadDim, kRmsEpsilon);
constexpr std::array kGemma2Keys = joined(
    kGemmaKeys, kWindow,
    std::array{GgufKey{"attn_logit_softcapping", "attn_logit_softcapping", kReal, kDefault, 50},
               GgufKey{"final_logit_softcapping", "final_logit_softcapping", kReal, kDefault, 30}});
constexpr std::array kGemma3Keys = joined(
    kGemmaKeys, kWindow,
    std::array{GgufKey{"final_logit_softcapping", "final_logit_softcapping", kReal, kOmitted}});
constexpr std::array kBothWays{NeutralKey{"use_bidirectional_attention", 0}};

constexpr std::array kGptOssHeadDim{
    GgufKey{"attention.key_length", "head_dim", kCount, kDefault, 64},
    GgufKey{"attention.value_length", "head_dim", kCount, kDefault, 64}};
constexpr std::array kGptOssKeys = joined(
    kSizeKeys, kContext, std::array{shared_heads(8)}, kGptOssHeadDim, kWiderRmsEpsilon,
    expert_counts("num_local_experts|num_experts", 128, 4),
    std::array{GgufKey{"expert_feed_forward_length", "intermediate_size"},
               GgufKey{"attention.sliding_window", "sliding_window", kCount, kDefault, 128}});
constexpr std::array kGptOssNeutral{NeutralKey{"attention_bias", 1}, NeutralKey{"swiglu_limit", 7},
                                    NeutralKey{"swiglu_alpha", 1.702}};

constexpr std::array kOlmo2Keys =
    joined(kSizeKeys, kContext, kSharedHeads, kHeadDim, kWiderRmsEpsilon);

constexpr std::array kInternLm2Keys = joined(kSizeKeys, kContext, kSharedHeads, kRmsEpsilon);
constexpr std::array kInternLm2Neutral{NeutralKey{"bias", 0, false}};

constexpr std::array kMetaLayout{GgufText{"tensor_data_layout", "Meta AI original pth"}};
constexpr std::array kOrionKeys = joined(
    kSizeKeys, kSharedHeads,
    std::array{
        GgufKey{"context_length", "max_sequence_length|max_position_embeddings|model_max_length"},
        // The configuration says RMS and the model computes the other norm.
        GgufKey{"attention.layer_norm_epsilon", "rms_norm_eps", kReal, kDefault, 1e-5}});
constexpr std::array kBaichuanKeys =
    joined(kSizeKeys, kSharedHeads, kRmsEpsilon,
           std::array{GgufKey{"context_length", "max_position_embeddings|model_max_length"}});

constexpr std::array kPhi3Keys =
    joined(kSizeKeys, kContext, kSharedHeads, kWiderRmsEpsilon,
           std::array{GgufKey{"attention.sliding_window", "sliding_window", kCount, kOmitted},
                      GgufKey{"rope.scaling.original_context_length",
                              "original_max_position_embeddings", kCount, kDefault, 4096}});
constexpr std::array kPhi2Keys = joined(kSizeKeys, kContext, kSharedHeads, kLayerEpsilon);

constexpr std::array kGpt2Keys{
    GgufKey{"block_count", "n_layer|num_hidden_layers"},
    GgufKey{"context_length", "n_positions|n_ctx"},
    GgufKey{"embedding_length", "n_embd|hidden_size"},
    GgufKey{"feed_forward_length", "n_inner", kCount, kFourfold},
    GgufKey{"attention.head_count", "n_head|num_attention_heads"},
    GgufKey{"attention.layer_norm_epsilon", "layer_norm_epsilon", kReal, kDefault, 1e-5}};
constexpr std::array kGpt2Neutral{NeutralKey{"scale_attn_weights", 1},
                                  NeutralKey{"scale_attn_by_inverse_layer_idx", 0},
                                  NeutralKey{"add_cross_attention", 0}};

constexpr std::array kGptNeoxKeys =
    joined(kSizeKeys, kContext, kLayerEpsilon,
           std::array{GgufKey{"use_parallel_residual", "use_parallel_residual",
                              GgufKey::Kind::kFlag, kDefault, 1}});
constexpr std::array kGptNeoxNeutral{NeutralKey{"attention_bias", 1}};

constexpr std::array kBloomKeys{
    GgufKey{"block_count", "n_layer|num_hidden_layers"},
    // There are no positions to run out of.
    GgufKey{"context_length", "seq_length", kCount, kWidth},
    GgufKey{"embedding_length", "hidden_size|n_embed"},
    GgufKey{"feed_forward_length", "n_inner", kCount, kFourfold},
    GgufKey{"attention.head_count", "n_head|num_attention_heads"},
    GgufKey{"attention.head_count_kv", "", kCount, kHeads},
    GgufKey{"attention.layer_norm_epsilon", "layer_norm_epsilon", kReal, kDefault, 1e-5}};
constexpr std::array kBloomNeutral{NeutralKey{"apply_residual_connection_post_layernorm", 0}};

constexpr std::array kFalconKeys{
    GgufKey{"block_count", "num_hidden_layers|n_layer"},
    GgufKey{"context_length", "max_position_embeddings", kCount, kDefault, 2048},
    GgufKey{"embedding_length", "hidden_size"},
    GgufKey{"feed_forward_length", "ffn_hidden_size", kCount, kFourfold},
    GgufKey{"attention.head_count", "num_attention_heads|n_head"},
    GgufKey{"attention.head_count_kv", "num_kv_heads|n_head_kv", kCount, kHeads},
    GgufKey{"attention.layer_norm_epsilon", "layer_norm_epsilon", kReal, kDefault, 1e-5}};
constexpr std::array kFalconNeutral{NeutralKey{"alibi", 0}, NeutralKey{"bias", 0},
                                    NeutralKey{"parallel_attn", 1}};
constexpr std::array kFalconTexts{GgufText{"tensor_data_layout", "jploski"}};

constexpr std::array kLogitScale{GgufKey{"logit_scale", "logit_scale", kReal, kDefault, 0.0625}};
constexpr std::array kCohereKeys =
    joined(kSizeKeys, kSharedHeads, kHeadDim, kLayerEpsilon, kLogitScale,
           std::array{GgufKey{"context_length", "model_max_length|max_position_embeddings"}});
constexpr std::array kCohere2Keys = joined(kSizeKeys, kContext, kSharedHeads, kHeadDim,
                                           kLayerEpsilon, kLogitScale, kWindow, kVocabulary);
constexpr std::array kNoScaling{GgufText{"rope.scaling.type", "none"}};
constexpr std::array kQueryKeyNorm{BiasRule{".attn_q_norm.weight", "use_qk_norm"}};

constexpr std::array kGlmHeadDim{
    GgufKey{"attention.key_length", "head_dim", kCount, kDefault, 128},
    GgufKey{"attention.value_length", "head_dim", kCount, kDefault, 128}};
constexpr std::array kGlmEpsilon{
    GgufKey{"attention.layer_norm_rms_epsilon", "rms_norm_eps", kReal, kDefault, 1.5625e-7}};
constexpr std::array kGlmKeys =
    joined(kSizeKeys, kContext, kSharedHeads, kGlmEpsilon,
           std::array{GgufKey{"attention.key_length", "head_dim", kCount, kQuotient, 128}});
constexpr std::array kGlm4Keys =
    joined(kSizeKeys, kContext, kSharedHeads, kGlmHeadDim, kGlmEpsilon);
constexpr std::array kChatGlmKeys{
    GgufKey{"block_count", "num_layers"},
    GgufKey{"context_length", "seq_length"},
    GgufKey{"embedding_length", "hidden_size"},
    GgufKey{"feed_forward_length", "ffn_hidden_size"},
    GgufKey{"attention.head_count", "num_attention_heads"},
    GgufKey{"attention.head_count_kv", "multi_query_group_num", kCount, kHeads},
    GgufKey{"attention.key_length", "kv_channels", kCount, kQuotient},
    GgufKey{"attention.layer_norm_rms_epsilon", "layernorm_epsilon", kReal, kDefault, 1e-5}};
constexpr std::array kChatGlmBiases{BiasRule{".attn_qkv.bias", "add_qkv_bias"}};
constexpr std::array kChatGlmNeutral{NeutralKey{"add_bias_linear", 0},
                                     NeutralKey{"apply_residual_connection_post_layernorm", 0},
                                     NeutralKey{"rmsnorm", 1}, NeutralKey{"post_layer_norm", 1}};

constexpr GgufRotation kSilentTheta{.states_theta = false};

}  // namespace

namespace gguf {

constinit const GgufForm kLlama{.architecture = "llama",
                                .keys = kLlamaKeys,
                                .rotation = {.states_width = true, .llama3 = true},
                                .interleaved = true,
                                .biases = kLlamaBiases};
constinit const GgufForm kQwen2{.architecture = "qwen2", .keys = kPlainKeys};
constinit const GgufForm kQwen3{
    .architecture = "qwen3", .keys = kPlainKeys, .biases = kQueryBiases};
constinit const GgufForm kMixtral{.architecture = "llama",
                                  .keys = kMixtralKeys,
                                  .rotation = {.theta = 1e6, .states_width = true, .llama3 = true},
                                  .interleaved = true};
constinit const GgufForm kQwen2Moe{.architecture = "qwen2moe",
                                   .keys = kQwen2MoeKeys,
                                   .head = GgufHead::kOwn,
                                   .biases = kQwen2MoeBiases,
                                   .neutral = kQwen2MoeNeutral};
constinit const GgufForm kQwen3Moe{.architecture = "qwen3moe",
                                   .keys = kQwen3MoeKeys,
                                   .biases = kQueryBiases,
                                   .neutral = kQwen3MoeNeutral};
constinit const GgufForm kGptOss{.architecture = "gpt-oss",
                                 .keys = kGptOssKeys,
                                 .rotation = {.theta = 150000, .own_yarn = true},
                                 .head = GgufHead::kOwn,
                                 .neutral = kGptOssNeutral,
                                 .window_period = 2};
constinit const GgufForm kSmolLm3{.architecture = "smollm3",
                                  .keys = kLlamaKeys,
                                  .rotation = {.theta = 2e6, .states_width = true},
                                  .interleaved = true};
constinit const GgufForm kGranite{.architecture = "granite",
                                  .keys = kGraniteKeys,
                                  .rotation = {.states_width = true, .llama3 = true},
                                  .interleaved = true,
                                  .biases = kLlamaBiases};
constinit const GgufForm kGemma{.architecture = "gemma",
                                .keys = kGemmaKeys,
                                .rotation = kSilentTheta,
                                .norm_shift = 1,
                                .head = GgufHead::kTied,
                                .activation = "gelu_pytorch_tanh",
                                .neutral = kBothWays};
constinit const GgufForm kGemma2{.architecture = "gemma2",
                                 .keys = kGemma2Keys,
                                 .rotation = kSilentTheta,
                                 .norm_shift = 1,
                                 .head = GgufHead::kTied,
                                 .activation_key = "hidden_activation",
                                 .activation = "gelu_pytorch_tanh",
                                 .neutral = kBothWays,
                                 .window_period = 2};
constinit const GgufForm kGemma3{.architecture = "gemma3",
                                 .keys = kGemma3Keys,
                                 .rotation = {.theta = 1e6, .local_theta = 10000},
                                 .norm_shift = 1,
                                 .activation_key = "hidden_activation",
                                 .activation = "gelu_pytorch_tanh",
                                 .neutral = kBothWays,
                                 .window_period = 6};
constinit const GgufForm kOlmo2{
    .architecture = "olmo2", .keys = kOlmo2Keys, .head = GgufHead::kOwn};
constinit const GgufForm kInternLm2{.architecture = "internlm2",
                                    .keys = kInternLm2Keys,
                                    .interleaved = true,
                                    .split = true,
                                    .head = GgufHead::kOwn,
                                    .neutral = kInternLm2Neutral};
constinit const GgufForm kOrion{.architecture = "orion",
                                .keys = kOrionKeys,
                                .rotation = kSilentTheta,
                                .head = GgufHead::kOwn,
                                .texts = kMetaLayout};
constinit const GgufForm kBaichuan{.architecture = "baichuan",
                                   .keys = kBaichuanKeys,
                                   .rotation = {.states_theta = false, .states_width = true},
                                   .interleaved = true,
                                   .split = true,
                                   .head = GgufHead::kOwn,
                                   .texts = kMetaLayout};
constinit const GgufForm kPhi3{
    .architecture = "phi3",
    .keys = kPhi3Keys,
    .rotation = {.states_width = true, .partial = "partial_rotary_factor", .longrope = true}};
constinit const GgufForm kPhi2{.architecture = "phi2",
                               .keys = kPhi2Keys,
                               .rotation = {.states_theta = false,
                                            .states_width = true,
                                            .partial = "partial_rotary_factor",
                                            .part = 0.5},
                               .head = GgufHead::kOwn,
                               .activation = "gelu_new"};
constinit const GgufForm kGpt2{.architecture = "gpt2",
                               .keys = kGpt2Keys,
                               .rotation = {.theta = 0},
                               .activation_key = "activation_function",
                               .activation = "gelu_new",
                               .neutral = kGpt2Neutral};
constinit const GgufForm kGptNeox{.architecture = "gptneox",
                                  .keys = kGptNeoxKeys,
                                  .rotation = {.states_theta = false,
                                               .states_width = true,
                                               .partial = "rotary_pct",
                                               .part = 0.25},
                                  .head = GgufHead::kOwn,
                                  .activation = "gelu",
                                  .neutral = kGptNeoxNeutral};
constinit const GgufForm kBloom{.architecture = "bloom",
                                .keys = kBloomKeys,
                                .rotation = {.theta = 0},
                                .activation_key = "",
                                .activation = "gelu",
                                .neutral = kBloomNeutral};
constinit const GgufForm kFalcon{.architecture = "falcon",
                                 .keys = kFalconKeys,
                                 .rotation = kSilentTheta,
                                 .activation_key = "activation",
                                 .activation = "gelu",
                                 .neutral = kFalconNeutral,
                                 .texts = kFalconTexts};
constinit const GgufForm kCohere{.architecture = "command-r",
                                 .keys = kCohereKeys,
                                 .rotation = {.theta = 500000},
                                 .head = GgufHead::kTied,
                                 .biases = kQueryKeyNorm,
                                 .texts = kNoScaling};
constinit const GgufForm kCohere2{.architecture = "cohere2",
                                  .keys = kCohere2Keys,
                                  .rotation = {.states_width = true, .partial = "rotary_pct"},
                                  .head = GgufHead::kTied,
                                  .texts = kNoScaling,
                                  .window_period = 4};
constinit const GgufForm kGlm{
    .architecture = "chatglm",
    .keys = kGlmKeys,
    .rotation = {.states_width = true, .partial = "partial_rotary_factor", .part = 0.5},
    .biases = kQueryBiases};
constinit const GgufForm kGlm4{
    .architecture = "glm4",
    .keys = kGlm4Keys,
    .rotation = {.states_width = true, .partial = "partial_rotary_factor", .part = 0.5},
    .biases = kQueryBiases};
constinit const GgufForm kChatGlm{.architecture = "chatglm",
                                  .keys = kChatGlmKeys,
                                  .rotation = {.states_width = true,
                                               .partial = "partial_rotary_factor",
                                               .part = 0.5,
                                               .ratio = "rope_ratio"},
                                  .activation_key = "",
                                  .biases = kChatGlmBiases,
                                  .neutral = kChatGlmNeutral};

}  // namespace gguf
}  // namespace weft::checkpoint
