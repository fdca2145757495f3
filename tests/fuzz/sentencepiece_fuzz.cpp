// A tokenizer.model: the protobuf message that weft looks into itself, and SentencePiece reads.
// What is broken ends in an InputError; what is read encodes and decodes.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "core/error.h"
#include "text/sentencepiece_vocabulary.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace weft::text;
  if (size == 0) return 0;
  TokenizerConfig config;
  config.tokenizer_class = (data[0] & 1U) != 0 ? "LlamaTokenizer" : "XGLMTokenizer";
  config.legacy = (data[0] & 2U) != 0;
  config.add_bos_token = (data[0] & 4U) != 0;
  const std::string_view model(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const SentencePieceVocabulary vocabulary(model, config, "fuzz");
    for (const char* text : {"", "in tlakatl <tool> a", "\xC3\xB1 1\n"}) {
      const Tokens tokens = vocabulary.encode(text, /*add_special=*/true, /*with_offsets=*/true);
      if (tokens.ids.size() != tokens.offsets.size()) std::abort();
      (void)vocabulary.decode(tokens.ids, /*skip_special=*/false);
    }
    (void)vocabulary.identity();
  } catch (const weft::InputError&) {
  }
  return 0;
}
