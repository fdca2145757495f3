#include "cli/inspect.h"
#include "core/error.h"
#include "core/terminal.h"
#include "merge/certificate.h"

namespace weft::cli {
namespace {

const char* text_of(merge::InputState state) {
  switch (state) {
    case merge::InputState::kSame: return "unchanged";
    case merge::InputState::kAbsent: return "no longer there, not compared";
    default: return "not compared";
  }
}

const char* word_of(merge::InputState state) {
  switch (state) {
    case merge::InputState::kSame: return "same";
    case merge::InputState::kAbsent: return "absent";
    default: return "skipped";
  }
}

}  // namespace

InspectReport verify_folder(const std::filesystem::path& path, const InspectOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_directory(path, error)) {
    throw InputError("--verify takes a folder that weft merge wrote; '{}' is none", path.string());
  }
  const merge::CertificateCheck found = merge::verify_certificate(
      path, options.hash ? merge::VerifyInputs::kYes : merge::VerifyInputs::kNo);
  InspectReport report;
  report.json = {{"kind", "verification"},     {"path", path.string()},
                 {"files", found.files},       {"bytes", found.bytes},
                 {"adapter_keys", found.keys}, {"inputs", nlohmann::ordered_json::array()}};
  report.line("verified", path.string());
  report.line("files", fmt::format("{} with the recorded size and SHA-256, {}", found.files,
                                   core::human_bytes(found.bytes)));
  report.line("adapter keys", fmt::format("{}, each used once", found.keys));
  for (const auto& input : found.inputs) {
    report.line("input", fmt::format("{}: {}", input.path, text_of(input.state)));
    report.json["inputs"].push_back({{"path", input.path}, {"state", word_of(input.state)}});
  }
  return report;
}

}  // namespace weft::cli
