#pragma once

#include <functional>
#include <string_view>

namespace weft::core {

enum class Level { kInfo, kWarning };

/// How a library tells its caller something: the caller decides where the line goes.
/// An empty function means that nobody listens.
using Log = std::function<void(Level, std::string_view)>;

/// Sends one line to `log` if anybody listens.
inline void tell(const Log& log, Level level, std::string_view line) {
  if (log) log(level, line);
}

}  // namespace weft::core
