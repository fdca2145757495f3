#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace weft::core {
namespace {
std::atomic<int> chosen_threads{0};
}

int thread_count() noexcept {
  const int chosen = chosen_threads.load();
  if (chosen > 0) return chosen;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void set_thread_count(int count) noexcept { chosen_threads.store(std::max(0, count)); }

void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body) {
  if (count <= 0) return;
  grain = std::max<std::int64_t>(1, grain);
  const std::int64_t most = std::max<std::int64_t>(1, count / grain);
  const std::int64_t parts = std::min<std::int64_t>(most, thread_count());
  if (parts <= 1) {
    body(0, count);
    return;
  }
  const std::int64_t step = (count + parts - 1) / parts;
  std::exception_ptr failure;
  std::mutex guard;
  const auto run = [&](std::int64_t begin) {
    try {
      if (begin < count) body(begin, std::min(count, begin + step));
    } catch (...) {
      const std::scoped_lock lock(guard);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (std::int64_t part = 1; part < parts; ++part) {
      threads.emplace_back(run, part * step);
    }
    run(0);
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace weft::core
