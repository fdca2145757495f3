#include "batch/held.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/set_aside.h"

namespace weft::batch {
namespace {

namespace fs = std::filesystem;

std::string name_of(const std::string& ingredient) {
  return ingredient.substr(0, ingredient.find(": "));
}

}  // namespace

std::string mark_of_run(const fs::path& run) {
  // weft train moves config.yaml with the run, and writes it anew for another.
  for (const char* place : {core::kSetAside, core::kSettingAside, "."}) {
    std::error_code error;
    const auto time = fs::last_write_time(run / place / "config.yaml", error);
    if (!error) return fmt::format("{}", time.time_since_epoch().count());
  }
  return "";
}

HeldRun held_run(const StepState& state, const fs::path& run) {
  if (state.replacing.empty() || mark_of_run(run) == state.replacing) return state.held;
  return {.key = state.key, .ingredients = state.attempted, .done = state.status == Status::kDone};
}

std::vector<std::string> changes_since(const HeldRun& held,
                                       const std::vector<std::string>& ingredients) {
  std::vector<std::string> changed;
  const auto add_missing = [&](const auto& from, const auto& in) {
    for (const std::string& one : from) {
      const bool is_there = std::ranges::find(in, one) != in.end();
      const std::string name = name_of(one);
      if (!is_there && std::ranges::find(changed, name) == changed.end()) changed.push_back(name);
    }
  };
  if (held.ingredients.empty()) return changed;  // Not known: weft train says what it thinks.
  add_missing(ingredients, held.ingredients);
  add_missing(held.ingredients, ingredients);
  return changed;
}

std::string replacement(const Job& job, const JobState& state, const fs::path& run,
                        InputDigests& digests) {
  if (job.steps.empty() || mark_of_run(run).empty()) return "";
  const StepState* known = state.find(job.steps.front().name);
  if (known == nullptr) return "";
  const HeldRun held = held_run(*known, run);
  std::vector<std::string> changed =
      changes_since(held, ingredients_of(job.steps.front(), digests));
  if (changed.empty()) return "";
  constexpr std::size_t kMost = 3;
  const std::size_t more = changed.size() > kMost ? changed.size() - kMost : 0;
  changed.resize(changed.size() - more);
  std::string names = fmt::format("{}", fmt::join(changed, ", "));
  if (more > 0) names += fmt::format(" and {} more", more);
  return fmt::format("its {} run is replaced, because {} {} changed",
                     held.done ? "finished" : "unfinished", names,
                     changed.size() + more > 1 ? "have" : "has");
}

}  // namespace weft::batch
