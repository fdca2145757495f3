#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "data/dataset.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::data {

/// A sample as tokens. `supervised[t]` is 1 when token t is to be predicted from those before it;
/// token 0 never is.
struct Example {
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> supervised;
  std::int64_t answer_bytes = 0;  ///< UTF-8 bytes of what is learned, without end marks.
  Origin origin;

  [[nodiscard]] std::int64_t supervised_count() const;
};

enum class OverLength : std::uint8_t {
  kDrop,      ///< Leave the example out.
  kTruncate,  ///< Keep BOS and the last tokens: the last question, the answer and its end. Plain
              ///< text keeps its start.
  kSplit,     ///< Cut plain text into pieces that all are learned; other types are left out.
  kRaise      ///< Stop with file and line.
};

enum class Turns : std::uint8_t { kAll, kLast };

struct PromptOptions {
  std::int64_t sequence_len = 1024;
  OverLength over_length = OverLength::kDrop;
  bool train_on_inputs = false;  ///< Learn prompts as well as answers.
  Turns train_on_turns = Turns::kAll;
  bool allow_answerless = false;  ///< Leave out examples without supervised tokens, not an error.
  /// Passed to the chat template.
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();
};

/// What became of the samples; every one is counted once in `examples`, `dropped` or `answerless`
/// (pieces of split text count as examples).
struct PromptStatistics {
  std::int64_t samples = 0;
  std::int64_t examples = 0;
  std::int64_t dropped = 0;  ///< Longer than sequence_len.
  std::int64_t truncated = 0;
  std::int64_t truncated_texts = 0;  ///< Of these, plain texts, whose end was cut off.
  std::int64_t split = 0;            ///< Texts that were cut into pieces.
  std::int64_t pieces = 0;           ///< Examples that were made of them.
  std::int64_t answerless = 0;       ///< No supervised token.
  std::int64_t unmerged = 0;         ///< Prompt and answer encoded apart, as inference does.
  std::int64_t straddled =
      0;  ///< One token covers the end of a prompt and the start of its answer.
  std::int64_t appended_end =
      0;                     ///< The template ends the last turn without an end token: EOS added.
  std::int64_t longest = 0;  ///< In tokens, before dropping or cutting.
  /// What rows give the chat template that it does not name, so that it has no effect: keys of
  /// messages and variables, with the number of samples.
  std::map<std::string, std::int64_t> unnamed = {};
};

/// A sample that cannot become an example for a reason of its own; `on_bad_row: skip` leaves it
/// out. The message begins with its place.
class BadRow : public InputError {
 public:
  BadRow(Origin place, const std::string& why)
      : InputError("{}: {}", place.text(), why), fault_{std::move(place), why} {}
  [[nodiscard]] const Fault& fault() const noexcept { return fault_; }

 private:
  Fault fault_;
};

/// Turns samples into tokens with the marks of what is learned.
///
/// Chats are rendered by the model's template and encoded as one text. Learned is each assistant
/// turn, from the end of what the template writes before it (its generation prompt) to the special
/// token that ends it, that included; white space after that token is not, because generation stops
/// before it. Templates with {% generation %} say themselves what is learned; the special token
/// that follows such a mark is learned too. A conversation is cut after its last assistant turn,
/// where EOS is added when the template gives that turn no token that ends generation. A turn that
/// its row marks as not to be learned is context only, with train_on_inputs, too.
///
/// The prompt's tokens are those that inference gives: when encoding prompt and answer together
/// yields other tokens for the prompt (a merge across the boundary), the two are encoded apart.
/// Only where that would change the text (SentencePiece puts a space before each text) the joint
/// tokens stay, and a token across the boundary is not learned.
///
/// Completions and plain text get the tokenizer's BOS, once, and EOS, which is learned.
class PromptBuilder {
 public:
  /// `chat_template` may be null; instruction and chat samples are then an error that says what to
  /// do. Both must outlive the builder.
  PromptBuilder(const text::Tokenizer& tokenizer, const text::ChatTemplate* chat_template,
                PromptOptions options = {});

  /// The examples of one sample: one, none (left out and counted), or pieces of a long text.
  /// BadRow for a sample that cannot be used; InputError with file and line where the model or the
  /// options are to blame. Thread-safe, each thread with its own `statistics`.
  [[nodiscard]] std::vector<Example> build(const Sample& sample,
                                           PromptStatistics& statistics) const;

  /// The tokens to generate from, and the answer to compare with: the last assistant turn that is
  /// learned, as text (a tool call as the template writes it), or the completion. For kText an
  /// InputError.
  struct Question {
    std::vector<std::int32_t> prompt;
    std::string reference;
    Origin origin;
  };
  [[nodiscard]] Question question(const Sample& sample) const;

 private:
  struct Marked;
  struct Encoded;

  [[nodiscard]] Marked mark(const Sample& sample) const;
  [[nodiscard]] Marked mark_chat(const Sample& sample) const;
  void require_template() const;
  void require_named(const Sample& sample) const;
  void note_unnamed(const Sample& sample, PromptStatistics& statistics) const;
  [[nodiscard]] text::Rendered render(const Sample& sample, std::size_t messages,
                                      bool add_generation_prompt) const;
  [[nodiscard]] std::string call_text(std::string_view turn) const;
  [[nodiscard]] Encoded encode(const Marked& marked, PromptStatistics& statistics) const;
  [[nodiscard]] bool keeps_prompts(const Marked& marked, const Encoded& joint) const;
  [[nodiscard]] std::optional<Encoded> encode_apart(const Marked& marked) const;
  void supervise(const Marked& marked, Encoded& encoded) const;
  void learn_inputs(const Marked& marked, Encoded& encoded) const;
  [[nodiscard]] Example finish(const Marked& marked, Encoded encoded,
                               PromptStatistics& statistics) const;
  [[nodiscard]] Example example_of(const Sample& sample, PromptStatistics& statistics) const;
  [[nodiscard]] std::vector<Example> fit(Example example, DatasetType type,
                                         PromptStatistics& statistics) const;
  [[nodiscard]] std::vector<Example> split(const Example& example) const;
  [[nodiscard]] bool truncate(Example& example, DatasetType type) const;
  [[nodiscard]] bool is_stop(std::int32_t id) const;
  [[nodiscard]] std::int64_t learned_bytes(const Example& example) const;

  const text::Tokenizer& tokenizer_;
  const text::ChatTemplate* chat_template_;
  PromptOptions options_;
  std::optional<std::int32_t> bos_;  ///< Only when the tokenizer's own rule adds it.
  std::vector<std::int32_t> stop_ids_;
};

/// The keys of PromptOptions for a configuration section that has these members.
inline constexpr std::initializer_list<std::pair<const char*, OverLength>> kOverLengthChoices{
    {"drop", OverLength::kDrop},
    {"truncate", OverLength::kTruncate},
    {"split", OverLength::kSplit},
    {"raise", OverLength::kRaise}};
inline constexpr std::initializer_list<std::pair<const char*, Turns>> kTurnsChoices{
    {"all", Turns::kAll}, {"last", Turns::kLast}};

}  // namespace weft::data
