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
  core::parallel_for(static_cast<std::int64_t>(parameters.size()), kGrain,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (auto i = static_cast<std::size_t>(begin);
                            i < static_cast<std::size_t>(end); ++i) {
                         update(factors, parameters[i], moments_[i]);
                       }
                     });
}

void AdamW::restore(std::int64_t updates, std::vector<Moments> moments) {
  updates_ = updates;
  moments_ = std::move(moments);
}

double gradient_norm(std::span<const Parameter> parameters) {
  double sum = 0;
  for (const Parameter& parameter : parameters) {
    for (const float g : parameter.gradient) sum += static_cast<double>(g) * static_cast<double>(g);
  }
  return std::sqrt(sum);
}

void clip_gradients(std::span<const Parameter> parameters, double norm, double max_norm) {
  if (max_norm <= 0) return;
  const auto factor = static_cast<float>(max_norm / (norm + 1e-6));
  if (!(factor < 1)) return;
  for (const Parameter& parameter : parameters) {
    for (float& g : parameter.gradient) g *= factor;
  }
}

}  // namespace weft::train
