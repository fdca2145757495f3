#include "train/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <unordered_map>

#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/file.h"
#include "train/state_text.h"

namespace weft::train {
namespace {
namespace fs = std::filesystem;

constexpr const char* kAdapter = "adapter";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr const char* kState = "state.json";

/// Where one moment of one factor is: in optimizer.safetensors, and in TrainState::moments.
struct MomentPlace {
  std::string name;
  std::vector<std::int64_t> shape;
  std::size_t index;
  std::vector<float> Moments::*which;
};

std::vector<MomentPlace> moment_places(const lora::Adapter& adapter) {
  std::vector<MomentPlace> places;
  for (std::size_t i = 0; i < adapter.factors.size(); ++i) {
    const lora::Target& target = adapter.factors[i].target;
    const auto add = [&](const char* side, std::size_t index, std::vector<std::int64_t> shape) {
      const std::string stem = target.module.path + side;
      places.push_back({stem + ".first_moment", shape, index, &Moments::first});
      places.push_back({stem + ".second_moment", std::move(shape), index, &Moments::second});
    };
    add(".lora_A", 2 * i, {target.ranks(), target.module.in});
    add(".lora_B", 2 * i + 1, {target.module.out, target.ranks()});
  }
  return places;
}

void write_moments(const TrainState& state, const fs::path& path) {
  if (state.moments.empty()) return;
  std::vector<checkpoint::TensorPlan> plans;
  std::unordered_map<std::string, const std::vector<float>*> by_name;
  for (MomentPlace& place : moment_places(state.adapter)) {
    by_name[place.name] = &(state.moments[place.index].*place.which);
    plans.push_back({std::move(place.name), "F32", std::move(place.shape)});
  }
  checkpoint::SafetensorsWriter writer(path, std::move(plans));
  for (const auto& plan : writer.order()) {
    writer.write(std::span<const float>(*by_name.at(plan.name)));
  }
  writer.finish();
}

void read_moments(TrainState& state, const fs::path& path) {
  if (state.optimizer_updates == 0) return;
  const auto file = checkpoint::Safetensors::open(path);
  state.moments.resize(2 * state.adapter.factors.size());
  for (const MomentPlace& place : moment_places(state.adapter)) {
    const checkpoint::SafetensorsEntry* entry = file.find(place.name);
    if (entry == nullptr || entry->dtype != "F32" || entry->shape != place.shape) {
      throw InputError("{}: expected F32 tensor '{}' of shape [{}], {}; the checkpoint is damaged",
                       path.string(), place.name, fmt::join(place.shape, ", "),
                       entry == nullptr ? std::string("found none")
                                        : fmt::format("found {} [{}]", entry->dtype,
                                                      fmt::join(entry->shape, ", ")));
    }
    const auto bytes = file.bytes(*entry);
    std::vector<float>& values = state.moments[place.index].*place.which;
    values.resize(bytes.size() / sizeof(float));
    std::memcpy(values.data(), bytes.data(), bytes.size());
  }
}

TrainState read_checkpoint(const fs::path& path) {
  TrainState state;
  try {
    state = parse_state(core::read_text(path / kState));
  } catch (const InputError& problem) {
    throw InputError("{} is damaged: {}", kState, problem.what());
  }
  state.adapter = lora::read_peft(path / kAdapter);
  read_moments(state, path / kOptimizer);
  return state;
}

}  // namespace

Checkpoints::Checkpoints(fs::path folder) : folder_(std::move(folder)) {}

fs::path Checkpoints::path_of(std::int64_t update) const {
  return folder_ / fmt::format("{:06}", update);
}

void Checkpoints::save(const TrainState& state, std::int64_t keep) const {
  core::AtomicDirectory staged(path_of(state.update), core::Overwrite::kReplace);
  std::error_code error;
  fs::create_directory(staged.path() / kAdapter, error);
  if (error) throw IoError("cannot create {}: {}", path_of(state.update).string(), error.message());
  lora::write_peft(state.adapter, staged.path() / kAdapter);
  write_moments(state, staged.path() / kOptimizer);
  core::write_text(staged.path() / kState, state_text(state));
  staged.commit();
  if (keep <= 0) return;
  std::vector<std::int64_t> all = list();
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    fs::remove_all(path_of(all[i]), error);
  }
}

std::vector<std::int64_t> Checkpoints::list() const {
  std::vector<std::int64_t> updates;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    std::int64_t update = 0;
    const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), update);
    if (problem == std::errc{} && end == name.data() + name.size()) updates.push_back(update);
  }
  std::ranges::sort(updates);
  return updates;
}

std::optional<TrainState> Checkpoints::load_last() const {
  const std::vector<std::int64_t> updates = list();
  if (updates.empty()) return std::nullopt;
  const fs::path path = path_of(updates.back());
  try {
    return read_checkpoint(path);
  } catch (const InputError& problem) {
    const std::string next = updates.size() > 1 ? fmt::format("the run goes on from update {}",
                                                              updates[updates.size() - 2])
                                                : std::string("the run starts from its beginning");
    throw InputError(
        "the checkpoint {} cannot be read: {}; remove that folder, and with --resume {}",
        path.string(), problem.what(), next);
  }
}

void Checkpoints::remove_leftovers() const {
  std::error_code error;
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    // AtomicDirectory names its staging folder ".NAME.part-...", and an old one ".NAME.old-...".
    if (entry.path().filename().string().starts_with('.')) leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) fs::remove_all(path, error);
}

std::string difference(const Fingerprint& then, const Fingerprint& now,
                       const std::vector<std::string>& free) {
  const auto may_differ = [&](const std::string& key) {
    return std::ranges::any_of(
        free, [&](const std::string& name) { return key == name || key.starts_with(name + "."); });
  };
  std::string text;
  const auto tell = [&](const std::string& key, const std::string& was, const std::string& is) {
    if (!may_differ(key)) {
      text += fmt::format("{}{} was {} and is {}", text.empty() ? "" : "; ", key, was, is);
    }
  };
  for (const auto& [key, was] : then) {
    const auto found = now.find(key);
    if (found == now.end()) {
      tell(key, was, "not there");
    } else if (found->second != was) {
      tell(key, was, found->second);
    }
  }
  for (const auto& [key, is] : now) {
    if (!then.contains(key)) tell(key, "not there", is);
  }
  return text;
}

void require_factors_of(const TrainState& state, const std::vector<lora::Target>& targets,
                        const fs::path& checkpoint) {
  const auto& factors = state.adapter.factors;
  const auto fail = [&](const std::string& what) {
    throw InputError(
        "the checkpoint {} does not fit the run: {}; remove that folder to resume from the one "
        "before, or start anew with --force",
        checkpoint.string(), what);
  };
  if (factors.size() != targets.size()) {
    fail(fmt::format("its adapter has {} layers, and the run trains {}", factors.size(),
                     targets.size()));
  }
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const lora::Target& there = factors[i].target;
    const lora::Target& here = targets[i];
    if (there.module.path != here.module.path) {
      fail(fmt::format("its adapter has '{}' where the run has '{}'", there.module.path,
                       here.module.path));
    }
    if (there.rank != here.rank || there.module.in != here.module.in ||
        there.module.out != here.module.out || there.experts != here.experts) {
      const auto shape = [](const lora::Target& target) {
        return fmt::format("rank {} and {}{} -> {}", target.rank,
                           target.kind == lora::TargetKind::kExperts
                               ? fmt::format("{} experts of ", target.experts)
                               : "",
                           target.module.in, target.module.out);
      };
      fail(fmt::format("'{}' has {} in it, and {} in the run", here.module.path, shape(there),
                       shape(here)));
    }
  }
}

}  // namespace weft::train
