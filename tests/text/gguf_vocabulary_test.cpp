#include "text/gguf_vocabulary.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "tests/text/gguf_writer.h"
#include "text/sentencepiece_merges.h"
#include "text/tokenizer.h"

namespace weft::text {
namespace {

using tests::GgufWriter;
using tests::TempDir;

/// Characters of the byte-level alphabet, a merge, and two added tokens.
GgufWriter small(const std::string& pre) {
  return GgufWriter()
      .text("general.architecture", "llama")
      .text("tokenizer.ggml.model", "gpt2")
      .text("tokenizer.ggml.pre", pre)
      .texts("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "1", "2", "\xC4\xA0", "ab",
                                       "\xC4\xA0"
                                       "1",
                                       "12", "<tool>"})
      .numbers("tokenizer.ggml.token_type", {3, 1, 1, 1, 1, 1, 1, 1, 1, 4})
      .texts("tokenizer.ggml.merges", {"a b", "\xC4\xA0 1", "1 2"})
      .number("tokenizer.ggml.eos_token_id", 0)
      .number("tokenizer.ggml.bos_token_id", 0);
}

Tokenizer open(const GgufWriter& writer, const TempDir& dir) {
  writer.write(dir / "v.gguf");
  return Tokenizer::open(dir / "v.gguf");
}

using Ids = std::vector<std::int32_t>;

TEST(GgufVocabulary, SplitsDigitsAsEachKindDoes) {
  const TempDir dir;
  EXPECT_EQ(open(small("gpt-2"), dir).encode("ab 12"), (Ids{6, 7, 4}));
  EXPECT_EQ(open(small("gpt2"), dir).encode("ab12"), (Ids{6, 8}));
  EXPECT_EQ(open(small("smollm"), dir).encode("ab 12"), (Ids{6, 5, 3, 4}));
  EXPECT_EQ(open(small("llama-bpe"), dir).encode("ab 12"), (Ids{6, 5, 8}));
  EXPECT_EQ(open(small("llama3"), dir).encode("ab12"), (Ids{6, 8}));
  EXPECT_EQ(open(small("qwen2"), dir).encode("ab 12"), (Ids{6, 5, 3, 4}));
}

TEST(GgufVocabulary, FindsControlAndUserDefinedTokensInTheText) {
  const TempDir dir;
  const Tokenizer tokenizer = open(small("gpt-2"), dir);
  const Ids ids{6, 0, 9, 1};
  EXPECT_EQ(tokenizer.encode("ab<|end|><tool>a"), ids);
  EXPECT_EQ(tokenizer.decode(ids), "ab<|end|><tool>a");
  EXPECT_EQ(tokenizer.decode(ids, Tokenizer::Specials::kSkip), "ab<tool>a");
  EXPECT_EQ(tokenizer.eos(), 0);
  EXPECT_EQ(tokenizer.vocabulary_size(), 10);
  EXPECT_EQ(tokenizer.description(), "GGUF (gpt2, pre gpt-2)");
}

TEST(GgufVocabulary, AddsBosAndEosByTheFilesOwnRule) {
  const TempDir dir;
  EXPECT_EQ(open(small("gpt-2"), dir).encode("a", AddSpecial::kYes), (Ids{1}));
  EXPECT_EQ(open(small("llama-bpe"), dir).encode("a", AddSpecial::kYes), (Ids{0, 1}));
  GgufWriter asked = small("gpt-2");
  asked.flag("tokenizer.ggml.add_bos_token", true).flag("tokenizer.ggml.add_eos_token", true);
  EXPECT_EQ(open(asked, dir).encode("a", AddSpecial::kYes), (Ids{0, 1, 0}));
  EXPECT_EQ(open(asked, dir).encode("a"), (Ids{1}));
}

TEST(GgufVocabulary, WrittenFilesGiveTheSameTokenizer) {
  const TempDir dir;
  GgufWriter writer = small("llama-bpe");
  writer.text("tokenizer.chat_template", "{{ eos_token }}")
      .number("tokenizer.ggml.eot_token_id", 9);
  const Tokenizer embedded = open(writer, dir);
  for (const auto& [name, text] : tokenizer_files(checkpoint::Gguf::open(dir / "v.gguf"))) {
    dir.write("out/" + name, text);
  }
  const Tokenizer written = Tokenizer::open(dir / "out");
  EXPECT_EQ(written.encode("ab 12<tool>", AddSpecial::kYes),
            embedded.encode("ab 12<tool>", AddSpecial::kYes));
  EXPECT_EQ(written.digest(), embedded.digest());
  EXPECT_EQ(written.stop_ids(), (Ids{0, 9}));
  EXPECT_EQ(written.description(), "tokenizer.json (BPE)");
  const auto config = nlohmann::json::parse(tests::slurp(dir / "out/tokenizer_config.json"));
  EXPECT_EQ(config["chat_template"], "{{ eos_token }}");
  EXPECT_EQ(config["eos_token"], "<|end|>");
}

TEST(GgufVocabulary, UnknownKindsAreErrorsThatListTheKnownOnes) {
  const TempDir dir;
  EXPECT_THROWS_WITH((void)open(small("kimi-k2"), dir), InputError, "kimi-k2", "smollm", "gpt-2",
                     "llama-bpe", "qwen2", "v.gguf");
  GgufWriter bert;
  bert.text("tokenizer.ggml.model", "bert");
  EXPECT_THROWS_WITH((void)open(bert, dir), InputError, "bert", "gpt2, llama");
  EXPECT_THROWS_WITH((void)open(GgufWriter(), dir), InputError, "embeds no vocabulary");
}

TEST(GgufVocabulary, RefusesArraysThatDoNotFitTogether) {
  const TempDir dir;
  const auto base = [] {
    return GgufWriter().text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2");
  };
  EXPECT_THROWS_WITH((void)open(base().texts("tokenizer.ggml.tokens", {"a"}), dir), InputError,
                     "no merges");
  EXPECT_THROWS_WITH((void)open(base()
                                    .texts("tokenizer.ggml.tokens", {"a", "b"})
                                    .numbers("tokenizer.ggml.token_type", {1}),
                                dir),
                     InputError, "token_type has 1 entries", "2");
  EXPECT_THROWS_WITH((void)open(base().texts("tokenizer.ggml.tokens", {"a", "a"}), dir), InputError,
                     "tokens 0 and 1", "'a'");
  EXPECT_THROWS_WITH((void)open(base().texts("tokenizer.ggml.tokens", {"a", "\xFF"}), dir),
                     InputError, "token 1", "UTF-8");
  EXPECT_THROWS_WITH(
      (void)open(base().texts("tokenizer.ggml.tokens", {"a"}).texts("tokenizer.ggml.merges", {"a"}),
                 dir),
      InputError, "merge 0", "not two tokens");
  EXPECT_THROWS_WITH(
      (void)open(
          base().texts("tokenizer.ggml.tokens", {"a"}).texts("tokenizer.ggml.merges", {"a x"}),
          dir),
      InputError, "cannot be read");
  EXPECT_THROWS_WITH(
      (void)open(
          base().texts("tokenizer.ggml.tokens", {"a"}).number("tokenizer.ggml.eos_token_id", 7),
          dir),
      InputError, "eos_token_id is 7", "1 tokens");
}

/// Pieces whose best merges come from their scores; byte pieces for what has none.
GgufWriter pieces() {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> types{2, 3, 3};
  std::vector<float> scores{0, 0, 0};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
    scores.push_back(0);
  }
  float score = -1;
  for (const char* piece : {"ab", "bc",
                            "\xE2\x96\x81"
                            "a",
                            "\xE2\x96\x81", "a", "b", "c"}) {
    tokens.emplace_back(piece);
    types.push_back(1);
    scores.push_back(score--);
  }
  return GgufWriter()
      .text("general.architecture", "llama")
      .text("tokenizer.ggml.model", "llama")
      .texts("tokenizer.ggml.tokens", tokens)
      .numbers("tokenizer.ggml.token_type", types)
      .reals("tokenizer.ggml.scores", scores)
      .number("tokenizer.ggml.bos_token_id", 1)
      .number("tokenizer.ggml.eos_token_id", 2)
      .number("tokenizer.ggml.unknown_token_id", 0);
}

TEST(GgufVocabulary, MergesSentencePiecesByScoreAndFallsBackToBytes) {
  const TempDir dir;
  const Tokenizer tokenizer = open(pieces(), dir);
  // "ab" (-1) is merged before "bc" (-2) and before "_a" (-3).
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{262, 259, 265}));
  EXPECT_EQ(tokenizer.encode("a", AddSpecial::kYes), (Ids{1, 261}));
  const Ids ids = tokenizer.encode("a\xC3\xA9</s>c");
  EXPECT_EQ(ids, (Ids{261, 3 + 0xC3, 3 + 0xA9, 2, 262, 265}));
  EXPECT_EQ(tokenizer.decode(ids), "a\xC3\xA9</s> c");
  EXPECT_EQ(tokenizer.description(), "GGUF (llama)");
  GgufWriter bare = pieces();
  bare.flag("tokenizer.ggml.add_space_prefix", false);
  EXPECT_EQ(open(bare, dir).encode("abc"), (Ids{259, 265}));
}

TEST(SentencePieceMerges, AreSortedByScoreThenLengthsThenIds) {
  const std::vector<std::string_view> tokens{"a", "b", "ab", "abab", "ba", "aba"};
  const std::vector<float> scores{-9, -9, -1, -2, -3, -2};
  using Merge = std::pair<std::string, std::string>;
  // Printed by transformers' generate_merges.
  EXPECT_EQ(merges_of_pieces(tokens, scores),
            (std::vector<Merge>{
                {"a", "b"}, {"aba", "b"}, {"ab", "ab"}, {"ab", "a"}, {"a", "ba"}, {"b", "a"}}));
}

}  // namespace
}  // namespace weft::text
