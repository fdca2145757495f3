#include "batch/order.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "core/suggest.h"

namespace weft::batch {
namespace {

using ByName = std::map<std::string, const Described*>;

/// Follows `after` from job to job.
class Follower {
 public:
  Follower(const ByName& by_name, Problems& problems) : by_name_(by_name), problems_(problems) {}

  /// False when a job waits for itself, which is told.
  bool follow(const Described& job) {
    if (good_.contains(job.name)) return true;
    const auto before = std::ranges::find(path_, job.name);
    if (before != path_.end()) {
      std::string cycle;
      for (auto at = before; at != path_.end(); ++at) cycle += *at + " -> ";
      problems_.add(job.after.front().second,
                    fmt::format("after: these jobs wait for each other: {}{}", cycle, job.name));
      return false;
    }
    path_.push_back(job.name);
    for (const auto& [name, place] : job.after) {
      if (!follow(*by_name_.at(name))) return false;
    }
    path_.pop_back();
    good_.insert(job.name);
    return true;
  }

 private:
  const ByName& by_name_;
  Problems& problems_;
  std::set<std::string> good_;
  std::vector<std::string> path_;
};

}  // namespace

void check_names(const std::vector<Described>& jobs, Problems& problems) {
  std::set<std::string> seen;
  for (const Described& job : jobs) {
    if (seen.insert(job.name).second) continue;
    problems.add(job.place, fmt::format("two jobs are called '{}', and would write into one "
                                        "folder; give one of them another name or label",
                                        job.name));
  }
}

void check_order(const std::vector<Described>& jobs, Problems& problems) {
  ByName by_name;
  std::vector<std::string> names;
  for (const Described& job : jobs) {
    by_name.emplace(job.name, &job);
    names.push_back(job.name);
  }
  bool all_known = true;
  for (const Described& job : jobs) {
    for (const auto& [name, place] : job.after) {
      if (by_name.contains(name)) continue;
      all_known = false;
      const std::string meant = core::nearest(name, names);
      const std::string hint = meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant);
      problems.add(place, fmt::format("after: there is no job '{}'{}", name, hint));
    }
  }
  if (!all_known) return;
  Follower follower(by_name, problems);
  for (const Described& job : jobs) {
    if (!follower.follow(job)) return;
  }
}

}  // namespace weft::batch
