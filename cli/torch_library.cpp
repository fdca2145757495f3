#include "cli/torch_library.h"

#include <dlfcn.h>
#include <strings.h>

#include <cstdlib>
#include <filesystem>

#include "cli/output.h"

namespace weft::cli {

#ifdef WEFT_WITH_TORCH
namespace {

/// OpenMP's library binds the thread that loads it, and all threads that are made after that begin
/// with its one core.
void forget_bindings() {
  for (const char* const name : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY"}) {
    const char* const value = std::getenv(name);
    if (value == nullptr || ::strcasecmp(value, "false") == 0) continue;
    tell(
        "note: {}={} is not followed: it would leave weft one core. taskset, Slurm and containers "
        "choose its cores.\n",
        name, value);
    ::unsetenv(name);
  }
}

}  // namespace

void* torch_symbol(const char* name) {
  namespace fs = std::filesystem;
  const fs::path program = fs::read_symlink("/proc/self/exe");
  const fs::path library = program.parent_path().parent_path() / WEFT_TORCH_LIBRARY;
  forget_bindings();
  // Kept open: what it started runs until the program ends.
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) throw IoError("cannot load {}: {}", library.string(), ::dlerror());
  void* const symbol = ::dlsym(handle, name);
  if (symbol == nullptr) throw IoError("{} is of another version", library.string());
  return symbol;
}

#else

void* torch_symbol(const char*) {
  throw ConfigError(
      "this weft was built without LibTorch and cannot compute with models (WEFT_TORCH=OFF)");
}

#endif

}  // namespace weft::cli
