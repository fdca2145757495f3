#include "checkpoint/family.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>

#include "checkpoint/gguf_form.h"

namespace weft::checkpoint {
namespace {

using enum Part;

template <std::size_t... kSizes>
constexpr auto joined(const std::array<TensorRow, kSizes>&... parts) {
  std::array<TensorRow, (kSizes + ...)> result{};
  auto out = result.begin();
  ((out = std::copy(parts.begin(), parts.end(), out)), ...);
  return result;
}

// Names as transformers' modelling files (5.23) spell them; families that it lacks as their
// published files do.

constexpr std::array kLlamaEnds{TensorRow{kEmbedding, "model.embed_tokens"},
                                TensorRow{kFinalNorm, "model.norm"}, TensorRow{kHead, "lm_head"}};
constexpr std::array kLlamaAttention{TensorRow{kQuery, "model.layers.{}.self_attn.q_proj"},
                                     TensorRow{kKey, "model.layers.{}.self_attn.k_proj"},
                                     TensorRow{kValue, "model.layers.{}.self_attn.v_proj"},
                                     TensorRow{kOutput, "model.layers.{}.self_attn.o_proj"}};
constexpr std::array kLlamaMlp{TensorRow{kGate, "model.layers.{}.mlp.gate_proj"},
                               TensorRow{kUp, "model.layers.{}.mlp.up_proj"},
                               TensorRow{kDown, "model.layers.{}.mlp.down_proj"}};
constexpr std::array kInputNormRow{TensorRow{kInputNorm, "model.layers.{}.input_layernorm"}};
constexpr std::array kLlamaNorms = joined(
    kInputNormRow, std::array{TensorRow{kMlpNorm, "model.layers.{}.post_attention_layernorm"}});
constexpr std::array kHeadNorms{TensorRow{kQueryNorm, "model.layers.{}.self_attn.q_norm"},
                                TensorRow{kKeyNorm, "model.layers.{}.self_attn.k_norm"}};

constexpr std::array kLlama = joined(kLlamaEnds, kLlamaNorms, kLlamaAttention, kLlamaMlp);
constexpr std::array kQwen3 = joined(kLlama, kHeadNorms);

constexpr std::array kGemmaOuterNorms{
    TensorRow{kInputNorm, "model.layers.{}.input_layernorm"},
    TensorRow{kOutputNorm, "model.layers.{}.post_attention_layernorm"},
    TensorRow{kMlpNorm, "model.layers.{}.pre_feedforward_layernorm"},
    TensorRow{kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm"}};
constexpr std::array kGemma2 = joined(kLlamaEnds, kGemmaOuterNorms, kLlamaAttention, kLlamaMlp);
constexpr std::array kGemma3 = joined(kGemma2, kHeadNorms);

constexpr std::array kOlmo2 =
    joined(kLlamaEnds, kLlamaAttention, kHeadNorms, kLlamaMlp,
           std::array{TensorRow{kOutputNorm, "model.layers.{}.post_attention_layernorm"},
                      TensorRow{kMlpOutputNorm, "model.layers.{}.post_feedforward_layernorm"}});

constexpr std::array kInternLm2{
    TensorRow{kEmbedding, "model.tok_embeddings"},
    TensorRow{kFinalNorm, "model.norm"},
    TensorRow{kHead, "output"},
    TensorRow{kInputNorm, "model.layers.{}.attention_norm"},
    TensorRow{kQueryKeyValue, "model.layers.{}.attention.wqkv", Layout::kGrouped},
    TensorRow{kOutput, "model.layers.{}.attention.wo"},
    TensorRow{kMlpNorm, "model.layers.{}.ffn_norm"},
    TensorRow{kGate, "model.layers.{}.feed_forward.w1"},
    TensorRow{kUp, "model.layers.{}.feed_forward.w3"},
    TensorRow{kDown, "model.layers.{}.feed_forward.w2"}};

constexpr std::array kPacked{TensorRow{kQueryKeyValue, "model.layers.{}.self_attn.W_pack"},
                             TensorRow{kOutput, "model.layers.{}.self_attn.o_proj"}};
constexpr std::array kBaichuan = joined(kLlamaEnds, kLlamaNorms, kPacked, kLlamaMlp);
/// Published with q, k and v apart; its own trainer knows them as W_pack.
constexpr std::array kYayi =
    joined(kLlama, std::array{TensorRow{kQueryKeyValue, "model.layers.{}.self_attn.W_pack"}});

constexpr std::array kPhi3 =
    joined(kLlamaEnds, kLlamaNorms,
           std::array{TensorRow{kQueryKeyValue, "model.layers.{}.self_attn.qkv_proj"},
                      TensorRow{kOutput, "model.layers.{}.self_attn.o_proj"},
                      TensorRow{kGateUp, "model.layers.{}.mlp.gate_up_proj"},
                      TensorRow{kDown, "model.layers.{}.mlp.down_proj"}});

constexpr std::array kPhi{TensorRow{kEmbedding, "model.embed_tokens"},
                          TensorRow{kFinalNorm, "model.final_layernorm"},
                          TensorRow{kHead, "lm_head"},
                          TensorRow{kInputNorm, "model.layers.{}.input_layernorm"},
                          TensorRow{kQuery, "model.layers.{}.self_attn.q_proj"},
                          TensorRow{kKey, "model.layers.{}.self_attn.k_proj"},
                          TensorRow{kValue, "model.layers.{}.self_attn.v_proj"},
                          TensorRow{kQueryNorm, "model.layers.{}.self_attn.q_layernorm"},
                          TensorRow{kKeyNorm, "model.layers.{}.self_attn.k_layernorm"},
                          TensorRow{kOutput, "model.layers.{}.self_attn.dense"},
                          TensorRow{kUp, "model.layers.{}.mlp.fc1"},
                          TensorRow{kDown, "model.layers.{}.mlp.fc2"}};

constexpr std::array kGpt2{
    TensorRow{kEmbedding, "transformer.wte"},
    TensorRow{kPositions, "transformer.wpe"},
    TensorRow{kFinalNorm, "transformer.ln_f"},
    TensorRow{kHead, "lm_head"},
    TensorRow{kInputNorm, "transformer.h.{}.ln_1"},
    TensorRow{kQueryKeyValue, "transformer.h.{}.attn.c_attn", Layout::kTransposed},
    TensorRow{kOutput, "transformer.h.{}.attn.c_proj", Layout::kTransposed},
    TensorRow{kMlpNorm, "transformer.h.{}.ln_2"},
    TensorRow{kUp, "transformer.h.{}.mlp.c_fc", Layout::kTransposed},
    TensorRow{kDown, "transformer.h.{}.mlp.c_proj", Layout::kTransposed}};

constexpr std::array kGptNeox{
    TensorRow{kEmbedding, "gpt_neox.embed_in"},
    TensorRow{kFinalNorm, "gpt_neox.final_layer_norm"},
    TensorRow{kHead, "embed_out"},
    TensorRow{kInputNorm, "gpt_neox.layers.{}.input_layernorm"},
    TensorRow{kQueryKeyValue, "gpt_neox.layers.{}.attention.query_key_value", Layout::kPerHead},
    TensorRow{kOutput, "gpt_neox.layers.{}.attention.dense"},
    TensorRow{kMlpNorm, "gpt_neox.layers.{}.post_attention_layernorm"},
    TensorRow{kUp, "gpt_neox.layers.{}.mlp.dense_h_to_4h"},
    TensorRow{kDown, "gpt_neox.layers.{}.mlp.dense_4h_to_h"}};

constexpr std::array kBloom{
    TensorRow{kEmbedding, "transformer.word_embeddings"},
    TensorRow{kEmbeddingNorm, "transformer.word_embeddings_layernorm"},
    TensorRow{kFinalNorm, "transformer.ln_f"},
    TensorRow{kHead, "lm_head"},
    TensorRow{kInputNorm, "transformer.h.{}.input_layernorm"},
    TensorRow{kQueryKeyValue, "transformer.h.{}.self_attention.query_key_value", Layout::kPerHead},
    TensorRow{kOutput, "transformer.h.{}.self_attention.dense"},
    TensorRow{kMlpNorm, "transformer.h.{}.post_attention_layernorm"},
    TensorRow{kUp, "transformer.h.{}.mlp.dense_h_to_4h"},
    TensorRow{kDown, "transformer.h.{}.mlp.dense_4h_to_h"}};

constexpr std::array kFalcon{
    TensorRow{kEmbedding, "transformer.word_embeddings"},
    TensorRow{kFinalNorm, "transformer.ln_f"},
    TensorRow{kHead, "lm_head"},
    TensorRow{kInputNorm, "transformer.h.{}.input_layernorm"},
    TensorRow{kInputNorm, "transformer.h.{}.ln_attn", Layout::kPlain, "blk.{}.attn_norm_2"},
    TensorRow{kQueryKeyValue, "transformer.h.{}.self_attention.query_key_value", Layout::kGrouped},
    TensorRow{kOutput, "transformer.h.{}.self_attention.dense"},
    TensorRow{kMlpNorm, "transformer.h.{}.post_attention_layernorm"},
    TensorRow{kMlpNorm, "transformer.h.{}.ln_mlp", Layout::kPlain, "blk.{}.attn_norm"},
    TensorRow{kUp, "transformer.h.{}.mlp.dense_h_to_4h"},
    TensorRow{kDown, "transformer.h.{}.mlp.dense_4h_to_h"}};

constexpr std::array kOpt{TensorRow{kEmbedding, "model.decoder.embed_tokens"},
                          TensorRow{kPositions, "model.decoder.embed_positions"},
                          TensorRow{kFinalNorm, "model.decoder.final_layer_norm"},
                          TensorRow{kHead, "lm_head"},
                          TensorRow{kInputNorm, "model.decoder.layers.{}.self_attn_layer_norm"},
                          TensorRow{kQuery, "model.decoder.layers.{}.self_attn.q_proj"},
                          TensorRow{kKey, "model.decoder.layers.{}.self_attn.k_proj"},
                          TensorRow{kValue, "model.decoder.layers.{}.self_attn.v_proj"},
                          TensorRow{kOutput, "model.decoder.layers.{}.self_attn.out_proj"},
                          TensorRow{kMlpNorm, "model.decoder.layers.{}.final_layer_norm"},
                          TensorRow{kUp, "model.decoder.layers.{}.fc1"},
                          TensorRow{kDown, "model.decoder.layers.{}.fc2"}};

constexpr std::array kCohere =
    joined(kLlamaEnds, kInputNormRow, kLlamaAttention, kHeadNorms, kLlamaMlp);
constexpr std::array kCohere2 = joined(kLlamaEnds, kInputNormRow, kLlamaAttention, kLlamaMlp);

constexpr std::array kFusedMlp{TensorRow{kGateUp, "model.layers.{}.mlp.gate_up_proj"},
                               TensorRow{kDown, "model.layers.{}.mlp.down_proj"}};
constexpr std::array kGlm = joined(kLlamaEnds, kLlamaNorms, kLlamaAttention, kFusedMlp);
constexpr std::array kGlm4 =
    joined(kGlm, std::array{TensorRow{kOutputNorm, "model.layers.{}.post_self_attn_layernorm"},
                            TensorRow{kMlpOutputNorm, "model.layers.{}.post_mlp_layernorm"}});

constexpr std::array kChatGlm{
    TensorRow{kEmbedding, "transformer.embedding.word_embeddings"},
    TensorRow{kFinalNorm, "transformer.encoder.final_layernorm"},
    TensorRow{kHead, "transformer.output_layer"},
    TensorRow{kInputNorm, "transformer.encoder.layers.{}.input_layernorm"},
    TensorRow{kQueryKeyValue, "transformer.encoder.layers.{}.self_attention.query_key_value"},
    TensorRow{kOutput, "transformer.encoder.layers.{}.self_attention.dense"},
    TensorRow{kMlpNorm, "transformer.encoder.layers.{}.post_attention_layernorm"},
    TensorRow{kGateUp, "transformer.encoder.layers.{}.mlp.dense_h_to_4h"},
    TensorRow{kDown, "transformer.encoder.layers.{}.mlp.dense_4h_to_h"}};

constexpr std::array kMixtral =
    joined(kLlamaEnds, kLlamaNorms, kLlamaAttention,
           std::array{TensorRow{kRouter, "model.layers.{}.block_sparse_moe.gate"},
                      TensorRow{kExpertGate, "model.layers.{}.block_sparse_moe.experts.{}.w1"},
                      TensorRow{kExpertUp, "model.layers.{}.block_sparse_moe.experts.{}.w3"},
                      TensorRow{kExpertDown, "model.layers.{}.block_sparse_moe.experts.{}.w2"},
                      TensorRow{kRouter, "model.layers.{}.mlp.gate"},
                      TensorRow{kExpertsGateUp, "model.layers.{}.mlp.experts.gate_up_proj"},
                      TensorRow{kExpertsDown, "model.layers.{}.mlp.experts.down_proj"}});
constexpr std::array kQwenExperts{
    TensorRow{kRouter, "model.layers.{}.mlp.gate"},
    TensorRow{kExpertGate, "model.layers.{}.mlp.experts.{}.gate_proj"},
    TensorRow{kExpertUp, "model.layers.{}.mlp.experts.{}.up_proj"},
    TensorRow{kExpertDown, "model.layers.{}.mlp.experts.{}.down_proj"},
    TensorRow{kExpertsGateUp, "model.layers.{}.mlp.experts.gate_up_proj"},
    TensorRow{kExpertsDown, "model.layers.{}.mlp.experts.down_proj"}};
constexpr std::array kQwen2Moe =
    joined(kLlama, kQwenExperts,
           std::array{TensorRow{kSharedGate, "model.layers.{}.mlp.shared_expert.gate_proj"},
                      TensorRow{kSharedUp, "model.layers.{}.mlp.shared_expert.up_proj"},
                      TensorRow{kSharedDown, "model.layers.{}.mlp.shared_expert.down_proj"},
                      TensorRow{kSharedRouter, "model.layers.{}.mlp.shared_expert_gate"}});
constexpr std::array kQwen3Moe = joined(kQwen3, kQwenExperts);

constexpr std::array kGptOss = joined(
    kLlamaEnds, kInputNormRow, kLlamaAttention,
    std::array{
        TensorRow{kMlpNorm, "model.layers.{}.post_attention_layernorm", Layout::kPlain,
                  "blk.{}.post_attention_norm"},
        TensorRow{kSinks, "model.layers.{}.self_attn.sinks"},
        TensorRow{kRouter, "model.layers.{}.mlp.router"},
        TensorRow{kExpertsGateUp, "model.layers.{}.mlp.experts.gate_up_proj", Layout::kAlternating},
        TensorRow{kExpertsDown, "model.layers.{}.mlp.experts.down_proj", Layout::kTransposed}});

constexpr std::array kFamilies{
    Family{"llama", "LlamaForCausalLM", kLlama, &gguf::kLlama},
    Family{"mistral", "MistralForCausalLM", kLlama, &gguf::kLlama},
    Family{"ministral", "MinistralForCausalLM", kLlama},
    Family{"qwen2", "Qwen2ForCausalLM", kLlama, &gguf::kQwen2},
    Family{"qwen3", "Qwen3ForCausalLM", kQwen3, &gguf::kQwen3},
    Family{"mixtral", "MixtralForCausalLM", kMixtral, &gguf::kMixtral},
    Family{"qwen2_moe", "Qwen2MoeForCausalLM", kQwen2Moe, &gguf::kQwen2Moe},
    Family{"qwen3_moe", "Qwen3MoeForCausalLM", kQwen3Moe, &gguf::kQwen3Moe},
    Family{"gpt_oss", "GptOssForCausalLM", kGptOss, &gguf::kGptOss},
    Family{"smollm3", "SmolLM3ForCausalLM", kLlama, &gguf::kSmolLm3},
    Family{"granite", "GraniteForCausalLM", kLlama, &gguf::kGranite},
    Family{"gemma", "GemmaForCausalLM", kLlama, &gguf::kGemma},
    Family{"gemma2", "Gemma2ForCausalLM", kGemma2, &gguf::kGemma2},
    Family{"gemma3_text", "Gemma3ForCausalLM", kGemma3, &gguf::kGemma3},
    Family{"olmo2", "Olmo2ForCausalLM", kOlmo2, &gguf::kOlmo2},
    Family{"internlm2", "InternLM2ForCausalLM", kInternLm2, &gguf::kInternLm2},
    Family{"orion", "OrionForCausalLM", kLlama, &gguf::kOrion},
    Family{"yayi", "YayiForCausalLM", kYayi},
    Family{"baichuan", "BaichuanForCausalLM", kBaichuan, &gguf::kBaichuan},
    Family{"phi3", "Phi3ForCausalLM", kPhi3, &gguf::kPhi3},
    Family{"phi", "PhiForCausalLM", kPhi, &gguf::kPhi2},
    Family{"gpt2", "GPT2LMHeadModel", kGpt2, &gguf::kGpt2},
    Family{"gpt_neox", "GPTNeoXForCausalLM", kGptNeox, &gguf::kGptNeox},
    Family{"bloom", "BloomForCausalLM", kBloom, &gguf::kBloom},
    Family{"falcon", "FalconForCausalLM", kFalcon, &gguf::kFalcon},
    Family{"opt", "OPTForCausalLM", kOpt},
    Family{"cohere", "CohereForCausalLM", kCohere, &gguf::kCohere},
    Family{"cohere2", "Cohere2ForCausalLM", kCohere2, &gguf::kCohere2},
    Family{"glm", "GlmForCausalLM", kGlm, &gguf::kGlm},
    Family{"glm4", "Glm4ForCausalLM", kGlm4, &gguf::kGlm4},
    Family{"chatglm", "ChatGLMModel", kChatGlm, &gguf::kChatGlm},
};

bool equal_but_for_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::ranges::equal(a, b, {}, lower, lower);
}

/// Whether `text` is `pattern` with whole numbers in place of its "{}".
bool is_instance(std::string_view pattern, std::string_view text) {
  for (;;) {
    const auto hole = pattern.find("{}");
    if (hole == std::string_view::npos) return pattern == text;
    if (!text.starts_with(pattern.substr(0, hole))) return false;
    text.remove_prefix(hole);
    pattern.remove_prefix(hole + 2);
    const auto digits = std::min(text.find_first_not_of("0123456789"), text.size());
    if (digits == 0) return false;
    text.remove_prefix(digits);
  }
}

}  // namespace

std::span<const Family> families() noexcept { return kFamilies; }

const Family* find_family(const nlohmann::json& config) noexcept {
  const auto listed = config.find("architectures");
  if (listed != config.end() && listed->is_array() && !listed->empty() &&
      listed->front().is_string()) {
    const auto& name = listed->front().get_ref<const std::string&>();
    const auto found = std::ranges::find(kFamilies, name, &Family::architecture);
    if (found != kFamilies.end()) return &*found;
    // Another spelling of the class ("BaiChuanForCausalLM"), or the model without its head's class
    // ("BloomModel"); a class with a head of another kind is another model.
    const auto type = config.find("model_type");
    const Family* const of_type = type != config.end() && type->is_string()
                                      ? find_family_of(type->get_ref<const std::string&>())
                                      : nullptr;
    const bool same = of_type != nullptr &&
                      (equal_but_for_case(name, of_type->architecture) || name.ends_with("Model"));
    return same ? of_type : nullptr;
  }
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) return nullptr;
  return find_family_of(type->get_ref<const std::string&>());
}

const Family* find_family_of(std::string_view model_type) noexcept {
  const auto found = std::ranges::find(kFamilies, model_type, &Family::model_type);
  return found == kFamilies.end() ? nullptr : &*found;
}

const TensorRow* find_row(const Family& family, Part part,
                          const std::function<bool(std::string_view)>& has) {
  const TensorRow* first = nullptr;
  for (const TensorRow& row : family.tensors) {
    if (row.part != part) continue;
    if (!has) return &row;
    if (has(numbered(row.name, 0) + ".weight")) return &row;
    if (first == nullptr) first = &row;
  }
  return first;
}

const TensorRow* find_row(const Family& family, std::string_view path) {
  const auto found = std::ranges::find_if(
      family.tensors, [&](const TensorRow& row) { return is_instance(row.name, path); });
  return found == family.tensors.end() ? nullptr : &*found;
}

std::string numbered(std::string_view name, std::int64_t layer, std::int64_t expert) {
  std::string result(name);
  for (const std::int64_t number : {layer, expert}) {
    const auto hole = result.find("{}");
    if (hole == std::string::npos) break;
    result.replace(hole, 2, std::to_string(number));
  }
  return result;
}

std::vector<std::int64_t> stored_row_order(Layout layout, std::int64_t heads, std::int64_t kv_heads,
                                           std::int64_t head_dim) {
  const std::int64_t group = layout == Layout::kPerHead ? 1 : heads / kv_heads;
  if (layout != Layout::kPerHead && layout != Layout::kGrouped) return {};
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>((heads + 2 * kv_heads) * head_dim));
  const auto add = [&](std::int64_t block) {  // of head_dim rows
    for (std::int64_t i = 0; i < head_dim; ++i) order.push_back(block * head_dim + i);
  };
  for (std::int64_t h = 0; h < heads; ++h) add(h / group * (group + 2) + h % group);
  for (std::int64_t h = 0; h < kv_heads; ++h) add(h * (group + 2) + group);
  for (std::int64_t h = 0; h < kv_heads; ++h) add(h * (group + 2) + group + 1);
  return order;
}

}  // namespace weft::checkpoint
