#include "model/machine.h"

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "core/cores.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "model/kernels/multiply.h"

namespace weft::model {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// How many numbers a list such as "0-3,8" holds.
int count_in_list(std::string_view list) {
  int count = 0;
  while (!list.empty()) {
    const std::string_view part = list.substr(0, list.find(','));
    int first = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), first);
    int last = first;
    if (parsed.ptr != part.data() + part.size() && *parsed.ptr == '-')
      std::from_chars(parsed.ptr + 1, part.data() + part.size(), last);
    count += last - first + 1;
    list.remove_prefix(std::min(list.size(), part.size() + 1));
  }
  return std::max(count, 1);
}

std::vector<Machine::Cache> caches() {
  std::vector<Machine::Cache> found;
  for (int index = 0; index < 8; ++index) {
    const fs::path folder =
        fs::path("/sys/devices/system/cpu/cpu0/cache") / ("index" + std::to_string(index));
    const std::string level = first_line(folder / "level");
    const std::string type = first_line(folder / "type");
    const std::string size = first_line(folder / "size");
    if (level.empty() || type == "Instruction") continue;
    char* unit = nullptr;
    std::uint64_t bytes = std::strtoull(size.c_str(), &unit, 10);
    if (*unit == 'K') bytes <<= 10;
    if (*unit == 'M') bytes <<= 20;
    found.push_back({"L" + level + (type == "Data" ? " data" : ""), bytes,
                     count_in_list(first_line(folder / "shared_cpu_list"))});
  }
  return found;
}

using Clock = std::chrono::steady_clock;

/// Of the size that products are cut into.
constexpr kernel::Extent kMeasured{96, 64, 512};

/// Multiplies until `end`; how often.
template <typename E>
std::int64_t repeat(kernel::Multiply<E> multiply, Clock::time_point end) {
  const std::vector<E> a(static_cast<std::size_t>(kMeasured.m * kMeasured.k), E(0.5F));
  const std::vector<E> b(static_cast<std::size_t>(kMeasured.n * kMeasured.k), E(0.25F));
  std::vector<typename kernel::Operand<E>::Sum> c(
      static_cast<std::size_t>(kMeasured.m * kMeasured.n));
  std::int64_t times = 0;
  for (; Clock::now() < end; ++times)
    multiply(c.data(), kMeasured.n, a.data(), kMeasured.k, b.data(), kMeasured, false);
  return times;
}

/// Operations a second of a kernel on all cores.
template <typename E>
double rate(kernel::Multiply<E> multiply, double seconds) {
  const auto start = Clock::now();
  const auto end =
      start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::atomic<std::int64_t> blocks = 0;
  core::parallel_for(core::allowed_cores(), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) blocks += repeat<E>(multiply, end);
  });
  const double taken = std::chrono::duration<double>(Clock::now() - start).count();
  return static_cast<double>(blocks.load()) * 2.0 *
         static_cast<double>(kMeasured.m * kMeasured.n * kMeasured.k) / taken;
}

}  // namespace

Machine describe_machine(double seconds) {
  Machine machine;
  machine.processor = core::processor_name();
  machine.cores = core::allowed_cores();
  machine.available_bytes = core::available_memory();
  machine.caches = caches();
  const kernel::Set chosen = kernel::chosen_set();
  machine.chosen = kernel::name_of(chosen);
  machine.forced = kernel::is_forced();
  machine.prefers_bfloat16 = kernel::prefers_bfloat16(chosen);
  std::vector<kernel::Set> sets = kernel::available_sets();
  const double each = seconds / (2.0 * static_cast<double>(sets.size()));
  for (const kernel::Set set : sets) {
    const kernel::Kernels& kernels = kernel::kernels_of(set);
    machine.rates.push_back({std::string(kernel::name_of(set)),
                             rate<c10::BFloat16>(kernels.of_bfloat16, each) / 1e9,
                             rate<float>(kernels.of_float, each) / 1e9});
  }
  return machine;
}

}  // namespace weft::model
