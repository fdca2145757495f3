#include "model/runtime.h"

#include <ATen/Parallel.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "core/parallel.h"
#include "model/arena.h"
#include "model/tile_product.h"

namespace weft::model {

void prepare_runtime(int threads) {
#ifdef __GLIBC__
  // 32 MiB is the largest threshold glibc accepts; larger blocks are mapped one by one.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  ::mallopt(M_TOP_PAD, 64 << 20);
#endif
  install_arena();
  core::set_thread_count(threads);
  at::set_num_threads(core::thread_count());
}

std::string kernel_names() {
  const std::string dense = kernel::dense_instructions();
  return kernel::has_bf16_pairs() ? "avx512_bf16 " + dense : dense;
}

}  // namespace weft::model
