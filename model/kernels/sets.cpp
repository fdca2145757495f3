#include "model/kernels/sets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "core/suggest.h"
#include "model/kernels/amx.h"

namespace weft::model::kernel {
namespace {

#if defined(__x86_64__) && defined(__GNUC__)
bool has_avx2() noexcept {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("f16c");
}
bool has_avx512() noexcept {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && has_avx2();
}
bool has_avx512_bf16() noexcept { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
/// Intel's processors give vdpbf16ps half the rate of FMA in float; AMD's twice that.
bool is_intel() noexcept { return __builtin_cpu_is("intel"); }
#else
bool has_avx2() noexcept { return false; }
bool has_avx512() noexcept { return false; }
bool has_avx512_bf16() noexcept { return false; }
bool is_intel() noexcept { return false; }
#endif
/// The rows between products are those of AVX-512 BF16 (model/kernels/bf16_rows_avx512_bf16.cpp),
/// which a hypervisor may hide.
bool has_amx_and_rows() noexcept { return has_avx512_bf16() && has_amx(); }
bool always() noexcept { return true; }

struct Row {
  Set set;
  std::string_view name;
  bool (*available)() noexcept;
};

/// The best first, but for what is_intel() says.
constexpr std::array<Row, 7> kRows{{
    {Set::kAmx, "amx", has_amx_and_rows},
    {Set::kAvx512Bf16, "avx512_bf16", has_avx512_bf16},
    {Set::kAvx512, "avx512", has_avx512},
    {Set::kAvx2, "avx2", has_avx2},
    {Set::kPortable, "portable", always},
    {Set::kAmxEmulated, "amx_emulated", always},
    {Set::kAten, "aten", always},
}};

const Row& row_of(Set set) noexcept { return kRows[static_cast<std::size_t>(set)]; }

constexpr bool rows_are_in_order() {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (static_cast<std::size_t>(kRows[i].set) != i) return false;
  }
  return true;
}
static_assert(rows_are_in_order());

std::vector<std::string> names_of_available() {
  std::vector<std::string> names;
  for (const Set set : available_sets()) names.emplace_back(name_of(set));
  return names;
}

Set set_of(const std::string& wanted) {
  if (const std::optional<Set> set = set_named(wanted)) {
    if (is_available(*set)) return *set;
    throw ConfigError(
        "WEFT_KERNELS={}: this processor, or its operating system, lacks these instructions; it "
        "has {}",
        wanted, fmt::join(names_of_available(), ", "));
  }
  std::vector<std::string> names;
  for (const Row& row : kRows) names.emplace_back(row.name);
  const std::string near = core::nearest(wanted, names);
  throw ConfigError("WEFT_KERNELS={}: there are no such kernels{}; this processor has {}", wanted,
                    near.empty() ? "" : fmt::format(" (nearest: '{}')", near),
                    fmt::join(names_of_available(), ", "));
}

Set choose() {
  if (is_forced()) return set_of(std::getenv("WEFT_KERNELS"));
  for (const Set set : available_sets()) {
    if (set != Set::kAvx512Bf16 || !is_intel()) return set;
  }
  return Set::kPortable;
}

}  // namespace

std::string_view name_of(Set set) noexcept { return row_of(set).name; }

std::optional<Set> set_named(std::string_view name) noexcept {
  for (const Row& row : kRows) {
    if (row.name == name) return row.set;
  }
  return std::nullopt;
}

bool is_forced() noexcept {
  const char* const wanted = std::getenv("WEFT_KERNELS");
  return wanted != nullptr && *wanted != '\0';
}

bool is_available(Set set) noexcept { return row_of(set).available(); }

std::vector<Set> available_sets() {
  std::vector<Set> sets;
  for (const Row& row : kRows) {
    const bool for_tests = row.set == Set::kAmxEmulated || row.set == Set::kAten;
    if (!for_tests && row.available()) sets.push_back(row.set);
  }
  return sets;
}

Set chosen_set() {
  static const Set kChosen = choose();
  return kChosen;
}

bool prefers_bfloat16(Set set) noexcept {
  return set == Set::kAmx || set == Set::kAvx512Bf16 || set == Set::kAvx2 ||
         set == Set::kAmxEmulated;
}

}  // namespace weft::model::kernel
