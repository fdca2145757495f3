// The trainer's measurements: the validation loss, and the suites of `evaluate:`.

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "train/trainer.h"

namespace weft::train {

std::optional<model::LossSum> Trainer::validation_loss() {
  std::vector<model::LossSum> losses;  // of the rows, whoever computes them
  std::vector<int> rank_of;
  bool interrupted = false;
  together(parts_.ranks, [&] {
    data::RowStream rows = *parts_.validation;
    core::Dealer dealer(parts_.ranks);
    while (const std::optional<data::Row> row = rows.next()) {
      rank_of.push_back(dealer.deal(std::ssize(row->tokens)));
      model::LossSum& loss = losses.emplace_back();
      if (rank_of.back() != parts_.ranks.rank() || interrupted) continue;
      interrupted = parts_.interrupted.load();
      if (!interrupted) loss = parts_.decoder.loss(*row);
    }
  });
  if (any(parts_.ranks, interrupted)) return std::nullopt;
  gather_dealt(parts_.ranks, std::span(losses), rank_of);
  model::LossSum sum;
  for (const model::LossSum& one : losses) {  // in the order of the rows
    sum.loss += one.loss;
    sum.tokens += one.tokens;
  }
  return sum;
}

void Trainer::evaluate() {
  const Due before = evaluation_;
  evaluation_.done(update_);
  if (!parts_.validation) return;
  const Clock::time_point begin = Clock::now();
  const std::optional<model::LossSum> sum = validation_loss();
  if (!sum) {  // the resumed run begins with this evaluation
    evaluation_ = {before.last, true};
    return;
  }
  EvaluationReport report;
  report.update = update_;
  report.loss = sum->loss / static_cast<double>(sum->tokens);
  report.tokens = static_cast<std::uint64_t>(sum->tokens);
  report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (!std::isfinite(report.loss)) {
    throw NumericError("update {}: the validation loss is {}; {} keeps the best adapter so far",
                       update_, report.loss, parts_.folder.adapter().string());
  }
  changed_ = true;
  // The start is told for comparison; the best is chosen among what was trained.
  report.best = !chosen_ && update_ > 0 && stopping_.observe(update_, report.loss);
  if (!outcome_.first_validation_loss) outcome_.first_validation_loss = report.loss;
  on_first(parts_.ranks, [&] {
    metrics_->append({{"update", update_},
                      {"epoch", epoch_},
                      {"validation_loss", report.loss},
                      {"validation_tokens", report.tokens},
                      {"best", report.best},
                      {"seconds", seconds()}});
    events_->scalar("validation/loss", update_, static_cast<float>(report.loss));
    events_->flush();
    if (report.best) write_adapter();
    parts_.folder.note(progress_line(report));
    parts_.observer.on_evaluation(report);
  });
  // The pause does not count as slow training.
  recent_.clear();
  recent_.emplace_back(seconds(), tokens_);
}

std::optional<std::vector<SuiteFigure>> Trainer::suite_figures() {
  std::optional<std::vector<SuiteFigure>> figures;
  together(parts_.ranks, [&] { figures = parts_.suites->measure(update_, parts_.decoder); });
  if (!any(parts_.ranks, figures.has_value())) return std::nullopt;
  if (parts_.ranks.size() == 1) return figures;
  // All have the same; that they decide alike shall not hang on it.
  nlohmann::json list = nlohmann::json::array();
  for (const SuiteFigure& one : figures.value_or(std::vector<SuiteFigure>())) {
    // As bits: a figure need not be finite.
    list.push_back({one.suite, one.name, std::bit_cast<std::uint64_t>(one.value), one.is_main});
  }
  list = nlohmann::json::parse(broadcast(parts_.ranks, list.dump(), 0));
  figures.emplace();
  for (const nlohmann::json& one : list) {
    figures->push_back({.suite = one[0],
                        .name = one[1],
                        .value = std::bit_cast<double>(one[2].get<std::uint64_t>()),
                        .is_main = one[3]});
  }
  return figures;
}

void Trainer::measure_suites() {
  const Due before = suites_;
  suites_.done(update_);
  const Clock::time_point begin = Clock::now();
  std::optional<std::vector<SuiteFigure>> figures = suite_figures();
  if (!figures) {  // interrupted: the resumed run begins with this evaluation
    suites_ = {before.last, true};
    return;
  }
  changed_ = true;
  SuitesReport report;
  report.update = update_;
  report.figures = std::move(*figures);
  report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  report.best = observe_figure(report.figures);
  on_first(parts_.ranks, [&] {
    nlohmann::ordered_json suites;
    for (const SuiteFigure& figure : report.figures) {
      suites[figure.suite][figure.name] = figure.value;
      events_->scalar(fmt::format("{}/{}", figure.suite, figure.name), update_,
                      static_cast<float>(figure.value));
    }
    metrics_->append({{"update", update_},
                      {"epoch", epoch_},
                      {"suites", suites},
                      {"best", report.best},
                      {"seconds", seconds()}});
    events_->flush();
    if (report.best) write_adapter();
    parts_.folder.note(progress_line(report));
    parts_.observer.on_suites(report);
  });
  // The pause does not count as slow training.
  recent_.clear();
  recent_.emplace_back(seconds(), tokens_);
}

}  // namespace weft::train
