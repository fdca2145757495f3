#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <set>

#include "core/error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "text/tokenizer.h"

namespace weft::text {
namespace {

using tests::TempDir;
using Ids = std::vector<std::int32_t>;

/// A folder with a small Llama-like model: BPE, byte fallback, nothing normalised.
class SentencePiece : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    std::string text;
    for (int i = 0; i < 40; ++i) {
      text += "in tlakatl kimati in tlahtolli\nel hombre sabe la palabra 2024\n";
    }
    dir_->write("text.txt", text);
    const auto status = sentencepiece::SentencePieceTrainer::Train(
        "--input=" + (*dir_ / "text.txt").string() +
        " --model_prefix=" + (*dir_ / "tokenizer").string() +
        " --vocab_size=330 --model_type=bpe --byte_fallback=true "
        "--normalization_rule_name=identity --remove_extra_whitespaces=false "
        "--user_defined_symbols=<tool> --minloglevel=3 --num_threads=1");
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(reference_->Load((*dir_ / "tokenizer.model").string()).ok());
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }

  static Tokenizer open(std::string_view config) {
    dir_->write("tokenizer_config.json", config);
    return Tokenizer::open(dir_->path());
  }
  static Ids reference(const std::string& text) {
    const std::vector<int> ids = reference_->EncodeAsIds(text);
    return {ids.begin(), ids.end()};
  }
  static std::int32_t id(const char* piece) { return reference_->PieceToId(piece); }

  static inline TempDir* dir_ = nullptr;
  static inline auto reference_ = std::make_unique<sentencepiece::SentencePieceProcessor>();
};

TEST_F(SentencePiece, GivesSentencePiecesIds) {
  const Tokenizer llama = open(R"({"tokenizer_class": "LlamaTokenizer"})");
  const Tokenizer other = open(R"({"tokenizer_class": "XGLMTokenizer"})");
  for (const std::string text : {"in tlakatl", "palabra  2024 ",
                                 "\xC3\xB1"
                                 "and\xC3\xBA \xF0\x9F\x8E\x89",
                                 "a\nb\t", ""}) {
    EXPECT_EQ(llama.encode(text), reference(text)) << text;
    EXPECT_EQ(other.encode(text), reference(text)) << text;
    EXPECT_EQ(llama.decode(reference(text)), text);
  }
  // Llama's tokenizer in transformers puts no second space before a space; SentencePiece does.
  EXPECT_EQ(llama.encode(" in"), reference("in"));
  EXPECT_EQ(other.encode(" in"), reference(" in"));
  EXPECT_EQ(llama.description(), "tokenizer.model (SentencePiece)");
}

TEST_F(SentencePiece, CutsTheTextAtAddedTokensFirst) {
  const Tokenizer tokenizer = open(R"({"tokenizer_class": "LlamaTokenizer",
      "added_tokens_decoder": {"330": {"content": "<|im_end|>", "special": true, "rstrip": true}}})");
  EXPECT_EQ(tokenizer.vocabulary_size(), 331);
  const Ids ids = tokenizer.encode("<s>in</s><|im_end|>  in<tool>");
  const Ids bare =
      open(R"({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": false})").encode("in");
  Ids expected{1};
  expected.insert(expected.end(), bare.begin(), bare.end());
  expected.insert(expected.end(), {2, 330});
  expected.insert(expected.end(), bare.begin(), bare.end());
  expected.push_back(id("<tool>"));
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(tokenizer.decode(ids), "<s>in</s><|im_end|>in<tool>");
  EXPECT_EQ(tokenizer.decode(ids, Tokenizer::Specials::kSkip), "inin<tool>");
}

TEST_F(SentencePiece, LegacyPutsASpaceAfterEachAddedToken) {
  const Tokenizer legacy = open(R"({"tokenizer_class": "LlamaTokenizer", "legacy": true})");
  Ids expected{1};
  const Ids spaced = reference("in");
  expected.insert(expected.end(), spaced.begin(), spaced.end());
  EXPECT_EQ(legacy.encode("<s>in"), expected);
  const Tokenizer current = open(R"({"tokenizer_class": "LlamaTokenizer", "legacy": false})");
  EXPECT_NE(current.encode("<s>in"), expected);
}

TEST_F(SentencePiece, AddsBosAndEosAsTheConfigurationSays) {
  const Ids in = reference("in");
  Ids both{1};
  both.insert(both.end(), in.begin(), in.end());
  both.push_back(2);
  EXPECT_EQ(
      open(R"({"add_bos_token": true, "add_eos_token": true})").encode("in", AddSpecial::kYes),
      both);
  EXPECT_EQ(open("{}").encode("in", AddSpecial::kYes), in);
  const Tokenizer tokenizer = open("{}");
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
}

TEST_F(SentencePiece, DigestHoldsTheFlagsOfTheConfiguration) {
  std::set<std::string> digests;
  for (const char* config : {"{}", R"({"add_bos_token": true})", R"({"add_eos_token": true})",
                             R"({"legacy": true})", R"({"tokenizer_class": "LlamaTokenizer"})",
                             R"({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": false})",
                             R"({"added_tokens_decoder": {"330": {"content": "<x>"}}})"}) {
    digests.insert(open(config).digest());
  }
  EXPECT_EQ(digests.size(), 7U);
  EXPECT_EQ(open("{}").digest(), open(R"({"legacy": false})").digest());
}

TEST_F(SentencePiece, APieceThatItsLibraryThrowsAtIsAnErrorThatNamesTheFolder) {
  // pieces { piece: "\\0l" } and trainer_spec { model_type: UNIGRAM }: a key of no length in the
  // library's table.
  const std::string piece("\x0A\x04\x0A\x02\x00l\x12\x02\x18\x01", 10);
  const TempDir dir;
  dir.write("tokenizer.model", tests::slurp(*dir_ / "tokenizer.model") + piece);
  EXPECT_THROWS_WITH((void)Tokenizer::open(dir.path()), InputError, dir.path().c_str(),
                     "SentencePiece cannot read the model");
}

TEST_F(SentencePiece, OffsetsCoverTheTextInOrder) {
  const std::string text = "in \xC3\xB1</s> palabra";
  const auto encoding = open("{}").encode_with_offsets(text);
  ASSERT_EQ(encoding.ids.size(), encoding.offsets.size());
  std::uint32_t end = 0;
  for (const auto& [first, last] : encoding.offsets) {
    EXPECT_GE(first, end == 0 ? 0 : end - 1);  // the bytes of one character share its span
    EXPECT_LE(last, text.size());
    end = std::max(end, last);
  }
  EXPECT_EQ(end, text.size());
}

TEST_F(SentencePiece, RefusesWholeWordTokens) {
  EXPECT_THROWS_WITH(
      (void)open(R"({"added_tokens_decoder": {"330": {"content": "x", "single_word": true}}})"),
      InputError, "single_word", "'x'");
}

}  // namespace
}  // namespace weft::text
