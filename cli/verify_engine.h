#pragma once

#include "cli/verification.h"

namespace weft::cli {

/// start_verification() on LibTorch's side; throws what is wrong.
[[nodiscard]] std::function<merge::Verification(const std::filesystem::path& written)>
start_engine_verification(const VerificationRequest& request, const core::Log& log);

}  // namespace weft::cli
