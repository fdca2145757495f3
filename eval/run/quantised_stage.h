#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/log.h"
#include "model/decoder.h"

namespace weft::eval {

/// A model as it would be after `weft export --to gguf --type TYPE`, made in memory.
struct QuantisedModel {
  std::filesystem::path model;
  std::vector<std::filesystem::path> adapters;  ///< Folded in before quantising.
  std::string type;                             ///< "q4_k_m"
  bool allow_other_base = false;
};

/// Loads it: every tensor is folded and quantised by the exporter itself (export/gguf_tensors.h)
/// and read back, tile by tile, so that the numbers are those of the file, bit for bit; so are
/// norm_eps and rope theta, which a GGUF file keeps as fp32. No file is written; beyond the model
/// some tens of MiB are needed. Errors as of exporting::write_gguf() before it writes.
[[nodiscard]] model::Decoder load_quantised(const QuantisedModel& model, model::Compute compute,
                                            at::Device device, const core::Log& log);

}  // namespace weft::eval
