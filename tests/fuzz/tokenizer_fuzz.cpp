// The files of a Hugging Face tokenizer: the first byte chooses which of them the rest is, the
// others are small and valid. Whatever is read gives ids inside its vocabulary and one digest; what
// is broken ends in an InputError.

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/error.h"
#include "text/crate_vocabulary.h"
#include "text/tokenizer_config.h"

namespace {

constexpr std::array kNames{"tokenizer.json",          "tokenizer_config.json",
                            "special_tokens_map.json", "added_tokens.json",
                            "generation_config.json",  "config.json"};

constexpr const char* kTokenizer =
    R"({"version": "1.0", "added_tokens": [{"id": 3, "content": "<s>", "special": true,
    "normalized": false, "lstrip": false, "rstrip": false, "single_word": false}],
    "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace weft::text;
  if (size == 0) return 0;
  FileTexts files{{"tokenizer.json", kTokenizer}, {"tokenizer_config.json", "{}"}};
  files[kNames[data[0] % kNames.size()]] =
      std::string(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const TokenizerConfig config = TokenizerConfig::parse(files, "fuzz");
    const CrateVocabulary vocabulary(files["tokenizer.json"], config.added_tokens, "fuzz");
    if (vocabulary.identity() != vocabulary.identity()) std::abort();
    for (const char* text : {"", "ab <s>ba", "\xC3\xB1 1\n"}) {
      const Tokens tokens = vocabulary.encode(text, /*add_special=*/false, /*with_offsets=*/true);
      if (tokens.ids.size() != tokens.offsets.size()) std::abort();
      for (const std::int32_t id : tokens.ids) {
        if (id < 0 || id >= vocabulary.size()) std::abort();
      }
      (void)vocabulary.decode(tokens.ids, /*skip_special=*/true);
    }
  } catch (const weft::InputError&) {
  }
  return 0;
}
