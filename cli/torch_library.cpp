#include "cli/torch_library.h"

#include <dlfcn.h>

#include <filesystem>

namespace weft::cli {

#ifdef WEFT_WITH_TORCH

void* torch_symbol(const char* name) {
  namespace fs = std::filesystem;
  const fs::path program = fs::read_symlink("/proc/self/exe");
  const fs::path library = program.parent_path().parent_path() / WEFT_TORCH_LIBRARY;
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
