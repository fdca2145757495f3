#include "batch/retry.h"

namespace weft::batch {

bool take_retry(JobState& state, const RetriesSection& limits) {
  switch (state.status) {
    case Status::kLost:
    case Status::kOutOfMemory:
    case Status::kShortOfMemory:
      if (state.losses >= limits.lost) return false;
      ++state.losses;
      return true;
    case Status::kFailed:
      if (state.failures >= limits.failed) return false;
      ++state.failures;
      return true;
    default: return false;
  }
}

}  // namespace weft::batch
