#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "export/importance.h"
#include "model/decoder.h"
#include "text/tokenizer.h"

namespace weft::eval {

/// A text as llama-imatrix reads it: the tokens of all documents one after another, in whole chunks
/// of `chunk` tokens (what is left over is not read); the first token of every chunk is BOS where
/// the tokenizer begins texts with it. At most `most` chunks, the first ones.
/// InputError when there is not one whole chunk.
[[nodiscard]] std::vector<std::vector<std::int32_t>> importance_chunks(
    std::span<const std::string> documents, const text::Tokenizer& tokenizer, std::int64_t chunk,
    std::int64_t most);

/// Sums the squares of what every linear layer is multiplied with, adapters attached to the decoder
/// included, over the chunks; each is a text of its own. `done` is told after each chunk and throws
/// to stop. The embedding and the head are left out, as llama-imatrix does.
/// InputError for a family that has no GGUF names, NumericError for sums that are not finite.
[[nodiscard]] exporting::ImportanceSums sum_importance(
    model::Decoder& decoder, const std::string& model_type,
    std::span<const std::vector<std::int32_t>> chunks, const std::function<void()>& done = {});

}  // namespace weft::eval
