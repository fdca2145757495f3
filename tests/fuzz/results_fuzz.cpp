// Packed results of an evaluation: the input is the CBOR inside, which is compressed here first
// (its checksum would stop nearly every change), or, when it begins as zstd does, the packed bytes.
// The result is a suite or an InputError, and a suite that was read comes back from its own
// packing.

#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "core/error.h"
#include "eval/ledger/pack.h"

namespace {

constexpr unsigned long long kMostUnpacked = 1 << 20;

std::vector<std::byte> compressed(std::span<const std::uint8_t> plain) {
  std::vector<std::byte> packed(ZSTD_compressBound(plain.size()));
  packed.resize(ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), 1));
  return packed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> input(data, size);
  const unsigned long long unpacked = ZSTD_getFrameContentSize(data, size);
  const bool is_frame = unpacked != ZSTD_CONTENTSIZE_ERROR;
  // Up to 1 GiB may be claimed, and is filled: slow, and no fault.
  if (is_frame && unpacked != ZSTD_CONTENTSIZE_UNKNOWN && unpacked > kMostUnpacked) return 0;
  const auto given = std::as_bytes(input);
  const std::vector<std::byte> bytes =
      is_frame ? std::vector<std::byte>(given.begin(), given.end()) : compressed(input);
  try {
    const weft::eval::SuiteResult suite = weft::eval::unpack(bytes, "fuzz");
    const std::vector<std::byte> again = weft::eval::pack(suite);
    if (weft::eval::pack(weft::eval::unpack(again, "again")) != again) std::abort();
  } catch (const weft::InputError&) {
  }
  return 0;
}
