#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "eval/metrics/result.h"

namespace weft::eval {

/// Everything of a suite's result as bytes: CBOR with the items' numbers as columns, compressed by
/// zstd. Numbers come back bit for bit. chrF's counts are not stored but counted again.
[[nodiscard]] std::vector<std::byte> pack(const SuiteResult& suite);

/// The way back. Throws InputError (`where` names the place) for bytes that pack() did not make:
/// sizes, columns and places are checked.
[[nodiscard]] SuiteResult unpack(std::span<const std::byte> bytes, std::string_view where);

}  // namespace weft::eval
