#pragma once

#include <filesystem>

#include "core/file.h"
#include "core/log.h"
#include "export/adapter_report.h"
#include "export/inputs.h"

namespace weft::exporting {

struct GgufLoraRequest {
  InputPaths inputs;  ///< At least one adapter; the base gives names, heads and shapes.
  std::filesystem::path out;
  bool half = false;  ///< F16 instead of F32.
  core::Overwrite overwrite = core::Overwrite::kRefuse;
};

/// Writes adapters as one LoRA in GGUF, as convert_lora_to_gguf.py and src/llama-adapter.cpp of
/// llama.cpp define it: tensors "<base tensor>.lora_a" [rank, in] and ".lora_b" [out, rank], the
/// rows of B in the order of the base's rows in GGUF. llama.cpp multiplies by alpha / rank and
/// knows neither rsLoRA nor alpha_pattern, so each module's own scale is folded into B, and
/// adapter.lora.alpha is the rank, or 0 (no scaling) when ranks differ.
///
/// The weights of the base are not read. The file is opened again and its updates compared with the
/// adapters' (NumericError). InputError naming the module that the architecture does not have.
[[nodiscard]] AdapterReport write_gguf_lora(const GgufLoraRequest& request,
                                            const core::Log& log = {});

}  // namespace weft::exporting
