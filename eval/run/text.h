#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/log.h"
#include "data/dataset.h"
#include "eval/metrics/result.h"
#include "eval/run/score.h"
#include "eval/run/windows.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// The documents of a file, in order: one per row of .jsonl ({"text": "..."}, other keys are not
/// looked at), any other file is one document, byte for byte. .gz and .zst are unpacked.
/// `limit`: at most so many, spread evenly over the file.
/// Throws InputError (file and line) for a row without text, for text that is not UTF-8, and for a
/// file without text.
[[nodiscard]] std::vector<std::string> read_documents(const std::filesystem::path& path,
                                                      std::optional<std::int64_t> limit = {});

/// Documents and where each comes from.
struct SourcedDocuments {
  std::vector<std::string> texts;
  std::vector<std::string> sources;  ///< As long as texts, or empty.
};
/// The same, with the value of the column `source` (text or a number) as each row's source; where
/// that is empty there are none. Throws InputError also for a row without the column.
[[nodiscard]] SourcedDocuments read_sourced_documents(const std::filesystem::path& path,
                                                      std::optional<std::int64_t> limit,
                                                      const std::string& source);

/// The rows of data of type text as documents. Throws what data::load_samples() throws, and
/// InputError for data without text.
[[nodiscard]] std::vector<std::string> data_documents(const data::DatasetConfig& config,
                                                      std::optional<std::int64_t> limit,
                                                      const core::Log& log);

/// The text of a column that names a source. Throws InputError when it is neither text nor number.
[[nodiscard]] std::string source_text(const nlohmann::ordered_json& value);

/// What stands before the first token of a text: BOS, or EOS where the tokenizer has no BOS.
/// Throws InputError when it has neither.
[[nodiscard]] std::int32_t prefix_token(const text::Tokenizer& tokenizer);

/// Documents cut into passes for one tokenizer.
struct RollingText {
  Unit unit = Unit::kDocument;
  std::vector<Pass> passes;
  std::vector<std::size_t> item_of_pass;
  std::vector<Item> items;                        ///< With bytes, without losses.
  std::vector<std::uint32_t> document_of_item{};  ///< As long as items.
};

/// Prepares documents as lm-eval's loglikelihood_rolling does (eval/run/windows.h): the first token
/// is predicted from BOS, or EOS where the tokenizer has no BOS; no pass reads more than
/// max_tokens; `stride`: as of rolling_windows(). `special`: whether the tokenizer's own rule adds
/// BOS/EOS to the text itself, so that they are predicted too. lm-eval does that by default, and
/// not with add_bos_token=False; as there, a text that starts with the prefix token's text gets
/// none. Throws InputError when the tokenizer has neither BOS nor EOS.
[[nodiscard]] RollingText rolling_text(std::span<const std::string> documents,
                                       const text::Tokenizer& tokenizer, std::int64_t max_tokens,
                                       text::AddSpecial special = text::AddSpecial::kNo,
                                       std::optional<std::int64_t> stride = {});

/// Prepares documents as llama-perplexity does (llama_windows()), each by itself: a chunk is an
/// item; of tokenizers that begin a text with BOS the first token of every chunk is BOS.
/// Throws InputError for a document of fewer than 2 chunks, as there.
[[nodiscard]] RollingText chunked_text(std::span<const std::string> documents,
                                       const text::Tokenizer& tokenizer, std::int64_t chunk);

/// The pass of one window. `tokens`: of the whole text; `prefix`: what stands for token -1.
[[nodiscard]] Pass window_pass(std::span<const std::int32_t> tokens, std::int32_t prefix,
                               const Window& window);

/// Adds the losses of the passes to the items that they belong to.
[[nodiscard]] std::vector<Item> items_with_losses(const RollingText& text,
                                                  std::span<const PassLoss> losses);

}  // namespace weft::eval
