#include "cli/ranks.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>

#include "core/error.h"

namespace weft::cli {
namespace {

constexpr const char* kLibrary = "lib/libweft_mpi.so";

int number(const char* variable) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? 0 : std::atoi(text);
}

/// How many ranks were started together.
int launched_ranks() {
  if (const int ranks = number("OMPI_COMM_WORLD_SIZE"); ranks > 0) return ranks;
  if (const int ranks = number("PMI_SIZE"); ranks > 0) return ranks;
  // srun --mpi=pmix tells each process its rank, and Slurm how many there are. Without --mpi they
  // are independent programs.
  if (std::getenv("PMIX_RANK") == nullptr && std::getenv("PMI_RANK") == nullptr) return 1;
  return number("SLURM_STEP_NUM_TASKS");
}

core::Communicator& open_communicator() {
  static core::SingleProcess alone;
  const int ranks = launched_ranks();
  if (ranks <= 1) return alone;
  namespace fs = std::filesystem;
  const fs::path program = fs::read_symlink("/proc/self/exe");
  const fs::path library = program.parent_path().parent_path() / kLibrary;
  if (!fs::exists(library)) {
    throw ConfigError(
        "weft was started as {} ranks, but it was built without MPI ({} is missing); install an "
        "MPI and build again, or start weft without mpirun",
        ranks, library.string());
  }
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) throw ConfigError("cannot load {}: {}", library.string(), ::dlerror());
  using Refusal = const char* (*)();
  const auto refusal = reinterpret_cast<Refusal>(::dlsym(handle, "weft_mpi_refusal"));
  if (refusal == nullptr) throw ConfigError("{} is of another version", library.string());
  if (const char* const why = refusal(); why != nullptr)
    throw ConfigError("weft was started as {} ranks {}", ranks, why);
  using Make = core::Communicator* (*)();
  const auto make = reinterpret_cast<Make>(::dlsym(handle, "weft_mpi_communicator"));
  if (make == nullptr) throw ConfigError("{} is of another version", library.string());
  core::Communicator& all = *make();
  if (all.size() == ranks) return all;
  throw ConfigError(
      "weft was started as {} ranks, but its MPI sees {}; start it with the mpirun of the MPI that "
      "it was built with",
      ranks, all.size());
}

}  // namespace

core::Communicator& communicator() {
  static core::Communicator& one = open_communicator();
  return one;
}

std::string hint_of_lost_ranks() {
  const int tasks = number("SLURM_STEP_NUM_TASKS");
  if (tasks <= 1 || launched_ranks() > 1) return "";
  return fmt::format(
      "; srun started {} processes that do not know each other: add --mpi=pmix, for an MPI that "
      "was "
      "built with PMIx, or start them with mpirun (docs/data-parallel.md)",
      tasks);
}

}  // namespace weft::cli
