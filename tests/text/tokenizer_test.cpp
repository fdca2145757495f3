#include "text/tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <set>

#include "core/error.h"
#include "core/hash.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"

namespace weft::text {
namespace {

using tests::TempDir;
using Ids = std::vector<std::int32_t>;

/// Byte-level: every byte of UTF-8 is a token, so that any text can be spelled and cut anywhere.
std::string byte_level_json() {
  nlohmann::json vocab;
  int next = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = plain ? byte : 256 + next++;  // GPT-2's bytes_to_unicode
    const std::string sign = code < 0x80 ? std::string(1, static_cast<char>(code))
                                         : std::string{static_cast<char>(0xC0 | (code >> 6)),
                                                       static_cast<char>(0x80 | (code & 0x3F))};
    vocab[sign] = byte;
  }
  return nlohmann::json{
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 256},
         {"content", "<|end|>"},
         {"special", true},
         {"normalized", false},
         {"lstrip", false},
         {"rstrip", false},
         {"single_word", false}}}},
      {"pre_tokenizer",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", true},
        {"trim_offsets", true},
        {"use_regex", true}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}}
      .dump();
}

/// SentencePiece's kind: pieces, and byte tokens with the ByteFallback decoder.
std::string byte_fallback_json() {
  nlohmann::json vocab{
      {"<unk>", 0}, {"\xE2\x96\x81", 257}, {"a", 258}, {"b", 259}, {"\xC3\xA9", 260}};
  for (int byte = 0; byte < 256; ++byte) vocab[fmt::format("<0x{:02X}>", byte)] = byte + 1;
  return nlohmann::json{
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 261},
         {"content", "<end>"},
         {"special", true},
         {"normalized", false},
         {"lstrip", false},
         {"rstrip", false},
         {"single_word", false}}}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Prepend"}, {"prepend", "\xE2\x96\x81"}},
          {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xE2\x96\x81"}}}}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
      {"model",
       {{"type", "BPE"},
        {"unk_token", "<unk>"},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"vocab", vocab},
        {"merges", nlohmann::json::array()}}}}
      .dump();
}

struct Folder {
  TempDir dir;
  Folder& add(const char* name, std::string_view text) {
    dir.write(name, text);
    return *this;
  }
  [[nodiscard]] Tokenizer open() const { return Tokenizer::open(dir.path()); }
};

TEST(Tokenizer, ReadsTokenizerJson) {
  Folder folder;
  folder.add("tokenizer.json", byte_level_json());
  const Tokenizer tokenizer = folder.open();
  EXPECT_EQ(tokenizer.encode("a\xC3\xA9<|end|>"), (Ids{'a', 0xC3, 0xA9, 256}));
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.decode(Ids{'a', 0xC3, 0xA9, 256}), "a\xC3\xA9<|end|>");
  EXPECT_EQ(tokenizer.decode(Ids{'a', 0xC3, 256}, Tokenizer::Specials::kSkip), "a\xEF\xBF\xBD");
  EXPECT_EQ(tokenizer.vocabulary_size(), 257);
  EXPECT_EQ(tokenizer.description(), "tokenizer.json (BPE)");
  EXPECT_EQ(tokenizer.id_to_token(256), "<|end|>");
  EXPECT_EQ(tokenizer.token_to_id("<|end|>"), 256);
  EXPECT_EQ(tokenizer.id_to_token(257), std::nullopt);
  EXPECT_EQ(tokenizer.token_to_id("no such"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(256));
  EXPECT_FALSE(tokenizer.is_special('a'));
  EXPECT_EQ(tokenizer.eos(), std::nullopt);
}

TEST(Tokenizer, ReadsInvalidUtf8AsReplacementCharacters) {
  Folder folder;
  folder.add("tokenizer.json", byte_level_json());
  const Tokenizer tokenizer = folder.open();
  EXPECT_EQ(tokenizer.encode("a\xFF"), (Ids{'a', 0xEF, 0xBF, 0xBD}));
  EXPECT_EQ(tokenizer.encode(std::string_view("\0", 1)), Ids{0});
}

TEST(Tokenizer, OffsetsAreBytesOfTheText) {
  Folder folder;
  folder.add("tokenizer.json", byte_fallback_json());
  const Tokenizer::Encoding encoding = folder.open().encode_with_offsets("\xC3\xA9 <end>b");
  using Spans = std::vector<std::pair<std::uint32_t, std::uint32_t>>;
  EXPECT_EQ(encoding.ids, (Ids{257, 260, 257, 261, 257, 259}));
  EXPECT_EQ(encoding.offsets.size(), encoding.ids.size());
  EXPECT_EQ(encoding.offsets[1], (Spans::value_type{0, 2}));
  EXPECT_EQ(encoding.offsets[3], (Spans::value_type{3, 8}));
  EXPECT_EQ(encoding.offsets[5], (Spans::value_type{8, 9}));
}

TEST(Tokenizer, TakesSpecialTokensAsStringsObjectsAndDecoderEntries) {
  Folder folder;
  folder.add("tokenizer.json", byte_level_json())
      .add("tokenizer_config.json", R"({"bos_token": "<|begin|>",
            "eos_token": {"content": "<|end|>", "lstrip": false}, "pad_token": null,
            "added_tokens_decoder": {"257": {"content": "<|begin|>", "special": true},
                                     "258": {"content": "<think>", "special": false}}})")
      .add("generation_config.json", R"({"eos_token_id": [256, 258]})");
  const Tokenizer tokenizer = folder.open();
  EXPECT_EQ(tokenizer.bos(), 257);
  EXPECT_EQ(tokenizer.eos(), 256);
  EXPECT_EQ(tokenizer.stop_ids(), (Ids{256, 258}));
  EXPECT_EQ(tokenizer.special_tokens(),
            nlohmann::json({{"bos_token", "<|begin|>"}, {"eos_token", "<|end|>"}}));
  const Ids ids{'a', 258, 257};
  EXPECT_EQ(tokenizer.encode("a<think><|begin|>"), ids);
  EXPECT_EQ(tokenizer.decode(ids, Tokenizer::Specials::kSkip), "a<think>");
}

TEST(Tokenizer, ReadsTheOlderSpecialTokensMap) {
  Folder folder;
  folder.add("tokenizer.json", byte_level_json())
      .add("tokenizer_config.json", R"({"eos_token": "ignored"})")
      .add("special_tokens_map.json", R"({"eos_token": "<|end|>"})")
      .add("config.json", R"({"eos_token_id": 5, "bos_token_id": 7})");
  const Tokenizer tokenizer = folder.open();
  EXPECT_EQ(tokenizer.eos(), 256);
  EXPECT_EQ(tokenizer.bos(), 7);
  EXPECT_EQ(tokenizer.stop_ids(), (Ids{256, 5}));
}

TEST(Tokenizer, DigestTellsVocabulariesAndSpecialTokensApart) {
  Folder one;
  one.add("tokenizer.json", byte_level_json());
  Folder other;
  other.add("tokenizer.json", byte_fallback_json());
  Folder special;
  special.add("tokenizer.json", byte_level_json())
      .add("tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  EXPECT_EQ(one.open().digest(), one.open().digest());
  EXPECT_EQ(one.open().digest().size(), 64U);
  EXPECT_NE(one.open().digest(), other.open().digest());
  EXPECT_NE(one.open().digest(), special.open().digest());
}

/// byte_level_json() with a change.
std::string changed(const std::function<void(nlohmann::json&)>& change) {
  nlohmann::json file = nlohmann::json::parse(byte_level_json());
  change(file);
  return file.dump();
}

TEST(TokenizerDigest, IsTheSameForFilesThatSayTheSame) {
  Folder plain;
  plain.add("tokenizer.json", byte_level_json());
  const std::string digest = plain.open().digest();
  const std::string others[] = {
      nlohmann::json::parse(byte_level_json()).dump(4),
      changed([](auto& file) { file["pre_tokenizer"]["trim_offsets"] = false; }),
      changed([](auto& file) { file["decoder"]["add_prefix_space"] = false; }),
      changed([](auto& file) {
        file["pre_tokenizer"] = {{"type", "Sequence"},
                                 {"pretokenizers", nlohmann::json::array({file["pre_tokenizer"]})}};
      }),
      changed([](auto& file) {
        file["model"]["vocab"]["<|end|>"] = 256;
        file["model"]["vocab"]["[PAD257]"] = 257;
      }),
      changed([](auto& file) { file["model"]["vocab"]["<|end|>"] = 256; }),
      changed([](auto& file) { file["model"]["fuse_unk"] = true; }),
      changed([](auto& file) { file["added_tokens"][0]["normalized"] = true; }),
      changed([](auto& file) {
        file["truncation"] = {
            {"max_length", 5}, {"strategy", "LongestFirst"}, {"stride", 0}, {"direction", "Right"}};
      })};
  for (const std::string& other : others) {
    Folder folder;
    folder.add("tokenizer.json", other);
    EXPECT_EQ(folder.open().digest(), digest) << &other - others;
  }
}

TEST(TokenizerDigest, ChangesWithEverythingThatDecidesTokens) {
  std::set<std::string> digests;
  std::size_t count = 0;
  const auto expect_another = [&](const std::string& digest, const char* what) {
    digests.insert(digest);
    EXPECT_EQ(digests.size(), ++count) << what;
  };
  const auto with = [](const char* name, const char* text) {
    Folder folder;
    folder.add("tokenizer.json", byte_level_json());
    if (*name != '\0') folder.add(name, text);
    return folder.open().digest();
  };
  expect_another(with("", ""), "as it is");
  expect_another(with("generation_config.json", R"({"eos_token_id": [256, 10]})"), "stop ids");
  expect_another(with("generation_config.json", R"({"eos_token_id": [256]})"), "fewer of them");
  expect_another(with("config.json", R"({"bos_token_id": 7})"), "BOS of the model's configuration");
  expect_another(with("tokenizer_config.json", R"({"eos_token": "<|end|>", "bos_token": "<s>"})"),
                 "special tokens");
  expect_another(
      with("tokenizer_config.json", R"({"added_tokens_decoder": {"257": {"content": "<new>"}}})"),
      "an added token");
  expect_another(
      with("tokenizer_config.json",
           R"({"added_tokens_decoder": {"257": {"content": "<new>", "special": true}}})"),
      "its flag");
  expect_another(with("tokenizer_config.json",
                      R"({"added_tokens_decoder": {"257": {"content": "<new>", "lstrip": true}}})"),
                 "another flag");
  expect_another(with("added_tokens.json", R"({"<old>": 257})"), "an older list of added tokens");
  const auto of = [](const std::function<void(nlohmann::json&)>& change) {
    Folder folder;
    folder.add("tokenizer.json", changed(change));
    return folder.open().digest();
  };
  expect_another(of([](auto& file) { file["pre_tokenizer"]["use_regex"] = false; }), "splitting");
  expect_another(of([](auto& file) { file["normalizer"] = {{"type", "NFC"}}; }), "normalizing");
  expect_another(of([](auto& file) {
                   file["model"]["vocab"]["ab"] = 257;
                   file["model"]["merges"] = {"a b"};
                 }),
                 "a merge");
  expect_another(
      of([](auto& file) {
        file["post_processor"] = {
            {"type", "TemplateProcessing"},
            {"single",
             {{{"SpecialToken", {{"id", "<|end|>"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
            {"pair",
             {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
              {{"Sequence", {{"id", "B"}, {"type_id", 0}}}}}},
            {"special_tokens",
             {{"<|end|>", {{"id", "<|end|>"}, {"ids", {256}}, {"tokens", {"<|end|>"}}}}}}};
      }),
      "what is put around a text");
}

TEST(TokenizerDigest, OfOldRecordsStillMatches) {
  Folder folder;
  folder.add("tokenizer.json", byte_level_json())
      .add("tokenizer_config.json", R"({"eos_token": "<|end|>"})");
  const Tokenizer tokenizer = folder.open();
  // Version 0.1: the bytes of the file, then the special tokens.
  const std::string old = core::sha256(byte_level_json() + R"({"eos_token":"<|end|>"})");
  EXPECT_EQ(tokenizer.legacy_digest(), old);
  EXPECT_NE(tokenizer.digest(), old);
  EXPECT_TRUE(tokenizer.matches(old));
  EXPECT_TRUE(tokenizer.matches(tokenizer.digest()));
  EXPECT_FALSE(tokenizer.matches(core::sha256("another")));
}

TEST(Tokenizer, BadFilesAreErrorsThatNameThem) {
  Folder empty;
  EXPECT_THROWS_WITH((void)empty.open(), InputError, "tokenizer.json", "tokenizer.model");
  Folder broken;
  broken.add("tokenizer.json", "{");
  EXPECT_THROWS_WITH((void)broken.open(), InputError, "cannot be read");
  Folder hostile;
  hostile.add("tokenizer.json",
              R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a","z"]]}})");
  EXPECT_THROWS_WITH((void)hostile.open(), InputError, "cannot be read");
  Folder config;
  config.add("tokenizer.json", byte_level_json()).add("tokenizer_config.json", "[]");
  EXPECT_THROWS_WITH((void)config.open(), InputError, "tokenizer_config.json", "not a JSON object");
  const std::string deep = R"({"a": )" + std::string(200'000, '[');
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
                           "generation_config.json", "config.json"}) {
    Folder nested;
    nested.add("tokenizer.json", byte_level_json()).add(name, deep);
    EXPECT_THROWS_WITH((void)nested.open(), InputError, name, "nested deeper than 64 levels");
  }
  Folder token;
  token.add("tokenizer.json", byte_level_json())
      .add("tokenizer_config.json", R"({"eos_token": 3})");
  EXPECT_THROWS_WITH((void)token.open(), InputError, "eos_token", "found number");
  Folder model;
  model.add("tokenizer.model", "no protobuf");
  EXPECT_THROWS_WITH((void)model.open(), InputError, "SentencePiece cannot read");
}

/// Whether `text` is whole characters: replacing what is invalid changes nothing.
bool is_whole(const std::string& text) {
  const nlohmann::json json = text;
  try {
    return !json.dump().empty();
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

void expect_streams_exactly(const Tokenizer& tokenizer, Tokenizer::Specials specials) {
  std::mt19937 random(7);
  // Mostly characters of several bytes, cut off now and then, so that most pushes end inside one.
  const std::string source = "a\xC3\xA9 \xE1\x8B\x9C\xF0\x9F\x8E\x89\xEF\xBF\xBD<end>b ";
  const Ids spelled = tokenizer.encode(source);
  for (int round = 0; round < 300; ++round) {
    Ids ids;
    for (int i = 0; i < 40; ++i) {
      if (random() % 4 == 0) {
        ids.push_back(static_cast<std::int32_t>(random() % 262));
      } else {
        const std::size_t begin = random() % spelled.size();
        const std::size_t count = 1 + random() % 4;
        for (std::size_t k = begin; k < std::min(begin + count, spelled.size()); ++k) {
          ids.push_back(spelled[k]);
        }
      }
    }
    StreamDecoder decoder(tokenizer, specials);
    std::string streamed;
    for (const std::int32_t id : ids) {
      const std::string piece = decoder.push(id);
      ASSERT_TRUE(is_whole(piece)) << nlohmann::json(ids);
      streamed += piece;
    }
    streamed += decoder.finish();
    ASSERT_EQ(streamed, tokenizer.decode(ids, specials)) << nlohmann::json(ids);
  }
}

TEST(StreamDecoder, ConcatenationEqualsDecodeAndNoPieceIsHalfACharacter) {
  for (const std::string& json : {byte_level_json(), byte_fallback_json()}) {
    Folder folder;
    folder.add("tokenizer.json", json);
    const Tokenizer tokenizer = folder.open();
    expect_streams_exactly(tokenizer, Tokenizer::Specials::kSkip);
    expect_streams_exactly(tokenizer, Tokenizer::Specials::kKeep);
  }
}

TEST(StreamDecoder, EmitsACharacterWithItsLastByte) {
  Folder folder;
  folder.add("tokenizer.json", byte_level_json());
  const Tokenizer tokenizer = folder.open();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.push(0xA9), "\xC3\xA9");
  EXPECT_EQ(decoder.push(256), "");
  EXPECT_EQ(decoder.push(0xC3), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace weft::text
