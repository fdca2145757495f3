#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "schema/schema.h"

/// JOBS.yaml of `weft batch` (docs/batch.md), as it is written.
namespace weft::batch {

struct ResourcesSection {
  std::optional<std::int64_t> threads;  ///< Of each job that does not say it itself.
  std::optional<schema::Bytes> memory;  ///< That each job counts with; absent: its plan.
  std::string time;                     ///< "2h": the limit of each job on Slurm; empty: none said.
};

/// What sbatch is told beside what the plan of the jobs says.
struct SlurmSection {
  std::string partition, account;
  std::vector<std::string> extra;
};

struct RetriesSection {
  std::int64_t failed = 1;
  std::int64_t lost = 3;
};

struct JobsFile {
  std::filesystem::path output_dir;
  std::optional<std::filesystem::path> base;
  schema::ConfigNode common;
  schema::ConfigNode matrix;
  schema::ConfigNode pairs;
  schema::ConfigNode exclude;
  schema::ConfigNode jobs;
  schema::ConfigNode steps;
  ResourcesSection resources;
  std::string concurrency = "auto";
  RetriesSection retries;
  SlurmSection slurm;
  std::optional<std::filesystem::path> ledger;
  schema::ConfigNode written{};  ///< The whole file.

  /// Where the value of a key ("slurm.partition") stands, or else that of the section around it.
  [[nodiscard]] schema::Place place_of(std::string_view key) const;
};

void describe(schema::Schema<ResourcesSection>& schema);
void describe(schema::Schema<RetriesSection>& schema);
void describe(schema::Schema<SlurmSection>& schema);
void describe(schema::Schema<JobsFile>& schema);

/// Reads the file. Throws ConfigError with a line, and the place, for each problem.
[[nodiscard]] JobsFile load_jobs_file(const std::filesystem::path& file);

/// The number that `concurrency` gives; nothing for auto.
[[nodiscard]] std::optional<std::int64_t> concurrency_of(const JobsFile& file);

/// "2h", "1d12h", "90m" as minutes; nothing for any other text.
[[nodiscard]] std::optional<std::int64_t> parse_minutes(std::string_view text);

}  // namespace weft::batch
