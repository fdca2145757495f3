#include "cli/eval_ledger.h"

#include <fmt/format.h>

#include <chrono>

#include "core/error.h"
#include "model/runtime.h"

namespace weft::cli {
namespace {

double clock_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// "v1" of "ledger:v1"
std::string reference_name(const std::string& against) {
  constexpr std::string_view kPrefix = "ledger:";
  return against.starts_with(kPrefix) ? against.substr(kPrefix.size()) : against;
}

std::unique_ptr<eval::Ledger> open_ledger(const eval::EvalConfig& config, const core::Log& log) {
  if (!config.record && !config.against) return nullptr;
  const auto access = config.record ? eval::sqlite::Access::kWrite : eval::sqlite::Access::kRead;
  if (config.ledger) return std::make_unique<eval::Ledger>(*config.ledger, access);
  const auto path = eval::default_ledger();
  if (!path) {
    if (config.against || config.tag) {
      throw ConfigError(
          "against and tag need a ledger, and WEFT_LEDGER=none says that there is "
          "none; name one (--ledger PATH)");
    }
    return nullptr;
  }
  try {
    return std::make_unique<eval::Ledger>(*path, access);
  } catch (const IoError& error) {
    if (config.against || config.tag) throw;
    core::tell(log, core::Level::kWarning,
               fmt::format("not recorded: {}; name another ledger (--ledger PATH) or none "
                           "(--no-ledger)",
                           error.what()));
    return nullptr;
  }
}

/// Another evaluation may have taken the tag since it was found free.
bool give_tag(std::int64_t id, const std::string& tag, eval::Ledger& ledger, const core::Log& log) {
  try {
    ledger.tag(id, tag, /*replace=*/false);
    return true;
  } catch (const ConfigError& error) {
    core::tell(log, core::Level::kWarning,
               fmt::format("evaluation {} is recorded without the tag: {}", id, error.what()));
    return false;
  }
}

}  // namespace

EvalRecord::EvalRecord(const eval::EvalConfig& config, std::string name, const core::Log& log)
    : config_(config), ledger_(open_ledger(config, log)) {
  circumstances_.name = std::move(name);
  if (config.tag) {
    if (!config.record) throw ConfigError("a tag (--tag) names what is recorded: record is false");
    ledger_->require_free_tag(*config.tag);
  }
  if (config.against) earlier_ = ledger_->read(ledger_->find(reference_name(*config.against)));
}

void EvalRecord::begin(const model::ComputeDevice& device) {
  std::string name = std::move(circumstances_.name);
  circumstances_ = eval::circumstances_now(model::kernel_names(device), device.gpu);
  circumstances_.name = std::move(name);
  begun_ = clock_seconds();
}

eval::Parts EvalRecord::parts(bool fresh, const core::Log& log) {
  if (!ledger_ || !config_.record) return {};
  const auto find = [this, fresh](const std::string& key) -> std::optional<eval::SuiteResult> {
    if (fresh) return std::nullopt;
    auto part = ledger_->find_part(key);
    if (part) part_keys_.push_back(key);
    return part;
  };
  const auto keep = [this, log](const std::string& key, const eval::SuiteResult& result) {
    if (cannot_keep_) return;
    try {
      ledger_->keep_part(key, result);
      part_keys_.push_back(key);
    } catch (const IoError& error) {
      // The evaluation itself can go on.
      cannot_keep_ = true;
      core::tell(log, core::Level::kWarning,
                 fmt::format("finished suites are not kept: {}", error.what()));
    }
  };
  return {find, keep};
}

eval::Recorded EvalRecord::recorded(eval::Evaluation evaluation,
                                    std::vector<eval::GateResult> gates) const {
  eval::Recorded recorded{.circumstances = circumstances_,
                          .evaluation = std::move(evaluation),
                          .bootstrap = eval::bootstrap_options(config_),
                          .gates = std::move(gates)};
  recorded.circumstances.seconds = clock_seconds() - begun_;
  recorded.circumstances.run = eval::run_of(recorded.evaluation.stages);
  return recorded;
}

bool EvalRecord::write(const eval::Recorded& recorded, const eval::Analysis& analysis,
                       const core::Log& log) const {
  if (!ledger_ || !config_.record) return true;
  try {
    const std::int64_t id = ledger_->record(recorded, analysis, {}, part_keys_);
    core::tell(log, core::Level::kInfo,
               fmt::format("recorded as {} in {}", id, ledger_->path().string()));
    return !config_.tag || give_tag(id, *config_.tag, *ledger_, log);
  } catch (const Error& error) {
    core::tell(log, core::Level::kWarning, fmt::format("not recorded: {}", error.what()));
    return false;
  }
}

}  // namespace weft::cli
