#include "eval/run/reference_states.h"

#include <algorithm>
#include <span>
#include <stdexcept>

#include "model/divergence.h"

namespace weft::eval {
namespace {

std::vector<std::int32_t> targets_of(const data::Row& row) {
  std::vector<std::int32_t> targets;
  for (const std::int32_t target : row.targets) {
    if (target != data::kNoTarget) targets.push_back(target);
  }
  return targets;
}

std::vector<float> losses_of(model::Head& head, const at::Tensor& states,
                             std::span<const std::int32_t> targets) {
  std::vector<double> losses(targets.size());
  if (!losses.empty()) head.cross_entropy(states, targets, losses, 0, nullptr);
  return {losses.begin(), losses.end()};
}

}  // namespace

std::vector<float> ReferenceStates::record(model::Decoder& decoder, const data::Row& row) {
  const at::Tensor states = decoder.supervised_states(row);
  states_.push_back(states.cpu());
  return losses_of(head_, states, targets_of(row));
}

std::vector<float> ReferenceStates::compare(model::Decoder& decoder, const data::Row& row,
                                            std::size_t number,
                                            std::vector<TokenDistance>& distances) {
  const at::Tensor states = decoder.supervised_states(row);
  if (number >= states_.size() || states_[number].size(0) != states.size(0))
    throw std::logic_error("the reference stage scored other rows");
  model::Head head = decoder.head();
  const std::vector<std::int32_t> targets = targets_of(row);
  const std::int64_t chunk = model::Head::chunk_rows(decoder.spec().vocabulary);
  for (std::int64_t first = 0; first < states.size(0); first += chunk) {
    const std::int64_t count = std::min(chunk, states.size(0) - first);
    const auto found =
        model::divergence(head_.logits(states_[number].narrow(0, first, count).to(states.device())),
                          head.logits(states.narrow(0, first, count)),
                          std::span(targets).subspan(static_cast<std::size_t>(first),
                                                     static_cast<std::size_t>(count)));
    for (const model::Divergence& d : found) {
      distances.push_back({.kl = static_cast<float>(d.kl),
                           .loss = static_cast<float>(d.loss),
                           .reference_loss = static_cast<float>(d.reference_loss),
                           .same_top = d.same_top});
    }
  }
  return losses_of(head, states, targets);
}

}  // namespace weft::eval
