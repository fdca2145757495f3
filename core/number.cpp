#include "core/number.h"

#include <array>
#include <utility>

namespace weft::core {

std::optional<DType> parse_dtype(std::string_view text) noexcept {
  static constexpr std::array<std::pair<std::string_view, DType>, 10> kSpellings{{
      {"f32", DType::kF32},
      {"F32", DType::kF32},
      {"float32", DType::kF32},
      {"f16", DType::kF16},
      {"F16", DType::kF16},
      {"float16", DType::kF16},
      {"half", DType::kF16},
      {"bf16", DType::kBF16},
      {"BF16", DType::kBF16},
      {"bfloat16", DType::kBF16},
  }};
  for (const auto& [spelling, type] : kSpellings) {
    if (spelling == text) return type;
  }
  return std::nullopt;
}

}  // namespace weft::core
