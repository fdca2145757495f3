#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <vector>

#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

template <typename T>
at::TensorOptions wide_options(const at::Tensor& like) {
  return like.options().dtype(c10::CppTypeToScalarType<Wide<T>>::value);
}

#define WEFT_EXPERT_KERNELS(T)                                                           \
  /* sum[token] += weight * row; the product is rounded first, as transformers does. */  \
  WEFT_CLONES void add_row(T* sum, const T* row, Wide<T> weight, std::int64_t width) {   \
    for (std::int64_t i = 0; i < width; ++i)                                             \
      sum[i] = narrow<T>(widen(sum[i]) + rounded<T>(widen(row[i]) * weight));            \
  }                                                                                      \
  WEFT_CLONES void scale_row(T* row, Wide<T> weight, std::int64_t width) {               \
    for (std::int64_t i = 0; i < width; ++i) row[i] = narrow<T>(widen(row[i]) * weight); \
  }                                                                                      \
  WEFT_CLONES Wide<T> dot_rows(const T* a, const T* b, std::int64_t width) {             \
    Wide<T> sum = 0;                                                                     \
    for (std::int64_t i = 0; i < width; ++i) sum += widen(a[i]) * widen(b[i]);           \
    return sum;                                                                          \
  }
WEFT_EXPERT_KERNELS(float)
WEFT_EXPERT_KERNELS(double)
WEFT_EXPERT_KERNELS(c10::BFloat16)

template <typename Body>
void for_rows(std::int64_t rows, std::int64_t width, const Body& body) {
  kernel::parallel_for(rows, kernel::grain(width), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

/// Experts 0 .. chosen - 1 for every token: what takes the most memory.
Routing fullest(std::int64_t tokens, const ExpertsSpec& spec, const at::TensorOptions& options) {
  Routing routing;
  for (std::int64_t e = 0; e <= spec.count; ++e)
    routing.begins.push_back(std::min(e, spec.chosen) * tokens);
  for (std::int64_t e = 0; e < spec.chosen; ++e) {
    for (std::int64_t t = 0; t < tokens; ++t) routing.tokens.push_back(t);
  }
  routing.weights = at::empty({spec.chosen * tokens}, options);
  routing.probabilities = at::empty({tokens, spec.count}, options);
  return routing;
}

template <typename W>
void softmax(W* row, std::int64_t count) {
  const W most = *std::max_element(row, row + count);
  W sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += row[i] = std::exp(row[i] - most);
  for (std::int64_t i = 0; i < count; ++i) row[i] /= sum;
}

}  // namespace

void Processor::add_rows_(const at::Tensor& sum, const at::Tensor& rows,
                          std::span<const std::int64_t> tokens, const at::Tensor& weights) const {
  const std::int64_t width = sum.size(1);
  kernel::for_type(sum.scalar_type(), [&]<typename T>(T) {
    T* const to = kernel::mutable_data<T>(sum);
    const T* const from = kernel::data<T>(rows);
    const Wide<T>* const by = weights.defined() ? kernel::data<Wide<T>>(weights) : nullptr;
    for_rows(rows.size(0), width, [&](std::int64_t i) {
      add_row(to + tokens[static_cast<std::size_t>(i)] * width, from + i * width,
              by == nullptr ? Wide<T>(1) : by[i], width);
    });
  });
}

void Processor::scale_rows_(const at::Tensor& rows, const at::Tensor& weights) const {
  const std::int64_t width = rows.size(1);
  kernel::for_type(rows.scalar_type(), [&]<typename T>(T) {
    T* const data = kernel::mutable_data<T>(rows);
    const Wide<T>* const by = kernel::data<Wide<T>>(weights);
    for_rows(rows.size(0), width,
             [&](std::int64_t i) { scale_row(data + i * width, by[i], width); });
  });
}

at::Tensor Processor::row_dots(const at::Tensor& a, const at::Tensor& b) const {
  const std::int64_t width = a.size(1);
  at::Tensor result;
  kernel::for_type(a.scalar_type(), [&]<typename T>(T) {
    result = at::empty({a.size(0)}, wide_options<T>(a));
    Wide<T>* const out = kernel::mutable_data<Wide<T>>(result);
    const T* const x = kernel::data<T>(a);
    const T* const y = kernel::data<T>(b);
    for_rows(a.size(0), width,
             [&](std::int64_t i) { out[i] = dot_rows(x + i * width, y + i * width, width); });
  });
  return result;
}

at::Tensor Processor::gate_values(const at::Tensor& logits) const {
  at::Tensor result;
  kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
    result = at::empty({logits.size(0)}, wide_options<T>(logits));
    Wide<T>* const out = kernel::mutable_data<Wide<T>>(result);
    const T* const in = kernel::data<T>(logits);
    for_rows(logits.size(0), 1,
             [&](std::int64_t i) { out[i] = rounded<T>(kernel::sigmoid(widen(in[i]))); });
  });
  return result;
}

at::Tensor Processor::gate_backward(const at::Tensor& gradient, const at::Tensor& values,
                                    at::ScalarType type) const {
  at::Tensor result = at::empty({gradient.size(0), 1}, gradient.options().dtype(type));
  kernel::for_type(type, [&]<typename T>(T) {
    const Wide<T>* const d = kernel::data<Wide<T>>(gradient);
    const Wide<T>* const v = kernel::data<Wide<T>>(values);
    T* const out = kernel::mutable_data<T>(result);
    for_rows(gradient.size(0), 1,
             [&](std::int64_t i) { out[i] = narrow<T>(d[i] * v[i] * (1 - v[i])); });
  });
  return result;
}

Routing Processor::route(const at::Tensor& logits, const ExpertsSpec& spec) const {
  const std::int64_t tokens = logits.size(0);
  Routing routing;
  kernel::for_type(logits.scalar_type(), [&]<typename T>(T) {
    using W = Wide<T>;
    const at::TensorOptions options = wide_options<T>(logits);
    if (Meter::running()) {
      routing = fullest(tokens, spec, options);
      return;
    }
    routing.probabilities = at::empty({tokens, spec.count}, options);
    routing.weights = at::empty({tokens * spec.chosen}, options);
    const T* const in = kernel::data<T>(logits);
    W* const p = kernel::mutable_data<W>(routing.probabilities);
    std::vector<std::int64_t> chosen(static_cast<std::size_t>(tokens * spec.chosen));
    for (std::int64_t t = 0; t < tokens; ++t) {
      W* const row = p + t * spec.count;
      for (std::int64_t e = 0; e < spec.count; ++e) row[e] = widen(in[t * spec.count + e]);
      softmax(row, spec.count);
      std::vector<std::int64_t> order(static_cast<std::size_t>(spec.count));
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + spec.chosen, order.end(),
                        [&](std::int64_t a, std::int64_t b) {
                          return row[a] > row[b] || (row[a] == row[b] && a < b);
                        });
      std::copy_n(order.begin(), spec.chosen, chosen.begin() + t * spec.chosen);
    }
    routing.begins.assign(static_cast<std::size_t>(spec.count) + 1, 0);
    for (const std::int64_t e : chosen) ++routing.begins[static_cast<std::size_t>(e) + 1];
    std::partial_sum(routing.begins.begin(), routing.begins.end(), routing.begins.begin());
    routing.tokens.resize(chosen.size());
    std::vector<std::int64_t> next(routing.begins.begin(), routing.begins.end() - 1);
    W* const weights = kernel::mutable_data<W>(routing.weights);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const std::span<const std::int64_t> of_token(chosen.data() + t * spec.chosen,
                                                   static_cast<std::size_t>(spec.chosen));
      W sum = 0;
      for (const std::int64_t e : of_token) sum += p[t * spec.count + e];
      for (const std::int64_t e : of_token) {
        const std::int64_t visit = next[static_cast<std::size_t>(e)]++;
        routing.tokens[static_cast<std::size_t>(visit)] = t;
        weights[visit] = p[t * spec.count + e] / (spec.normalised ? sum : W(1));
      }
    }
  });
  return routing;
}

at::Tensor Processor::route_backward(const Routing& routing, const at::Tensor& d_weights,
                                     const ExpertsSpec& spec, at::ScalarType type) const {
  const std::int64_t tokens = routing.probabilities.size(0);
  at::Tensor result = zeros({tokens, spec.count}, d_weights.options().dtype(type));
  if (Meter::running()) return result;
  kernel::for_type(type, [&]<typename T>(T) {
    using W = Wide<T>;
    const W* const weights = kernel::data<W>(routing.weights);
    const W* const gradient = kernel::data<W>(d_weights);
    const W* const p = kernel::data<W>(routing.probabilities);
    std::vector<W> whole(static_cast<std::size_t>(tokens * spec.count), 0);  // d weight of expert
    std::vector<W> along(static_cast<std::size_t>(tokens), 0);               // sum of w dw
    std::vector<W> share(whole.size(), 0);
    for (std::int64_t e = 0; e < spec.count; ++e) {
      for (std::int64_t v = routing.begins[static_cast<std::size_t>(e)];
           v < routing.begins[static_cast<std::size_t>(e) + 1]; ++v) {
        const std::int64_t t = routing.tokens[static_cast<std::size_t>(v)];
        const auto place = static_cast<std::size_t>(t * spec.count + e);
        whole[place] = gradient[v];
        share[place] = weights[v];
        along[static_cast<std::size_t>(t)] += weights[v] * gradient[v];
      }
    }
    // Of the chosen ones alone the softmax is over them; otherwise over all experts.
    T* const out = kernel::mutable_data<T>(result);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      const W mean = along[i / static_cast<std::size_t>(spec.count)];
      const W part = spec.normalised ? share[i] : p[i];
      out[i] = narrow<T>(part * (whole[i] - mean));
    }
  });
  return result;
}

}  // namespace weft::model
