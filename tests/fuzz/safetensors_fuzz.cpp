#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "checkpoint/safetensors.h"
#include "core/error.h"

// Any bytes are either refused by an InputError or give tensors that lie inside the file.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace weft;
  const auto bytes = std::as_bytes(std::span(data, size));
  try {
    const auto header = checkpoint::parse_safetensors(bytes, "fuzz");
    std::uint64_t sum = 0;
    std::uint64_t total = 0;
    for (const checkpoint::SafetensorsEntry& entry : header.entries) {
      total += entry.bytes();
      // Reading every byte lets AddressSanitizer judge the ranges.
      for (const std::byte b : bytes.subspan(header.data_offset + entry.begin, entry.bytes())) {
        sum += static_cast<std::uint64_t>(b);
      }
      const checkpoint::TensorPlan plan{entry.name, entry.dtype, entry.shape};
      if (plan.bytes() != entry.bytes()) std::abort();
    }
    if (header.data_offset + total != size) std::abort();
    volatile std::uint64_t keep = sum;
    (void)keep;
  } catch (const InputError&) {
  }
  return 0;
}
