// A checkpoint's state.json: whatever the bytes, the result is a state or an InputError, and what
// is written of a state is read again as the same text.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "train/state_text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  weft::train::TrainState state;
  try {
    state = weft::train::parse_state({reinterpret_cast<const char*>(data), size});
  } catch (const weft::InputError&) {
    return 0;
  }
  const std::string written = weft::train::state_text(state);
  if (weft::train::state_text(weft::train::parse_state(written)) != written) std::abort();
  return 0;
}
