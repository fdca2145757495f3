#include "model/arena.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/Device.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <new>

#include "core/error.h"
#include "model/meter.h"

namespace weft::model {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t round_up(std::size_t bytes, std::size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

}  // namespace

Arena::Arena(std::size_t bytes) {
  capacity_ = round_up(bytes, kHugePage);
  void* const range = ::mmap(nullptr, capacity_, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) {
    capacity_ = 0;
    return;
  }
  base_ = static_cast<std::byte*>(range);
  // Fewer faults and address translations; a kernel that does not offer it changes nothing.
  ::madvise(base_, capacity_, MADV_HUGEPAGE);
}

Arena::~Arena() {
  if (base_ != nullptr) ::munmap(base_, capacity_);
}

bool Arena::owns(const void* block) const noexcept {
  const auto* const at = static_cast<const std::byte*>(block);
  return std::greater_equal<>()(at, base_) && std::less<>()(at, base_ + capacity_);
}

void* Arena::take(std::size_t n) {
  const std::size_t bytes = round_up(n, kGranularity);
  const std::lock_guard lock(mutex_);
  std::size_t offset = top_;
  // The smallest free block that is large enough, and the lowest of those.
  const auto best = by_size_.lower_bound({bytes, 0});
  if (best != by_size_.end()) {
    offset = best->second;
    const std::size_t left = best->first - bytes;
    erase_free(free_.find(offset));
    if (left > 0) {
      free_.emplace(offset + bytes, left);
      by_size_.emplace(left, offset + bytes);
    }
  } else if (bytes >= n && bytes <= capacity_ - top_) {
    top_ += bytes;
  } else {
    return nullptr;
  }
  used_.emplace(offset, bytes);
  usage_.now += bytes;
  usage_.most = std::max(usage_.most, usage_.now);
  usage_.touched = std::max<std::uint64_t>(usage_.touched, top_);
  return base_ + offset;
}

void Arena::erase_free(Blocks::iterator block) {
  by_size_.erase({block->second, block->first});
  free_.erase(block);
}

void Arena::give(void* block) {
  const std::lock_guard lock(mutex_);
  const auto found = used_.find(static_cast<std::size_t>(static_cast<std::byte*>(block) - base_));
  std::size_t begin = found->first;
  std::size_t end = begin + found->second;
  usage_.now -= found->second;
  used_.erase(found);
  const auto after = free_.lower_bound(begin);
  if (after != free_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == begin) {
      begin = before->first;
      erase_free(before);
    }
  }
  if (after != free_.end() && after->first == end) {
    end += after->second;
    erase_free(after);
  }
  if (end == top_) {
    top_ = begin;
    return;
  }
  free_.emplace(begin, end - begin);
  by_size_.emplace(end - begin, begin);
}

Arena::Usage Arena::usage() const {
  const std::lock_guard lock(mutex_);
  return usage_;
}

void Arena::reset_most() {
  const std::lock_guard lock(mutex_);
  usage_.most = usage_.now;
}

namespace {

Arena& process_arena() {
  // Never destroyed: tensors in static storage may outlive everything.
  static Arena* const arena = [] {
    const auto pages = static_cast<std::size_t>(std::max(1L, ::sysconf(_SC_PHYS_PAGES)));
    const auto page = static_cast<std::size_t>(std::max(4096L, ::sysconf(_SC_PAGESIZE)));
    // Twice the memory: with holes, too, the range holds what memory can.
    return new Arena(2 * pages * page);
  }();
  return *arena;
}

/// Whether install_arena() was called: until then only a Meter takes tensors.
std::atomic<bool> arena_serves = false;

class ArenaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t n) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (n == 0) return {nullptr, cpu};
    Meter* const meter = Meter::current();
    void* block = nullptr;
    if (meter != nullptr) {
      block = meter->take(n);
    } else if (n >= kArenaLeast && arena_serves) {
      block = process_arena().take(n);
    }
    if (block == nullptr) block = std::aligned_alloc(kAlignment, round_up(n, kAlignment));
    if (block == nullptr) throw std::bad_alloc();
    if (meter != nullptr) meter->note(block, n);
    return {block, block, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* dest, const void* src, std::size_t count) const override {
    default_copy_data(dest, src, count);
  }

 private:
  static void release(void* block) {
    Meter* const meter = Meter::current();
    if (meter != nullptr && meter->give(block)) {
      return;
    }
    if (arena_serves && process_arena().owns(block)) {
      process_arena().give(block);
    } else {
      std::free(block);
    }
  }
};

void install_allocator() {
  static const bool kInstalled = [] {
    constexpr std::uint8_t kOverLibTorchsOwn = 1;
    c10::SetCPUAllocator(new ArenaAllocator, kOverLibTorchsOwn);
    return true;
  }();
  (void)kInstalled;
}

/// More than any model has, where addresses are not limited (ulimit -v): they cost nothing.
std::size_t meter_bytes() {
  std::size_t bytes = std::size_t{8} << 40;
  for (; bytes > std::size_t{1} << 30; bytes /= 4) {
    void* const range =
        ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED) continue;
    ::munmap(range, bytes);
    break;
  }
  return bytes;
}

}  // namespace

Arena& install_arena() {
  install_allocator();
  arena_serves = true;
  return process_arena();
}

thread_local Meter* Meter::current_ = nullptr;

Meter::Meter() : arena_(meter_bytes()) {
  TORCH_INTERNAL_ASSERT(current_ == nullptr, "one meter at a time");
  install_allocator();
  current_ = this;
}

Meter::~Meter() { current_ = nullptr; }

void* Meter::take(std::size_t n) {
  if (n < kArenaLeast) return nullptr;
  void* const block = arena_.take(n);
  // Real memory must not be taken for what is only planned.
  if (block == nullptr) {
    throw ConfigError(
        "planning the memory takes as many addresses as the model would take bytes, and this "
        "process may not have that many; raise the limit (ulimit -v)");
  }
  return block;
}

void Meter::note(void* block, std::size_t n) {
  const std::size_t bytes = round_up(n, n >= kArenaLeast ? Arena::kGranularity : kAlignment);
  blocks_.emplace(block, bytes);
  now_ += bytes;
  most_ = std::max(most_, now_);
}

bool Meter::give(void* block) {
  const auto found = blocks_.find(block);
  if (found != blocks_.end()) {
    now_ -= found->second;
    blocks_.erase(found);
  }
  if (!arena_.owns(block)) return false;
  arena_.give(block);
  return true;
}

}  // namespace weft::model
