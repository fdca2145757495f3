#pragma once

#include "train/communicator.h"

namespace weft::cli {

/// The ranks that this process was started among, as mpirun and srun tell in the environment; one
/// process alone otherwise. Opens libweft_mpi.so for more than one. ConfigError when this weft was
/// built without it.
[[nodiscard]] train::Communicator& communicator();

}  // namespace weft::cli
