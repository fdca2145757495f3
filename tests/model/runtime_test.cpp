#include "model/runtime.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

namespace weft::tests {
namespace {

// at::parallel_for is a template that falls back to one thread, without a word, where it is
// compiled without OpenMP.
TEST(Runtime, KernelsRunOnAllThreads) {
  model::prepare_runtime(2);
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, 2, 1, [&](std::int64_t, std::int64_t) {
    const std::lock_guard lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 2U);
  model::prepare_runtime(0);
}

// What records of runs and evaluations are compared by.
TEST(Runtime, KernelsOfAGpuAreItsComputeCapability) {
  EXPECT_EQ(model::kernel_names(model::ComputeDevice{}), model::kernel_names());
  EXPECT_EQ(model::kernel_names({.device = at::kCUDA, .capability = 90}), "cuda 9.0");
}

}  // namespace
}  // namespace weft::tests
