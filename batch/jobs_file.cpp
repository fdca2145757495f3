#include "batch/jobs_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "schema/types.h"

namespace weft::batch {
namespace {

/// Options of sbatch that the batch itself gives.
constexpr std::array kOwnOptions{"--array",
                                 "--cpus-per-task",
                                 "--dependency",
                                 "--job-name",
                                 "--kill-on-invalid-dep",
                                 "--mem",
                                 "--no-requeue",
                                 "--ntasks",
                                 "--open-mode",
                                 "--output",
                                 "--parsable",
                                 "--requeue",
                                 "--signal",
                                 "--test-only",
                                 "--time",
                                 "--wrap",
                                 "--partition",
                                 "--account",
                                 "-a",
                                 "-c",
                                 "-d",
                                 "-J",
                                 "-n",
                                 "-o",
                                 "-t",
                                 "-p",
                                 "-A"};

bool is_own_option(std::string_view word) {
  if (word.starts_with("--")) word = word.substr(0, word.find('='));
  if (word.starts_with("-") && !word.starts_with("--")) word = word.substr(0, 2);
  return std::ranges::find(kOwnOptions, word) != kOwnOptions.end();
}

}  // namespace

void describe(schema::Schema<ResourcesSection>& s) {
  s.field("threads", &ResourcesSection::threads,
          "threads of a job whose configuration does not say it; default: the cores that the "
          "program may use when the batch is first run")
      .range(1, 1024);
  s.field("memory", &ResourcesSection::memory,
          "memory that each job is counted with when several run at once; default: what its plan "
          "says (weft train --check)");
  s.field("time", &ResourcesSection::time,
          "how long a job may run on Slurm before it saves and waits for another turn: 2h, 90m, "
          "1d12h; default: what the partition says. Without Slurm there is no limit");
  s.check([](const ResourcesSection& resources, schema::CheckReport& report) {
    if (resources.time.empty() || parse_minutes(resources.time)) return;
    report.problem("time", fmt::format("expected days, hours and minutes, as 2h, 90m or 1d12h, "
                                       "found '{}'",
                                       resources.time));
  });
}

void describe(schema::Schema<SlurmSection>& s) {
  s.field("partition", &SlurmSection::partition, "sbatch --partition; default: Slurm's");
  s.field("account", &SlurmSection::account, "sbatch --account; default: Slurm's");
  s.field("extra", &SlurmSection::extra, "more words for sbatch, as [\"--qos=low\"]");
  s.check([](const SlurmSection& slurm, schema::CheckReport& report) {
    for (const std::string& word : slurm.extra) {
      if (!is_own_option(word)) continue;
      report.problem("extra",
                     fmt::format("weft batch gives {} itself (from resources, concurrency, after, "
                                 "slurm.partition and slurm.account); leave it out",
                                 word));
    }
  });
}

void describe(schema::Schema<RetriesSection>& s) {
  s.field("failed", &RetriesSection::failed, "how often a step that failed is run again")
      .range(0, 100);
  s.field("lost", &RetriesSection::lost,
          "how often a job goes on that was killed, lost, or had not enough memory")
      .range(0, 1000);
}

void describe(schema::Schema<JobsFile>& s) {
  s.field("output_dir", &JobsFile::output_dir, "folder of the batch, made by it").required();
  s.field(
      "base", &JobsFile::base,
      "a configuration of weft train: what all jobs have in common; its output_dir is not used");
  s.field("common", &JobsFile::common, "keys of weft train for all jobs, laid over those of base");
  s.field("matrix", &JobsFile::matrix,
          "a job for every combination: KEY: [value, value], or NAME: {label: {key: value}}");
  s.field("pairs", &JobsFile::pairs,
          "sections of keys that change together; each combination is run with each of them");
  s.field("exclude", &JobsFile::exclude, "combinations that are left out: [{KEY: value}]");
  s.field("jobs", &JobsFile::jobs,
          "single jobs beside the matrix: a name, keys of weft train, and perhaps after and steps");
  s.field("steps", &JobsFile::steps,
          "what is done for each job, in order: train, merge, export, eval; default: [train]");
  s.section("resources", &JobsFile::resources, "what a job takes of the machine");
  s.field("concurrency", &JobsFile::concurrency,
          "jobs that run at once at most; auto: as many as threads and memory allow");
  s.section("retries", &JobsFile::retries, "when a job is run again; wrong input never is");
  s.section("slurm", &JobsFile::slurm, "what weft batch --slurm tells sbatch");
  s.field("ledger", &JobsFile::ledger,
          "where evaluations are recorded; several batches may share one; default: weft.db in "
          "output_dir");
  s.check([](const JobsFile& file, schema::CheckReport& report) {
    const auto number = schema::parse_integer(file.concurrency);
    if (file.concurrency != "auto" && (!number || *number < 1)) {
      report.problem("concurrency", "expected auto or a whole number, at least 1");
    }
  });
}

JobsFile load_jobs_file(const std::filesystem::path& file) {
  const auto [text, source] = schema::read_config_file(file);
  const schema::ConfigLayer written = schema::parse_tree(text, source);
  const auto object = schema::read_layers(*schema::section_info<JobsFile>(), {written});
  JobsFile jobs = *static_cast<const JobsFile*>(object.get());
  jobs.written = written.tree;
  return jobs;
}

schema::Place JobsFile::place_of(std::string_view key) const {
  const schema::ConfigNode* node = &written;
  while (!key.empty()) {
    const std::size_t dot = std::min(key.find('.'), key.size());
    const schema::ConfigNode* below = node->find(key.substr(0, dot));
    if (below == nullptr) break;
    node = below;
    key.remove_prefix(std::min(dot + 1, key.size()));
  }
  return node->place;
}

std::optional<std::int64_t> parse_minutes(std::string_view text) {
  std::int64_t minutes = 0;
  for (const auto& [unit, length] : {std::pair{'d', 24 * 60}, {'h', 60}, {'m', 1}}) {
    std::int64_t count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    const auto digits = static_cast<std::size_t>(end - text.data());
    if (error != std::errc{} || count < 0 || count > 1'000'000) continue;
    if (digits == text.size() || text[digits] != unit) continue;
    minutes += count * length;
    text.remove_prefix(digits + 1);
  }
  if (!text.empty() || minutes == 0) return std::nullopt;
  return minutes;
}

std::optional<std::int64_t> concurrency_of(const JobsFile& file) {
  return schema::parse_integer(file.concurrency);
}

}  // namespace weft::batch
