#include "eval/run/verification.h"

#include <ATen/Functions.h>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "eval/run/text.h"
#include "model/divergence.h"

namespace weft::eval {
namespace {

data::Row row_of(const Pass& pass) {
  data::Row row;
  row.tokens = pass.tokens;
  row.targets = pass.targets;
  row.positions.resize(pass.tokens.size());
  std::iota(row.positions.begin(), row.positions.end(), 0);
  row.segments = {{0, static_cast<std::int32_t>(pass.tokens.size())}};
  return row;
}

/// Sums over the tokens compared so far.
struct Totals {
  std::int64_t tokens = 0;
  std::int64_t same_top = 0;
  double kl = 0;
  double largest_kl = 0;
  double largest_difference = 0;

  void add(const at::Tensor& reference, const at::Tensor& logits,
           std::span<const std::int32_t> targets) {
    for (const model::Divergence& d : model::divergence(reference, logits, targets)) {
      kl += d.kl;
      largest_kl = std::max(largest_kl, d.kl);
      same_top += d.same_top ? 1 : 0;
      ++tokens;
    }
    largest_difference =
        std::max(largest_difference, at::max(at::abs(at::sub(reference, logits))).item<double>());
  }
};

}  // namespace

std::string first_other_ids(const std::vector<std::string>& documents, const text::Tokenizer& base,
                            const text::Tokenizer& written) {
  for (std::size_t i = 0; i < documents.size(); ++i) {
    const std::vector<std::int32_t> wanted = base.encode(documents[i]);
    const std::vector<std::int32_t> found = written.encode(documents[i]);
    if (wanted == found) continue;
    const auto [a, b] = std::ranges::mismatch(wanted, found);
    const auto name = [](auto at, const std::vector<std::int32_t>& ids, const auto& tokenizer) {
      return at == ids.end() ? std::string("its end")
                             : fmt::format("{} '{}'", *at, tokenizer.id_to_token(*at).value_or(""));
    };
    return fmt::format("token {} of document {} is {} and should be {}", a - wanted.begin() + 1,
                       i + 1, name(b, found, written), name(a, wanted, base));
  }
  return "";
}

std::vector<Pass> verification_passes(const std::vector<std::string>& documents,
                                      const text::Tokenizer& tokenizer, std::int64_t max_tokens) {
  const std::int32_t prefix = prefix_token(tokenizer);
  std::vector<std::vector<std::int32_t>> texts;
  std::vector<std::pair<std::size_t, Window>> windows;
  for (const std::string& document : documents) {
    texts.push_back(tokenizer.encode(document, text::AddSpecial::kNo));
    const std::int64_t length = std::ssize(texts.back());
    for (std::int64_t begin = 0; begin < length; begin += kVerificationWindow) {
      windows.push_back(
          {texts.size() - 1, {begin, std::min(length, begin + kVerificationWindow), 1}});
    }
  }
  if (windows.empty()) throw InputError("the text to verify with has no token");
  const auto wanted =
      static_cast<std::size_t>(std::max<std::int64_t>(1, max_tokens / kVerificationWindow));
  const std::size_t count = std::min(windows.size(), wanted);
  std::vector<Pass> passes;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& [text, window] = windows[i * windows.size() / count];
    passes.push_back(window_pass(texts[text], prefix, window));
  }
  return passes;
}

ReferencePredictions::ReferencePredictions(model::Decoder& decoder, std::vector<Pass> passes,
                                           const Done& done)
    : head_(decoder.head()), vocabulary_(decoder.spec().vocabulary), passes_(std::move(passes)) {
  for (const Pass& pass : passes_) {
    states_.push_back(decoder.supervised_states(row_of(pass)));
    if (done) done();
  }
}

merge::Verification ReferencePredictions::compare(model::Decoder& other, const Done& done) const {
  if (other.spec().vocabulary != vocabulary_) {
    throw InputError("the written model has {} tokens, its base {}: they cannot be compared",
                     other.spec().vocabulary, vocabulary_);
  }
  Totals totals;
  const model::Head head = other.head();
  const std::int64_t chunk = model::Head::chunk_rows(vocabulary_);
  for (std::size_t i = 0; i < passes_.size(); ++i) {
    const at::Tensor states = other.supervised_states(row_of(passes_[i]));
    for (std::int64_t first = 0; first < states.size(0); first += chunk) {
      const std::int64_t rows = std::min(chunk, states.size(0) - first);
      totals.add(head_.logits(states_[i].narrow(0, first, rows)),
                 head.logits(states.narrow(0, first, rows)),
                 std::span(passes_[i].targets)
                     .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows)));
    }
    if (done) done();
  }
  merge::Verification result;
  const auto tokens = static_cast<double>(totals.tokens);
  result.tokens = totals.tokens;
  result.kl = totals.kl / tokens;
  result.largest_kl = totals.largest_kl;
  result.same_top = static_cast<double>(totals.same_top) / tokens;
  result.largest_difference = totals.largest_difference;
  return result;
}

}  // namespace weft::eval
