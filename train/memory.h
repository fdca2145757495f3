#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/device.h"

namespace weft::train {

/// Bytes of this process that are in memory now, and at most so far; 0 where the system does not
/// tell.
[[nodiscard]] std::uint64_t resident_memory();
[[nodiscard]] std::uint64_t peak_resident_memory();

/// Returns free memory of the heap to the system, where the C library can.
void give_back_heap();

/// One part of what a run will need: "weights", 540 MB, "dtype".
struct MemoryPart {
  std::string what;
  std::uint64_t bytes = 0;
  std::string knob;  ///< What makes it smaller; empty: nothing does.
};

/// What there is for a process of a run.
struct MemoryRoom {
  std::uint64_t now = 0;      ///< Bytes that it can take at this moment.
  std::uint64_t at_best = 0;  ///< That it could take if no other program held any.
  int sharers = 1;            ///< Ranks of the run that have as much each, in the same memory.
};

/// That of this machine (core/memory.h).
[[nodiscard]] MemoryRoom memory_of_machine();
/// That of a GPU, or of this machine.
[[nodiscard]] MemoryRoom memory_of(const model::ComputeDevice& device);

/// Throws InputError when the parts need more than the room at its best, and NotNow when they need
/// more than there is now. The message has the need, part by part, the available, and the knobs of
/// the large parts (an eighth of the need or more).
void require_memory(const std::vector<MemoryPart>& parts, const MemoryRoom& room);

}  // namespace weft::train
