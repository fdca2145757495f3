#include "merge/dither.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "merge/rounding.h"

namespace weft::merge {
namespace {

struct F16 {
  static std::uint16_t round(double value) { return round_to_f16(value); }
  static double value(std::uint16_t bits) { return core::f16_to_float(bits); }
};
struct BF16 {
  static std::uint16_t round(double value) { return round_to_bf16(value); }
  static double value(std::uint16_t bits) { return core::bf16_to_float(bits); }
};

/// The neighbour of `nearest` on the other side of `exact`, which lies between the two.
template <typename Type>
std::uint16_t other_side(std::uint16_t nearest, double exact) {
  const double value = Type::value(nearest);
  if (value == 0) return exact > 0 ? 0x0001 : 0x8001;
  const bool outwards = std::abs(exact) > std::abs(value);
  return static_cast<std::uint16_t>(outwards ? nearest + 1 : nearest - 1);
}

/// `exact` up or down, so that the mean over `draw` (uniform in [0, 1)) is `exact`.
template <typename Type>
std::uint16_t stochastic(double exact, double draw) {
  const std::uint16_t nearest = Type::round(exact);
  const double value = Type::value(nearest);
  if (value == exact || !std::isfinite(value)) return nearest;
  const std::uint16_t other = other_side<Type>(nearest, exact);
  const double end = Type::value(other);
  if (!std::isfinite(end)) return nearest;
  return draw < (exact - value) / (end - value) ? other : nearest;
}

template <typename Type>
RowSums run(Rounding rounding, std::span<const float> base, std::span<const double> update,
            const lora::RandomStream& draws, std::uint64_t first, std::byte* out) {
  RowSums sums;
  double owed = 0;  // What the elements before this one lost.
  for (std::size_t j = 0; j < base.size(); ++j) {
    const double before = base[j];
    const double exact = before + update[j];
    const std::uint16_t bits = rounding == Rounding::kStochastic
                                   ? stochastic<Type>(exact, draws.uniform(first + j))
                                   : Type::round(exact + owed);
    const double after = Type::value(bits);
    owed = std::isfinite(after) ? owed + exact - after : 0;
    std::memcpy(out + j * sizeof bits, &bits, sizeof bits);
    sums.base += before * before;
    sums.update += update[j] * update[j];
    sums.kept += (after - before) * update[j];
    sums.error = std::max(sums.error, std::abs(after - exact));
    sums.changed += bits != Type::round(before) ? 1 : 0;
    sums.overflow |= std::isfinite(before) && !std::isfinite(after);
  }
  return sums;
}

}  // namespace

std::optional<Rounding> parse_rounding(std::string_view name) noexcept {
  for (const Rounding r : {Rounding::kNearest, Rounding::kStochastic, Rounding::kErrorFeedback}) {
    if (name == name_of(r)) return r;
  }
  return std::nullopt;
}

std::string_view name_of(Rounding rounding) noexcept {
  return rounding == Rounding::kNearest      ? "nearest"
         : rounding == Rounding::kStochastic ? "stochastic"
                                             : "error_feedback";
}

RowSums dither_row(Rounding rounding, core::DType type, std::span<const float> base,
                   std::span<const double> update, const lora::RandomStream& draws,
                   std::uint64_t first, std::byte* out) {
  return type == core::DType::kF16 ? run<F16>(rounding, base, update, draws, first, out)
                                   : run<BF16>(rounding, base, update, draws, first, out);
}

}  // namespace weft::merge
