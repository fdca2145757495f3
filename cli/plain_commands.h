#pragma once

#include <span>

#include "cli/command.h"

namespace weft::cli {

/// The commands that need no LibTorch.
std::span<const Command> plain_commands();

}  // namespace weft::cli
