#include "eval/run/suite_digest.h"

#include <fmt/format.h>

#include <span>

#include "core/hash.h"

namespace weft::eval {
namespace {

/// Feeds numbers and texts so that no two sequences of them give the same bytes.
class Digest {
 public:
  template <typename Number>
  requires std::is_arithmetic_v<Number>
  void add(Number value) { sum_.update(std::as_bytes(std::span(&value, 1))); }
  template <typename Number>
  void add(const std::vector<Number>& values) {
    add(std::uint64_t{values.size()});
    sum_.update(std::as_bytes(std::span(values)));
  }
  void add(std::string_view text) {
    add(std::uint64_t{text.size()});
    sum_.update(text);
  }
  [[nodiscard]] std::string finish() { return sum_.finish(); }

 private:
  core::Sha256 sum_;
};

void add_passes(Digest& digest, const std::vector<Pass>& passes) {
  digest.add(std::uint64_t{passes.size()});
  for (const Pass& pass : passes) {
    digest.add(pass.tokens);
    digest.add(pass.targets);
  }
}

void add_items(Digest& digest, const std::vector<Item>& items) {
  digest.add(std::uint64_t{items.size()});
  for (const Item& item : items) digest.add(item.bytes);
}

void add_text(Digest& digest, const RollingText& text) {
  digest.add("text");
  digest.add(static_cast<int>(text.unit));
  add_passes(digest, text.passes);
  add_items(digest, text.items);
  for (const std::size_t item : text.item_of_pass) digest.add(std::uint64_t{item});
}

void add_data(Digest& digest, const InstructionData& data) {
  digest.add("instruction");
  add_passes(digest, data.passes);
  add_items(digest, data.items);
  digest.add(std::uint64_t{0});  // As suites that ask nothing have always had it.
}

void add_choices(Digest& digest, const ChoiceData& choices) {
  digest.add("choices");
  add_passes(digest, choices.passes);
  add_items(digest, choices.items);
  for (const ChoiceData::Place& place : choices.places) {
    digest.add(place.question);
    digest.add(place.choice);
    digest.add(std::uint8_t{place.alone});
  }
  for (const ChoiceResult& question : choices.questions) {
    digest.add(question.answer);
    digest.add(question.characters);
    digest.add(question.bytes);
  }
}

}  // namespace

std::string suite_digest(const SuiteInput& suite) {
  Digest digest;
  if (suite.text) add_text(digest, *suite.text);
  if (suite.data) add_data(digest, *suite.data);
  if (suite.choices) add_choices(digest, *suite.choices);
  return digest.finish();
}

std::string asked_digest(const SuiteInput& suite, const std::optional<Decoding>& decoding) {
  if (!suite.data || suite.data->questions.empty()) return {};
  Digest digest;
  digest.add("questions");
  digest.add(std::uint64_t{suite.data->questions.size()});
  for (const Question& question : suite.data->questions) {
    digest.add(question.tokens);
    digest.add(question.text);
    digest.add(question.reference);
    for (const std::string& more : question.more_references) digest.add(more);
  }
  if (decoding) {
    digest.add(decoding->max_tokens);
    digest.add(decoding->repetition_penalty);
    for (const std::string& stop : decoding->stop) digest.add(stop);
  }
  return digest.finish();
}

}  // namespace weft::eval
