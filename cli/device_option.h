#pragma once

#include <string>

#include "cli/options.h"

namespace weft::cli {

/// An option that takes the name of a device (core/device_name.h) and nothing else. `what` begins
/// its help text: "what computes"; `rest` ends it.
CommandOption declare_device(CommandLine& app, const std::string& option, std::string& device,
                             const std::string& what, const std::string& rest = {});

}  // namespace weft::cli
