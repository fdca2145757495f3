#include "merge/fold.h"

#include "merge/adapter_deltas.h"
#include "merge/stream.h"

namespace weft::merge {
namespace {

OutputTensor output_of(const checkpoint::Checkpoint& base,
                       std::span<const WeightedAdapter> adapters, const FoldPlan::Tensor& tensor,
                       std::uint64_t seed) {
  OutputTensor output{tensor.name, tensor.source,   tensor.info, tensor.dtype, {},
                      {},          tensor.rounding, seed,        tensor.copied};
  if (tensor.uses.empty()) return output;
  output.change = [&base, adapters, &tensor](std::vector<UsedKey>& used) {
    return make_deltas(base, adapters, {tensor.source, tensor.info, tensor.uses}, &used);
  };
  for (const Use& use : tensor.uses) {
    if (use.part != Use::Part::kSaved) continue;
    const lora::PeftFile& file = *adapters[use.adapter].file;
    output.reads.emplace_back(&file.tensors(), file.tensors().find(file.saved()[use.target].key));
  }
  return output;
}

}  // namespace

Written fold(const checkpoint::Checkpoint& base, std::span<const WeightedAdapter> adapters,
             const FoldPlan& plan, const std::filesystem::path& folder,
             const FoldControl& control) {
  std::vector<OutputTensor> outputs;
  for (const FoldPlan::Tensor& tensor : plan.tensors) {
    outputs.push_back(output_of(base, adapters, tensor, plan.seed));
  }
  return write_tensors(outputs, plan.shards, folder, control);
}

}  // namespace weft::merge
