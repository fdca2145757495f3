#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

// tokenizer.ggml.pre names how a byte-level BPE splits text before merging. Hugging Face files do
// not carry that name. llama.cpp's converter finds it by the ids of a probe text; so does weft.

namespace weft::exporting {

/// SHA-256 of the probe's ids, special tokens added: what llama.cpp's converter calls chkhsh.
[[nodiscard]] std::string pre_tokenizer_hash(const text::Tokenizer& tokenizer);

/// The name that llama.cpp knows for this hash. Nothing for a tokenizer it does not know, and for
/// one whose vocabulary was extended with tokens that occur in the probe.
[[nodiscard]] std::optional<std::string> pre_tokenizer_of_hash(std::string_view hash);

}  // namespace weft::exporting
