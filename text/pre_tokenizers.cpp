#include "text/pre_tokenizers.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace weft::text {
namespace {

using Json = nlohmann::ordered_json;
using Kind = SplitStep::Kind;
using Name = std::string_view;

// The expressions of the original tokenizer.json files.
constexpr std::array kWords{SplitStep{Kind::kWords}};
constexpr std::array kDigitsAndWords{SplitStep{Kind::kDigits}, SplitStep{Kind::kWords}};
constexpr std::array kLlama3{SplitStep{
    Kind::kPattern,
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};
constexpr std::array kQwen2{SplitStep{
    Kind::kPattern,
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};
constexpr std::array kQwen35{SplitStep{
    Kind::kPattern,
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};
constexpr std::array kGpt4o{SplitStep{
    Kind::kPattern,
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};
constexpr std::array kTekken{SplitStep{
    Kind::kPattern,
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}};
constexpr std::array kBloom{SplitStep{Kind::kPattern, R"( ?[^(\s|[.,!?…。，、।۔،])]+)"}};
constexpr std::array kFalcon{SplitStep{Kind::kPunctuation}, SplitStep{Kind::kWords},
                             SplitStep{Kind::kNumbers},
                             SplitStep{Kind::kPattern, "[0-9][0-9][0-9]"}};
constexpr std::array kDeepseekCoder{
    SplitStep{Kind::kPattern, "[\r\n]"}, SplitStep{Kind::kPattern, R"(\s?\p{L}+)"},
    SplitStep{Kind::kPattern, R"(\s?\p{P}+)"},
    SplitStep{Kind::kPattern, "[一-龥ࠀ-一가-퟿]+"}, SplitStep{Kind::kDigits}};
constexpr std::array kDeepseekLlm{
    SplitStep{Kind::kPattern, "[\r\n]"},
    SplitStep{
        Kind::kPattern,
        R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+)"},
    SplitStep{Kind::kPattern, R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)"},
    SplitStep{Kind::kPattern, R"(\s+$)"},
    SplitStep{Kind::kPattern, "[一-龥ࠀ-一가-퟿]+"},
    SplitStep{Kind::kDigits}};
constexpr std::array kDeepseek3{
    SplitStep{Kind::kPattern, R"(\p{N}{1,3})"},
    SplitStep{Kind::kPattern, "[一-龥぀-ゟ゠-ヿ]+"},
    SplitStep{Kind::kPattern,
              "[!\"#$%&'()*+,\\-./"
              ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{"
              "M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"}};

constexpr std::array<Name, 10> kGpt2Names{"gpt2",       "phi-2",   "gigachat", "jina-v2-es",
                                          "jina-v2-de", "jina-es", "jina-de",  "a.x-4.0",
                                          "mellum",     "exaone4"};
constexpr std::array<Name, 5> kMptNames{"olmo", "jais", "trillion", "granite-docling",
                                        "modern-bert"};
constexpr std::array<Name, 7> kSmollmNames{"starcoder", "refact",     "codeshell", "exaone",
                                           "mellum2",   "minerva-7b", "smollm3"};
constexpr std::array<Name, 8> kLlama3Names{"llama3",  "llama-v3", "falcon3", "falcon-h1",
                                           "pixtral", "midm-2.0", "lfm2",    "jina-v5-nano"};
constexpr std::array<Name, 3> kQwen2Names{"deepseek-r1-qwen", "kormo", "f2llmv2"};
constexpr std::array<Name, 3> kStablelm2Names{"megrez", "hunyuan", "solar-open"};
constexpr std::array<Name, 2> kBloomNames{"gpt3-finnish", "poro-chat"};
constexpr std::array<Name, 3> kGpt4oNames{"llama4", "kanana2", "minimax-m2"};
constexpr std::array<Name, 1> kDbrxNames{"smaug-bpe"};
constexpr std::array<Name, 1> kGlm4Names{"glm5"};
constexpr std::array<Name, 2> kDeepseek3Names{"hunyuan-dense", "joyai-llm"};

constexpr std::array kKnown{
    PreTokenizer{.name = "gpt-2", .aliases = kGpt2Names, .steps = kWords},
    PreTokenizer{.name = "mpt", .aliases = kMptNames, .steps = kWords},
    PreTokenizer{.name = "smollm", .aliases = kSmollmNames, .steps = kDigitsAndWords},
    PreTokenizer{.name = "command-r", .aliases = {}, .steps = kDigitsAndWords, .nfc = true},
    PreTokenizer{.name = "llama-bpe",
                 .aliases = kLlama3Names,
                 .steps = kLlama3,
                 .ignore_merges = true,
                 .add_bos = true},
    PreTokenizer{.name = "dbrx", .aliases = kDbrxNames, .steps = kLlama3},
    PreTokenizer{.name = "chatglm-bpe", .aliases = {}, .steps = kLlama3},
    PreTokenizer{.name = "glm4", .aliases = kGlm4Names, .steps = kLlama3, .ignore_merges = true},
    PreTokenizer{.name = "qwen2", .aliases = kQwen2Names, .steps = kQwen2, .nfc = true},
    PreTokenizer{.name = "stablelm2", .aliases = kStablelm2Names, .steps = kQwen2},
    PreTokenizer{.name = "qwen35", .aliases = {}, .steps = kQwen35},
    PreTokenizer{.name = "gpt-4o", .aliases = kGpt4oNames, .steps = kGpt4o},
    PreTokenizer{
        .name = "tekken", .aliases = {}, .steps = kTekken, .ignore_merges = true, .add_bos = true},
    PreTokenizer{.name = "bloom", .aliases = kBloomNames, .steps = kBloom},
    PreTokenizer{.name = "falcon", .aliases = {}, .steps = kFalcon},
    PreTokenizer{.name = "deepseek-llm", .aliases = {}, .steps = kDeepseekLlm},
    PreTokenizer{.name = "deepseek-coder", .aliases = {}, .steps = kDeepseekCoder},
    PreTokenizer{.name = "deepseek-v3", .aliases = kDeepseek3Names, .steps = kDeepseek3}};

Json step_json(const SplitStep& step) {
  switch (step.kind) {
    case Kind::kPattern:
      return {{"type", "Split"},
              {"pattern", {{"Regex", step.pattern}}},
              {"behavior", "Isolated"},
              {"invert", false}};
    case Kind::kDigits: return {{"type", "Digits"}, {"individual_digits", true}};
    case Kind::kNumbers: return {{"type", "Digits"}, {"individual_digits", false}};
    case Kind::kPunctuation: return {{"type", "Punctuation"}, {"behavior", "Contiguous"}};
    case Kind::kWords: break;
  }
  return byte_level_step(true);
}

}  // namespace

Json byte_level_step(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", false},
          {"use_regex", use_regex}};
}

std::span<const PreTokenizer> pre_tokenizers() noexcept { return kKnown; }

const PreTokenizer* find_pre_tokenizer(std::string_view name) noexcept {
  const auto found = std::ranges::find_if(kKnown, [&](const PreTokenizer& pre) {
    return pre.name == name || std::ranges::find(pre.aliases, name) != pre.aliases.end();
  });
  return found == kKnown.end() ? nullptr : &*found;
}

std::string known_pre_tokenizers() {
  std::vector<std::string_view> names;
  for (const PreTokenizer& pre : kKnown) {
    names.push_back(pre.name);
    names.insert(names.end(), pre.aliases.begin(), pre.aliases.end());
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

Json pre_tokenizer_json(const PreTokenizer& pre) {
  Json parts = Json::array();
  bool bytes = false;  // GPT-2's expression and the change to bytes are one step.
  for (const SplitStep& step : pre.steps) {
    parts.push_back(step_json(step));
    bytes = bytes || step.kind == Kind::kWords;
  }
  if (!bytes) parts.push_back(byte_level_step(false));
  if (parts.size() == 1) return parts.front();
  return {{"type", "Sequence"}, {"pretokenizers", std::move(parts)}};
}

}  // namespace weft::text
