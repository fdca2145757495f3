#pragma once

#include <string>
#include <string_view>

#include "model/device.h"

namespace weft::model {

/// Sets up the process for LibTorch's work; call once, before the first tensor. ConfigError where
/// WEFT_KERNELS names kernels that this processor lacks.
///
/// `threads` (0: the machine's cores) becomes core::thread_count() and LibTorch's, whose own
/// default can be wrong. Large tensors come from an Arena (model/arena.h), and glibc is told to
/// keep what libraries free: each trip to the kernel costs page faults that can take longer than
/// the arithmetic.
void prepare_runtime(int threads);

/// The set of instructions that products are computed with, which decides the last bits
/// (model/kernels/sets.h): "avx512_bf16".
[[nodiscard]] std::string kernel_names();
/// The same for a device: of a GPU "cuda" and its compute capability, whose bits are its own.
[[nodiscard]] std::string kernel_names(const ComputeDevice& device);

/// Whether this processor has kernels of that name, so that WEFT_KERNELS can ask for them.
[[nodiscard]] bool has_kernels(std::string_view name);

}  // namespace weft::model
