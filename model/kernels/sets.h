#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace weft::model::kernel {

/// A set of instructions that matrix products are computed with. It decides the last bits of every
/// result, so that it is part of a run's state.
enum class Set : std::uint8_t {
  kAmx,         ///< BFloat16 by tiles (tdpbf16ps); float and double as kAvx512
  kAvx512Bf16,  ///< BFloat16 in pairs (vdpbf16ps); float and double as kAvx512
  kAvx512,      ///< BFloat16 widened to float in registers
  kAvx2,        ///< The same, in half the width
  kPortable,    ///< What the compiler makes of it for every processor of the kind
  /// The products of kAmx with tiles in memory and all else portable: for tests where there is no
  /// AMX. Very slow.
  kAmxEmulated,
  /// No kernels: the device-generic operations over ATen (model/aten/aten.h), for tests on a
  /// processor of what runs on a GPU.
  kAten
};

/// "amx", "avx512_bf16", "avx512", "avx2", "portable", "amx_emulated", "aten": in WEFT_KERNELS and
/// records.
[[nodiscard]] std::string_view name_of(Set set) noexcept;

/// The other way round; nothing for a name that there is not.
[[nodiscard]] std::optional<Set> set_named(std::string_view name) noexcept;

/// Whether this processor has the instructions and the system lets the process use them.
[[nodiscard]] bool is_available(Set set) noexcept;

/// Those that are, those for tests aside, the best first.
[[nodiscard]] std::vector<Set> available_sets();

/// What this processor computes with: the set that the environment variable WEFT_KERNELS names,
/// else the fastest by rules that were measured (docs/performance.md), never by a timing, so that a
/// machine always chooses alike. Decided once. ConfigError where the variable names what there is
/// not.
[[nodiscard]] Set chosen_set();

/// Whether WEFT_KERNELS names it.
[[nodiscard]] bool is_forced() noexcept;

/// Whether a model is computed faster in BFloat16 than in float under it (docs/performance.md).
[[nodiscard]] bool prefers_bfloat16(Set set) noexcept;

}  // namespace weft::model::kernel
