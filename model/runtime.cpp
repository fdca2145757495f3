#include "model/runtime.h"

#include <ATen/Parallel.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <optional>

#include "core/parallel.h"
#include "model/arena.h"
#include "model/kernels/sets.h"

namespace weft::model {
namespace {

void run_on_openmp(std::int64_t parts, const std::function<void(std::int64_t)>& run) {
  at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) run(part);
  });
}

}  // namespace

void prepare_runtime(int threads) {
  (void)kernel::chosen_set();  // fails here rather than in the first product
#ifdef __GLIBC__
  // 32 MiB is the largest threshold glibc accepts; larger blocks are mapped one by one.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  ::mallopt(M_TOP_PAD, 64 << 20);
#endif
  install_arena();
  core::set_thread_count(threads);
  at::set_num_threads(core::thread_count());
  core::use_runner(run_on_openmp);
}

std::string kernel_names() { return std::string(kernel::name_of(kernel::chosen_set())); }

std::string kernel_names(const ComputeDevice& device) {
  return device.is_gpu() ? fmt::format("cuda {}.{}", device.capability / 10, device.capability % 10)
                         : kernel_names();
}

bool has_kernels(std::string_view name) {
  const std::optional<kernel::Set> set = kernel::set_named(name);
  return set && kernel::is_available(*set);
}

}  // namespace weft::model
