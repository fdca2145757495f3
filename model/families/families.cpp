#include "model/families/families.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>

namespace weft::model::families {
namespace {

struct Entry {
  std::string_view architecture;
  Spec (*read)(const Reader&);
};

constexpr std::array kReaders{Entry{"LlamaForCausalLM", llama},
                              Entry{"MistralForCausalLM", mistral},
                              Entry{"MinistralForCausalLM", mistral},
                              Entry{"Qwen2ForCausalLM", qwen2},
                              Entry{"Qwen3ForCausalLM", qwen3},
                              Entry{"MixtralForCausalLM", mixtral},
                              Entry{"Qwen2MoeForCausalLM", qwen2_moe},
                              Entry{"Qwen3MoeForCausalLM", qwen3_moe},
                              Entry{"GptOssForCausalLM", gpt_oss},
                              Entry{"SmolLM3ForCausalLM", smollm3},
                              Entry{"GraniteForCausalLM", granite},
                              Entry{"GemmaForCausalLM", gemma},
                              Entry{"Gemma2ForCausalLM", gemma2},
                              Entry{"Gemma3ForCausalLM", gemma3},
                              Entry{"Olmo2ForCausalLM", olmo2},
                              Entry{"InternLM2ForCausalLM", internlm2},
                              Entry{"OrionForCausalLM", orion},
                              Entry{"YayiForCausalLM", yayi},
                              Entry{"BaichuanForCausalLM", baichuan},
                              Entry{"Phi3ForCausalLM", phi3},
                              Entry{"PhiForCausalLM", phi},
                              Entry{"GPT2LMHeadModel", gpt2},
                              Entry{"GPTNeoXForCausalLM", gpt_neox},
                              Entry{"BloomForCausalLM", bloom},
                              Entry{"FalconForCausalLM", falcon},
                              Entry{"OPTForCausalLM", opt},
                              Entry{"CohereForCausalLM", cohere},
                              Entry{"Cohere2ForCausalLM", cohere2},
                              Entry{"GlmForCausalLM", glm},
                              Entry{"Glm4ForCausalLM", glm},
                              Entry{"ChatGLMModel", chatglm}};

}  // namespace

Spec read(const nlohmann::json& config, const std::string& where, const HasTensor& has) {
  const Reader reader(config, where, has);
  const auto entry =
      std::ranges::find(kReaders, reader.family().architecture, &Entry::architecture);
  TORCH_INTERNAL_ASSERT(entry != kReaders.end(), "a family without reader");
  Spec spec = entry->read(reader);
  spec.other_parts = reader.other_parts();
  reader.refuse_unread();
  return spec;
}

}  // namespace weft::model::families

namespace weft::model {

std::vector<std::string> supported_architectures() {
  std::vector<std::string> result;
  for (const checkpoint::Family& family : checkpoint::families())
    result.emplace_back(family.architecture);
  return result;
}

}  // namespace weft::model
