#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/temp_dir.h"
#include "text/tokenizer.h"

namespace weft::tests {

/// A byte-level BPE tokenizer small enough to reason about: a token for every byte, the merges
/// given (each of two printable ASCII pieces), and <s>, </s>, <|user|>, <|assistant|>, <|end|> as
/// special tokens. `add_bos` puts <s> before every text that asks for special tokens.
struct TinyTokenizer {
  struct Options {
    std::vector<std::pair<std::string, std::string>> merges = {};
    bool add_bos = false;
    std::string eos = "</s>";
    std::string bos = "<s>";
  };

  explicit TinyTokenizer(const Options& options) : tokenizer(make(options)) {}

  [[nodiscard]] std::int32_t id(const std::string& token) const {
    return tokenizer.token_to_id(token).value();
  }

  text::Tokenizer tokenizer;

 private:
  /// GPT-2's printable stand-ins for bytes.
  static std::string stand_in(int byte) {
    int code = byte;
    const auto printable = [](int b) {
      return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
    };
    if (!printable(byte)) {
      code = 256;
      for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
    }
    if (code < 0x80) return {static_cast<char>(code)};
    return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
  }

  static std::string stand_ins(const std::string& text) {
    std::string out;
    for (const char c : text) out += stand_in(static_cast<unsigned char>(c));
    return out;
  }

  static text::Tokenizer make(const Options& options) {
    nlohmann::json vocabulary = nlohmann::json::object();
    int next = 0;
    for (int byte = 0; byte < 256; ++byte) vocabulary[stand_in(byte)] = next++;
    nlohmann::json merges = nlohmann::json::array();
    for (const auto& [left, right] : options.merges) {
      merges.push_back(stand_ins(left) + " " + stand_ins(right));
      vocabulary[stand_ins(left + right)] = next++;
    }
    nlohmann::json added = nlohmann::json::array();
    for (const char* token : {"<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"}) {
      added.push_back({{"id", next++},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    }
    nlohmann::json post = nullptr;
    if (options.add_bos) {
      const int id = added[0]["id"];
      post = {{"type", "TemplateProcessing"},
              {"single",
               {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
              {"pair", nlohmann::json::array()},
              {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {id}}, {"tokens", {"<s>"}}}}}}};
      post["pair"] = {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
                      {{"Sequence", {{"id", "B"}, {"type_id", 0}}}}};
    }
    const nlohmann::json file{{"version", "1.0"},
                              {"truncation", nullptr},
                              {"padding", nullptr},
                              {"added_tokens", added},
                              {"normalizer", nullptr},
                              {"pre_tokenizer",
                               {{"type", "ByteLevel"},
                                {"add_prefix_space", false},
                                {"trim_offsets", false},
                                {"use_regex", false}}},
                              {"post_processor", post},
                              {"decoder",
                               {{"type", "ByteLevel"},
                                {"add_prefix_space", false},
                                {"trim_offsets", false},
                                {"use_regex", false}}},
                              {"model",
                               {{"type", "BPE"},
                                {"dropout", nullptr},
                                {"unk_token", nullptr},
                                {"continuing_subword_prefix", nullptr},
                                {"end_of_word_suffix", nullptr},
                                {"fuse_unk", false},
                                {"byte_fallback", false},
                                {"vocab", vocabulary},
                                {"merges", merges}}}};
    const weft::tests::TempDir dir;
    dir.write("tokenizer.json", file.dump());
    nlohmann::json config{{"tokenizer_class", "PreTrainedTokenizerFast"}};
    if (!options.bos.empty()) config["bos_token"] = options.bos;
    if (!options.eos.empty()) config["eos_token"] = options.eos;
    dir.write("tokenizer_config.json", config.dump());
    return text::Tokenizer::open(dir.path());
  }
};

/// "<|user|>question<|end|>\n<|assistant|>answer<|end|>\n"
inline constexpr const char* kPlainTemplate =
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";

}  // namespace weft::tests
