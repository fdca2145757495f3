#pragma once

#include "cli/torch_library.h"
#include "model/machine.h"

namespace weft::cli {

/// Of the library that needs LibTorch ("weft_describe_machine").
using DescribeMachine = EngineFailure (*)(model::Machine& machine);

}  // namespace weft::cli
