#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cstring>

#include "model/kernels/kernel_math.h"
#include "model/kernels/processor.h"

namespace weft::model {
namespace {

using kernel::narrow;
using kernel::rounded;
using kernel::Wide;
using kernel::widen;

#define WEFT_ELEMENTWISE_KERNELS(T)                                                    \
  WEFT_CLONES void scale_elements(const T* x, T* y, Wide<T> scale, std::int64_t begin, \
                                  std::int64_t end) {                                  \
    for (std::int64_t i = begin; i < end; ++i) y[i] = narrow<T>(widen(x[i]) * scale);  \
  }                                                                                    \
  WEFT_CLONES void add_elements(T* x, const T* y, Wide<T> scale, std::int64_t begin,   \
                                std::int64_t end) {                                    \
    for (std::int64_t i = begin; i < end; ++i)                                         \
      x[i] = narrow<T>(widen(x[i]) + rounded<T>(widen(y[i]) * scale));                 \
  }
WEFT_ELEMENTWISE_KERNELS(float)
WEFT_ELEMENTWISE_KERNELS(double)
WEFT_ELEMENTWISE_KERNELS(c10::BFloat16)

std::size_t row_bytes(const at::Tensor& rows) {
  return static_cast<std::size_t>(rows.size(1)) * rows.element_size();
}

/// Calls body(i) for every row.
template <typename Body>
void for_rows(const at::Tensor& rows, std::int64_t count, const Body& body) {
  kernel::parallel_for(count, kernel::grain(rows.size(1)),
                       [&](std::int64_t begin, std::int64_t end) {
                         for (std::int64_t i = begin; i < end; ++i) body(i);
                       });
}

std::byte* bytes_of(const at::Tensor& tensor) {
  TORCH_INTERNAL_ASSERT(tensor.is_contiguous());
  return static_cast<std::byte*>(tensor.mutable_data_ptr());
}

}  // namespace

at::Tensor Processor::gather(const at::Tensor& rows, std::span<const std::int64_t> indices) const {
  at::Tensor result = at::empty({std::ssize(indices), rows.size(1)}, rows.options());
  const std::size_t bytes = row_bytes(rows);
  const std::byte* const from = bytes_of(rows);
  std::byte* const to = bytes_of(result);
  for_rows(rows, std::ssize(indices), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(indices[static_cast<std::size_t>(i)]);
    std::memcpy(to + static_cast<std::size_t>(i) * bytes, from + at * bytes, bytes);
  });
  return result;
}

at::Tensor Processor::scatter(const at::Tensor& rows, std::span<const std::int64_t> indices,
                              std::int64_t count) const {
  at::Tensor result = zeros({count, rows.size(1)}, rows.options());
  const std::size_t bytes = row_bytes(rows);
  const std::byte* const from = bytes_of(rows);
  std::byte* const to = bytes_of(result);
  for_rows(rows, std::ssize(indices), [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(indices[static_cast<std::size_t>(i)]);
    std::memcpy(to + at * bytes, from + static_cast<std::size_t>(i) * bytes, bytes);
  });
  return result;
}

at::Tensor Processor::scaled(const at::Tensor& x, double scale) const {
  at::Tensor y = at::empty_like(x);
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    const T* const in = kernel::data<T>(x);
    T* const out = kernel::mutable_data<T>(y);
    kernel::parallel_for(x.numel(), kernel::grain(1), [&](std::int64_t begin, std::int64_t end) {
      scale_elements(in, out, static_cast<Wide<T>>(scale), begin, end);
    });
  });
  return y;
}

void Processor::add_(const at::Tensor& x, const at::Tensor& y, double scale) const {
  kernel::for_type(x.scalar_type(), [&]<typename T>(T) {
    T* const in_out = kernel::mutable_data<T>(x);
    const T* const in = kernel::data<T>(y);
    kernel::parallel_for(x.numel(), kernel::grain(1), [&](std::int64_t begin, std::int64_t end) {
      add_elements(in_out, in, static_cast<Wide<T>>(scale), begin, end);
    });
  });
}

}  // namespace weft::model
