#pragma once

/// Where the run of a folder waits that is being replaced (train/run_folder.h moves it; others look
/// for it). Each move is one rename or can be done again, so that a process killed anywhere leaves
/// what the next one understands.
namespace weft::core {

inline constexpr const char* kSettingAside = ".weft-setting-aside";  ///< The old run, in part.
inline constexpr const char* kSetAside = ".weft-set-aside";          ///< The old run, whole.

}  // namespace weft::core
