#include "eval/run/activations.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "checkpoint/gguf_family.h"
#include "core/error.h"

namespace weft::eval {
namespace {

/// BOS where the tokenizer begins texts with it.
std::optional<std::int32_t> first_token(const text::Tokenizer& tokenizer) {
  const std::vector<std::int32_t> start = tokenizer.encode("", text::AddSpecial::kYes);
  if (start.empty() || start.front() != tokenizer.bos()) return std::nullopt;
  return start.front();
}

}  // namespace

std::vector<std::vector<std::int32_t>> importance_chunks(std::span<const std::string> documents,
                                                         const text::Tokenizer& tokenizer,
                                                         std::int64_t chunk, std::int64_t most) {
  std::vector<std::int32_t> tokens;
  for (const std::string& document : documents) {
    const auto ids = tokenizer.encode(document, text::AddSpecial::kYes);
    tokens.insert(tokens.end(), ids.begin(), ids.end());
  }
  const std::int64_t whole = std::ssize(tokens) / chunk;
  if (whole == 0) {
    throw InputError("the text has {} tokens, one chunk needs {}: give more text or --chunk",
                     tokens.size(), chunk);
  }
  const std::optional<std::int32_t> first = first_token(tokenizer);
  std::vector<std::vector<std::int32_t>> chunks;
  for (std::int64_t i = 0; i < std::min(whole, most); ++i) {
    const auto begin = tokens.begin() + i * chunk;
    chunks.emplace_back(begin, begin + chunk);
    if (first) chunks.back().front() = *first;
  }
  return chunks;
}

exporting::ImportanceSums sum_importance(model::Decoder& decoder, const std::string& model_type,
                                         std::span<const std::vector<std::int32_t>> chunks,
                                         const std::function<void()>& done) {
  const checkpoint::Family* const family = checkpoint::find_gguf_family_of(model_type);
  if (family == nullptr) {
    throw InputError("a model of type '{}' has no names in GGUF; {} have", model_type,
                     checkpoint::known_gguf_families());
  }
  model::InputSquares squares;
  exporting::ImportanceSums sums;
  for (const std::vector<std::int32_t>& chunk : chunks) {
    decoder.add_input_squares(chunk, squares);
    sums.chunk_tokens = std::ssize(chunk);
    ++sums.chunks;
    if (done) done();
  }
  const std::vector<lora::Module> modules = decoder.linear_modules();
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const auto names = checkpoint::gguf_names(*family, modules[i].path + ".weight");
    if (names.empty()) throw InputError("'{}' has no name in GGUF", modules[i].path);
    if (!std::ranges::all_of(squares[i], [](double sum) { return std::isfinite(sum); })) {
      throw NumericError("the inputs of '{}' are not finite", modules[i].path);
    }
    for (const std::string& name : names) {
      exporting::ColumnSquares& matrix = sums.matrices[name];
      matrix.sums.assign(squares[i].begin(), squares[i].end());
      matrix.tokens = static_cast<double>(sums.chunks * sums.chunk_tokens);
    }
  }
  return sums;
}

}  // namespace weft::eval
