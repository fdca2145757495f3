#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "checkpoint/gguf_writer.h"
#include "core/log.h"

namespace weft::exporting {

/// Adds the tokenizer of a Hugging Face model to `fields` under the keys of llama.cpp
/// (tokenizer.ggml.*, tokenizer.chat_template), as its converter does (conversion/base.py,
/// gguf/vocab.py): tokens, types, merges or scores, special ids, BOS/EOS rules, chat template.
///
/// - tokenizer.model: SentencePiece pieces with their scores ("llama").
/// - tokenizer.json with byte fallback and no tokenizer.model: the same kind, with scores that
/// order
///   the merges as the file does (the converter writes -1000 for all, which changes the ids).
/// - other BPE of tokenizer.json: byte-level ("gpt2") with `pre`, if given; else the name that
///   llama.cpp knows for the probe's ids; else, for an extended vocabulary, the name of the same
///   splitting rules, which is told to `log`.
///
/// Ids without a token, up to `vocabulary_size` (rows of the embedding), become "[PADi]".
/// InputError for other kinds, for tokens beyond the embedding, and when `pre` cannot be found
/// (with the hash and the names that can be given).
void add_vocabulary(const checkpoint::Checkpoint& model, std::int64_t vocabulary_size,
                    const std::optional<std::string>& pre, const core::Log& log,
                    checkpoint::GgufFields& fields);

}  // namespace weft::exporting
