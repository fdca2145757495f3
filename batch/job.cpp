#include "batch/job.h"

#include <sstream>

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/hash.h"

namespace weft::batch {

std::string key_of(const Step& step, InputDigests& digests) {
  core::Sha256 key;
  key.update(step.name + "\n" + step.extent + "\n");
  for (const std::string& one : ingredients_of(step, digests)) key.update(one + "\n");
  return key.finish();
}

std::vector<std::string> ingredients_of(const Step& step, InputDigests& digests) {
  std::vector<std::string> all;
  std::istringstream lines(step.configuration);
  for (std::string line; std::getline(lines, line);) all.push_back(line);
  for (const std::string& input : step.inputs) {
    // Where it lies does not count.
    all.push_back("the contents of " + std::filesystem::path(input).filename().string() + ": " +
                  digests.of(input));
  }
  return all;
}

nlohmann::ordered_json to_json(const Job& job) {
  auto steps = nlohmann::ordered_json::array();
  for (const Step& step : job.steps) {
    steps.push_back({{"name", step.name},
                     {"arguments", step.arguments},
                     {"configuration", step.configuration},
                     {"extent", step.extent},
                     {"inputs", step.inputs},
                     {"outputs", step.outputs}});
  }
  auto labels = nlohmann::ordered_json::array();
  for (const auto& [axis, label] : job.labels) labels.push_back({axis, label});
  return {{"name", job.name},
          {"labels", labels},
          {"after", job.after},
          {"threads", job.threads},
          {"memory_bytes", job.memory_bytes},
          {"updates", job.updates},
          {"steps", steps}};
}

Job read_job(const std::filesystem::path& file) {
  const nlohmann::json json = checkpoint::read_json_object(file);
  try {
    Job job;
    json.at("name").get_to(job.name);
    json.at("labels").get_to(job.labels);
    json.at("after").get_to(job.after);
    json.at("threads").get_to(job.threads);
    json.at("memory_bytes").get_to(job.memory_bytes);
    json.at("updates").get_to(job.updates);
    for (const nlohmann::json& one : json.at("steps")) {
      job.steps.push_back({one.at("name"), one.at("arguments"), one.at("configuration"),
                           one.at("inputs"), one.at("outputs"), one.value("extent", "")});
    }
    return job;
  } catch (const nlohmann::json::exception& problem) {
    throw InputError("{}: this is no description of a job: {}", file.string(), problem.what());
  }
}

}  // namespace weft::batch
