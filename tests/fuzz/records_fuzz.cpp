// The dataset readers: the first byte chooses format and options, the rest is the file. Every row
// is UTF-8 with an origin inside the file; broken files end in an InputError or ConfigError.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "core/utf8.h"
#include "data/record.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace weft::data;
  if (size == 0) return 0;
  const unsigned choice = data[0];
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  RecordOptions options;
  options.format = static_cast<Format>(choice % 5);
  options.documents = static_cast<Documents>((choice / 5) % 3);
  if ((choice & 0x40U) != 0) options.quotes = (choice & 0x20U) != 0;
  if ((choice & 0x80U) != 0) options.columns = {"a", "b"};
  // Where lines end in \r alone these are counted.
  const auto lines = 1 + std::max(std::count(bytes.begin(), bytes.end(), '\n'),
                                  std::count(bytes.begin(), bytes.end(), '\r'));
  const auto check = [&](const Origin& origin) {
    if (origin.line < 1 || origin.line > lines) std::abort();
  };
  try {
    const auto reader = read_records(bytes, "fuzz", options, [&](const Fault& fault) {
      check(fault.origin);
      if (!weft::core::is_utf8(fault.what)) std::abort();
    });
    while (const auto record = reader->next()) {
      check(record->origin);
      if (!weft::core::is_utf8(record->values.dump()))
        std::abort();  // dump() throws on what is not UTF-8.
    }
  } catch (const weft::InputError&) {
  } catch (const weft::ConfigError&) {
  }
  return 0;
}
