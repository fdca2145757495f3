#include "export/factors.h"

#include <algorithm>
#include <cmath>
#include <map>

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

/// Row `row` of B A.
std::vector<double> update_row(const lora::Factors& factors, std::int64_t row) {
  const std::int64_t in = factors.target.module.in;
  std::vector<double> sum(static_cast<std::size_t>(in));
  for (std::int64_t k = 0; k < factors.target.rank; ++k) {
    const double b =
        factors.target.scale * factors.b[static_cast<std::size_t>(row * factors.target.rank + k)];
    const float* const a = factors.a.data() + k * in;
    for (std::int64_t j = 0; j < in; ++j) sum[static_cast<std::size_t>(j)] += b * a[j];
  }
  return sum;
}

}  // namespace

std::vector<lora::Factors> plain_factors(std::span<const merge::WeightedAdapter> adapters) {
  std::map<std::string, lora::Factors> modules;
  for (const merge::WeightedAdapter& adapter : adapters) {
    for (std::size_t i = 0; i < adapter.file->targets().size(); ++i) {
      const lora::Factors source = adapter.file->load(i);
      lora::Factors& sum = modules[source.target.module.path];
      if (sum.target.rank == 0) sum.target.module = source.target.module;
      require_same_module(sum.target.module, source.target.module);
      append_columns(sum, source, adapter.weight * source.target.scale);
    }
  }
  std::vector<lora::Factors> result;
  for (auto& [path, factors] : modules) {
    factors.target.alpha = static_cast<double>(factors.target.rank);
    factors.target.scale = 1;
    if (!std::ranges::all_of(factors.b, [](float value) { return std::isfinite(value); })) {
      throw NumericError("'{}': B times its scale leaves the range of F32", path);
    }
    result.push_back(std::move(factors));
  }
  return result;
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

std::int64_t largest_rank(std::span<const lora::Factors> factors) {
  std::int64_t rank = 0;
  for (const lora::Factors& module : factors) rank = std::max(rank, module.target.rank);
  return rank;
}

bool one_rank(std::span<const lora::Factors> factors) {
  return std::ranges::all_of(factors, [&](const lora::Factors& module) {
    return module.target.rank == factors.front().target.rank;
  });
}

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
