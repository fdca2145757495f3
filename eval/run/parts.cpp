#include "eval/run/parts.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/hash.h"

namespace weft::eval {
namespace {

bool is_known(const StageResult& stage) {
  return !stage.model_digest.empty() && stage.adapter_digests.size() == stage.adapters.size() &&
         std::ranges::none_of(stage.adapter_digests, &std::string::empty);
}

nlohmann::json contents(const StageResult& stage) {
  return {stage.model_digest, stage.adapter_digests, stage.quantise};
}

}  // namespace

std::string part_key(const PartInputs& inputs) {
  if (inputs.suite_digest.empty() || !is_known(inputs.stage) ||
      (inputs.reference != nullptr && !is_known(*inputs.reference))) {
    return {};
  }
  const Circumstances& c = inputs.circumstances;
  const nlohmann::json all{
      {"program", c.program},
      {"machine", c.machine},
      {"threads", c.threads},
      {"kernels", c.kernels},
      {"dtype", inputs.dtype},
      {"row_tokens", inputs.row_tokens},
      {"stage", contents(inputs.stage)},
      {"suite", inputs.suite_digest},
      {"asked", inputs.asked_digest},
      {"reference",
       inputs.reference == nullptr ? nlohmann::json(nullptr) : contents(*inputs.reference)}};
  return core::sha256(all.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace weft::eval
