#pragma once

#include <ostream>
#include <vector>

#include "tests/model/tiny.h"

// Tiny configurations of every family, for tests that hold for each.
namespace weft::tests {

/// A model and what distinguishes it, for the comparison with autograd.
struct Case {
  const char* name;
  nlohmann::json changes = nlohmann::json::object();  // of tiny_config()
  double dropout = 0;
  const char* only = "";  // adapters on paths that contain it
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

inline nlohmann::json family(const char* architecture,
                             const nlohmann::json& changes = nlohmann::json::object()) {
  nlohmann::json config = {{"architectures", {architecture}}};
  config.update(changes);
  return config;
}

/// Sizes under the names of the classic families.
inline const nlohmann::json kClassic{{"n_embd", 24},        {"n_layer", 3},
                                     {"n_head", 4},         {"hidden_size", 24},
                                     {"head_dim", nullptr}, {"num_key_value_heads", nullptr}};

inline nlohmann::json classic(const char* architecture,
                              const nlohmann::json& changes = nlohmann::json::object()) {
  nlohmann::json config = family(architecture, kClassic);
  config.update(changes);
  return config;
}

inline std::vector<Case> cases_of_families() {
  return {
      Case{"qwen3", family("Qwen3ForCausalLM", {{"attention_bias", true}})},
      Case{"smollm3", family("SmolLM3ForCausalLM", {{"no_rope_layer_interval", 2}})},
      Case{"granite", family("GraniteForCausalLM", {{"attention_multiplier", 0.3},
                                                    {"residual_multiplier", 0.4},
                                                    {"embedding_multiplier", 3.0},
                                                    {"logits_scaling", 2.0}})},
      Case{"gemma", family("GemmaForCausalLM"), 0.1},
      Case{"gemma2", family("Gemma2ForCausalLM", {{"sliding_window", 3},
                                                  {"attn_logit_softcapping", 1.5},
                                                  {"final_logit_softcapping", 2.0},
                                                  {"query_pre_attn_scalar", 9}})},
      Case{"gemma2_one_module", family("Gemma2ForCausalLM"), 0, "layers.1.mlp.down_proj"},
      Case{"gemma3",
           family("Gemma3ForCausalLM", {{"sliding_window", 3}, {"sliding_window_pattern", 2}})},
      Case{"olmo2", family("Olmo2ForCausalLM"), 0.2},
      Case{"olmo2_upper", family("Olmo2ForCausalLM"), 0, "layers.1.self_attn.k_proj"},
      Case{"internlm2", family("InternLM2ForCausalLM"), 0.1},
      Case{"orion", family("OrionForCausalLM")},
      Case{"yayi", family("YayiForCausalLM")},
      Case{"baichuan",
           family("BaichuanForCausalLM", {{"norm_head", true}, {"num_key_value_heads", 4}})},
      Case{"phi3", family("Phi3ForCausalLM", {{"partial_rotary_factor", 0.7}})},
      Case{"phi", family("PhiForCausalLM", {{"head_dim", 8}, {"qk_layernorm", true}})},
      Case{"phi_only_fc1", family("PhiForCausalLM", {{"head_dim", 8}}), 0, "layers.1.mlp.fc1"},
      Case{"phi_only_q", family("PhiForCausalLM", {{"head_dim", 8}}), 0, "layers.1.self_attn.q"},
      Case{"mixtral", family("MixtralForCausalLM", {{"num_local_experts", 5}})},
      Case{"mixtral_upper", family("MixtralForCausalLM", {{"num_local_experts", 5}}), 0,
           "layers.2.self_attn.v"},
      Case{"qwen2_moe",
           family("Qwen2MoeForCausalLM", {{"num_experts", 6},
                                          {"num_experts_per_tok", 3},
                                          {"moe_intermediate_size", 14},
                                          {"shared_expert_intermediate_size", 18},
                                          {"mlp_only_layers", {1}}}),
           0.2},
      Case{"qwen2_moe_shared",
           family("Qwen2MoeForCausalLM", {{"num_experts", 6},
                                          {"num_experts_per_tok", 3},
                                          {"moe_intermediate_size", 14},
                                          {"shared_expert_intermediate_size", 18}}),
           0, "layers.1.mlp.shared_expert."},
      Case{"qwen3_moe", family("Qwen3MoeForCausalLM", {{"num_experts", 6},
                                                       {"num_experts_per_tok", 2},
                                                       {"moe_intermediate_size", 14},
                                                       {"norm_topk_prob", true},
                                                       {"decoder_sparse_step", 2}})},
      Case{"mixtral_only_down", family("MixtralForCausalLM", {{"num_local_experts", 5}}), 0,
           "layers.1.mlp.experts.down_proj"},
      Case{"qwen3_moe_only_up",
           family("Qwen3MoeForCausalLM",
                  {{"num_experts", 6}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 14}}),
           0, "layers.1.mlp.experts.gate_up_proj"},
      Case{"gpt_oss",
           family("GptOssForCausalLM", {{"num_local_experts", 5},
                                        {"num_experts_per_tok", 2},
                                        {"sliding_window", 3},
                                        {"swiglu_limit", 0.7},
                                        {"rope_parameters", {{"rope_type", "default"}}}})},
      Case{"gpt2", classic("GPT2LMHeadModel"), 0.1},
      Case{"gpt_neox", classic("GPTNeoXForCausalLM", {{"rotary_pct", 0.34}}), 0.1},
      Case{"gpt_neox_in_turn",
           classic("GPTNeoXForCausalLM", {{"use_parallel_residual", false}, {"rotary_pct", 1.0}})},
      Case{"bloom", classic("BloomForCausalLM")},
      Case{"falcon_one_head", classic("FalconForCausalLM")},
      Case{"falcon_groups",
           classic("FalconForCausalLM",
                   {{"new_decoder_architecture", true}, {"num_kv_heads", 2}, {"bias", true}})},
      Case{"falcon_in_turn",
           classic("FalconForCausalLM", {{"multi_query", false}, {"parallel_attn", false}})},
      Case{"falcon_alibi", classic("FalconForCausalLM", {{"alibi", true}})},
      Case{"falcon_alibi_in_turn", classic("FalconForCausalLM", {{"alibi", true},
                                                                 {"bias", true},
                                                                 {"multi_query", false},
                                                                 {"parallel_attn", false}})},
      Case{"opt", classic("OPTForCausalLM", {{"ffn_dim", 28}})},
      Case{"cohere", family("CohereForCausalLM", {{"use_qk_norm", true}, {"logit_scale", 0.5}})},
      Case{"cohere2",
           family("Cohere2ForCausalLM", {{"sliding_window", 3}, {"sliding_window_pattern", 2}})},
      Case{"glm", family("GlmForCausalLM", {{"head_dim", 8}})},
      Case{"glm4", family("Glm4ForCausalLM", {{"head_dim", 8}}), 0.1},
      Case{"chatglm", family("ChatGLMModel", {{"padded_vocab_size", 37},
                                              {"num_layers", 3},
                                              {"kv_channels", 8},
                                              {"ffn_hidden_size", 28},
                                              {"multi_query_attention", true},
                                              {"multi_query_group_num", 2},
                                              {"add_qkv_bias", true}})}};
}

}  // namespace weft::tests
