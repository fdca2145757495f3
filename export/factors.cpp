#include "export/factors.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/clones.h"
#include "core/error.h"

namespace weft::exporting {
namespace {

constexpr std::int64_t kSampledRows = 16;

/// Sets B's columns beside what is there, times `factor`.
void append_columns(lora::Factors& to, const lora::Factors& from, double factor) {
  const std::int64_t before = to.target.rank;
  const std::int64_t rank = from.target.rank;
  const std::int64_t out = to.target.module.out;
  std::vector<float> b(static_cast<std::size_t>(out * (before + rank)));
  for (std::int64_t row = 0; row < out; ++row) {
    float* const target = b.data() + row * (before + rank);
    std::copy_n(to.b.data() + row * before, before, target);
    for (std::int64_t k = 0; k < rank; ++k) {
      const double value = from.b[static_cast<std::size_t>(row * rank + k)];
      target[before + k] = static_cast<float>(factor * value);
    }
  }
  to.b = std::move(b);
  to.a.insert(to.a.end(), from.a.begin(), from.a.end());
  to.target.rank = before + rank;
}

void require_same_module(const lora::Module& a, const lora::Module& b) {
  if (a.in == b.in && a.out == b.out) return;
  throw InputError("the adapters have '{}' in different shapes: [{}, {}] and [{}, {}]", a.path,
                   a.out, a.in, b.out, b.in);
}

WEFT_CLONES void add_scaled(double factor, const float* values, std::int64_t count, double* sum) {
  for (std::int64_t j = 0; j < count; ++j) sum[j] += factor * static_cast<double>(values[j]);
}

/// Row `row` of B A.
std::vector<double> update_row(const lora::Factors& factors, std::int64_t row) {
  const std::int64_t in = factors.target.module.in;
  std::vector<double> sum(static_cast<std::size_t>(in));
  for (std::int64_t k = 0; k < factors.target.rank; ++k) {
    const double b =
        factors.target.scale * factors.b[static_cast<std::size_t>(row * factors.target.rank + k)];
    add_scaled(b, factors.a.data() + k * in, in, sum.data());
  }
  return sum;
}

std::vector<lora::Target> targets_of(std::span<const lora::Factors> factors) {
  std::vector<lora::Target> targets;
  for (const lora::Factors& module : factors) targets.push_back(module.target);
  return targets;
}

}  // namespace

PlainUpdates::PlainUpdates(std::span<const merge::WeightedAdapter> adapters)
    : adapters_(adapters.begin(), adapters.end()) {
  std::map<std::string, std::pair<lora::Target, std::vector<Source>>> modules;
  for (const merge::WeightedAdapter& adapter : adapters_) {
    const std::vector<lora::Target>& targets = adapter.file->targets();
    for (std::size_t i = 0; i < targets.size(); ++i) {
      auto& [sum, sources] = modules[targets[i].module.path];
      if (sources.empty()) sum.module = targets[i].module;
      require_same_module(sum.module, targets[i].module);
      sum.rank += targets[i].rank;
      sources.push_back({&adapter, i});
    }
  }
  for (auto& [path, module] : modules) {
    auto& [target, sources] = module;
    target.alpha = static_cast<double>(target.rank);
    target.scale = 1;
    targets_.push_back(std::move(target));
    sources_.push_back(std::move(sources));
  }
}

lora::Factors PlainUpdates::load(std::size_t i) const {
  lora::Factors sum;
  sum.target.module = targets_.at(i).module;
  for (const auto& [adapter, index] : sources_[i]) {
    const lora::Factors source = adapter->file->load(index);
    append_columns(sum, source, adapter->weight * source.target.scale);
  }
  sum.target = targets_[i];
  if (!std::ranges::all_of(sum.b, [](float value) { return std::isfinite(value); })) {
    throw NumericError("'{}': B times its scale leaves the range of F32", sum.target.module.path);
  }
  return sum;
}

std::vector<lora::Factors> plain_factors(std::span<const merge::WeightedAdapter> adapters) {
  const PlainUpdates updates(adapters);
  std::vector<lora::Factors> all;
  for (std::size_t i = 0; i < updates.targets().size(); ++i) all.push_back(updates.load(i));
  return all;
}

void pad_rank(std::vector<lora::Factors>& factors, std::int64_t rank) {
  for (lora::Factors& module : factors) {
    lora::Factors zero;
    zero.target = module.target;
    zero.target.rank = rank - module.target.rank;
    if (zero.target.rank <= 0) continue;
    zero.a.assign(static_cast<std::size_t>(zero.target.rank * module.target.module.in), 0.0F);
    zero.b.assign(static_cast<std::size_t>(zero.target.rank * module.target.module.out), 0.0F);
    append_columns(module, zero, 1);
    module.target.alpha = static_cast<double>(rank);
  }
}

std::int64_t largest_rank(std::span<const lora::Target> targets) {
  std::int64_t rank = 0;
  for (const lora::Target& target : targets) rank = std::max(rank, target.rank);
  return rank;
}

bool one_rank(std::span<const lora::Target> targets) {
  return std::ranges::all_of(
      targets, [&](const lora::Target& target) { return target.rank == targets.front().rank; });
}

std::int64_t largest_rank(std::span<const lora::Factors> factors) {
  return largest_rank(targets_of(factors));
}

bool one_rank(std::span<const lora::Factors> factors) { return one_rank(targets_of(factors)); }

double relative_difference(const lora::Factors& source, const lora::Factors& written) {
  const std::int64_t rows = source.target.module.out;
  const std::int64_t step = std::max<std::int64_t>(1, rows / kSampledRows);
  double largest = 0;
  double difference = 0;
  for (std::int64_t row = 0; row < rows; row += step) {
    const std::vector<double> expected = update_row(source, row);
    const std::vector<double> found = update_row(written, row);
    for (std::size_t j = 0; j < expected.size(); ++j) {
      largest = std::max(largest, std::abs(expected[j]));
      difference = std::max(difference, std::abs(expected[j] - found[j]));
    }
  }
  return largest > 0 ? difference / largest : difference;
}

}  // namespace weft::exporting
