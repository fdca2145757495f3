#include "model/generate.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace weft::model {

namespace {

/// Logits [V] of the last of `tokens`; one token alone is a step, as it is in a batch of answers.
at::Tensor logits_after(Decoder& decoder, std::span<const std::int32_t> tokens, KvCache& cache) {
  if (tokens.size() > 1) return decoder.next_logits(tokens, cache);
  KvCache* const only = &cache;
  return decoder.step_logits(tokens, {&only, 1}).squeeze(0);
}

}  // namespace

void KvCache::truncate(std::int64_t tokens) {
  length = std::clamp<std::int64_t>(tokens, 0, length);
}

void reserve(KvCache& cache, const Spec& spec, const at::TensorOptions& options,
             std::int64_t tokens) {
  const std::int64_t needed = cache.length + tokens;
  const std::int64_t capacity = cache.layers.empty() ? 0 : cache.layers.front().keys.size(1);
  if (capacity >= needed) return;
  // Doubling: what is held is copied a constant number of times on average.
  const std::int64_t wanted = std::max({needed, 2 * capacity, std::int64_t{256}});
  cache.layers.resize(spec.layers.size());
  for (std::size_t i = 0; i < cache.layers.size(); ++i) {
    LayerCache& layer = cache.layers[i];
    const AttentionSpec& shape = spec.layers[i].attention;
    for (at::Tensor* tensor : {&layer.keys, &layer.values}) {
      const at::Tensor larger = at::empty({shape.kv_heads, wanted, shape.head_dim}, options);
      if (cache.length > 0)
        larger.narrow(1, 0, cache.length).copy_(tensor->narrow(1, 0, cache.length));
      *tensor = larger;
    }
  }
}

GeneratedIds generate_ids(Decoder& decoder, std::span<const std::int32_t> prompt,
                          const GenerateOptions& options, KvCache& cache,
                          const std::function<bool(std::int32_t)>& on_token,
                          std::span<const std::int32_t> history) {
  if (prompt.empty())
    throw InputError("the prompt has no tokens, a model needs at least one to go on from");
  Sampler sampler(options.sampling);
  std::vector<std::int32_t> seen(history.begin(), history.end());
  seen.insert(seen.end(), prompt.begin(), prompt.end());
  GeneratedIds result;
  std::vector<std::int32_t> unread(prompt.begin(), prompt.end());
  while (static_cast<std::int64_t>(result.ids.size()) < options.max_tokens) {
    const std::int32_t id = sampler.next(logits_after(decoder, unread, cache), seen);
    if (std::ranges::find(options.stop_ids, id) != options.stop_ids.end()) {
      result.finish = Finish::kStopId;
      return result;
    }
    result.ids.push_back(id);
    seen.push_back(id);
    unread.assign(1, id);
    if (on_token && !on_token(id)) {
      result.finish = Finish::kCancelled;
      return result;
    }
  }
  return result;
}

}  // namespace weft::model
