#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Starts kernels (model/cuda/block.h) on a GPU. Defined for the kernels of model/cuda/kernels.cu.

namespace weft::cuda {

/// Starts `blocks` blocks of `threads` threads (a multiple of kWarp, at most 1024) with
/// `shared_floats` fp32 numbers each on a stream, and returns at once. Nothing for no blocks.
/// Throws IoError with CUDA's own words.
template <typename Kernel>
void launch(const Kernel& kernel, std::int64_t blocks, int threads, std::int64_t shared_floats,
            cudaStream_t stream);

/// A kernel of one phase over so many elements.
template <typename Kernel>
void launch_elements(const Kernel& kernel, std::int64_t elements, cudaStream_t stream) {
  constexpr int kThreads = 256;
  launch(kernel, (elements + kThreads - 1) / kThreads, kThreads, 0, stream);
}

}  // namespace weft::cuda
