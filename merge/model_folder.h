#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "merge/merge.h"

// What merging one model and combining several share: checks of inputs and outputs, and the files
// beside the weights.

namespace weft::merge {

/// InputError when writing `target` would replace one of the inputs.
void refuse_to_replace_input(const std::filesystem::path& target,
                             std::span<const std::filesystem::path> inputs);
/// InputError for a checkpoint that some other quantiser has packed.
void refuse_quantised_config(const checkpoint::Checkpoint& base);
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
/// Opens the folder as a reader does and holds its head and embedding against the plan: a tied
/// configuration without a head, or an untied one with it. NumericError where they contradict.
void check_tie(const std::filesystem::path& folder, const FoldPlan& plan);

/// What the report says of an adapter; fails when it was trained on weights of another digest.
[[nodiscard]] MergeReport::Adapter check_adapter(const WeightedAdapter& adapter,
                                                 const checkpoint::Checkpoint& base,
                                                 const std::string& digest, bool allow_other_base,
                                                 const core::Log& log);

/// Warns when rounding takes a visible part of the update away.
void tell_about_loss(const MergeReport& report, const core::Log& log);

}  // namespace weft::merge
