#pragma once

#include <string>

#include "core/communicator.h"

namespace weft::cli {

/// The ranks that this process was started among, as mpirun and srun tell in the environment; one
/// process alone otherwise. Opens libweft_mpi.so for more than one. ConfigError when this weft was
/// built without it.
[[nodiscard]] core::Communicator& communicator();

/// What to do where srun has started several processes, each of which believes that it is alone;
/// empty where that is not so.
[[nodiscard]] std::string hint_of_lost_ranks();

}  // namespace weft::cli
