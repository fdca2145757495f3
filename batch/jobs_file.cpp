#include "batch/jobs_file.h"

#include "schema/types.h"

namespace weft::batch {

void describe(schema::Schema<ResourcesSection>& s) {
  s.field("threads", &ResourcesSection::threads,
          "threads of a job whose configuration does not say it; default: the cores that the "
          "program may use when the batch is first run")
      .range(1, 1024);
  s.field("memory", &ResourcesSection::memory,
          "memory that each job is counted with when several run at once; default: what its plan "
          "says (weft train --check)");
}

void describe(schema::Schema<RetriesSection>& s) {
  s.field("failed", &RetriesSection::failed, "how often a step that failed is run again")
      .range(0, 100);
  s.field("lost", &RetriesSection::lost,
          "how often a job goes on that was killed, lost, or out of memory")
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
  jobs.output_place = written.tree.find("output_dir")->place;
  if (jobs.base) jobs.base_place = written.tree.find("base")->place;
  return jobs;
}

std::optional<std::int64_t> concurrency_of(const JobsFile& file) {
  return schema::parse_integer(file.concurrency);
}

}  // namespace weft::batch
