#pragma once

#include <string>

#include "text/bridge/weft_bridge.h"

namespace weft::text {

/// Copies what the Rust library gave and frees it.
inline std::string take(WeftText text) {
  std::string copy(text.data, text.size);
  weft_text_free(text);
  return copy;
}

}  // namespace weft::text
