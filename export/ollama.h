#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "core/file.h"
#include "core/log.h"
#include "export/file_type.h"
#include "export/inputs.h"
#include "merge/fold.h"
#include "merge/verification.h"

namespace weft::exporting {

struct OllamaRequest {
  InputPaths inputs;
  std::filesystem::path out;
  const FileType* type = nullptr;  ///< Of the merged model.
  /// A model that Ollama has ("smollm2:135m"): the adapter is written beside it, nothing is merged.
  std::string from;
  std::filesystem::path importance;  ///< As of GgufRequest.
  std::string name{};                ///< Likewise, as `pre`.
  std::optional<std::string> pre{};
  core::Overwrite overwrite = core::Overwrite::kRefuse;
  merge::Verify verify{};  ///< Measures the model before the folder gets its name; empty: nobody.
};

/// What lies in the folder.
struct OllamaReport {
  std::string weights;        ///< "model.gguf" or "adapter.gguf"
  std::string chat_template;  ///< The known format that was written; empty: none was recognised.
  std::optional<merge::Verification> verification{};
};

/// Writes a folder for `ollama create NAME -f Modelfile`: base and adapters as one GGUF model (FROM
/// ./model.gguf), or with `from` the adapter alone (FROM name, ADAPTER ./adapter.gguf); TEMPLATE
/// and PARAMETER stop for the known chat formats, SYSTEM where the model's template has a system
/// message of its own. An unknown format is told to `log`; Ollama then takes the template from the
/// GGUF file. Refused when the verification is beyond its limit: the folder then lies at
/// core::rejected_path(out).
[[nodiscard]] OllamaReport write_ollama(const OllamaRequest& request,
                                        const merge::FoldControl& control = {},
                                        const core::Log& log = {});

}  // namespace weft::exporting
