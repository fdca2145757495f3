#include "core/output_claim.h"

#include <system_error>
#include <vector>

#include "core/error.h"
#include "core/rejected.h"

namespace weft::core {
namespace {

namespace fs = std::filesystem;

/// Where a path leads, with every link followed as far as it exists.
fs::path place_of(const fs::path& path) {
  std::error_code error;
  fs::path place = fs::weakly_canonical(path, error);
  if (error) place = fs::absolute(path).lexically_normal();
  return place.has_filename() || !place.has_relative_path() ? place : place.parent_path();
}

bool is_same(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return a == b || fs::equivalent(a, b, error);
}

/// True when `inner` is `outer` or lies anywhere below it.
bool holds(const fs::path& outer, const fs::path& inner) {
  for (fs::path at = inner;; at = at.parent_path()) {
    if (is_same(outer, at)) return true;
    if (!at.has_relative_path()) return false;
  }
}

/// The input, and what the links in a folder lead to: the caches of models are made of them.
std::vector<fs::path> places_of(const fs::path& input) {
  std::vector<fs::path> places{place_of(input)};
  std::error_code error;
  for (fs::directory_iterator entry(input, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    if (entry->is_symlink(ignored)) places.push_back(place_of(entry->path()));
  }
  return places;
}

void require_apart(const Output& output, const fs::path& input) {
  const fs::path target = place_of(output.path);
  bool is_first = true;
  for (const fs::path& place : places_of(input)) {
    if (holds(target, place)) {
      throw InputError(
          "{} '{}' is, or holds, the input '{}', which would be replaced; choose another place",
          output.option, output.path.string(), input.string());
    }
    // A link's target is a file of the input, and not a folder that belongs to it.
    if (is_first && holds(place, target)) {
      throw InputError(
          "{} '{}' lies in the input '{}', whose files would then be others than before; choose a "
          "place outside it",
          output.option, output.path.string(), input.string());
    }
    is_first = false;
  }
}

/// The outputs, and what lies beside those that may be rejected.
std::vector<Output> with_rejected(std::span<const Output> outputs) {
  std::vector<Output> all(outputs.begin(), outputs.end());
  for (const Output& output : outputs) {
    if (!output.may_be_rejected) continue;
    all.push_back({rejected_path(output.path), output.kind, output.option});
    all.push_back({rejected_note_path(output.path), OutputKind::kFile, output.option});
  }
  return all;
}

}  // namespace

void claim_outputs(std::span<const Output> given, std::span<const fs::path> inputs,
                   Overwrite overwrite) {
  const std::vector<Output> outputs = with_rejected(given);
  for (const Output& output : outputs) {
    for (const fs::path& input : inputs) {
      if (!input.empty()) require_apart(output, input);
    }
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      const fs::path a = place_of(outputs[i].path);
      const fs::path b = place_of(outputs[j].path);
      if (!holds(a, b) && !holds(b, a)) continue;
      throw InputError("{} '{}' and {} '{}' are the same place, or one lies in the other",
                       outputs[j].option, outputs[j].path.string(), outputs[i].option,
                       outputs[i].path.string());
    }
  }
  for (const Output& output : given) {
    require_writable(output.path, output.kind, overwrite);
    if (!output.may_be_rejected) continue;
    require_rejected_replaceable(output.path);
    require_writable(rejected_path(output.path), output.kind);
  }
}

void claim_output(const Output& output, std::span<const fs::path> inputs, Overwrite overwrite) {
  claim_outputs(std::span(&output, 1), inputs, overwrite);
}

}  // namespace weft::core
