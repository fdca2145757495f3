#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/log.h"
#include "export/file_type.h"
#include "export/importance.h"
#include "export/inputs.h"
#include "merge/fold.h"
#include "merge/verification.h"

namespace weft::exporting {

struct GgufRequest {
  InputPaths inputs;
  std::filesystem::path out;
  const FileType* type = nullptr;
  std::filesystem::path importance;  ///< An importance matrix for the quantiser; empty: none.
  std::string name;                  ///< general.name; empty: the base's.
  std::optional<std::string> pre;    ///< tokenizer.ggml.pre; empty: found or carried over.
  core::Overwrite overwrite = core::Overwrite::kRefuse;
  merge::Verify verify{};  ///< Measures the file before it gets its name; empty: nobody.
};

/// What the reopened file says about an adapter's update.
struct WrittenUpdate {
  std::string name;     ///< The tensor's Hugging Face name.
  std::string storage;  ///< "Q4_K"
  /// <M - W, D> / <D, D> over sampled rows, M the numbers read back, W the base's, D the update:
  /// the part of the update along its own direction; 1 when nothing is lost.
  double retained = 1;
  /// |M - (W + D)| / |D| over the same rows: the rounding beside the update.
  double noise = 0;
};

struct GgufReport {
  std::string base_digest;  ///< Empty when no adapter made it necessary.
  std::vector<std::pair<std::string, std::size_t>> storages;  ///< "Q4_K": tensors
  std::vector<WrittenUpdate> updates;
  std::size_t tensors = 0;
  std::size_t weighted = 0;  ///< Tensors that were quantised with importance.
  std::uint64_t bytes = 0;
  double seconds = 0;  ///< Without the verification.
  std::optional<merge::Verification> verification{};
};

/// Writes base plus adapters as one GGUF file in one pass over the base, tensor by tensor in tiles
/// of rows: memory is some tens of MiB beyond the mapped inputs.
///
/// W + sum of the updates is computed in double. For F16 and BF16 it is rounded once, to them; for
/// F32 and the block formats once to F32, which the quantiser then takes (checkpoint/quantize.h),
/// so that the blocks equal those that llama-quantize makes of the merged model in F32. A tensor
/// that no adapter changes and that is stored as wanted is copied byte for byte.
///
/// The file appears whole or not at all: before it gets its name it is opened again and sampled
/// rows of every changed tensor are compared with what they should be (docs/export.md).
/// NumericError when they are not, Refused when the verification is beyond its limit: the file then
/// lies at core::rejected_path(out).
/// Errors as of Checkpoint::open, PeftFile::open, merge::plan_fold, lora::check_base and
/// model_fields; NumericError naming the tensor when a number leaves the range of its type.
[[nodiscard]] GgufReport write_gguf(const GgufRequest& request,
                                    const merge::FoldControl& control = {},
                                    const core::Log& log = {});

/// Bytes of the tensors that write_gguf() would write, the file's but for its vocabulary. Errors as
/// of Checkpoint::open.
[[nodiscard]] std::uint64_t planned_gguf_bytes(const std::filesystem::path& model,
                                               const FileType& type);

[[nodiscard]] nlohmann::json report_json(const GgufReport& report);
/// A few lines for people.
[[nodiscard]] std::string report_table(const GgufReport& report);

}  // namespace weft::exporting
