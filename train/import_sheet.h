#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "schema/node.h"

/// The text that an import writes: keys with comments, in the order in which they come.
/// Internal to train/import.
namespace weft::train {

class ImportSheet {
 public:
  /// A line of its own between the keys; long ones are broken.
  void comment(std::string text);
  /// Sets a key, dotted where it is below a section. The comment stands behind the value; a second
  /// call for the same key replaces the value where the new one is not null, and adds its comment.
  void set(std::string_view path, schema::ConfigNode value, std::string comment = "");
  /// Adds an item to a list of sections; set() with "KEY.N.below" fills it.
  void add_item(std::string_view list);
  [[nodiscard]] bool has(std::string_view path) const { return find(path) != nullptr; }
  /// Its value; null where the key is not set.
  [[nodiscard]] const schema::ConfigNode* find(std::string_view path) const;
  [[nodiscard]] std::string text() const;

 private:
  struct Line {
    std::string path;  ///< Below the key of the item; empty: its own value.
    schema::ConfigNode value;
    std::string comment;
  };
  struct Item {
    std::string key;  ///< Empty: a comment.
    std::vector<Line> lines;
    std::vector<std::string> comments;
  };

  Item& item(std::string_view key);

  std::vector<Item> items_;
};

}  // namespace weft::train
