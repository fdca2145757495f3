#include "train/state_text.h"

#include "checkpoint/json_file.h"
#include "core/error.h"
#include "train/guard.h"

namespace weft::train {
namespace {

/// 2 added row_tokens and the first figures; 1 is read with defaults.
constexpr int kFormat = 2;

nlohmann::ordered_json optional_json(const std::optional<double>& value) {
  return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json();
}

nlohmann::ordered_json to_json(const TrainState& state) {
  return {{"format", kFormat},
          {"update", state.update},
          {"tokens", state.tokens},
          {"supervised_tokens", state.supervised_tokens},
          {"seconds", state.seconds},
          {"row_tokens", state.row_tokens},
          {"evaluated", state.evaluation.last},
          {"evaluation_due", state.evaluation.pending},
          {"suites_measured", state.suites.last},
          {"suites_due", state.suites.pending},
          {"first_validation_loss", optional_json(state.first_validation_loss)},
          {"first_figure", optional_json(state.first_figure)},
          {"optimizer_updates", state.optimizer_updates},
          {"metrics_bytes", state.metrics_bytes},
          {"guard", state.guard},
          {"early_stopping", state.early_stopping},
          {"data", state.data},
          {"fingerprint", state.fingerprint}};
}

std::optional<double> optional_number(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) return std::nullopt;
  return found->get<double>();
}

std::int64_t count_from(const nlohmann::json& json, const char* key, std::int64_t least) {
  const auto& value = json.at(key);
  if (!value.is_number_integer() || value.get<std::int64_t>() < least) {
    throw InputError("{} is {}, expected a whole number, at least {}", key, value.dump(), least);
  }
  return value.get<std::int64_t>();
}

/// Throws nlohmann's exceptions and InputError for what no run writes.
TrainState from_json(const nlohmann::json& json) {
  const std::int64_t format = count_from(json, "format", 1);
  if (format > kFormat) {
    throw InputError("it is of format {}, of a newer weft than this one, which reads up to {}",
                     format, kFormat);
  }
  TrainState state;
  state.update = count_from(json, "update", 0);
  state.tokens = static_cast<std::uint64_t>(count_from(json, "tokens", 0));
  state.supervised_tokens = static_cast<std::uint64_t>(count_from(json, "supervised_tokens", 0));
  json.at("seconds").get_to(state.seconds);
  if (!(state.seconds >= 0)) throw InputError("seconds is {}, expected 0 or more", state.seconds);
  if (json.contains("row_tokens")) state.row_tokens = count_from(json, "row_tokens", 0);
  state.evaluation = {count_from(json, "evaluated", -1), json.at("evaluation_due").get<bool>()};
  // Checkpoints of runs from before `evaluate:` have neither.
  if (json.contains("suites_measured")) state.suites.last = count_from(json, "suites_measured", -1);
  state.suites.pending = json.value("suites_due", false);
  state.first_validation_loss = optional_number(json, "first_validation_loss");
  state.first_figure = optional_number(json, "first_figure");
  state.optimizer_updates = count_from(json, "optimizer_updates", 0);
  state.metrics_bytes = static_cast<std::uint64_t>(count_from(json, "metrics_bytes", 0));
  state.guard = json.at("guard");
  state.early_stopping = json.at("early_stopping");
  state.data = json.at("data");
  json.at("fingerprint").get_to(state.fingerprint);
  // Who restores from these has no file to name: read them once here.
  DivergenceGuard(DivergenceOptions{}).restore(state.guard);
  EarlyStopping(0, 0).restore(state.early_stopping);
  if (!state.data.is_object()) throw InputError("data is no position in the data");
  return state;
}

}  // namespace

std::string state_text(const TrainState& state) {
  return to_json(state).dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

TrainState parse_state(std::string_view text) {
  try {
    return from_json(checkpoint::parse_json(text, "its text"));
  } catch (const nlohmann::json::exception& problem) {
    throw InputError("{}", problem.what());
  }
}

}  // namespace weft::train
