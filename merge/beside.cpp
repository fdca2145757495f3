#include "merge/beside.h"

#include <exception>
#include <future>

#include "core/error.h"

namespace weft::merge {

void run_beside(const FoldControl& control, const std::function<void()>& checks,
                const std::function<void(const FoldControl&)>& stream) {
  std::atomic<bool> failed{false};
  std::future<void> checked = std::async(std::launch::async, [&] {
    try {
      checks();
    } catch (...) {
      failed = true;
      throw;
    }
  });
  FoldControl watched = control;
  watched.progress = [&](FoldProgress progress) {
    if (failed) throw Interrupted("an input does not fit; nothing was written");
    if (control.progress) control.progress(progress);
  };
  std::exception_ptr thrown;
  try {
    stream(watched);
  } catch (...) {
    thrown = std::current_exception();
  }
  checked.get();
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace weft::merge
