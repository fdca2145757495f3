#include <stdexcept>
#include <string>

#include "model/cuda/fold.h"
#include "model/cuda/launch.h"
#include "model/cuda/rows.h"
#include "model/cuda/tree_attention.h"

namespace weft::cuda {
namespace {

template <typename Kernel>
__global__ void run(const __grid_constant__ Kernel kernel) {
  extern __shared__ __align__(16) float shared[];  // FoldTile has doubles in it
  typename Kernel::Thread kept;
  const Place at{static_cast<std::int64_t>(blockIdx.x), static_cast<int>(threadIdx.x),
                 static_cast<int>(blockDim.x)};
  const int phases = kernel.phases(at.block);
  for (int phase = 0; phase < phases; ++phase) {
    if (phase > 0) __syncthreads();
    kernel.run(phase, at, kept, shared);
  }
}

void check(cudaError_t status) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("the GPU: ") + cudaGetErrorString(status));
}

}  // namespace

template <typename Kernel>
void launch(const Kernel& kernel, std::int64_t blocks, int threads, std::int64_t shared_floats,
            cudaStream_t stream) {
  if (blocks == 0) return;
  const auto bytes = static_cast<std::size_t>(shared_floats) * sizeof(float);
  constexpr std::size_t kUnasked = 48 << 10;  // more has to be asked for
  if (bytes > kUnasked) {
    check(cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)));
  }
  run<Kernel><<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), bytes, stream>>>(
      kernel);
  check(cudaGetLastError());
}

#define WEFT_LAUNCH(Kernel) \
  template void launch(const Kernel&, std::int64_t, int, std::int64_t, cudaStream_t);
#define WEFT_LAUNCH_BOTH(Kernel) WEFT_LAUNCH(Kernel<float>) WEFT_LAUNCH(Kernel<Bf16>)

WEFT_LAUNCH_BOTH(Activate)
WEFT_LAUNCH_BOTH(Rotate)
WEFT_LAUNCH_BOTH(Drop)
WEFT_LAUNCH_BOTH(Dequantise)
WEFT_LAUNCH_BOTH(Finish)
WEFT_LAUNCH_BOTH(NormForward)
WEFT_LAUNCH_BOTH(NormBackward)
WEFT_LAUNCH_BOTH(Losses)
WEFT_LAUNCH_BOTH(AttentionForward)
WEFT_LAUNCH_BOTH(AttentionQueries)
WEFT_LAUNCH_BOTH(AttentionKeys)
WEFT_LAUNCH(AdamW)
WEFT_LAUNCH(FoldTile)
WEFT_LAUNCH(FoldRows)

}  // namespace weft::cuda
