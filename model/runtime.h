#pragma once

#include <string>

namespace weft::model {

/// Sets up the process for LibTorch's work; call once, before the first tensor.
///
/// `threads` (0: the machine's cores) becomes core::thread_count() and LibTorch's, whose own
/// default can be wrong. Large tensors come from an Arena (model/arena.h), and glibc is told to
/// keep what libraries free: each trip to the kernel costs page faults that can take longer than
/// the arithmetic.
void prepare_runtime(int threads);

/// The sets of instructions that products are computed with on this processor, which decide the
/// last bits: "avx512_bf16 avx512", "avx2".
[[nodiscard]] std::string kernel_names();

}  // namespace weft::model
