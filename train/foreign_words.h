#pragma once

#include <string>
#include <vector>

#include "schema/foreign.h"

namespace weft::train {

/// The programs whose files are read, as messages name them.
inline constexpr const char* kAxolotl = "axolotl";
inline constexpr const char* kFactory = "LLaMA-Factory";
inline constexpr const char* kBoth = "axolotl, LLaMA-Factory";

/// Words of axolotl's and LLaMA-Factory's files, with what each means for `weft train`
/// (docs/import.md lists them).
[[nodiscard]] std::vector<schema::ForeignWord> train_words();

/// Those of them that say nothing about what is learned (foreign_idle_words.cpp).
[[nodiscard]] std::vector<schema::ForeignWord> idle_words();

/// How many examples or packed rows an update of the other program learns from, as far as `section`
/// says; on one device.
[[nodiscard]] double rows_per_update(const schema::ConfigNode& section);

/// 0.05 as "5%".
[[nodiscard]] std::string percent_text(double share);

/// The words of both tables for docs/import.md, as Markdown.
[[nodiscard]] std::string word_reference();

}  // namespace weft::train
