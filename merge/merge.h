#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/log.h"
#include "core/number.h"
#include "merge/auto_dtype.h"
#include "merge/fold.h"
#include "merge/verification.h"

namespace weft::merge {

/// What a model folder is made of.
struct MergeRequest {
  struct Adapter {
    std::filesystem::path directory;
    double weight = 1;
  };
  std::filesystem::path model;    ///< Hugging Face directory or GGUF file.
  std::vector<Adapter> adapters;  ///< None: the model is converted, not changed.
  std::filesystem::path out;
  std::optional<core::DType> dtype;  ///< Empty: keep (F32 for block-quantised bases).
  std::uint64_t max_shard_bytes = checkpoint::kDefaultShardBytes;
  core::Overwrite overwrite = core::Overwrite::kRefuse;
  /// Keep the types where they hold the update, else choose wider ones (choose_dtype()), or with
  /// another `rounding` than to nearest keep them and round so. `dtype` is then empty.
  bool auto_dtype = false;
  Rounding rounding = Rounding::kNearest;  ///< Of changed tensors that become F16 or BF16.
  std::uint64_t seed = 0;                  ///< Of stochastic rounding.
  bool allow_other_base = false;  ///< Fold into a base whose digest is not the recorded one.
  Verify verify{};                ///< Measures the output before it gets its name; empty: nobody.
  std::filesystem::path undo{};   ///< Written afterwards by the caller (merge/undo.h); empty: not.
  /// Files that the caller reads besides, such as the text of the verification.
  std::vector<std::filesystem::path> also_reads{};
};

/// Fails where the outputs of the request would replace an input or cannot be written
/// (core::claim_outputs). merge_model() asks it first; so may who has long work before.
void claim_outputs(const MergeRequest& request);

/// What was done, for people (report_table) and programs (report_json; saved as merge.json).
struct MergeReport {
  struct Adapter {
    std::filesystem::path directory;
    double weight = 1;
    std::string digest;                ///< lora::PeftFile::digest()
    std::size_t stored_keys = 0;       ///< Tensors in its file, as its reader counts them.
    std::vector<lora::KeyUse> keys{};  ///< What became of each (account_for_keys()).
    std::size_t modules = 0;
    std::int64_t parameters = 0;
    /// "same": the recorded digest is the base's; "other": it is not, and that was allowed;
    /// "unrecorded": the adapter does not say.
    std::string base_check;
  };
  /// A model that a recipe combined.
  struct Model {
    std::string path;    ///< "checkpoint" or "checkpoint+adapter".
    std::string digest;  ///< Of the checkpoint's numbers (weights_digest()).
    std::string storage;
    bool base = false;
    bool digest_kept = false;  ///< As base_digest_kept.
  };
  std::filesystem::path model;
  std::string method;                 ///< Empty: the weighted sum of adapters.
  std::string recipe;                 ///< As given.
  std::optional<std::uint64_t> seed;  ///< Of a method that draws.
  std::vector<Model> models;          ///< Of a recipe.
  std::string base_digest;            ///< checkpoint::Checkpoint::weights_digest()
  /// It was computed in an earlier run, and the files have not changed since
  /// (checkpoint/digest_store.h).
  bool base_digest_kept = false;
  std::string base_storage;               ///< "BF16", "Q4_1+Q6_K+F32", most numbers first.
  core::DType dtype = core::DType::kF32;  ///< FoldPlan::model_dtype
  std::vector<Adapter> adapters;
  std::vector<FoldedTensor> folded;
  std::optional<TypeChoice> choice;        ///< Of auto_dtype.
  Rounding rounding = Rounding::kNearest;  ///< As asked; `seed` is that of its draws.
  std::vector<WrittenFile> outputs;  ///< The weights; write_certificate() adds all other files.
  std::size_t tensors = 0;           ///< In the output.
  std::size_t files = 0;
  std::uint64_t bytes = 0;
  double seconds = 0;                          ///< Without the verification.
  std::string device{};                        ///< FoldControl::engine's; empty: the processor.
  std::optional<Verification> verification{};  ///< What MergeRequest::verify found.
};

/// Folds adapters into a model, or converts it, into a folder that transformers loads: safetensors,
/// config.json with the type, tokenizer and generation files, merge.json. The folder appears whole
/// or not at all: digests are taken while it is written, and a base that an adapter was not trained
/// on stops the writing.
///
/// Errors as of Checkpoint::open, PeftFile::open, plan_fold, check_base and fold; InputError when
/// `out` exists (and may not be replaced) or holds one of the inputs; IoError when the disk is too
/// small. Refused when the output was measured and is beyond the limit: it then lies at
/// core::rejected_path(out), with its figures in merge.json.
[[nodiscard]] MergeReport merge_model(const MergeRequest& request, const FoldControl& control = {},
                                      const core::Log& log = {});

/// The share of all updates that rounding leaves, weighted by their squared norms; 1 without any.
[[nodiscard]] double retained(const std::vector<FoldedTensor>& folded);

[[nodiscard]] nlohmann::json report_json(const MergeReport& report);
/// A short table: one line per kind of layer.
[[nodiscard]] std::string report_table(const MergeReport& report);

}  // namespace weft::merge
