#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "core/cores.h"

namespace weft::core {
namespace {

std::atomic<int> chosen_threads{0};
thread_local PartsRunner runner_of_thread = nullptr;

/// One call of parallel_for: its ranges, and how many are not done.
struct Job {
  const std::function<void(std::int64_t, std::int64_t)>* body = nullptr;
  std::int64_t count = 0;
  std::int64_t step = 0;
  std::int64_t parts = 0;
  std::atomic<std::int64_t> next{0};
  std::int64_t left = 0;  ///< Guarded, as is failure.
  std::exception_ptr failure;
  std::mutex guard;
  std::condition_variable done;

  /// Does ranges until none is left to begin.
  void work() {
    for (std::int64_t part = next++; part < parts; part = next++) {
      std::exception_ptr thrown;
      try {
        const std::int64_t begin = part * step;
        if (begin < count) (*body)(begin, std::min(count, begin + step));
      } catch (...) {
        thrown = std::current_exception();
      }
      const std::scoped_lock lock(guard);
      if (thrown && !failure) failure = thrown;
      if (--left == 0) done.notify_all();
    }
  }
};

/// Threads that wait for jobs, so that their stacks, buffers and caches are there for the next one.
/// Whoever calls parallel_for does its ranges too, so that calls inside calls never wait for a free
/// thread.
///
/// They end with the process and not before: a thread that ends during exit() gives back what
/// libraries keep for it (OpenSSL, oneDNN, OpenMP), when these may be gone already.
class Pool {
 public:
  void add(const std::shared_ptr<Job>& job) {
    const auto helpers = static_cast<std::size_t>(job->parts - 1);
    {
      const std::scoped_lock lock(guard_);
      for (; threads_ < helpers; ++threads_) std::thread([this] { run(); }).detach();
      queue_.insert(queue_.end(), helpers, job);
    }
    wake_.notify_all();
  }

 private:
  [[noreturn]] void run() {
    std::unique_lock lock(guard_);
    while (true) {
      wake_.wait(lock, [&] { return !queue_.empty(); });
      const std::shared_ptr<Job> job = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      job->work();
      lock.lock();
    }
  }

  std::mutex guard_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> queue_;
  std::size_t threads_ = 0;
};

}  // namespace

int thread_count() noexcept {
  const int chosen = chosen_threads.load();
  if (chosen > 0) return chosen;
  return allowed_cores();
}

void set_thread_count(int count) noexcept { chosen_threads.store(std::max(0, count)); }

void use_runner(PartsRunner runner) noexcept { runner_of_thread = runner; }

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
  if (runner_of_thread != nullptr) {
    runner_of_thread(parts, [&](std::int64_t part) {
      if (part * step < count) body(part * step, std::min(count, (part + 1) * step));
    });
    return;
  }
  static Pool& pool = *new Pool;  // Never destroyed, as its threads use it.
  const auto job = std::make_shared<Job>();
  job->body = &body;
  job->count = count;
  job->step = step;
  job->parts = parts;
  job->left = parts;
  pool.add(job);
  job->work();
  std::unique_lock lock(job->guard);
  job->done.wait(lock, [&] { return job->left == 0; });
  if (job->failure) std::rethrow_exception(job->failure);
}

}  // namespace weft::core
