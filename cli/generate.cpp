#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/command.h"
#include "cli/computing_model.h"
#include "cli/interrupt.h"
#include "cli/output.h"
#include "core/error.h"
#include "lora/adapter.h"
#include "model/answer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace weft::cli {

Run add_generate(CommandLine& app);

namespace {

struct GenerateArguments {
  ModelArguments model{.dtype = "auto"};
  std::optional<std::string> prompt;
  std::optional<std::string> system;
  bool chat = false;
  bool raw = false;
  bool json = false;
  model::GenerateOptions options;
};

using Ids = std::vector<std::int32_t>;
using Messages = nlohmann::ordered_json;

const char* name_of(model::Finish finish) {
  switch (finish) {
    case model::Finish::kStopId: return "stop";
    case model::Finish::kStopString: return "stop_string";
    case model::Finish::kLength: return "length";
    case model::Finish::kCancelled: return "interrupted";
  }
  return "";
}

/// All of a stream.
std::string read_all(std::FILE* file) {
  std::string text;
  char buffer[65536];
  while (const std::size_t count = std::fread(buffer, 1, sizeof buffer, file))
    text.append(buffer, count);
  if (std::ferror(file) != 0) throw IoError("cannot read standard input");
  return text;
}

/// A model that answers, with what it has read kept between answers.
class Session {
 public:
  Session(const GenerateArguments& arguments, ComputingModel model, text::Tokenizer tokenizer,
          std::optional<text::ChatTemplate> chat_template)
      : arguments_(arguments),
        model_(std::move(model)),
        tokenizer_(std::move(tokenizer)),
        template_(std::move(chat_template)),
        options_(arguments.options) {
    for (const std::int32_t id : tokenizer_.stop_ids()) options_.stop_ids.push_back(id);
  }

  [[nodiscard]] bool has_template() const { return template_.has_value(); }

  /// The tokens of a prompt: rendered by the template, or the text with the tokenizer's BOS.
  [[nodiscard]] Ids encode(const Messages& messages) const {
    if (template_)
      return tokenizer_.encode(template_->render(messages, /*add_generation_prompt=*/true).text);
    return tokenizer_.encode(messages.back().at("content").get<std::string>(),
                             text::AddSpecial::kYes);
  }

  /// Answers; what `prompt` shares with the tokens read before is not read again.
  model::Answer answer(const Ids& prompt, const std::atomic<bool>& interrupted) {
    warn_about_length(static_cast<std::int64_t>(prompt.size()));
    std::size_t shared = 0;
    while (shared < read_.size() && shared + 1 < prompt.size() && read_[shared] == prompt[shared])
      ++shared;
    cache_.truncate(static_cast<std::int64_t>(shared));
    const std::span<const std::int32_t> all(prompt);
    model::Answer result = model::answer(
        model_.decoder, tokenizer_, all.subspan(shared), options_, cache_,
        [&](std::string_view piece) {
          if (!arguments_.json) {
            write_output(piece);
            flush_output();
          }
          return !interrupted.load();
        },
        all.first(shared));
    read_ = prompt;
    read_.insert(read_.end(), result.ids.begin(), result.ids.end());
    read_.resize(static_cast<std::size_t>(cache_.length));
    return result;
  }

 private:
  void warn_about_length(std::int64_t prompt) {
    const std::int64_t limit = model_.decoder.spec().max_positions;
    if (warned_ || prompt + options_.max_tokens <= limit) return;
    warned_ = true;
    core::tell(stderr_log("generate"), core::Level::kWarning,
               fmt::format("prompt ({} tokens) and answer (up to {}) may exceed the {} tokens that "
                           "the model was made for",
                           prompt, options_.max_tokens, limit));
  }

  const GenerateArguments& arguments_;
  ComputingModel model_;
  text::Tokenizer tokenizer_;
  std::optional<text::ChatTemplate> template_;
  model::GenerateOptions options_;
  model::KvCache cache_;
  Ids read_;  // the tokens that the cache holds
  bool warned_ = false;
};

/// Everything that can be wrong with the files is found before the weights are loaded.
Session open_session(const GenerateArguments& arguments, const core::Log& log) {
  OpenedModel opened = open_model(arguments.model, log);
  text::Tokenizer tokenizer = text::Tokenizer::load(opened.checkpoint);
  std::optional<text::ChatTemplate> chat_template;
  if (!arguments.raw) chat_template = text::ChatTemplate::load(opened.checkpoint);
  lora::PromptDigests prompts{.tokenizer = tokenizer.digest(),
                              .legacy_tokenizer = tokenizer.legacy_digest()};
  if (!arguments.raw) prompts.chat_template = chat_template ? chat_template->digest() : "";
  for (const auto& [adapter, weight] : opened.adapters) {
    if (arguments.model.allow_other_base) break;
    lora::check_prompts(adapter.provenance, prompts, opened.checkpoint.path(), log);
  }
  return {arguments, load_model(std::move(opened), arguments.model, 512, log), std::move(tokenizer),
          std::move(chat_template)};
}

Messages first_messages(const GenerateArguments& arguments) {
  Messages messages = Messages::array();
  if (arguments.system) messages.push_back({{"role", "system"}, {"content", *arguments.system}});
  return messages;
}

int answer_once(const GenerateArguments& arguments, Session& session,
                const std::atomic<bool>& interrupted) {
  Messages messages = first_messages(arguments);
  messages.push_back(
      {{"role", "user"}, {"content", arguments.prompt ? *arguments.prompt : read_all(stdin)}});
  const Ids prompt = session.encode(messages);
  const auto begun = std::chrono::steady_clock::now();
  const model::Answer answer = session.answer(prompt, interrupted);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  if (arguments.json) {
    const nlohmann::ordered_json json{{"text", answer.text},
                                      {"ids", answer.ids},
                                      {"prompt_ids", prompt},
                                      {"finish", name_of(answer.finish)},
                                      {"seconds", seconds}};
    print("{}\n", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  } else if (!answer.text.ends_with('\n')) {
    print("\n");
  }
  return static_cast<int>(interrupted.load() ? ExitCode::kInterrupted : ExitCode::kDone);
}

/// The next line of standard input without its end; nothing at its end. An interrupt while waiting
/// says how to leave.
std::optional<std::string> read_line(bool terminal) {
  std::string line;
  for (;;) {
    if (terminal) {
      print("> ");
      flush_output();
      pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
      if (::poll(&input, 1, -1) < 0 && errno == EINTR) {
        clear_interrupt();
        print("\n(Ctrl-D ends the chat)\n");
        continue;
      }
    }
    for (int c = std::getc(stdin); c != EOF; c = std::getc(stdin)) {
      if (c == '\n') return line;
      line += static_cast<char>(c);
    }
    return line.empty() ? std::nullopt : std::optional(line);
  }
}

int chat(const GenerateArguments& arguments, Session& session,
         const std::atomic<bool>& interrupted) {
  if (!session.has_template()) {
    throw InputError(
        "{}: the model has no chat template, so that --chat cannot tell turns apart; use --prompt",
        arguments.model.model);
  }
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  if (terminal) tell("Ctrl-C stops an answer, Ctrl-D ends the chat.\n");
  // The conversation must reach read_line() unbuffered, or poll() would miss what stdio holds.
  if (terminal) std::setvbuf(stdin, nullptr, _IONBF, 0);
  Messages messages = first_messages(arguments);
  std::optional<std::string> line = arguments.prompt;
  if (!line) line = read_line(terminal);
  for (; line; line = read_line(terminal)) {
    if (line->empty()) continue;
    messages.push_back({{"role", "user"}, {"content", *line}});
    const model::Answer answer = session.answer(session.encode(messages), interrupted);
    messages.push_back({{"role", "assistant"}, {"content", answer.text}});
    if (arguments.json) {
      const nlohmann::ordered_json json{
          {"text", answer.text}, {"ids", answer.ids}, {"finish", name_of(answer.finish)}};
      print("{}", json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    }
    print("\n");
    flush_output();
    clear_interrupt();
  }
  if (terminal) print("\n");
  return static_cast<int>(ExitCode::kDone);
}

int run_generate(const GenerateArguments& arguments) {
  if (arguments.chat && arguments.raw)
    throw ConfigError("--chat needs the chat template that --raw leaves out");
  if (arguments.raw && arguments.system)
    throw ConfigError("--system has no place in a --raw prompt; write it there");
  (void)model::Sampler(arguments.options.sampling);  // before a model is loaded
  Session session = open_session(arguments, stderr_log("generate"));
  if (arguments.system && !session.has_template()) {
    throw InputError("{}: the model has no chat template that could place --system",
                     arguments.model.model);
  }
  const std::atomic<bool>& interrupted = catch_interrupts();
  return arguments.chat ? chat(arguments, session, interrupted)
                        : answer_once(arguments, session, interrupted);
}

}  // namespace

Run add_generate(CommandLine& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  model::GenerateOptions& options = arguments->options;
  model::Sampling& sampling = options.sampling;
  app.description(
      "Answers a prompt, or chats. The prompt goes through the model's chat template where it has "
      "one.");
  declare_model(app, arguments->model);
  app.option("--prompt", arguments->prompt, "the prompt (default: standard input)");
  app.flag("--chat", arguments->chat, "a conversation, one line a turn");
  app.option("--system", arguments->system, "system message");
  app.flag("--raw", arguments->raw, "give the prompt as it is, without the chat template");
  app.option("--max-tokens", options.max_tokens, "tokens of an answer at most")
      .at_least(1)
      .with_default_shown();
  app.option("--temperature", sampling.temperature, "0: always the most probable token")
      .with_default_shown();
  app.option("--top-k", sampling.top_k, "choose among the k most probable; 0: all")
      .with_default_shown();
  app.option("--top-p", sampling.top_p, "choose among the most probable that make up p")
      .with_default_shown();
  app.option("--min-p", sampling.min_p, "drop what has less than p times the largest probability")
      .with_default_shown();
  app.option("--repetition-penalty", sampling.repetition_penalty, "above 1: avoid tokens seen")
      .with_default_shown();
  app.option("--seed", sampling.seed, "the same seed gives the same answer").with_default_shown();
  app.option("--stop", options.stop_strings, "text that ends an answer; may be repeated")
      .repeated();
  app.flag("--json", arguments->json, "print text, ids and reason of ending as JSON");
  return [arguments] { return run_generate(*arguments); };
}

}  // namespace weft::cli
