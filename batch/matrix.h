#pragma once

#include <string>
#include <utility>
#include <vector>

#include "batch/jobs_file.h"
#include "batch/problems.h"
#include "schema/schema.h"

namespace weft::batch {

/// One job as the file describes it: what differs from the common configuration.
struct Described {
  std::string name;
  std::vector<std::pair<std::string, std::string>> labels{};  ///< Axis -> what it is here.
  std::vector<schema::ConfigNode> settings{};  ///< Sections of keys of weft train, in order.
  std::vector<std::pair<std::string, schema::Place>> after{};
  schema::ConfigNode steps{};  ///< Null: those of the file.
  schema::Place place{};
};

/// Every combination of `matrix` and `pairs` that `exclude` leaves, then the single `jobs`, named
/// by what differs. `train`: what weft train can be told. What is wrong goes to `problems`: two
/// jobs of one name, an exclusion that leaves nothing out, an unknown name or a cycle in `after`.
[[nodiscard]] std::vector<Described> describe_jobs(const JobsFile& file,
                                                   const schema::SectionInfo& train,
                                                   Problems& problems);

/// `section` with dotted keys ("adapter.r") as sections.
[[nodiscard]] schema::ConfigNode undotted(const schema::ConfigNode& section);

}  // namespace weft::batch
