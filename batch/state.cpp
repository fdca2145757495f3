#include "batch/state.h"

#include <fmt/chrono.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <nlohmann/json.hpp>

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::batch {
namespace {

constexpr int kStateFormat = 1;

constexpr std::array<std::string_view, 16> kWords{
    "waiting",         "queued",    "running",     "done",        "interrupted", "preempted",
    "cancelled",       "timed out", "lost",        "node failed", "vanished",    "out of memory",
    "short of memory", "failed",    "wrong input", "refused"};

Status status_of_word(const std::string& text) {
  const auto found = std::ranges::find(kWords, text);
  if (found == kWords.end()) throw InputError("'{}' is no status", text);
  return static_cast<Status>(found - kWords.begin());
}

JobState from_json(const nlohmann::json& json) {
  if (json.at("format").get<int>() > kStateFormat) throw InputError("it is of a newer weft");
  JobState state;
  state.status = status_of_word(json.at("status"));
  json.at("host").get_to(state.host);
  json.at("pid").get_to(state.pid);
  state.parent = json.value("parent", std::int64_t{0});
  json.at("started").get_to(state.started);
  json.at("ended").get_to(state.ended);
  json.at("failures").get_to(state.failures);
  json.at("losses").get_to(state.losses);
  state.slurm = json.value("slurm", "");
  state.requeued = json.value("requeued", false);
  state.mark = json.value("mark", "");
  state.stalls = json.value("stalls", std::int64_t{0});
  for (const nlohmann::json& one : json.at("steps")) {
    StepState& step = state.steps.emplace_back();
    one.at("name").get_to(step.name);
    one.at("key").get_to(step.key);
    step.status = status_of_word(one.at("status"));
    one.at("exit").get_to(step.exit);
    one.at("seconds").get_to(step.seconds);
    one.at("peak_bytes").get_to(step.peak_bytes);
    one.at("error").get_to(step.error);
    if (!one.contains("held")) continue;
    one.at("held").at("key").get_to(step.held.key);
    one.at("held").at("done").get_to(step.held.done);
    one.at("held").at("ingredients").get_to(step.held.ingredients);
    one.at("attempted").get_to(step.attempted);
    one.at("replacing").get_to(step.replacing);
  }
  return state;
}

}  // namespace

std::string_view word(Status status) { return kWords[static_cast<std::size_t>(status)]; }

bool is_failure(Status status) { return status >= Status::kLost; }

StepState& JobState::step(const std::string& name) {
  const auto found = std::ranges::find(steps, name, &StepState::name);
  if (found != steps.end()) return *found;
  steps.push_back({.name = name});
  return steps.back();
}

const StepState* JobState::find(const std::string& name) const {
  const auto found = std::ranges::find(steps, name, &StepState::name);
  return found == steps.end() ? nullptr : &*found;
}

std::string JobState::error() const {
  for (const StepState& step : steps) {
    if (is_failure(step.status)) return step.name + ": " + step.error;
  }
  return "";
}

std::optional<JobState> read_state(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::nullopt;
  try {
    return from_json(checkpoint::parse_json(core::read_text(file), "its text"));
  } catch (const nlohmann::json::exception& problem) {
    throw InputError(
        "{} cannot be read ({}); remove it: what is done is then found out by doing it again",
        file.string(), problem.what());
  } catch (const InputError& problem) {
    throw InputError(
        "{} cannot be read ({}); remove it: what is done is then found out by doing it again",
        file.string(), problem.what());
  }
}

void write_state(const std::filesystem::path& file, const JobState& state) {
  auto steps = nlohmann::ordered_json::array();
  for (const StepState& step : state.steps) {
    steps.push_back({{"name", step.name},
                     {"status", word(step.status)},
                     {"exit", step.exit},
                     {"seconds", step.seconds},
                     {"peak_bytes", step.peak_bytes},
                     {"error", step.error},
                     {"key", step.key}});
    if (step.held.key.empty() && step.attempted.empty()) continue;
    steps.back()["held"] = {
        {"key", step.held.key}, {"done", step.held.done}, {"ingredients", step.held.ingredients}};
    steps.back()["attempted"] = step.attempted;
    steps.back()["replacing"] = step.replacing;
  }
  nlohmann::ordered_json json{{"format", kStateFormat}, {"status", word(state.status)},
                              {"host", state.host},     {"pid", state.pid},
                              {"parent", state.parent}, {"started", state.started},
                              {"ended", state.ended},   {"failures", state.failures},
                              {"losses", state.losses}, {"steps", steps}};
  if (!state.slurm.empty()) {
    json["slurm"] = state.slurm;
    json["requeued"] = state.requeued;
    json["mark"] = state.mark;
    json["stalls"] = state.stalls;
  }
  core::write_text(file, json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::time(nullptr)));
}

}  // namespace weft::batch
