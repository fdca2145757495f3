#pragma once

#include <fmt/format.h>

#include <string>

#include "cli/options.h"
#include "cli/output.h"
#include "schema/schema.h"

// What every command with a YAML file can be asked about it.

namespace weft::cli {

struct ConfigQuestion {
  std::string dump;  ///< "minimal", "full"; empty: not asked.
  bool json_schema = false;
  bool reference = false;
};

/// Declares --dump-config, --json-schema and --config-reference. `page`: where the reference is.
inline void declare_question(CommandLine& app, ConfigQuestion& question, const std::string& page) {
  app.option("--dump-config", question.dump, "Prints the configuration that results")
      .one_of({"minimal", "full"});
  app.flag("--json-schema", question.json_schema,
           "Prints the JSON Schema of the configuration, for editors");
  app.flag("--config-reference", question.reference,
           fmt::format("Prints every key as Markdown ({})", page));
}

/// Prints what was asked about the keys; false when nothing was.
template <typename Config>
bool answer_about_keys(const ConfigQuestion& question, const char* command) {
  if (question.json_schema) print("{}\n", schema::json_schema<Config>(command).dump(2));
  if (question.reference) print("{}", schema::config_reference<Config>());
  return question.json_schema || question.reference;
}

/// Prints the values in `config` when that was asked; false when it was not.
template <typename Config>
bool answer_about_values(const ConfigQuestion& question, const Config& config) {
  if (question.dump.empty()) return false;
  const auto extent = question.dump == "full" ? schema::Dump::kFull : schema::Dump::kMinimal;
  print("{}", schema::dump_config(config, extent));
  return true;
}

}  // namespace weft::cli
