#pragma once

#include <cstddef>
#include <cstdint>

// What the CUDA half of weft says of itself. It is a library of its own (lib/libweft_cuda.so),
// which the program opens when a GPU is asked for (model/cuda_library.h), and never else.

namespace weft::model {
class TensorExchange;
}

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
/// `count` becomes the number of GPUs that this process sees, and `gpus` has a number for each of
/// the first `capacity`, which other processes that see it give it too. Null or a text as
/// WeftCudaStart's; having none is such a text. Starts nothing on any of them.
using WeftCudaGpus = const char* (*)(std::uint64_t* gpus, int capacity, int* count);

/// Bytes of the name of a group of ranks.
constexpr std::size_t kWeftCudaGroup = 128;
/// A new name, which one rank makes for all. Null or a text.
using WeftCudaGroup = const char* (*)(char* name);
/// Joins the group with the GPU that weft_cuda_start() began: all its ranks call it, and each waits
/// for the others, two minutes at most. Null and an exchange that the caller deletes, or a text.
using WeftCudaJoin = const char* (*)(const char* name, int ranks, int rank,
                                     weft::model::TensorExchange** exchange);

/// What folds on GPU `index`, which was started, under the name that reports give it. Null and an
/// engine that the caller deletes, or a text.
using WeftCudaFold = const char* (*)(int index, const char* description,
                                     weft::lora::FoldEngine** engine);
}
