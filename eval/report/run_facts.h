#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace weft::eval {

/// What a training run was made of, for a page: names and values in the order in which they are
/// shown.
struct RunFacts {
  using Lines = std::vector<std::pair<std::string, std::string>>;
  Lines made_of;  ///< Base, data, adapter, hyper-parameters: from config.yaml.
  Lines digests;  ///< Of base, tokenizer, template, data, configuration: from provenance.json.
};

/// Reads config.yaml and provenance.json of a run's folder (docs/run_folder.md). What is not there,
/// or cannot be read, is left out.
[[nodiscard]] RunFacts read_run_facts(const std::filesystem::path& folder);

}  // namespace weft::eval
