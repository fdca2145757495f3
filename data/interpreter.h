#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "data/conversation.h"
#include "data/dataset.h"
#include "data/record.h"

/// From the columns of a row to what it teaches. Internal to data/.
namespace weft::data {

/// A part of an example of some type: "instruction", "output" ...
struct Part {
  const char* name;
  bool required;
};

[[nodiscard]] std::vector<Part> parts_of(DatasetType type);
[[nodiscard]] std::string_view name_of(DatasetType type);
/// The type that the configuration itself says, by `type` or by the parts in `fields`.
[[nodiscard]] std::optional<DatasetType> configured_type(const DatasetConfig& config);
/// The type that the columns of a row say.
[[nodiscard]] std::optional<DatasetType> type_of_columns(const nlohmann::ordered_json& row);
/// Why the columns of a row tell no type, and what to do.
[[nodiscard]] std::string unknown_type(const nlohmann::ordered_json& row);

/// Makes samples from the rows of one file.
class Interpreter {
 public:
  Interpreter(const DatasetConfig& config, DatasetType type,
              const std::vector<std::string>& columns);

  /// For files whose columns are known before any row: a template that names another column is
  /// wrong in every row.
  void check_columns(const std::string& file) const;

  /// InputError without a place for a row that cannot be used, and for one with a column that says
  /// something about what is to be learned which weft does not honour.
  [[nodiscard]] Sample interpret(const Record& record) const;

  /// The columns of a row that hold something and have no part in its sample.
  [[nodiscard]] std::vector<std::string> unused(const nlohmann::ordered_json& row) const;

 private:
  struct Slot {
    Part part;
    bool given;
    FieldTemplate text;
  };

  [[nodiscard]] bool has_column(const std::string& name) const;
  [[nodiscard]] bool is_free(const nlohmann::ordered_json& row, const char* name) const;
  [[nodiscard]] const Slot& slot(std::string_view name) const;
  [[nodiscard]] std::string part(const nlohmann::ordered_json& row, std::string_view name) const;
  [[nodiscard]] std::string message_column(const nlohmann::ordered_json& row) const;
  void require_wanted(const nlohmann::ordered_json& row) const;
  void require_text_only(const nlohmann::ordered_json& row) const;
  void add_system(const nlohmann::ordered_json& row, Conversation& to) const;
  void add_history(const nlohmann::ordered_json& row, Conversation& to) const;
  void take_tools(const nlohmann::ordered_json& row, Sample& sample) const;
  [[nodiscard]] Conversation conversation(const nlohmann::ordered_json& row) const;
  [[nodiscard]] Conversation instruction(const nlohmann::ordered_json& row) const;
  [[nodiscard]] Sample completion(const nlohmann::ordered_json& row) const;

  DatasetType type_;
  std::vector<std::string> columns_;
  std::vector<Slot> slots_;
  std::set<std::string> named_;    ///< Columns that the slots read.
  std::set<std::string> ignored_;  ///< Columns of `ignore`.
};

}  // namespace weft::data
