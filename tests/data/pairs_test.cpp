#include "data/pairs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::data {
namespace {

/// `count` different sentences in each of `documents` documents.
std::vector<Pair> corpus(int documents, int count) {
  static const std::vector<std::string> kWords{"atl",     "tepetl",   "cihuatl", "calli",
                                               "xochitl", "tonatiuh", "mazatl",  "coatl",
                                               "tochtli", "ehecatl"};
  std::vector<Pair> pairs;
  for (int d = 0; d < documents; ++d) {
    for (int i = 0; i < count; ++i) {
      const int n = d * count + i;
      std::string source = "frase";
      std::string target = "tlahtolli";
      for (int k = 0, rest = n; k < 5; ++k, rest /= 10) {
        source += " " + std::to_string(rest % 10) + "x" + std::to_string(k * n);
        target += " " + kWords[static_cast<std::size_t>(rest % 10)] + std::to_string(k + 7 * n);
      }
      pairs.push_back({source, target, "book " + std::to_string(d), n + 1});
    }
  }
  return pairs;
}

TEST(ComparisonForm, KeepsLettersOfAnyScriptInLowerCase) {
  EXPECT_EQ(comparison_form("¿Si es JADE, si es oro…?"), "si es jade si es oro");
  EXPECT_EQ(comparison_form("  ÑÄHÑU -- Čeština!"), "ñähñu čeština");
  EXPECT_EQ(comparison_form("...!?"), "");
}

TEST(Similarity, IsOneForEqualAndZeroForForeignTexts) {
  EXPECT_DOUBLE_EQ(similarity("in tlalticpac", "in tlalticpac"), 1.0);
  EXPECT_DOUBLE_EQ(similarity("in tlalticpac", "zyxwvu ghjk"), 0.0);
  // 9 and 10 five-letter grams, 9 of them common.
  EXPECT_DOUBLE_EQ(similarity("abcdefghijklm", "abcdefghijklmn"), 0.9);
}

TEST(CleanAndSplit, CountsAddUpToWhatWasRead) {
  std::vector<Pair> pairs = corpus(6, 40);
  pairs.push_back({"", "solo una parte", "book 0", 900});
  pairs.push_back({"igual", "Igual!", "book 0", 901});
  pairs.push_back({"a b", "una frase mucho mas larga que la otra parte", "book 0", 902});
  const Split split = clean_and_split(pairs, {.test_pairs = 30, .validation_pairs = 20});
  const SplitStatistics& s = split.statistics;
  EXPECT_EQ(s.read, 243);
  EXPECT_EQ(s.empty, 1);
  EXPECT_EQ(s.misaligned, 2);
  EXPECT_EQ(s.empty + s.too_long + s.misaligned + s.near_duplicates + s.unused + s.leaks + s.train +
                s.validation + s.test,
            s.read);
  EXPECT_EQ(s.test, 30);
  EXPECT_EQ(s.validation, 20);
}

TEST(CleanAndSplit, NoDocumentIsOnTwoSides) {
  const Split split = clean_and_split(corpus(8, 25), {.test_pairs = 40, .validation_pairs = 20});
  std::set<std::string> train;
  std::set<std::string> validation;
  for (const Pair& pair : split.train) train.insert(pair.document);
  for (const Pair& pair : split.validation) {
    EXPECT_FALSE(train.contains(pair.document));
    validation.insert(pair.document);
  }
  for (const Pair& pair : split.test) {
    EXPECT_FALSE(train.contains(pair.document)) << pair.document;
    EXPECT_FALSE(validation.contains(pair.document)) << pair.document;
  }
  EXPECT_FALSE(split.test.empty());
}

TEST(CleanAndSplit, RemovesNearDuplicatesWhateverTheirPunctuation) {
  std::vector<Pair> pairs = corpus(4, 30);
  Pair repeated = pairs[5];
  repeated.source = "¡" + repeated.source + "!";
  repeated.document = "another book";
  pairs.push_back(repeated);
  EXPECT_EQ(clean_and_split(pairs, {}).statistics.near_duplicates, 1);
}

TEST(CleanAndSplit, NoSentenceOfTheTestIsTrainedOnInAnotherPair) {
  std::vector<Pair> pairs = corpus(6, 30);
  const Split before = clean_and_split(pairs, {.test_pairs = 200});
  // The same source with another translation, in a document that is trained on.
  Pair leak = before.test.front();
  leak.target = "qwertyuiop asdfghjkl zxcvbnm";
  leak.document = before.train.front().document;
  leak.line = 10'000;
  pairs.push_back(leak);
  const Split after = clean_and_split(pairs, {.test_pairs = 200});
  EXPECT_EQ(after.statistics.leaks, before.statistics.leaks + 1);
  for (const Pair& pair : after.train) EXPECT_NE(pair.source, leak.source);
}

TEST(CleanAndSplit, IsTheSameForTheSameSeedAndAnotherForAnother) {
  const auto pairs = corpus(9, 20);
  const auto lines = [&](std::uint64_t seed) {
    std::vector<std::int64_t> result;
    for (const Pair& pair : clean_and_split(pairs, {.seed = seed, .test_pairs = 15}).test) {
      result.push_back(pair.line);
    }
    return result;
  };
  EXPECT_EQ(lines(1), lines(1));
  EXPECT_NE(lines(1), lines(2));
}

TEST(CleanAndSplit, RefusesACorpusWithoutDocuments) {
  EXPECT_THROWS_WITH(static_cast<void>(clean_and_split(corpus(2, 50), {})), InputError,
                     "2 documents", "at least 3");
}

}  // namespace
}  // namespace weft::data
