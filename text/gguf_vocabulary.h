#pragma once

#include <map>
#include <string>

#include "checkpoint/gguf.h"

namespace weft::text {

/// The vocabulary embedded in a GGUF file as the files of a Hugging Face tokenizer:
/// "tokenizer.json", "tokenizer_config.json" (with the chat template), "special_tokens_map.json",
/// and "generation_config.json" where the file names more than one id that ends a turn.
/// transformers' AutoTokenizer reads them and gives the same ids as Tokenizer does.
///
/// Kinds (`tokenizer.ggml.model`): gpt2, a byte-level BPE with the pre-tokenizers smollm, gpt-2,
/// llama-bpe and qwen2 (`tokenizer.ggml.pre`, aliases as in llama.cpp), split by the expressions of
/// the original tokenizer.json files; and llama, SentencePiece pieces with scores, as the BPE with
/// byte fallback that transformers' converters make of them.
/// Throws InputError (file, key) for another kind, which lists the known ones, and for arrays that
/// do not fit together.
[[nodiscard]] std::map<std::string, std::string> tokenizer_files(const checkpoint::Gguf& gguf);

/// "gpt2, pre smollm" or "llama".
[[nodiscard]] std::string vocabulary_kind(const checkpoint::Gguf& gguf);

}  // namespace weft::text
