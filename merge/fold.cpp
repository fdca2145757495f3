#include "merge/fold.h"

#include "merge/stream.h"
#include "merge/update.h"

namespace weft::merge {

std::unique_ptr<Update> make_update(const checkpoint::Checkpoint& base,
                                    std::span<const WeightedAdapter> adapters,
                                    std::span<const FoldPlan::Use> uses) {
  std::vector<Term> terms;
  for (const FoldPlan::Use& use : uses) {
    const WeightedAdapter& adapter = adapters[use.adapter];
    terms.push_back({adapter.file->load(use.target), adapter.weight});
  }
  const bool input_first = lora::stores_input_first(base, terms.front().factors.target.module.path);
  return std::make_unique<Update>(std::move(terms),
                                  input_first ? Update::Layout::kInOut : Update::Layout::kOutIn);
}

std::vector<FoldedTensor> fold(const checkpoint::Checkpoint& base,
                               std::span<const WeightedAdapter> adapters, const FoldPlan& plan,
                               const std::filesystem::path& folder, const FoldControl& control) {
  std::vector<OutputTensor> outputs;
  for (const FoldPlan::Tensor& tensor : plan.tensors) {
    OutputTensor output{tensor.info->name, &base, tensor.info, tensor.dtype, {}, {}};
    if (!tensor.uses.empty()) {
      output.change = [&base, adapters, &uses = tensor.uses] {
        return make_update(base, adapters, uses);
      };
    }
    outputs.push_back(std::move(output));
  }
  return write_tensors(outputs, plan.shards, folder, control);
}

}  // namespace weft::merge
