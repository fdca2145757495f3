#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

#include "merge/merge.h"

// merge.json: what a folder of weights was made of and how, with SHA-256 of every file in it
// (docs/merge.md, "The certificate").

namespace weft::merge {

inline constexpr std::string_view kCertificateFile = "merge.json";

/// Adds every file of `folder` that is not in report.outputs yet, with its digest, and writes
/// merge.json: report_json() and "certificate_sha256", the SHA-256 of the text without that key.
void write_certificate(MergeReport& report, const std::filesystem::path& folder);

/// What verify_certificate() found an input to be.
enum class InputState {
  kSame,    ///< At the recorded path and with the recorded digest.
  kAbsent,  ///< Not at the recorded path: nothing can be said.
  kSkipped  ///< There, but its digest was not asked for.
};

struct CertificateCheck {
  struct Input {
    std::string path;
    InputState state = InputState::kSame;
  };
  std::size_t files = 0;
  std::uint64_t bytes = 0;
  std::size_t keys = 0;  ///< Of all adapters, each used once.
  std::vector<Input> inputs;
};

/// Whether digests of the inputs that are still there are compared too (a pass over the base).
enum class VerifyInputs { kNo, kYes };

/// Holds a merged folder against its merge.json: the certificate itself, size and SHA-256 of every
/// file, no files beside those that it lists but notes for people, one use of every tensor of every
/// adapter; and the inputs, as far as they are where they were. InputError naming the file that
/// differs, or saying that there is no certificate.
[[nodiscard]] CertificateCheck verify_certificate(const std::filesystem::path& folder,
                                                  VerifyInputs inputs = VerifyInputs::kYes);

}  // namespace weft::merge
