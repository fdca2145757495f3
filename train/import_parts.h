#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "schema/foreign.h"
#include "schema/schema.h"
#include "train/import.h"
#include "train/import_sheet.h"

/// The parts of an import. Internal to train/import.
namespace weft::train {

[[nodiscard]] std::string text_at(const schema::ConfigNode& tree, const char* key);
[[nodiscard]] bool is_on(const schema::ConfigNode& tree, const char* key);
[[nodiscard]] bool is_given(const schema::ConfigNode& tree, const char* key);
/// A number or a word as it stands.
[[nodiscard]] schema::ConfigNode plain(std::string text);
/// What to say of a path that does not exist here; nothing where it does.
[[nodiscard]] std::string hub_note(const std::string& path, std::string_view what);

/// What is read, and where everything that is found out goes.
struct ImportJob {
  const schema::ConfigNode& tree;
  const schema::ConfigSource& source;
  const std::vector<std::string>& without;
  ImportSheet sheet{};
  std::vector<SideFile> files{};
  schema::Problems problems{};
  std::set<std::string> used{};  ///< Of `without`

  void problem(const schema::Place& place, std::string text);
  /// Sets a key that another line may have set already; to something else is a problem.
  void put(const std::string& path, const schema::ConfigNode& value, const std::string& comment,
           const schema::Place& place);
  [[nodiscard]] bool is_without(const std::string& name) const;
  void leave_out(const std::string& name, const schema::ConfigNode& value);
  /// What a word means, into the sheet below `prefix`; false where it is a key of ours.
  bool apply(const schema::ForeignReading& reading, const schema::ConfigEntry& entry,
             const std::string& prefix);
};

/// Datasets and the prompts that they are learned with.
class ImportData {
 public:
  explicit ImportData(ImportJob& job);

  void add_axolotl(const schema::ConfigEntry& datasets);
  void add_factory(const schema::ConfigEntry& datasets);
  void set_axolotl_template(const std::string& name);
  void set_factory_template(const std::string& name);
  void add_template(const std::string& name, std::string text, const std::string& note);

 private:
  void set_named_template(const std::string& name, const std::string& key);
  void axolotl_type(const schema::ConfigNode& type, const schema::ConfigNode& item,
                    const std::string& prefix, const schema::Place& place);
  void own_prompt(const schema::ConfigNode& type, const std::string& prefix,
                  const schema::Place& place);
  void axolotl_path(const schema::ConfigNode& item, const std::string& prefix);
  void axolotl_dataset(const schema::ConfigNode& item, const std::string& prefix);
  void dataset_word(const schema::ConfigEntry& entry, const std::string& prefix);
  [[nodiscard]] nlohmann::json factory_registry();
  void registered_dataset(const std::string& name, const nlohmann::json& info,
                          const std::string& prefix, const schema::Place& place);

  ImportJob& job_;
  std::vector<schema::ForeignWord> words_;
  bool has_chat_ = false;
  std::filesystem::path data_folder_;  ///< Of LLaMA-Factory's registry.
  std::string prompt_;                 ///< The Alpaca prompt that is used.
  std::size_t item_count_ = 0;
};

}  // namespace weft::train
