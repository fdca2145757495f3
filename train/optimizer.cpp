#include "train/optimizer.h"

#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <stdexcept>
#include <utility>

#include "core/error.h"
#include "model/operations.h"

namespace weft::train {

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

void AdamW::step(const at::Tensor& values, const at::Tensor& gradients, double rate) {
  if (!first_.defined()) {
    first_ = at::zeros_like(values);
    second_ = at::zeros_like(values);
  }
  if (first_.sizes() != values.sizes() || gradients.sizes() != values.sizes())
    throw std::logic_error("AdamW: the number of values changed between updates");
  const auto t = static_cast<double>(++updates_);
  // Rounded to fp32 once, as PyTorch rounds a Python number.
  const model::AdamWStep step{
      .keep = static_cast<float>(1 - rate * options_.weight_decay),
      .first_step = static_cast<float>(1 - options_.beta1),
      .second_keep = static_cast<float>(options_.beta2),
      .second_step = static_cast<float>(1 - options_.beta2),
      .second_correction = static_cast<float>(std::sqrt(1 - std::pow(options_.beta2, t))),
      .epsilon = static_cast<float>(options_.epsilon),
      .step = static_cast<float>(-rate / (1 - std::pow(options_.beta1, t)))};
  model::operations_for(values).adamw_({values, gradients, first_, second_}, step);
}

void AdamW::restore(std::int64_t updates, at::Tensor first_moments, at::Tensor second_moments) {
  updates_ = updates;
  first_ = std::move(first_moments);
  second_ = std::move(second_moments);
}

double gradient_norm(const at::Tensor& gradients) {
  return std::sqrt(model::operations_for(gradients).square_sum(gradients));
}

void clip_gradients(const at::Tensor& gradients, double norm, double max_norm) {
  if (max_norm <= 0) return;
  const auto factor = static_cast<float>(max_norm / (norm + 1e-6));
  if (factor < 1) model::operations_for(gradients).multiply_(gradients, factor);
}

}  // namespace weft::train
