#include "eval/statistics/distribution.h"

#include <algorithm>
#include <cmath>

#include "eval/statistics/quantile.h"

namespace weft::eval {
namespace {

/// Mean and standard error as llama-perplexity computes them.
TokenMean mean_of(double sum, double squares, double count) {
  if (count < 1) return {};
  const double mean = sum / count;
  const double variance = squares / count - mean * mean;
  return {mean, variance > 0 && count > 10 ? std::sqrt(variance / (count - 1)) : 0};
}

struct Sums {
  double value = 0, square = 0;
  void add(double x) {
    value += x;
    square += x * x;
  }
  [[nodiscard]] TokenMean mean(double count) const { return mean_of(value, square, count); }
};

std::vector<WeightedValue> sorted(std::vector<WeightedValue> values) {
  std::ranges::sort(values, {}, &WeightedValue::value);
  return values;
}

void add_percentiles(std::span<const TokenDistance> distances, DistributionSummary& s) {
  std::vector<WeightedValue> kl, delta;
  for (const TokenDistance& token : distances) {
    kl.push_back({token.kl, 0});
    delta.push_back({std::exp(-token.loss) - std::exp(-token.reference_loss), 0});
  }
  kl = sorted(std::move(kl));
  delta = sorted(std::move(delta));
  const auto fill = [](const std::vector<WeightedValue>& values,
                       std::initializer_list<std::pair<double*, double>> places) {
    for (const auto& [place, share] : places) *place = quantile(values, {}, share);
  };
  fill(kl, {{&s.kl_max, 1},
            {&s.kl_p999, 0.999},
            {&s.kl_p99, 0.99},
            {&s.kl_p95, 0.95},
            {&s.kl_p90, 0.9},
            {&s.kl_median, 0.5},
            {&s.kl_p10, 0.1},
            {&s.kl_p5, 0.05},
            {&s.kl_p1, 0.01},
            {&s.kl_p01, 0.001},
            {&s.kl_min, 0}});
  fill(delta, {{&s.delta_p_max, 1},
               {&s.delta_p_p999, 0.999},
               {&s.delta_p_p99, 0.99},
               {&s.delta_p_p95, 0.95},
               {&s.delta_p_p90, 0.9},
               {&s.delta_p_p75, 0.75},
               {&s.delta_p_median, 0.5},
               {&s.delta_p_p25, 0.25},
               {&s.delta_p_p10, 0.1},
               {&s.delta_p_p5, 0.05},
               {&s.delta_p_p1, 0.01},
               {&s.delta_p_p01, 0.001},
               {&s.delta_p_min, 0}});
}

}  // namespace

DistributionSummary summarise(std::span<const TokenDistance> distances) {
  DistributionSummary s;
  s.tokens = std::ssize(distances);
  if (distances.empty()) return s;
  const auto n = static_cast<double>(s.tokens);
  Sums loss, reference, kl, delta, delta_square;
  double products = 0, same = 0;
  for (const TokenDistance& token : distances) {
    const double a = token.loss, b = token.reference_loss;
    const double change = std::exp(-a) - std::exp(-b);
    loss.add(a);
    reference.add(b);
    products += a * b;
    kl.add(token.kl);
    delta.add(change);
    delta_square.add(change * change);
    same += token.same_top ? 1 : 0;
  }
  const TokenMean ours = loss.mean(n), theirs = reference.mean(n);
  const double covariance =
      n < 10 ? 0 : (products / n - (loss.value / n) * (reference.value / n)) / (n - 1);
  s.perplexity = {std::exp(ours.value), std::exp(ours.value) * ours.standard_error};
  s.reference_perplexity = {std::exp(theirs.value), std::exp(theirs.value) * theirs.standard_error};
  s.log_perplexity_correlation = covariance / (ours.standard_error * theirs.standard_error);
  const double variance = ours.standard_error * ours.standard_error +
                          theirs.standard_error * theirs.standard_error - 2 * covariance;
  s.log_perplexity_ratio = {ours.value - theirs.value, std::sqrt(std::max(0.0, variance))};
  s.perplexity_ratio.value = std::exp(s.log_perplexity_ratio.value);
  s.perplexity_ratio.standard_error =
      s.perplexity_ratio.value * s.log_perplexity_ratio.standard_error;
  s.kl = kl.mean(n);
  s.delta_p = delta.mean(n);
  const TokenMean squares = delta_square.mean(n);
  s.delta_p_rms.value = std::sqrt(squares.value);
  if (s.delta_p_rms.value > 0)
    s.delta_p_rms.standard_error = 0.5 / s.delta_p_rms.value * squares.standard_error;
  s.same_top.value = same / n;
  if (n > 1)
    s.same_top.standard_error = std::sqrt(s.same_top.value * (1 - s.same_top.value) / (n - 1));
  add_percentiles(distances, s);
  return s;
}

}  // namespace weft::eval
