#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "merge/merge.h"

// What merging one model and combining several share: checks of inputs and outputs, and the files
// beside the weights.

namespace weft::merge {

/// InputError for a checkpoint that some other quantiser has packed.
void refuse_quantised_config(const checkpoint::Checkpoint& base);
/// Whether the base is packed in a way that is read as numbers (MXFP4): what is written is not, and
/// its configuration says so.
[[nodiscard]] bool unpacks_config(const checkpoint::Checkpoint& base);
/// IoError when the disk has less than `bytes` left.
void require_space(const std::filesystem::path& folder, std::uint64_t bytes);

/// "BF16", "Q4_1+Q6_K+F32": how the numbers are stored, most first.
[[nodiscard]] std::string storage_text(const checkpoint::Checkpoint& base);

/// config.json with the type changed, unless `keep` says that it is right where there is one.
/// transformers 5 writes "dtype", older ones "torch_dtype"; both are kept in step.
[[nodiscard]] std::string config_text(nlohmann::json config, core::DType dtype, bool keep);

/// The tokenizer that a GGUF file embeds, as files; found wanting before any weight is written.
[[nodiscard]] std::map<std::string, std::string> embedded_files(const checkpoint::Checkpoint& base);
void write_side_files(const checkpoint::Checkpoint& base,
                      const std::map<std::string, std::string>& embedded,
                      const std::filesystem::path& folder);

/// The base's configuration with what the adapters decided: whether the head is the embedding, and
/// the size of the vocabulary. `log` hears of both.
[[nodiscard]] nlohmann::json output_config(const checkpoint::Checkpoint& base, const FoldPlan& plan,
                                           const core::Log& log);
/// Opens the folder as a reader does and holds it against what was written: the tensors `names`
/// and no others (a configuration that ties what is stored, or the other way round, loses one), and
/// the numbers of the samples, as near as their types allow. NumericError where they differ.
void check_written(const std::filesystem::path& folder, std::span<const std::string> names,
                   bool untied, std::span<const Sample> samples);

/// What became of every tensor of an adapter, from what was folded: recorded in the report, and
/// NumericError naming the first that nothing was made of. `elsewhere`: tensors that a recipe left
/// out, whose changes are left out with them.
void account_for_keys(MergeReport& report, std::span<const UsedKey> without_effect,
                      const std::function<bool(const std::string& adapter,
                                               const std::string& tensor)>& elsewhere = {});

/// What the report says of an adapter; fails when it was trained on weights of another digest.
[[nodiscard]] MergeReport::Adapter check_adapter(const WeightedAdapter& adapter,
                                                 const checkpoint::Checkpoint& base,
                                                 const std::string& digest, bool allow_other_base,
                                                 const core::Log& log);

/// Warns when rounding takes a visible part of the update away.
void tell_about_loss(const MergeReport& report, const core::Log& log);

}  // namespace weft::merge
