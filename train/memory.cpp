#include "train/memory.h"

#include <fmt/format.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "core/error.h"
#include "core/memory.h"
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

MemoryRoom memory_of_machine() {
  return {.now = core::available_memory(), .at_best = core::total_memory()};
}

MemoryRoom memory_of(const model::ComputeDevice& device) {
  if (!device.is_gpu()) return memory_of_machine();
  return {model::available_memory(device), device.total_bytes};
}

void require_memory(const std::vector<MemoryPart>& parts, const MemoryRoom& room) {
  std::uint64_t need = 0;
  for (const MemoryPart& part : parts) need += part.bytes;
  if (need <= room.now) return;
  std::string list;
  std::string knobs;
  for (const MemoryPart& part : parts) {
    list +=
        fmt::format("{}{} {}", list.empty() ? "" : ", ", part.what, core::human_bytes(part.bytes));
    const bool is_large = part.bytes >= need / 8;
    if (is_large && !part.knob.empty()) knobs += (knobs.empty() ? "" : "; ") + part.knob;
  }
  const std::string wanted =
      fmt::format("about {} of memory are needed{} ({})", core::human_bytes(need),
                  room.sharers > 1 ? " for each rank" : "", list);
  std::string each;
  if (room.sharers > 1) {
    each = fmt::format(" for each of the {} ranks on this machine", room.sharers);
    knobs += fmt::format("{}fewer ranks on a machine", knobs.empty() ? "" : "; ");
  }
  if (need > room.at_best) {
    throw InputError("{}, and there are at most {}{}; {}", wanted, core::human_bytes(room.at_best),
                     each, knobs.empty() ? "a larger machine is needed" : "what helps: " + knobs);
  }
  throw NotNow("{}, and {} of {} are free now{}; try again when other programs have ended{}",
               wanted, core::human_bytes(room.now), core::human_bytes(room.at_best), each,
               knobs.empty() ? "" : ", or take less: " + knobs);
}

}  // namespace weft::train
