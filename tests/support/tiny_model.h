#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {

/// Shape of a small Llama, or of a Mixtral. The vocabulary is <pad>, <s>, </s> and the 256 bytes.
struct TinyModel {
  std::int64_t hidden = 32;
  std::int64_t layers = 2;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t intermediate = 48;
  std::int64_t experts = 0;  ///< Of which two are visited; 0: a Llama
  std::int64_t max_positions = 512;
  bool tied_head = true;
  std::uint32_t seed = 1;
};
inline constexpr std::int64_t kTinyVocabulary = 259;

/// The character that byte-level BPE shows a byte as (GPT-2's bytes_to_unicode), in UTF-8.
inline std::string byte_character(int byte) {
  const auto is_printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!is_printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += is_printable(b) ? 0 : 1;
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

/// tokenizer.json of one token a byte.
inline nlohmann::ordered_json tiny_tokenizer() {
  const auto special = [](int id, const char* text) -> nlohmann::ordered_json {
    return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
            {"rstrip", false}, {"normalized", false}, {"special", true}};
  };
  nlohmann::ordered_json vocabulary{{"<pad>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_character(byte)] = byte + 3;
  const nlohmann::ordered_json byte_level{{"type", "ByteLevel"},
                                          {"add_prefix_space", false},
                                          {"trim_offsets", true},
                                          {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {special(0, "<pad>"), special(1, "<s>"), special(2, "</s>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocabulary},
            {"merges", nlohmann::ordered_json::array()}}}};
}

/// Writes a Hugging Face directory with random weights (F32) and returns its path.
inline std::filesystem::path write_tiny_model(const std::filesystem::path& folder,
                                              const TinyModel& shape = {}) {
  std::filesystem::create_directories(folder);
  const std::int64_t head_dim = shape.hidden / shape.heads;
  const auto write = [&](const char* name, const nlohmann::ordered_json& json) {
    std::ofstream(folder / name) << json.dump(1);
  };
  nlohmann::ordered_json config{{"architectures", {"LlamaForCausalLM"}},
                                {"model_type", "llama"},
                                {"vocab_size", kTinyVocabulary},
                                {"hidden_size", shape.hidden},
                                {"num_hidden_layers", shape.layers},
                                {"num_attention_heads", shape.heads},
                                {"num_key_value_heads", shape.kv_heads},
                                {"head_dim", head_dim},
                                {"intermediate_size", shape.intermediate},
                                {"max_position_embeddings", shape.max_positions},
                                {"rms_norm_eps", 1e-5},
                                {"rope_theta", 10000.0},
                                {"hidden_act", "silu"},
                                {"attention_bias", false},
                                {"mlp_bias", false},
                                {"tie_word_embeddings", shape.tied_head},
                                {"bos_token_id", 1},
                                {"eos_token_id", 2},
                                {"torch_dtype", "float32"}};
  if (shape.experts > 0) {
    config["architectures"] = {"MixtralForCausalLM"};
    config["model_type"] = "mixtral";
    config["num_local_experts"] = shape.experts;
    config["num_experts_per_tok"] = 2;
    for (const char* key : {"attention_bias", "mlp_bias"}) config.erase(key);
  }
  write("config.json", config);
  write("tokenizer.json", tiny_tokenizer());
  write("tokenizer_config.json", {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                  {"bos_token", "<s>"},
                                  {"eos_token", "</s>"},
                                  {"pad_token", "<pad>"},
                                  {"model_max_length", shape.max_positions}});
  std::vector<checkpoint::TensorPlan> plans{
      {"model.embed_tokens.weight", "F32", {kTinyVocabulary, shape.hidden}},
      {"model.norm.weight", "F32", {shape.hidden}}};
  if (!shape.tied_head) plans.push_back({"lm_head.weight", "F32", {kTinyVocabulary, shape.hidden}});
  for (std::int64_t i = 0; i < shape.layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    const auto add = [&](const char* name, std::vector<std::int64_t> sizes) {
      plans.push_back({layer + name + ".weight", "F32", std::move(sizes)});
    };
    add("input_layernorm", {shape.hidden});
    add("post_attention_layernorm", {shape.hidden});
    add("self_attn.q_proj", {shape.heads * head_dim, shape.hidden});
    add("self_attn.k_proj", {shape.kv_heads * head_dim, shape.hidden});
    add("self_attn.v_proj", {shape.kv_heads * head_dim, shape.hidden});
    add("self_attn.o_proj", {shape.hidden, shape.heads * head_dim});
    if (shape.experts > 0) {
      add("block_sparse_moe.gate", {shape.experts, shape.hidden});
      for (std::int64_t e = 0; e < shape.experts; ++e) {
        const std::string expert = "block_sparse_moe.experts." + std::to_string(e) + ".";
        add((expert + "w1").c_str(), {shape.intermediate, shape.hidden});
        add((expert + "w3").c_str(), {shape.intermediate, shape.hidden});
        add((expert + "w2").c_str(), {shape.hidden, shape.intermediate});
      }
      continue;
    }
    add("mlp.gate_proj", {shape.intermediate, shape.hidden});
    add("mlp.up_proj", {shape.intermediate, shape.hidden});
    add("mlp.down_proj", {shape.hidden, shape.intermediate});
  }
  checkpoint::SafetensorsWriter writer(folder / "model.safetensors", std::move(plans));
  std::mt19937 random(shape.seed);
  for (const auto& tensor : writer.order()) {
    std::vector<float> values(tensor.bytes() / sizeof(float));
    const bool is_norm = tensor.shape.size() == 1;
    for (float& value : values) {
      // Uniform in [-0.25, 0.25), the same on every machine.
      const float uniform = static_cast<float>(random() >> 8) * 0x1p-25F - 0.25F;
      value = is_norm ? 1.0F + uniform : uniform;
    }
    writer.write(std::span<const float>(values));
  }
  writer.finish();
  return folder;
}

}  // namespace weft::tests
