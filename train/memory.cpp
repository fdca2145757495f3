#include "train/memory.h"

#include <fmt/format.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/terminal.h"

namespace weft::train {
std::uint64_t resident_memory() {
  std::ifstream stream("/proc/self/statm");
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  if (!(stream >> total >> resident)) return 0;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::uint64_t peak_resident_memory() {
  struct rusage usage {};
  if (::getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
}

void give_back_heap() {
#ifdef __GLIBC__
  ::malloc_trim(0);
#endif
}

void require_memory(const std::vector<MemoryPart>& parts, std::uint64_t available) {
  std::uint64_t need = 0;
  for (const MemoryPart& part : parts) need += part.bytes;
  if (need <= available) return;
  std::string list;
  std::string knobs;
  for (const MemoryPart& part : parts) {
    list +=
        fmt::format("{}{} {}", list.empty() ? "" : ", ", part.what, core::human_bytes(part.bytes));
    const bool is_large = part.bytes >= need / 8;
    if (is_large && !part.knob.empty()) knobs += (knobs.empty() ? "" : "; ") + part.knob;
  }
  throw InputError("training needs about {} of memory ({}), and {} are available; {}",
                   core::human_bytes(need), list, core::human_bytes(available),
                   knobs.empty() ? "free some" : "what helps: " + knobs);
}

}  // namespace weft::train
