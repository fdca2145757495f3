#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "batch/digest.h"

namespace weft::batch {

/// One command of this program that a job runs.
struct Step {
  std::string name;                    ///< "train", "merge", "export gguf q4_k_m", "eval"
  std::vector<std::string> arguments;  ///< Of weft, the command first.
  std::string configuration;           ///< What of them decides what comes out, line by line.
  std::vector<std::string> inputs;     ///< Files and folders that it reads.
  std::vector<std::string> outputs;    ///< Those that are there when it is done.
  std::string extent{};  ///< As configuration; with another one, training can be resumed.
};

/// Everything that running a job needs: with it any process, on any machine that sees the folder,
/// can go on with the job (weft batch task).
struct Job {
  std::string name;
  std::vector<std::pair<std::string, std::string>> labels{};  ///< Axis -> what it is here.
  std::vector<std::string> after{};
  std::vector<Step> steps{};
  std::int64_t threads = 1;
  std::uint64_t memory_bytes = 0;   ///< 0: not planned yet.
  std::int64_t updates = 0;         ///< Of training; 0: not planned yet.
  std::uint64_t adapter_bytes = 0;  ///< Of the plan, as run_bytes; not kept in job.json.
  std::uint64_t run_bytes = 0;      ///< What the folder of its training run will take.
  std::uint64_t disk_bytes = 0;     ///< What it will write (batch/disk.h).
  std::string config{};             ///< config.yaml of weft train, complete.
  std::string eval_config{};        ///< eval.yaml of weft eval; empty without that step.
  std::string place{};              ///< In JOBS.yaml; for messages.
};

/// The lines of the configuration, and "the contents of FILE: DIGEST" for each input: what a run
/// that is resumed has to have in common with that which began.
[[nodiscard]] std::vector<std::string> ingredients_of(const Step& step, InputDigests& digests);

/// Digest of all that decides what a step gives: a step with the key that it had when it was done
/// need not run again.
[[nodiscard]] std::string key_of(const Step& step, InputDigests& digests);

/// job.json: all but the texts of the configurations.
[[nodiscard]] nlohmann::ordered_json to_json(const Job& job);
/// InputError for a file that cannot be read, or that no batch has written.
[[nodiscard]] Job read_job(const std::filesystem::path& file);

}  // namespace weft::batch
