#include <gtest/gtest.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_writer.h"
#include "export/gguf_vocabulary.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "text/tokenizer.h"

namespace weft::exporting {
namespace {

using tests::TempDir;

TEST(TokenizerDigest, OfAFolderIsThatOfItsGguf) {
  const TempDir dir;
  const auto model = checkpoint::Checkpoint::open(tests::write_tiny_model(dir / "model"));
  const std::string digest = text::Tokenizer::load(model).digest();
  // A wider embedding gets padding tokens, which no text becomes.
  for (const std::int64_t rows : {tests::kTinyVocabulary, tests::kTinyVocabulary + 5}) {
    checkpoint::GgufFields fields;
    fields.set_string("general.architecture", "llama");
    add_vocabulary(model, rows, std::nullopt, {}, fields);
    checkpoint::GgufWriter writer(dir / "v.gguf", fields, {});
    writer.finish();
    EXPECT_EQ(text::Tokenizer::open(dir / "v.gguf").digest(), digest) << rows;
  }
}

}  // namespace
}  // namespace weft::exporting
