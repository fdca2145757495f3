#include "model/memory.h"

#include <algorithm>

#include "data/row.h"
#include "model/meter.h"

namespace weft::model {
namespace {

/// A row of which every position is supervised, in one segment; in several where a model has
/// learned fewer positions than that.
data::Row full_row(const Spec& spec, std::int64_t tokens) {
  const EmbeddingSpec& e = spec.embedding;
  const std::int64_t longest =
      e.positions.empty() ? tokens : std::min(tokens, e.position_rows - e.first_position);
  data::Row row;
  row.tokens.assign(static_cast<std::size_t>(tokens), 0);
  row.targets.assign(static_cast<std::size_t>(tokens), 0);
  for (std::int64_t begin = 0; begin < tokens; begin += longest) {
    const std::int64_t end = std::min(tokens, begin + longest);
    for (std::int64_t i = begin; i < end; ++i)
      row.positions.push_back(static_cast<std::int32_t>(i - begin));
    row.segments.push_back(
        {.begin = static_cast<std::int32_t>(begin), .end = static_cast<std::int32_t>(end)});
  }
  return row;
}

}  // namespace

MemoryNeed memory_need(const Spec& spec, std::span<const lora::Target> targets,
                       const Workload& load) {
  Meter meter;
  MemoryNeed need;
  Decoder decoder = Decoder::unfilled(spec, load.compute, load.base, load.stored);
  need.weights = meter.now();
  decoder.attach_room(targets, load.training);
  need.adapter = meter.now() - need.weights;
  if (load.training) {  // Adam's two moments
    for (const lora::Target& target : targets)
      need.adapter += static_cast<std::uint64_t>(2 * 4 * target.parameters());
  }
  if (load.row_tokens == 0) return need;
  const std::uint64_t before = meter.now();
  const data::Row row = full_row(spec, load.row_tokens);
  // Twice: the second pass finds the head's buffer there from the first.
  for (int pass = 0; pass < 2; ++pass) {
    if (load.training) {
      (void)decoder.train(
          row, {.dropout = load.dropout ? 0.5 : 0, .recomputed_layers = load.recomputed_layers});
    } else {
      (void)decoder.loss(row);
    }
  }
  need.activations = meter.most() - before;
  return need;
}

}  // namespace weft::model
