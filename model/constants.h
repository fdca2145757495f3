#pragma once

#include <ATen/core/Tensor.h>

#include <span>

namespace weft::model {

/// These numbers as an fp32 tensor [n] on a device, which is never written to: a copy that is made
/// at the first call with them and kept, for tables of formats and what a model has for each of its
/// heads. Thread-safe.
[[nodiscard, gnu::visibility("default")]] at::Tensor constant(std::span<const float> values,
                                                              at::Device device);

}  // namespace weft::model
