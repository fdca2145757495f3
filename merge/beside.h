#pragma once

#include <functional>

#include "merge/stream.h"

namespace weft::merge {

/// Runs `checks` on a thread of its own while `stream` writes, since reading inputs for their
/// digests and writing the output wait for different things. What `checks` throws stops the stream
/// (by way of the FoldControl that it is called with) and is thrown; else what `stream` throws.
/// Returns when both have ended.
void run_beside(const FoldControl& control, const std::function<void()>& checks,
                const std::function<void(const FoldControl&)>& stream);

}  // namespace weft::merge
