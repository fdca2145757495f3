#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "core/error.h"
#include "core/parallel.h"

namespace weft::train {
namespace {

constexpr std::int64_t kGrain = 32;  // matrices; below this a thread costs more than it does

/// The scalars of one update, rounded to fp32 once as PyTorch rounds a Python number.
struct Factors {
  float keep;               // 1 - rate * decay
  float first_step;         // 1 - beta1
  float second_keep;        // beta2
  float second_step;        // 1 - beta2
  float second_correction;  // sqrt(1 - beta2^t)
  float epsilon;
  float step;  // -rate / (1 - beta1^t)
};

Factors factors_of(const AdamWOptions& options, double rate, std::int64_t update) {
  const auto t = static_cast<double>(update);
  return {.keep = static_cast<float>(1 - rate * options.weight_decay),
          .first_step = static_cast<float>(1 - options.beta1),
          .second_keep = static_cast<float>(options.beta2),
          .second_step = static_cast<float>(1 - options.beta2),
          .second_correction = static_cast<float>(std::sqrt(1 - std::pow(options.beta2, t))),
          .epsilon = static_cast<float>(options.epsilon),
          .step = static_cast<float>(-rate / (1 - std::pow(options.beta1, t)))};
}

void update(const Factors& f, const Parameter& parameter, Moments& moments) {
  float* value = parameter.value.data();
  const float* gradient = parameter.gradient.data();
  float* first = moments.first.data();
  float* second = moments.second.data();
  for (std::size_t i = 0; i < parameter.value.size(); ++i) {
    const float g = gradient[i];
    const float m = first[i] + f.first_step * (g - first[i]);
    const float v = second[i] * f.second_keep + f.second_step * g * g;
    first[i] = m;
    second[i] = v;
    const float divisor = std::sqrt(v) / f.second_correction + f.epsilon;
    value[i] = value[i] * f.keep + f.step * m / divisor;
  }
}

/// In eight chains, each of every eighth element: one alone would wait for each addition.
double sum_of_squares(std::span<const float> values) {
  constexpr std::size_t kChains = 8;
  double chains[kChains] = {};
  std::size_t i = 0;
  for (; i + kChains <= values.size(); i += kChains) {
    for (std::size_t c = 0; c < kChains; ++c) {
      const auto value = static_cast<double>(values[i + c]);
      chains[c] += value * value;
    }
  }
  double sum = 0;
  for (; i < values.size(); ++i)
    sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  for (const double chain : chains) sum += chain;
  return sum;
}

/// Calls body(i) for every parameter.
template <typename Body>
void for_parameters(std::span<const Parameter> parameters, const Body& body) {
  core::parallel_for(static_cast<std::int64_t>(parameters.size()), kGrain,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) body(static_cast<std::size_t>(i));
                     });
}

}  // namespace

AdamW::AdamW(const AdamWOptions& options) : options_(options) {
  const auto is_beta = [](double beta) { return beta >= 0 && beta < 1; };
  if (!is_beta(options.beta1) || !is_beta(options.beta2)) {
    throw ConfigError("adam_beta1 and adam_beta2 have to be in [0, 1), found {} and {}",
                      options.beta1, options.beta2);
  }
  if (!(options.epsilon > 0)) {
    throw ConfigError("adam_epsilon has to be above 0, found {}", options.epsilon);
  }
  if (!(options.weight_decay >= 0)) {
    throw ConfigError("weight_decay has to be 0 or more, found {}", options.weight_decay);
  }
}

void AdamW::step(std::span<const Parameter> parameters, double rate) {
  if (moments_.empty()) {
    moments_.reserve(parameters.size());
    for (const Parameter& parameter : parameters) {
      moments_.push_back(
          {std::vector<float>(parameter.value.size()), std::vector<float>(parameter.value.size())});
    }
  }
  if (moments_.size() != parameters.size()) {
    throw std::logic_error("AdamW: the number of parameters changed between updates");
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (moments_[i].first.size() != parameters[i].value.size() ||
        parameters[i].gradient.size() != parameters[i].value.size()) {
      throw std::logic_error("AdamW: the size of a parameter changed between updates");
    }
  }
  ++updates_;
  const Factors factors = factors_of(options_, rate, updates_);
  for_parameters(parameters, [&](std::size_t i) { update(factors, parameters[i], moments_[i]); });
}

void AdamW::restore(std::int64_t updates, std::vector<Moments> moments) {
  updates_ = updates;
  moments_ = std::move(moments);
}

double gradient_norm(std::span<const Parameter> parameters) {
  std::vector<double> sums(parameters.size());
  for_parameters(parameters,
                 [&](std::size_t i) { sums[i] = sum_of_squares(parameters[i].gradient); });
  double sum = 0;
  for (const double of_one : sums) sum += of_one;
  return std::sqrt(sum);
}

void clip_gradients(std::span<const Parameter> parameters, double norm, double max_norm) {
  if (max_norm <= 0) return;
  const auto factor = static_cast<float>(max_norm / (norm + 1e-6));
  if (!(factor < 1)) return;
  for_parameters(parameters, [&](std::size_t i) {
    for (float& g : parameters[i].gradient) g *= factor;
  });
}

}  // namespace weft::train
