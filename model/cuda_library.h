#pragma once

#include "model/cuda/cuda.h"

namespace weft::model {

/// The functions of lib/libweft_cuda.so.
struct CudaLibrary {
  WeftCudaStart start = nullptr;
  WeftCudaFree free = nullptr;
  WeftCudaFold fold = nullptr;
  WeftCudaGpus gpus = nullptr;
  WeftCudaGroup group = nullptr;
  WeftCudaJoin join = nullptr;
};

/// Opens the library when it is first asked for, which has to be before anything asks LibTorch for
/// CUDA. ConfigError, in one line that says what to do, where it was not built or does not load.
[[nodiscard]] const CudaLibrary& cuda_library();

}  // namespace weft::model
