#include "model/decode_batch.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "core/error.h"

namespace weft::model {
namespace {

using Prompts = std::span<const std::vector<std::int32_t>>;

/// Tokens that all prompts begin with; each keeps one of its own to be read.
std::int64_t common_tokens(Prompts prompts) {
  std::int64_t common = std::ssize(prompts.front()) - 1;
  for (const std::vector<std::int32_t>& prompt : prompts) {
    const auto most = std::min<std::int64_t>(common, std::ssize(prompt) - 1);
    const auto end = prompt.begin() + most;
    common = std::mismatch(prompt.begin(), end, prompts.front().begin()).first - prompt.begin();
  }
  return common;
}

/// An answer that is being written.
struct Sequence {
  std::size_t prompt = 0;
  KvCache cache;
  Sampler sampler;
  std::vector<std::int32_t> seen;  ///< Prompt and answer so far.
};

class Batch {
 public:
  Batch(Decoder& decoder, Prompts prompts, const GenerateOptions& options,
        const BatchOptions& batch)
      : decoder_(decoder), prompts_(prompts), options_(options), batch_(batch) {
    answers_.resize(prompts.size());
    if (batch.only) {
      order_ = *batch.only;
    } else {
      order_.resize(prompts.size());
      std::iota(order_.begin(), order_.end(), std::size_t{0});
    }
    if (order_.empty()) return;
    // Of all prompts, also where only some are answered: where a prompt is cut shows in its bits.
    shared_ = prompts.size() > 1 ? common_tokens(prompts) : 0;
    if (shared_ > 0) {
      (void)decoder_.next_logits(
          std::span(prompts.front()).first(static_cast<std::size_t>(shared_)), beginning_);
    }
  }

  std::vector<GeneratedIds> run() {
    for (;;) {
      while (std::ssize(active_) < batch_.sequences && next_ < order_.size()) begin_some();
      tell();
      if (active_.empty()) return std::move(answers_);
      step();
    }
  }

 private:
  void tell() const {
    if (batch_.progress) {
      batch_.progress(static_cast<std::int64_t>(next_) - std::ssize(active_));
    }
  }

  /// Reads the next prompts, as many as are worth reading together, and chooses the first token of
  /// their answers.
  void begin_some() {
    std::vector<Sequence> read;
    std::vector<std::span<const std::int32_t>> unread;
    std::size_t tokens = 0;
    const auto room = static_cast<std::size_t>(batch_.sequences - std::ssize(active_));
    while (read.size() < room && next_ < order_.size()) {
      const std::vector<std::int32_t>& prompt = prompts_[order_[next_]];
      unread.push_back(std::span(prompt).subspan(static_cast<std::size_t>(shared_)));
      tokens += unread.back().size();
      if (tokens > kTokensAtOnce && !read.empty()) {
        unread.pop_back();
        break;
      }
      read.push_back({.prompt = order_[next_++],
                      .cache = copy(beginning_),
                      .sampler = Sampler(options_.sampling),
                      .seen = prompt});
    }
    if (options_.max_tokens < 1) return;
    std::vector<KvCache*> caches;
    for (Sequence& sequence : read) caches.push_back(&sequence.cache);
    go_on(std::move(read), decoder_.next_logits(unread, caches));
  }

  /// One token more for every answer that is being written.
  void step() {
    std::vector<std::int32_t> tokens;
    std::vector<KvCache*> caches;
    for (Sequence& sequence : active_) {
      tokens.push_back(sequence.seen.back());
      caches.push_back(&sequence.cache);
    }
    const at::Tensor logits = decoder_.step_logits(tokens, caches);
    go_on(std::exchange(active_, {}), logits);
  }

  /// Chooses the next token of each; those that go on are active.
  void go_on(std::vector<Sequence> sequences, const at::Tensor& logits) {
    std::vector<char> on(sequences.size());
    at::parallel_for(0, std::ssize(sequences), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const auto at = static_cast<std::size_t>(i);
        on[at] = goes_on(sequences[at], logits[i]) ? 1 : 0;
      }
    });
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      if (on[i] != 0) active_.push_back(std::move(sequences[i]));
    }
    tell();
  }

  /// Chooses the next token; false when the answer is finished.
  bool goes_on(Sequence& sequence, const at::Tensor& logits) {
    GeneratedIds& answer = answers_[sequence.prompt];
    const std::int32_t id = sequence.sampler.next(logits, sequence.seen);
    if (std::ranges::find(options_.stop_ids, id) != options_.stop_ids.end()) {
      answer.finish = Finish::kStopId;
      return false;
    }
    answer.ids.push_back(id);
    sequence.seen.push_back(id);
    if (batch_.is_over && batch_.is_over(answer.ids)) {
      answer.finish = Finish::kStopString;
      return false;
    }
    return std::ssize(answer.ids) < options_.max_tokens;
  }

  static KvCache copy(const KvCache& cache) {
    KvCache result;
    result.length = cache.length;
    for (const LayerCache& layer : cache.layers)
      result.layers.push_back({layer.keys.clone(), layer.values.clone()});
    return result;
  }

  /// Of prompts that are read together: enough to pay for reading the weights, and no more memory
  /// than a row of training takes.
  static constexpr std::size_t kTokensAtOnce = 1024;

  Decoder& decoder_;
  Prompts prompts_;
  const GenerateOptions& options_;
  const BatchOptions& batch_;
  std::vector<GeneratedIds> answers_;
  std::vector<Sequence> active_;
  std::vector<std::size_t> order_;  ///< The prompts to be answered.
  std::size_t next_ = 0;            ///< In order_: the first prompt that has not been read.
  KvCache beginning_;               ///< What all prompts begin with
  std::int64_t shared_ = 0;
};

}  // namespace

std::vector<GeneratedIds> generate_batch(Decoder& decoder, Prompts prompts,
                                         const GenerateOptions& options,
                                         const BatchOptions& batch) {
  if (batch.sequences < 1)
    throw ConfigError("{} answers at the same time, expected at least 1", batch.sequences);
  for (const std::vector<std::int32_t>& prompt : prompts) {
    if (prompt.empty())
      throw InputError("the prompt has no tokens, a model needs at least one to go on from");
  }
  if (prompts.empty()) return {};
  return Batch(decoder, prompts, options, batch).run();
}

}  // namespace weft::model
