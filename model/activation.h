#pragma once

#include <ATen/core/Tensor.h>

#include "model/spec.h"

namespace weft::model {

/// act(gate) * up of rows [gate | up], [T, 2F], or act(up) of rows [T, F] where there is no gate:
/// [T, F]. In bf16 act's value is rounded before it is multiplied, as transformers does.
[[nodiscard]] at::Tensor activate(const at::Tensor& up, const MlpSpec& mlp);

/// Writes the gradient of `up` over it, given that of activate()'s result:
/// d gate = dy up act'(gate), d up = dy act(gate); or d up = dy act'(up).
void activate_backward_(const at::Tensor& up, const at::Tensor& dy, const MlpSpec& mlp);

}  // namespace weft::model
