#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/json_file.h"
#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "text/chat_template.h"
#include "text/fertility.h"
#include "text/tokenizer.h"

namespace weft::cli {

Run add_tokenize(CommandLine& app);

namespace {

using Json = nlohmann::ordered_json;

struct TokenizeOptions {
  std::string model;
  bool special = false;
  bool decode = false;
  bool skip_special = false;
  bool stats = false;
  bool chat = false;
  bool json = false;
};

/// JSON on one line, with what is no UTF-8 replaced.
std::string line_of(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// Calls `handle` with each line of standard input, without its end, and its number from 1. A last
/// line without an end counts.
template <typename Handle>
void each_line(Handle handle) {
  std::string line;
  for (std::size_t number = 1; std::getline(std::cin, line); ++number) handle(line, number);
}

Json parse_line(const std::string& line, std::size_t number) {
  return checkpoint::parse_ordered_json(line, fmt::format("standard input, line {}", number));
}

/// With `json` a line is a JSON string, so that a text may hold line ends.
void encode_lines(const text::Tokenizer& tokenizer, text::AddSpecial special, bool json) {
  std::string out;
  each_line([&](const std::string& line, std::size_t number) {
    const Json value = json ? parse_line(line, number) : Json(nullptr);
    if (json && !value.is_string()) {
      throw InputError("standard input:{}: expected a JSON string", number);
    }
    out.clear();
    const std::string& text = json ? value.get_ref<const std::string&>() : line;
    for (const std::int32_t id : tokenizer.encode(text, special)) {
      fmt::format_to(std::back_inserter(out), "{}{}", out.empty() ? "" : ",", id);
    }
    print("[{}]\n", out);
  });
}

/// Each text on a line of its own; as a JSON string where its own line ends must be told apart.
void decode_lines(const text::Tokenizer& tokenizer, bool skip_special, bool json) {
  each_line([&](const std::string& line, std::size_t number) {
    const Json value = parse_line(line, number);
    std::vector<std::int32_t> ids;
    if (!value.is_array()) {
      throw InputError("standard input:{}: expected a JSON array of token ids", number);
    }
    for (const Json& id : value) {
      if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocabulary_size()) {
        throw InputError("standard input:{}: {} is no token id; they go from 0 to {}", number,
                         line_of(id), tokenizer.vocabulary_size() - 1);
      }
      ids.push_back(id.get<std::int32_t>());
    }
    const std::string text = tokenizer.decode(
        ids, skip_special ? text::Tokenizer::Specials::kSkip : text::Tokenizer::Specials::kKeep);
    print("{}\n", json ? line_of(text) : text);
  });
}

void report(const text::Tokenizer& tokenizer, bool json) {
  text::Fertility fertility;
  each_line([&](const std::string& line, std::size_t) { fertility.add(tokenizer, line); });
  if (json) {
    print("{}\n", line_of({{"tokenizer", tokenizer.description()},
                           {"vocabulary", tokenizer.vocabulary_size()},
                           {"lines", fertility.lines},
                           {"bytes", fertility.bytes},
                           {"characters", fertility.characters},
                           {"words", fertility.words},
                           {"tokens", fertility.tokens},
                           {"tokens_per_word", fertility.tokens_per_word()},
                           {"tokens_per_character", fertility.tokens_per_character()},
                           {"bytes_per_token", fertility.bytes_per_token()},
                           {"byte_share", fertility.byte_share()},
                           {"unknown_share", fertility.unknown_share()},
                           {"longest_line_tokens", fertility.longest_line},
                           {"longest_token", fertility.longest_token}}));
    return;
  }
  print("tokenizer         {}, {} tokens\n", tokenizer.description(), tokenizer.vocabulary_size());
  print("text              {} lines, {} words, {} characters, {} bytes\n", fertility.lines,
        fertility.words, fertility.characters, fertility.bytes);
  print("tokens            {}\n", fertility.tokens);
  print("tokens per word   {:.3f}\n", fertility.tokens_per_word());
  print("tokens per char   {:.3f}\n", fertility.tokens_per_character());
  print("bytes per token   {:.3f}\n", fertility.bytes_per_token());
  print("parts of chars    {:.2f} % of the tokens\n", 100 * fertility.byte_share());
  print("unknown           {:.2f} % of the tokens\n", 100 * fertility.unknown_share());
  print("longest line      {} tokens\n", fertility.longest_line);
  print("longest token     {}\n", line_of(fertility.longest_token));
}

/// Lines of {"messages": [...], "add_generation_prompt": bool, and other variables}: what the
/// model's chat template makes of each, as a JSON string.
void render_lines(const std::string& model) {
  const std::optional<text::ChatTemplate> chat = text::ChatTemplate::open(model);
  if (!chat) throw InputError("{} has no chat template", model);
  each_line([&](const std::string& line, std::size_t number) {
    Json variables = parse_line(line, number);
    if (!variables.is_object() || !variables.contains("messages")) {
      throw InputError("standard input:{}: expected an object with \"messages\"", number);
    }
    const Json messages = variables["messages"];
    const bool prompt = variables.value("add_generation_prompt", false);
    variables.erase("messages");
    variables.erase("add_generation_prompt");
    try {
      print("{}\n", line_of(chat->render(messages, prompt, variables).text));
    } catch (const InputError& error) {
      throw InputError("standard input:{}: {}", number, error.what());
    }
  });
}

}  // namespace

Run add_tokenize(CommandLine& app) {
  auto options = std::make_shared<TokenizeOptions>();
  app.description(
      "Text to token ids: one JSON array a line of standard input.\n"
      "Special tokens in the text are recognised, as transformers does.");
  app.option("--model", options->model, "a Hugging Face folder or a GGUF file").required();
  app.flag("--special", options->special, "add BOS and EOS by the tokenizer's own rule");
  const CommandOption decode =
      app.flag("--decode", options->decode, "the way back: JSON arrays to text");
  app.flag("--skip-special", options->skip_special, "with --decode: leave special tokens out")
      .needs(decode);
  const CommandOption stats = app.flag("--stats", options->stats,
                                       "a report of how finely the text is cut instead of its ids");
  const CommandOption chat =
      app.flag("--chat", options->chat,
               "JSON lines with \"messages\" to the text of the model's chat template");
  app.flag("--json", options->json,
           "texts are JSON strings, going in and coming out; the report is a JSON object");
  decode.excludes(stats).excludes(chat);
  stats.excludes(chat);
  return [options] {
    std::ios::sync_with_stdio(false);
    if (options->chat) {
      render_lines(options->model);
      return 0;
    }
    const text::Tokenizer tokenizer = text::Tokenizer::open(options->model);
    if (options->decode) {
      decode_lines(tokenizer, options->skip_special, options->json);
    } else if (options->stats) {
      report(tokenizer, options->json);
    } else {
      encode_lines(tokenizer, options->special ? text::AddSpecial::kYes : text::AddSpecial::kNo,
                   options->json);
    }
    return 0;
  };
}

}  // namespace weft::cli
