// adapter_config.json and the regular expressions in it: whatever the bytes, the result is a
// configuration, an InputError or, for its expressions, a ConfigError; what is written of a
// configuration is read again as the same text.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "lora/config.h"
#include "lora/targets.h"

namespace {

void choose(const weft::lora::AdapterConfig& config) {
  try {
    const weft::lora::TargetRule rule(config);
    std::vector<weft::lora::Target> targets;
    for (const char* path : {"model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj",
                             "transformer.h.3.attn.c_attn", "lm_head"}) {
      if (rule.selects(path)) targets.push_back(rule.target({path, 4, 4}));
    }
    (void)rule.idle_patterns(targets);
  } catch (const weft::ConfigError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace weft::lora;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  AdapterConfig config;
  try {
    config = parse_config(text, "fuzz");
  } catch (const weft::InputError&) {
    return 0;
  }
  choose(config);
  if (config.target_modules.empty()) return 0;  // Only stacks of experts, which are not written.
  const std::vector<Target> targets{{.module = {"model.layers.0.self_attn.q_proj", 4, 4}}};
  const std::string written = config_text(config, targets);
  if (config_text(parse_config(written, "written"), targets) != written) std::abort();
  return 0;
}
