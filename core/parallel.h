#pragma once

#include <cstdint>
#include <functional>

namespace weft::core {

/// Threads that parallel_for uses: the value set, or allowed_cores() (core/cores.h).
[[nodiscard]] int thread_count() noexcept;

/// Sets thread_count(); 0 means the allowed cores. Call before work starts, from one thread.
void set_thread_count(int count) noexcept;

/// Does run(i) for every i in [0, parts), each once, on threads of its own.
using PartsRunner = void (*)(std::int64_t parts, const std::function<void(std::int64_t)>& run);

/// From here on, parallel_for calls of this thread run on `runner`'s threads: two pools that wait
/// for work by turns would take each other's cores.
void use_runner(PartsRunner runner) noexcept;

/// Calls body(begin, end) on disjoint ranges that cover [0, count), each at least `grain` long but
/// for the last, on up to thread_count() threads. Ranges depend only on count, grain and the number
/// of threads. Returns when all are done; the first exception is rethrown.
void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t, std::int64_t)>& body);

}  // namespace weft::core
