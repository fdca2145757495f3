// llama.cpp as an oracle: what its library does with a GGUF file, for tests/oracles/test_export.py.
// Built by script/setup --tests against the llama.cpp of third_party/test_data.txt.
//
//   llama_probe quantize IN.gguf OUT.gguf FILE_TYPE      llama-quantize IN OUT TYPE
//   llama_probe logits MODEL.gguf OUT.f32 [LORA.gguf] < ids    one line of ids a sequence;
//                                                        OUT: floats [tokens of all lines, vocab]
//   llama_probe tokens MODEL.gguf < text                 ids of each line, one line each

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "llama.h"

namespace {

void quiet(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

int quantize(const char* in, const char* out, const char* type) {
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.allow_requantize = true;  // F32 of a quantised file: its own dequantiser
  params.ftype = static_cast<llama_ftype>(std::stoi(type));
  return static_cast<int>(llama_model_quantize(in, out, &params));
}

llama_model* load(const char* path, bool vocabulary_only) {
  llama_model_params params = llama_model_default_params();
  params.vocab_only = vocabulary_only;
  // Repacked weights are multiplied in other numbers than the file's.
  params.use_extra_bufts = false;
  return llama_model_load_from_file(path, params);
}

int logits(const char* path, const char* out, const char* lora) {
  llama_model* const model = load(path, false);
  if (model == nullptr) return 1;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = 512;
  params.n_batch = 512;
  params.n_ubatch = 512;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  params.type_k = GGML_TYPE_F32;
  params.type_v = GGML_TYPE_F32;
  params.n_threads = params.n_threads_batch = 2;
  llama_context* const context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;
  if (lora != nullptr) {
    llama_adapter_lora* adapter = llama_adapter_lora_init(model, lora);
    if (adapter == nullptr) return 1;
    float scale = 1.0F;
    if (llama_set_adapters_lora(context, &adapter, 1, &scale) != 0) return 1;
  }
  const auto vocabulary =
      static_cast<std::size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  std::ofstream file(out, std::ios::binary);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::vector<llama_token> ids;
    for (llama_token id; words >> id;) ids.push_back(id);
    llama_memory_clear(llama_get_memory(context), true);
    llama_batch batch = llama_batch_init(static_cast<int>(ids.size()), 0, 1);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      batch.token[i] = ids[i];
      batch.pos[i] = static_cast<llama_pos>(i);
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    batch.n_tokens = static_cast<int>(ids.size());
    if (llama_decode(context, batch) != 0) return 1;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const float* row = llama_get_logits_ith(context, static_cast<int>(i));
      file.write(reinterpret_cast<const char*>(row),
                 static_cast<std::streamsize>(vocabulary * sizeof(float)));
    }
    llama_batch_free(batch);
  }
  return file.good() ? 0 : 1;
}

int tokens(const char* path) {
  llama_model* const model = load(path, true);
  if (model == nullptr) return 1;
  const llama_vocab* const vocab = llama_model_get_vocab(model);
  for (std::string line; std::getline(std::cin, line);) {
    std::vector<llama_token> ids(line.size() + 16);
    const int count = llama_tokenize(vocab, line.data(), static_cast<int>(line.size()), ids.data(),
                                     static_cast<int>(ids.size()), true, true);
    for (int i = 0; i < count; ++i)
      std::printf(i > 0 ? " %d" : "%d", ids[static_cast<std::size_t>(i)]);
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  llama_log_set(quiet, nullptr);
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "quantize" && argc == 5) return quantize(argv[2], argv[3], argv[4]);
  if (what == "logits" && (argc == 4 || argc == 5)) {
    return logits(argv[2], argv[3], argc == 5 ? argv[4] : nullptr);
  }
  if (what == "tokens" && argc == 3) return tokens(argv[2]);
  std::fputs("usage: llama_probe quantize|logits|tokens ... (see the source)\n", stderr);
  return 2;
}
