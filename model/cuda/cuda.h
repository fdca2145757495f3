#pragma once

#include <cstdint>

// What the CUDA half of weft says of itself. It is a library of its own (lib/libweft_cuda.so),
// which the program opens when a GPU is asked for (model/device.h), and never else.

namespace weft::lora {
class FoldEngine;
}

extern "C" {

/// A GPU as weft sees it.
struct WeftCudaDevice {
  char name[64];
  std::int32_t major, minor;  ///< Compute capability
  std::uint64_t free_bytes, total_bytes;
};

/// Makes GPU `index` the one that is computed on, and registers the operations for it. Null, or
/// what is in the way, as the end of a sentence; the text stays until the next call. `device` is
/// filled where there is such a GPU.
using WeftCudaStart = const char* (*)(int index, WeftCudaDevice* device);
/// Bytes of the GPU's memory that are free now.
using WeftCudaFree = std::uint64_t (*)(int index);
/// What folds on GPU `index`, which was started, under the name that reports give it. The caller's
/// to delete.
using WeftCudaFold = weft::lora::FoldEngine* (*)(int index, const char* description);
}
