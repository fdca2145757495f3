#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/decoder.h"
#include "model/layer.h"
#include "model/sampler.h"

namespace weft::model {

/// Keys and values of the tokens a model has read, so that the next ones need not read them again.
/// Belongs to one decoder and its attached adapters; Decoder::next_logits() extends it.
struct KvCache {
  std::int64_t length = 0;         ///< Tokens held.
  std::vector<LayerCache> layers;  ///< Made and grown by next_logits().

  /// Forgets all but the first `tokens`, e.g. to go on from a shared prefix.
  void truncate(std::int64_t tokens);
};

/// Makes room for `tokens` more; `options`: element type and device.
void reserve(KvCache& cache, const Spec& spec, const at::TensorOptions& options,
             std::int64_t tokens);

struct GenerateOptions {
  Sampling sampling{};
  std::int64_t max_tokens = 256;
  std::vector<std::int32_t> stop_ids{};  ///< Ends the answer; not part of it.
  std::vector<std::string>
      stop_strings{};  ///< Ends the answer before its first occurrence (answer.h).
};

enum class Finish { kStopId, kStopString, kLength, kCancelled };

struct GeneratedIds {
  std::vector<std::int32_t> ids;  ///< Without the stop id.
  Finish finish = Finish::kLength;
};

/// Reads `prompt` after what `cache` holds, then chooses token after token. `on_token` may end it
/// by returning false. Afterwards the cache holds prompt and answer but for the last token chosen.
/// `history`: tokens that the cache holds already, for the repetition penalty.
/// InputError for an empty prompt or an id outside the vocabulary.
GeneratedIds generate_ids(Decoder& decoder, std::span<const std::int32_t> prompt,
                          const GenerateOptions& options, KvCache& cache,
                          const std::function<bool(std::int32_t)>& on_token = {},
                          std::span<const std::int32_t> history = {});

}  // namespace weft::model
