#include "model/cuda_library.h"

#include <dlfcn.h>

#include <filesystem>

#include "core/error.h"

namespace weft::model {
namespace {

/// Beside the library that this code is in; of a test, which has the code in it, in lib/ beside
/// bin/.
CudaLibrary open_library() {
  namespace fs = std::filesystem;
  Dl_info here{};
  const bool known = ::dladdr(reinterpret_cast<const void*>(&cuda_library), &here) != 0;
  const fs::path folder = known ? fs::absolute(here.dli_fname).parent_path() : fs::path(".");
  fs::path library = folder / "libweft_cuda.so";
  if (folder.filename() == "bin") library = folder.parent_path() / "lib/libweft_cuda.so";
  if (!fs::exists(library)) {
    throw ConfigError(
        "device cuda: weft was built for the processor alone ({} is missing); script/setup --cuda "
        "builds its part for GPUs, or take device cpu",
        library.string());
  }
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) throw ConfigError("device cuda: cannot load {}", ::dlerror());
  const auto find = [&]<typename Function>(const char* name, Function& function) {
    function = reinterpret_cast<Function>(::dlsym(handle, name));
    if (function == nullptr)
      throw ConfigError("device cuda: {} is of another version", library.string());
  };
  CudaLibrary opened;
  find("weft_cuda_start", opened.start);
  find("weft_cuda_free", opened.free);
  find("weft_cuda_fold", opened.fold);
  find("weft_cuda_gpus", opened.gpus);
  find("weft_cuda_group", opened.group);
  find("weft_cuda_join", opened.join);
  return opened;
}

}  // namespace

const CudaLibrary& cuda_library() {
  static const CudaLibrary kOpened = open_library();
  return kOpened;
}

}  // namespace weft::model
