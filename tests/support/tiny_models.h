#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/model_files.h"

// A Llama model of two layers, as GGUF and as Hugging Face names it, with the same numbers.

namespace weft::tests {

struct TinyLlama {
  static constexpr std::uint64_t kWidth = 8, kHeads = 2, kKeyHeads = 1, kHeadDim = 4, kInner = 12,
                                 kVocabulary = 10, kLayers = 2;

  /// Hugging Face name, GGUF name, dimensions [rows, columns] (columns 0: a vector).
  struct Tensor {
    std::string hugging_face, gguf;
    std::uint64_t rows, columns;
    std::uint64_t heads = 0;  ///< Of interleaved rows; 0: plain.
  };

  static std::vector<Tensor> tensors() {
    std::vector<Tensor> list{{"model.embed_tokens", "token_embd", kVocabulary, kWidth},
                             {"model.norm", "output_norm", kWidth, 0}};
    for (std::uint64_t i = 0; i < kLayers; ++i) {
      const std::string hf = "model.layers." + std::to_string(i) + ".";
      const std::string gguf = "blk." + std::to_string(i) + ".";
      const std::uint64_t query = kHeads * kHeadDim;
      const std::uint64_t key = kKeyHeads * kHeadDim;
      list.push_back({hf + "input_layernorm", gguf + "attn_norm", kWidth, 0});
      list.push_back({hf + "post_attention_layernorm", gguf + "ffn_norm", kWidth, 0});
      list.push_back({hf + "self_attn.q_proj", gguf + "attn_q", query, kWidth, kHeads});
      list.push_back({hf + "self_attn.k_proj", gguf + "attn_k", key, kWidth, kKeyHeads});
      list.push_back({hf + "self_attn.v_proj", gguf + "attn_v", key, kWidth});
      list.push_back({hf + "self_attn.o_proj", gguf + "attn_output", kWidth, query});
      list.push_back({hf + "mlp.gate_proj", gguf + "ffn_gate", kInner, kWidth});
      list.push_back({hf + "mlp.up_proj", gguf + "ffn_up", kInner, kWidth});
      list.push_back({hf + "mlp.down_proj", gguf + "ffn_down", kWidth, kInner});
    }
    return list;
  }

  /// The model's own numbers, in Hugging Face order; distinct within and between tensors.
  static std::vector<float> values(const Tensor& tensor, std::size_t index) {
    std::vector<float> list(tensor.rows * std::max<std::uint64_t>(1, tensor.columns));
    for (std::size_t i = 0; i < list.size(); ++i) {
      list[i] = static_cast<float>(index) + static_cast<float>(i) / 1024.0F;
    }
    return list;
  }

  /// llama.cpp's converter, word for word: reshape(heads, 2, h / 2, columns).swapaxes(1, 2).
  static std::vector<float> interleave(const std::vector<float>& values, std::uint64_t heads,
                                       std::uint64_t columns) {
    std::vector<float> moved;
    for (std::uint64_t head = 0; head < heads; ++head) {
      for (std::uint64_t i = 0; i < kHeadDim / 2; ++i) {
        for (std::uint64_t j = 0; j < 2; ++j) {
          const std::uint64_t row = head * kHeadDim + j * kHeadDim / 2 + i;
          for (std::uint64_t c = 0; c < columns; ++c) moved.push_back(values[row * columns + c]);
        }
      }
    }
    return moved;
  }

  static GgufBuilder gguf_metadata(const std::string& architecture = "llama") {
    GgufBuilder file;
    const std::string a = architecture + ".";
    file.text("general.architecture", architecture)
        .u32(a + "context_length", 128)
        .u32(a + "embedding_length", kWidth)
        .u32(a + "block_count", kLayers)
        .u32(a + "feed_forward_length", kInner)
        .u32(a + "attention.head_count", kHeads)
        .u32(a + "attention.head_count_kv", kKeyHeads)
        .f32(a + "attention.layer_norm_rms_epsilon", 1e-5F)
        .u32(a + "rope.dimension_count", kHeadDim)
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2);
    return file;
  }

  static void add_gguf_tensor(GgufBuilder& file, const Tensor& tensor, std::size_t index) {
    const std::uint64_t columns = std::max<std::uint64_t>(1, tensor.columns);
    std::vector<float> list = values(tensor, index);
    if (tensor.heads > 0) list = interleave(list, tensor.heads, columns);
    file.f32_tensor(
        tensor.gguf + ".weight",
        tensor.columns == 0 ? std::vector{tensor.rows} : std::vector{tensor.columns, tensor.rows},
        list);
  }

  static GgufBuilder gguf() {
    GgufBuilder file = gguf_metadata();
    const auto list = tensors();
    for (std::size_t i = 0; i < list.size(); ++i) add_gguf_tensor(file, list[i], i);
    return file;
  }

  static std::string config(bool tied = true) {
    return std::string(R"({"model_type":"llama","architectures":["LlamaForCausalLM"],)") +
           R"("hidden_size":8,"intermediate_size":12,"num_hidden_layers":2,)"
           R"("num_attention_heads":2,"num_key_value_heads":1,"head_dim":4,"vocab_size":10,)"
           R"("max_position_embeddings":128,"rms_norm_eps":1e-5,"tie_word_embeddings":)" +
           (tied ? "true}" : "false}");
  }
};

}  // namespace weft::tests
