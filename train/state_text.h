#pragma once

#include <string>
#include <string_view>

#include "train/state.h"

namespace weft::train {

/// The text of a checkpoint's state.json: of `state` all but the adapter and the moments.
[[nodiscard]] std::string state_text(const TrainState& state);

/// The way back, without adapter and moments. InputError that says what is wrong, but not where the
/// text is from: no JSON, a key that is missing, a number out of range, a newer format.
[[nodiscard]] TrainState parse_state(std::string_view text);

}  // namespace weft::train
