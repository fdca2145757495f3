#include "eval/score.h"

#include <cmath>
#include <stdexcept>

#include "core/error.h"

namespace weft::eval {
namespace {

void append(data::Row& row, const Pass& pass) {
  const auto begin = static_cast<std::int32_t>(row.tokens.size());
  row.tokens.insert(row.tokens.end(), pass.tokens.begin(), pass.tokens.end());
  row.targets.insert(row.targets.end(), pass.targets.begin(), pass.targets.end());
  for (std::int32_t p = 0; p < static_cast<std::int32_t>(pass.tokens.size()); ++p) {
    row.positions.push_back(p);
  }
  row.segments.push_back({begin, static_cast<std::int32_t>(row.tokens.size())});
}

void score_row(std::span<const Pass> passes, const TokenLosses& losses,
               std::vector<PassLoss>& results) {
  data::Row row;
  for (const Pass& pass : passes) append(row, pass);
  const std::vector<float> values = losses(row);
  std::size_t next = 0;
  for (const Pass& pass : passes) {
    PassLoss result;
    for (const std::int32_t target : pass.targets) {
      if (target == data::kNoTarget) continue;
      result.loss += values.at(next++);
      ++result.tokens;
    }
    if (!std::isfinite(result.loss)) {
      throw NumericError(
          "the loss of text {} is {}: the model's numbers left the range in which they mean "
          "something; try --dtype f32, or check the weights",
          results.size() + 1, result.loss);
    }
    results.push_back(result);
  }
  if (next != values.size()) {
    throw std::logic_error("the model returned more losses than places with a target");
  }
}

}  // namespace

std::vector<PassLoss> score(std::span<const Pass> passes, std::int64_t max_tokens,
                            const TokenLosses& losses,
                            const std::function<void(std::int64_t)>& done) {
  std::vector<PassLoss> results;
  results.reserve(passes.size());
  for (std::size_t begin = 0; begin < passes.size();) {
    std::size_t end = begin + 1;
    std::size_t tokens = passes[begin].tokens.size();
    while (end < passes.size() &&
           tokens + passes[end].tokens.size() <= static_cast<std::size_t>(max_tokens)) {
      tokens += passes[end++].tokens.size();
    }
    score_row(passes.subspan(begin, end - begin), losses, results);
    begin = end;
    if (done) done(static_cast<std::int64_t>(end));
  }
  return results;
}

}  // namespace weft::eval
