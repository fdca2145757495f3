#include "model/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/philox.h"
#include "model/kernels/ops.h"

namespace weft::model {
namespace {

constexpr const char* kNoNumbers =
    "the model's logits are no numbers: its weights are damaged, or it needs dtype float32";

/// NaN has no place in an order: sorting it is undefined, and a largest number does not see it.
void require_numbers(std::span<const float> logits) {
  bool numbers = true;
  for (const float logit : logits) numbers &= logit == logit;
  if (!numbers) throw NumericError(kNoNumbers);
}

using Candidate = Sampler::Candidate;

/// Probabilities of the candidates, which are sorted by logit, largest first.
void softmax(std::vector<Candidate>& candidates) {
  double sum = 0;
  for (Candidate& c : candidates) {
    c.probability = std::exp(c.logit - candidates.front().logit);
    sum += c.probability;
  }
  for (Candidate& c : candidates) c.probability = static_cast<float>(c.probability / sum);
}

void penalise(std::vector<Candidate>& all, std::span<const std::int32_t> seen, float penalty) {
  std::vector<char> done(all.size(), 0);
  for (const std::int32_t id : seen) {
    const auto i = static_cast<std::size_t>(id);
    if (i >= all.size() || done[i] != 0) continue;
    done[i] = 1;
    all[i].logit = all[i].logit < 0 ? all[i].logit * penalty : all[i].logit / penalty;
  }
}

/// Drops the tail whose probabilities, summed from the smallest, stay within 1 - p; keeps at least
/// one.
void keep_top_p(std::vector<Candidate>& sorted, double top_p) {
  softmax(sorted);
  const auto limit = static_cast<float>(1 - top_p);
  double sum = 0;
  while (sorted.size() > 1) {
    sum += sorted.back().probability;
    if (static_cast<float>(sum) > limit) break;
    sorted.pop_back();
  }
}

}  // namespace

Sampler::Sampler(const Sampling& sampling) : sampling_(sampling) {
  const auto require = [](bool good, const char* name, double value, const char* range) {
    if (!good) throw ConfigError("{} is {}, expected {}", name, value, range);
  };
  require(std::isfinite(sampling.temperature) && sampling.temperature >= 0, "temperature",
          sampling.temperature, "0 or more");
  require(sampling.top_k >= 0, "top-k", static_cast<double>(sampling.top_k), "0 or more");
  require(sampling.top_p > 0 && sampling.top_p <= 1, "top-p", sampling.top_p,
          "more than 0, at most 1");
  require(sampling.min_p >= 0 && sampling.min_p <= 1, "min-p", sampling.min_p, "0 to 1");
  require(std::isfinite(sampling.repetition_penalty) && sampling.repetition_penalty > 0,
          "repetition-penalty", sampling.repetition_penalty, "more than 0");
}

std::vector<Candidate> Sampler::candidates(const at::Tensor& logits,
                                           std::span<const std::int32_t> seen) const {
  const at::Tensor values = logits.to(at::kFloat).contiguous();
  const float* data = values.const_data_ptr<float>();
  require_numbers({data, static_cast<std::size_t>(values.numel())});
  std::vector<Candidate> all(static_cast<std::size_t>(values.numel()));
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = {static_cast<std::int32_t>(i), data[i], 0};
  if (sampling_.repetition_penalty != 1)
    penalise(all, seen, static_cast<float>(sampling_.repetition_penalty));
  const auto larger = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  if (sampling_.temperature == 0) {
    Candidate best = *std::ranges::min_element(all, larger);
    best.probability = 1;
    return {best};
  }
  const auto temperature = static_cast<float>(sampling_.temperature);
  for (Candidate& c : all) c.logit /= temperature;
  const auto k = static_cast<std::size_t>(sampling_.top_k);
  if (k > 0 && k < all.size()) {
    std::ranges::nth_element(all, all.begin() + static_cast<std::ptrdiff_t>(k) - 1, larger);
    const float least = all[k - 1].logit;  // equals of the k-th stay, as in transformers
    std::erase_if(all, [&](const Candidate& c) { return c.logit < least; });
  }
  std::ranges::sort(all, larger);
  if (sampling_.top_p < 1) keep_top_p(all, sampling_.top_p);
  softmax(all);
  if (sampling_.min_p > 0) {
    const float least = static_cast<float>(sampling_.min_p) * all.front().probability;
    std::erase_if(all, [&](const Candidate& c) { return c.probability < least; });
    softmax(all);
  }
  return all;
}

std::int32_t Sampler::greedy(const at::Tensor& logits, std::span<const std::int32_t> seen) const {
  const at::Tensor values = logits.to(at::kFloat).contiguous();
  const float* const data = values.const_data_ptr<float>();
  const auto largest = [](const float* z, std::int64_t size) {
    float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
    for (std::int64_t j = 0; j < size; ++j) most = std::max(most, z[j]);
    return static_cast<std::int32_t>(std::find(z, z + size, most) - z);
  };
  const std::int64_t size = values.numel();
  require_numbers({data, static_cast<std::size_t>(size)});
  const auto found = [](std::int32_t best, std::int64_t count) {
    if (best < count) return best;
    throw NumericError(kNoNumbers);
  };
  if (sampling_.repetition_penalty == 1) {
    const std::int32_t best = largest(data, size);
    return found(best, size);
  }
  const auto penalty = static_cast<float>(sampling_.repetition_penalty);
  std::vector<float> penalised(data, data + size);
  for (const std::int32_t id : seen) {
    if (id < 0 || id >= size) continue;
    const float logit = data[id];  // Once for each token, however often it was seen.
    penalised[static_cast<std::size_t>(id)] = logit < 0 ? logit * penalty : logit / penalty;
  }
  return found(largest(penalised.data(), size), size);
}

std::int32_t Sampler::next(const at::Tensor& logits, std::span<const std::int32_t> seen) {
  if (sampling_.temperature == 0) {
    ++step_;
    return greedy(logits, seen);
  }
  const std::vector<Candidate> choice = candidates(logits, seen);
  const core::PhiloxWords random = core::philox(
      core::philox_key(sampling_.seed),
      {static_cast<std::uint32_t>(step_), static_cast<std::uint32_t>(step_ >> 32), 0x73616d70U, 0});
  ++step_;
  // 53 random bits: a place in [0, 1) of the cumulated probabilities.
  const std::uint64_t bits = (std::uint64_t{random[0]} << 32 | random[1]) >> 11;
  double rest = static_cast<double>(bits) * 0x1p-53;
  for (const Candidate& c : choice) {
    rest -= c.probability;
    if (rest < 0) return c.id;
  }
  return choice.front().id;  // rounding left nothing: the most probable
}

}  // namespace weft::model
