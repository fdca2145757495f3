// llama.cpp as an oracle: what its library does with a GGUF file, for tests/oracles/test_export.py.
// Built by script/setup --tests against the llama.cpp of third_party/test_data.txt.
//
//   llama_probe quantize IN.gguf OUT.gguf FILE_TYPE [IMATRIX]   llama-quantize [--imatrix F] IN OUT
//   TYPE llama_probe imatrix MODEL.gguf OUT.dat < ids          one chunk of ids a line: what
//   llama-imatrix
//                                                        sums, in its binary format
//   llama_probe logits MODEL.gguf OUT.f32 [LORA.gguf] < ids    one line of ids a sequence;
//                                                        OUT: floats [tokens of all lines, vocab]
//   llama_probe tokens MODEL.gguf < text                 ids of each line, one line each

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "common/imatrix-loader.h"
#include "common/log.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

// llama-quantize's own reader of importance matrices is linked (common/imatrix-loader.cpp); this is
// all that it wants of the rest of common/.
int common_log_get_verbosity_thold() { return 0; }
common_log* common_log_main() { return nullptr; }
void common_log_add(common_log*, ggml_log_level, const char* format, ...) {
  std::fputs(format, stderr);
}

namespace {

void quiet(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

/// Sums divided by counts, of which a stack has one for each expert, as tools/quantize/quantize.cpp
/// does.
std::map<std::string, std::vector<float>> importance_of(const char* path) {
  common_imatrix loaded;
  std::map<std::string, std::vector<float>> means;
  if (!common_imatrix_load(path, loaded)) return means;
  if (!loaded.is_legacy && !loaded.has_metadata) return means;
  for (const auto& [name, entry] : loaded.entries) {
    std::vector<float>& mean = means[name] = entry.sums;
    const std::size_t each = mean.size() / entry.counts.size();
    for (std::size_t i = 0; i < mean.size(); ++i) {
      const std::int64_t count = entry.counts[i / each];
      const float whole = count > 0 ? mean[i] / static_cast<float>(count) : 1.0F;
      mean[i] = loaded.is_legacy ? mean[i] / entry.counts.front() : whole;
    }
  }
  return means;
}

int quantize(const char* in, const char* out, const char* type, const char* imatrix) {
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.allow_requantize = true;  // F32 of a quantised file: its own dequantiser
  params.ftype = static_cast<llama_ftype>(std::stoi(type));
  std::map<std::string, std::vector<float>> importance;
  std::vector<llama_model_imatrix_data> entries;
  if (imatrix != nullptr) {
    importance = importance_of(imatrix);
    if (importance.empty()) return 1;
    for (const auto& [name, mean] : importance) {
      entries.push_back({name.c_str(), mean.data(), mean.size()});
    }
    entries.push_back({nullptr, nullptr, 0});
    params.imatrix = entries.data();
  }
  return static_cast<int>(llama_model_quantize(in, out, &params));
}

llama_model* load(const char* path, bool vocabulary_only) {
  llama_model_params params = llama_model_default_params();
  params.vocab_only = vocabulary_only;
  // Repacked weights are multiplied in other numbers than the file's.
  params.use_extra_bufts = false;
  return llama_model_load_from_file(path, params);
}

/// Reads the ids as a text of its own; the logits of all of them can be asked for then.
bool decode(llama_context* context, const std::vector<llama_token>& ids) {
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
  const bool done = llama_decode(context, batch) == 0;
  llama_batch_free(batch);
  return done;
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
    if (!decode(context, ids)) return 1;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const float* row = llama_get_logits_ith(context, static_cast<int>(i));
      file.write(reinterpret_cast<const char*>(row),
                 static_cast<std::streamsize>(vocabulary * sizeof(float)));
    }
  }
  return file.good() ? 0 : 1;
}

using Sums = std::map<std::string, std::vector<float>>;

/// IMatrixCollector::collect_imatrix of tools/imatrix: the inputs of products with a layer's
/// matrix.
bool collect(ggml_tensor* t, bool ask, void* user) {
  const std::string name = t->src[0] != nullptr ? t->src[0]->name : "";
  const bool wanted = t->op == GGML_OP_MUL_MAT && name.rfind("blk.", 0) == 0 &&
                      t->src[1]->type == GGML_TYPE_F32 && t->src[1]->ne[1] >= 16;
  if (ask || !wanted) return wanted;
  const ggml_tensor* const x = t->src[1];
  std::vector<float>& sums = (*static_cast<Sums*>(user))[name];
  sums.resize(static_cast<std::size_t>(x->ne[0]));
  for (std::int64_t row = 0; row < x->ne[1]; ++row) {
    const auto* values = reinterpret_cast<const float*>(static_cast<const char*>(x->data) +
                                                        static_cast<std::size_t>(row) * x->nb[1]);
    for (std::size_t j = 0; j < sums.size(); ++j) sums[j] += values[j] * values[j];
  }
  return true;
}

void put(std::ofstream& file, std::int32_t number) {
  file.write(reinterpret_cast<const char*>(&number), sizeof number);
}

/// save_imatrix_legacy() of the same source.
int save(const Sums& sums, std::int32_t tokens, std::int32_t chunks, const char* out) {
  std::ofstream file(out, std::ios::binary);
  put(file, static_cast<std::int32_t>(sums.size()));
  for (const auto& [name, values] : sums) {
    put(file, static_cast<std::int32_t>(name.size()));
    file << name;
    put(file, chunks);
    put(file, static_cast<std::int32_t>(values.size()));
    for (const float value : values) {
      const float stored = value / static_cast<float>(tokens) * static_cast<float>(chunks);
      file.write(reinterpret_cast<const char*>(&stored), sizeof stored);
    }
  }
  put(file, chunks);
  put(file, 8);
  file << "text.txt";
  return file.good() ? 0 : 1;
}

int imatrix(const char* path, const char* out) {
  llama_model* const model = load(path, false);
  if (model == nullptr) return 1;
  Sums sums;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 512;
  params.n_threads = params.n_threads_batch = 2;
  params.cb_eval = collect;
  params.cb_eval_user_data = &sums;
  llama_context* const context = llama_init_from_model(model, params);
  if (context == nullptr) return 1;
  std::int32_t tokens = 0, chunks = 0;
  for (std::string line; std::getline(std::cin, line); ++chunks) {
    std::istringstream words(line);
    std::vector<llama_token> ids;
    for (llama_token id; words >> id;) ids.push_back(id);
    if (!decode(context, ids)) return 1;
    tokens += static_cast<std::int32_t>(ids.size());
  }
  return save(sums, tokens, chunks, out);
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
  if (what == "quantize" && (argc == 5 || argc == 6)) {
    return quantize(argv[2], argv[3], argv[4], argc == 6 ? argv[5] : nullptr);
  }
  if (what == "imatrix" && argc == 4) return imatrix(argv[2], argv[3]);
  if (what == "logits" && (argc == 4 || argc == 5)) {
    return logits(argv[2], argv[3], argc == 5 ? argv[4] : nullptr);
  }
  if (what == "tokens" && argc == 3) return tokens(argv[2]);
  std::fputs("usage: llama_probe quantize|imatrix|logits|tokens ... (see the source)\n", stderr);
  return 2;
}
