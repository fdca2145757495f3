#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/gguf.h"
#include "core/error.h"
#include "core/parallel.h"

namespace {

using namespace weft;

void touch_metadata(const checkpoint::Gguf& file) {
  for (const checkpoint::GgufEntry& entry : file.metadata()) {
    for (const auto read :
         {+[](const checkpoint::Gguf&f, const std::string&k) { (void)f.integer(k); },
          +[](const checkpoint::Gguf&f, const std::string&k) { (void)f.real(k); },
          +[](const checkpoint::Gguf&f, const std::string&k) { (void)f.boolean(k); },
          +[](const checkpoint::Gguf&f, const std::string&k) { (void)f.strings(k); },
          +[](const checkpoint::Gguf&f, const std::string&k) { (void)f.integers(k); },
          +[](const checkpoint::Gguf&f, const std::string&k) { (void)f.reals(k); }}) {
      try {
        read(file, entry.key);
      } catch (const InputError&) {  // Of another type.
      }
    }
  }
}

void touch_tensors(const checkpoint::Gguf& file) {
  for (const checkpoint::GgufTensor& tensor : file.tensors()) {
    const checkpoint::Storage storage = checkpoint::storage_of(tensor.type->name);
    if (storage == checkpoint::Storage::kOther) continue;
    const checkpoint::BlockSize block = checkpoint::block_size(storage);
    std::vector<float> values(tensor.bytes / block.bytes * block.elements);
    checkpoint::dequantize(storage, file.bytes(tensor), values);
  }
}

}  // namespace

// Any bytes are either refused by an InputError or give a model all of whose numbers can be read.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  core::set_thread_count(1);
  const int memory = ::memfd_create("fuzz", MFD_CLOEXEC);
  if (memory < 0 || ::write(memory, data, size) != static_cast<ssize_t>(size)) std::abort();
  const std::string path = "/proc/self/fd/" + std::to_string(memory);
  try {
    {
      const auto file = checkpoint::Gguf::open(path);
      touch_metadata(file);
      touch_tensors(file);
    }
    const auto model = checkpoint::Checkpoint::open(path);
    for (const checkpoint::TensorInfo& tensor : model.tensors()) {
      if (tensor.storage != checkpoint::Storage::kOther) (void)model.read(tensor);
      (void)model.raw(tensor);
    }
  } catch (const InputError&) {
  }
  ::close(memory);
  return 0;
}
