#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "schema/schema.h"

/// `weft import`: configurations of axolotl and LLaMA-Factory in our words (docs/import.md).
namespace weft::train {

/// A file that an imported configuration names, to be written beside it.
struct SideFile {
  std::string name;
  std::string text;
};

struct Imported {
  std::string program;  ///< axolotl or LLaMA-Factory
  std::string yaml;     ///< Reads as a TrainConfig; comments say what became of every other line.
  std::vector<SideFile> files;
};

/// Reads a configuration of axolotl or LLaMA-Factory that trains an adapter on answers or text, and
/// writes it in our words, in its order, with that program's defaults where they differ from ours.
/// Keys in `without` are left out although they ask for what weft does not do. ConfigError, a line
/// for each problem, for such keys that are not, for what no adapter is trained by (preferences,
/// rewards, all weights, images), and for files of neither program.
[[nodiscard]] Imported import_config(std::string_view yaml, const schema::ConfigSource& source,
                                     const std::vector<std::string>& without = {});

/// The text of a chat template that other programs know by this name; empty for others.
/// `alpaca`, `alpaca-chat`, `alpaca-chatml`, `alpaca-phi` are the prompts of datasets of that type.
[[nodiscard]] std::string named_template(std::string_view name);

}  // namespace weft::train
