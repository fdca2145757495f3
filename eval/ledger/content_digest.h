#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace weft::eval {

/// SHA-256 of a file's bytes. The ledger's remembers files it has seen (eval/ledger/ledger.h).
using FileDigest = std::function<std::string(const std::filesystem::path&)>;

/// Names the contents of a model or adapter: the SHA-256 of a GGUF file, or that of the sorted
/// "NAME SHA-256" lines of the files that a folder is read from: weights, tables, tokenizer, chat
/// template, configuration. What is written about it (provenance, README) does not count.
[[nodiscard]] std::string content_digest(const std::filesystem::path& model,
                                         const FileDigest& file_digest);

}  // namespace weft::eval
