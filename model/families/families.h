#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "model/families/reader.h"
#include "model/spec.h"

// One function for each family, or for families that differ in a few values. Each reads what its
// family's configuration_*.py and modeling_*.py of transformers (5.23) read, with their defaults.
namespace weft::model::families {

/// model/spec.h, read_spec().
[[nodiscard]] Spec read(const nlohmann::json& config, const std::string& where,
                        const HasTensor& has);

// llama.cpp
[[nodiscard]] Spec llama(const Reader& reader);
[[nodiscard]] Spec mistral(const Reader& reader);
[[nodiscard]] Spec qwen2(const Reader& reader);
[[nodiscard]] Spec qwen3(const Reader& reader);
[[nodiscard]] Spec smollm3(const Reader& reader);
[[nodiscard]] Spec granite(const Reader& reader);
// llama_like.cpp
[[nodiscard]] Spec olmo2(const Reader& reader);
[[nodiscard]] Spec internlm2(const Reader& reader);
[[nodiscard]] Spec orion(const Reader& reader);
[[nodiscard]] Spec yayi(const Reader& reader);
[[nodiscard]] Spec baichuan(const Reader& reader);
// experts.cpp
[[nodiscard]] Spec mixtral(const Reader& reader);
[[nodiscard]] Spec qwen2_moe(const Reader& reader);
[[nodiscard]] Spec qwen3_moe(const Reader& reader);
[[nodiscard]] Spec gpt_oss(const Reader& reader);
// gemma.cpp
[[nodiscard]] Spec gemma(const Reader& reader);
[[nodiscard]] Spec gemma2(const Reader& reader);
[[nodiscard]] Spec gemma3(const Reader& reader);
// phi.cpp
[[nodiscard]] Spec phi3(const Reader& reader);
[[nodiscard]] Spec phi(const Reader& reader);
// classic.cpp
[[nodiscard]] Spec gpt2(const Reader& reader);
[[nodiscard]] Spec gpt_neox(const Reader& reader);
[[nodiscard]] Spec bloom(const Reader& reader);
[[nodiscard]] Spec falcon(const Reader& reader);
[[nodiscard]] Spec opt(const Reader& reader);
// cohere.cpp
[[nodiscard]] Spec cohere(const Reader& reader);
[[nodiscard]] Spec cohere2(const Reader& reader);
// glm.cpp
[[nodiscard]] Spec glm(const Reader& reader);
[[nodiscard]] Spec chatglm(const Reader& reader);

}  // namespace weft::model::families
