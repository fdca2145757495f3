#include "train/trainer.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/file.h"
#include "data/random.h"
#include "train/gradient_sum.h"
#include "train/memory.h"

namespace weft::train {
namespace {

constexpr std::uint64_t kDropoutStream = 0x64726f70;  // apart from the streams that order the data
/// Ranks compare their factors after so many updates, and before each checkpoint.
constexpr std::int64_t kCompareEvery = 32;
constexpr std::size_t kRateWindow = 20;  // updates over which tokens per second are averaged

/// The seed of one row's dropout: a function of where the row is in the run, so that it needs no
/// state that a checkpoint would have to keep.
std::uint64_t dropout_seed(std::int64_t seed, std::int64_t update, std::size_t row) {
  return data::mix_seed(data::mix_seed(static_cast<std::uint64_t>(seed), kDropoutStream),
                        static_cast<std::uint64_t>(update) << 20 | row);
}

/// `values` into a list from `begin` on, wherever it is.
void put(const std::vector<float>& values, const at::Tensor& list, std::int64_t begin) {
  const at::Tensor on_host = at::tensor(at::ArrayRef<float>(values), at::kFloat);
  list.narrow(0, begin, on_host.numel()).copy_(on_host);
}

/// `count` numbers of a list on the host from `begin` on.
std::vector<float> taken(const at::Tensor& list, std::int64_t begin, std::int64_t count) {
  const float* const first = list.const_data_ptr<float>() + begin;
  return {first, first + count};
}

/// How often `every` fits into `amount`: an interval is due whenever this grows.
std::int64_t times(double amount, double every) {
  return every > 0 ? static_cast<std::int64_t>(std::floor(amount / every + 1e-9)) : 0;
}

/// A figure as what EarlyStopping takes, less being better; and back.
double as_loss(const ChosenFigure& figure, double value) {
  return figure.more_is_better ? -value : value;
}

AdamWOptions adamw_options(const TrainConfig& config) {
  return {.beta1 = config.adam_beta1,
          .beta2 = config.adam_beta2,
          .epsilon = config.adam_epsilon,
          .weight_decay = config.weight_decay};
}

}  // namespace

Trainer::Trainer(TrainerParts parts, const std::optional<TrainState>& resumed)
    : parts_(std::move(parts)),
      optimizer_(adamw_options(parts_.config)),
      schedule_(parts_.config.lr_scheduler, parts_.config.learning_rate,
                parts_.config.warmup.of(parts_.updates.total()), parts_.updates.total()),
      guard_(parts_.config.divergence),
      stopping_(parts_.config.early_stopping ? parts_.config.early_stopping->patience : 0,
                parts_.config.early_stopping ? parts_.config.early_stopping->min_delta : 0) {
  evaluation_.pending = parts_.config.eval.at_start;
  suites_.pending = parts_.suites != nullptr && parts_.config.evaluate->at_start;
  if (parts_.suites != nullptr) chosen_ = parts_.suites->chosen();
  if (!resumed) return;
  try {
    restore(*resumed);
  } catch (const nlohmann::json::exception& problem) {
    throw InputError(
        "the state of the checkpoint {} is damaged: {}; remove that folder, and "
        "--resume goes on from the one before",
        Checkpoints(parts_.folder.checkpoints()).path_of(resumed->update).string(), problem.what());
  }
}

void Trainer::begin() {
  on_first(parts_.ranks, [&] {
    metrics_.emplace(parts_.folder.metrics(), metrics_begin_, parts_.log);
    events_.emplace(parts_.folder.path(), update_ + 1);
  });
}

void Trainer::restore(const TrainState& state) {
  std::vector<lora::Target> targets;
  for (const lora::Factors& one : parts_.decoder.factors()) targets.push_back(one.target);
  require_factors_of(state, targets,
                     Checkpoints(parts_.folder.checkpoints()).path_of(state.update));
  update_ = state.update;
  tokens_ = tokens_before_ = state.tokens;
  supervised_tokens_ = state.supervised_tokens;
  seconds_before_ = seconds_started_ = state.seconds;
  guard_.restore(state.guard);
  stopping_.restore(state.early_stopping);
  parts_.updates.restore(state.data);
  epoch_ = epoch_before_ = parts_.updates.epoch();
  // The file is in order of path, the decoder in order of the model.
  std::unordered_map<std::string, std::size_t> index;
  for (std::size_t i = 0; i < state.adapter.factors.size(); ++i) {
    index[state.adapter.factors[i].target.module.path] = i;
  }
  const at::Tensor& values = parts_.decoder.trainables().values;
  const bool has_moments = state.optimizer_updates > 0;
  const at::Tensor first = has_moments ? at::zeros_like(values) : at::Tensor();
  const at::Tensor second = has_moments ? at::zeros_like(values) : at::Tensor();
  for (const model::AdapterParameter& one : parts_.decoder.parameters()) {
    const std::size_t i = index.at(one.target.module.path);
    put(state.adapter.factors[i].a, values, one.begin_a);
    put(state.adapter.factors[i].b, values, one.begin_b);
    if (!has_moments) continue;
    put(state.moments[2 * i].first, first, one.begin_a);
    put(state.moments[2 * i].second, second, one.begin_a);
    put(state.moments[2 * i + 1].first, first, one.begin_b);
    put(state.moments[2 * i + 1].second, second, one.begin_b);
  }
  parts_.decoder.refresh();
  optimizer_.restore(state.optimizer_updates, first, second);
  saved_ = state.update;
  changed_ = false;
  metrics_begin_ = state.metrics_bytes;
  evaluation_ = state.evaluation;
  suites_ = state.suites;
  suites_.pending = parts_.suites != nullptr && state.suites.pending;
  outcome_.first_validation_loss = state.first_validation_loss;
  outcome_.first_figure = state.first_figure;
}

double Trainer::seconds() const {
  return seconds_before_ + std::chrono::duration<double>(Clock::now() - turn_).count();
}

bool Trainer::is_due(const schema::Duration& every) const {
  switch (every.unit) {
    case schema::Duration::Unit::kUpdates:
      return times(static_cast<double>(update_), every.amount) >
             times(static_cast<double>(update_ - 1), every.amount);
    case schema::Duration::Unit::kEpochs:
      return times(epoch_, every.amount) > times(epoch_before_, every.amount);
    case schema::Duration::Unit::kTokens:
      return times(static_cast<double>(tokens_), every.amount) >
             times(static_cast<double>(tokens_before_), every.amount);
  }
  return false;
}

bool Trainer::advance() {
  turn_ = Clock::now();
  const bool goes_on = advance_working();
  seconds_before_ = seconds();
  return goes_on;
}

bool Trainer::advance_working() {
  // The first one, before any update, proves that saving works before hours are spent.
  if (saved_ < 0) save();
  if (evaluation_.pending) evaluate();
  if (suites_.pending) measure_suites();
  if (is_interrupted()) return end(Ending::kInterrupted);
  if (is_due(parts_.config.save.every) && saved_ != update_) save();
  if (stopping_.is_exhausted()) return end(Ending::kEarlyStopping);
  const std::optional<Update> update = parts_.updates.next();
  if (!update) return end(Ending::kAllUpdates);
  on_first(parts_.ranks, [&] { parts_.folder.settle(); });
  apply(*update);
  if (update_ % kCompareEvery == 0) compare_factors();
  evaluation_.pending = parts_.config.eval.every && is_due(*parts_.config.eval.every);
  suites_.pending = parts_.suites != nullptr && parts_.config.evaluate->every &&
                    is_due(*parts_.config.evaluate->every);
  return true;
}

bool Trainer::end(Ending ending) {
  outcome_.ending = ending;
  finish();
  return false;
}

void Trainer::finish() {
  const auto wanted = [&](const Due& due) {
    return outcome_.ending != Ending::kInterrupted && due.last != update_;
  };
  if (wanted(evaluation_)) {
    evaluate();
    if (evaluation_.pending) outcome_.ending = Ending::kInterrupted;
  }
  if (parts_.suites != nullptr && wanted(suites_)) {
    measure_suites();
    if (suites_.pending) outcome_.ending = Ending::kInterrupted;
  }
  if (!any(parts_.ranks, parts_.folder.replaces())) {  // else the old run comes back
    if (!chooses()) on_first(parts_.ranks, [&] { write_adapter(); });
    if (changed_) save();
  }
  outcome_.updates = update_;
  outcome_.tokens = tokens_;
  outcome_.seconds = seconds();
  outcome_.chosen = chosen_;
  if (stopping_.has_best() && chosen_) {
    outcome_.best_figure = as_loss(*chosen_, stopping_.best_loss());
  } else if (stopping_.has_best()) {
    outcome_.best_validation_loss = stopping_.best_loss();
  }
  outcome_.adapter_update = chooses() ? stopping_.best_update() : update_;
}

model::LossSum Trainer::compute(const Update& update) {
  std::vector<std::int64_t> costs;
  for (const data::Row& row : update.rows) costs.push_back(std::ssize(row.tokens));
  const std::vector<std::int64_t> cut = balanced_cut(costs, parts_.ranks.size());
  const auto rank = static_cast<std::size_t>(parts_.ranks.rank());
  std::vector<model::LossSum> losses(update.rows.size());
  GradientSum gradients(parts_.decoder.trainables().gradients, cut[rank]);
  together(parts_.ranks, [&] {
    for (auto i = static_cast<std::size_t>(cut[rank]); i < static_cast<std::size_t>(cut[rank + 1]);
         ++i) {
      gradients.begin_row();
      parts_.decoder.zero_gradients();
      const model::TrainPass pass{
          .gradient_scale = 1.0 / static_cast<double>(update.supervised_tokens),
          .dropout = parts_.config.adapter.lora_dropout,
          .dropout_seed = dropout_seed(parts_.config.seed, update_, i),
          .recomputed_layers = parts_.recomputed_layers};
      losses[i] = parts_.decoder.train(update.rows[i], pass);
      gradients.end_row();
    }
  });
  // An exchange may fail in some ranks alone (model/exchange.h): nobody shall wait for those.
  together(parts_.ranks, [&] { gradients.finish(parts_.exchange, cut); });
  gather_items(parts_.ranks, std::span(losses), cut);
  model::LossSum sum;
  for (const model::LossSum& one : losses) {
    sum.loss += one.loss;
    sum.tokens += one.tokens;
  }
  return sum;
}

void Trainer::compare_factors() {
  if (parts_.ranks.size() == 1) return;
  std::uint64_t digest = 0;
  const at::Tensor values = parts_.decoder.trainables().values.cpu();
  for (const float value :
       std::span(values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())))
    digest = (std::rotl(digest, 5) ^ std::bit_cast<std::uint32_t>(value)) * 0x9e3779b97f4a7c15U;
  require_same(parts_.ranks, digest, "the adapter's numbers");
}

void Trainer::apply(const Update& update) {
  const model::Trainables& all = parts_.decoder.trainables();
  const model::LossSum sum = compute(update);
  const double loss = sum.loss / static_cast<double>(sum.tokens);
  const double norm = gradient_norm(all.gradients);
  guard_.observe(update_ + 1, loss, norm);
  clip_gradients(all.gradients, norm, parts_.config.max_grad_norm);
  const double rate = schedule_.rate(update_);
  optimizer_.step(all.values, all.gradients, rate);
  parts_.decoder.refresh();
  ++update_;
  changed_ = true;
  tokens_before_ = tokens_;
  tokens_ += update.tokens;
  supervised_tokens_ += update.supervised_tokens;
  epoch_before_ = epoch_;
  epoch_ = parts_.updates.epoch();
  on_first(parts_.ranks, [&] { report(update, loss, norm, rate); });
  outcome_.last_loss = loss;
}

void Trainer::report(const Update& update, double loss, double norm, double rate) {
  const double now = seconds();
  if (recent_.empty()) recent_.emplace_back(seconds_started_, tokens_ - update.tokens);
  recent_.emplace_back(now, tokens_);
  if (recent_.size() > kRateWindow + 1) recent_.pop_front();
  const auto& [then, tokens_then] = recent_.front();
  const double span = now - then;
  const auto updates_in_span = static_cast<double>(recent_.size() - 1);
  UpdateReport r;
  r.update = update_;
  r.total_updates = parts_.updates.total();
  r.epoch = epoch_;
  r.loss = loss;
  r.learning_rate = rate;
  r.gradient_norm = norm;
  r.tokens = update.tokens;
  r.supervised_tokens = update.supervised_tokens;
  r.total_tokens = tokens_;
  r.seconds = now;
  r.tokens_per_second = span > 0 ? static_cast<double>(tokens_ - tokens_then) / span : 0;
  r.remaining_seconds = span / updates_in_span * static_cast<double>(r.total_updates - update_);
  r.resident_bytes = resident_memory();
  metrics_->append({{"update", r.update},
                    {"epoch", r.epoch},
                    {"loss", r.loss},
                    {"learning_rate", r.learning_rate},
                    {"gradient_norm", r.gradient_norm},
                    {"tokens", r.tokens},
                    {"computed_tokens", update.computed_tokens},
                    {"supervised_tokens", r.supervised_tokens},
                    {"total_tokens", r.total_tokens},
                    {"seconds", r.seconds},
                    {"tokens_per_second", r.tokens_per_second},
                    {"resident_bytes", r.resident_bytes}});
  events_->scalar("train/loss", update_, static_cast<float>(loss));
  events_->scalar("train/learning_rate", update_, static_cast<float>(rate));
  events_->scalar("train/gradient_norm", update_, static_cast<float>(norm));
  events_->scalar("train/epoch", update_, static_cast<float>(r.epoch));
  events_->scalar("speed/tokens_per_second", update_, static_cast<float>(r.tokens_per_second));
  events_->flush();
  if (update_ % parts_.config.log_every == 0) parts_.folder.note(progress_line(r));
  parts_.observer.on_update(r);
}

bool Trainer::observe_figure(const std::vector<SuiteFigure>& figures) {
  if (!chosen_) return false;
  const auto found = std::ranges::find_if(figures, [&](const SuiteFigure& figure) {
    return figure.suite == chosen_->suite && figure.name == chosen_->name;
  });
  if (found == figures.end() || !std::isfinite(found->value)) {
    throw NumericError("update {}: {} is {}; {} keeps the best adapter so far", update_,
                       chosen_->text(),
                       found == figures.end() ? "not there" : fmt::format("{}", found->value),
                       parts_.folder.adapter().string());
  }
  if (!outcome_.first_figure) outcome_.first_figure = found->value;
  // The start is told for comparison; the best is chosen among what was trained.
  return update_ > 0 && stopping_.observe(update_, as_loss(*chosen_, found->value));
}

lora::Adapter Trainer::current_adapter() const {
  lora::Adapter adapter = parts_.adapter;
  adapter.factors = parts_.decoder.factors();
  const auto is_finite = [](float value) { return std::isfinite(value); };
  for (const lora::Factors& one : adapter.factors) {
    if (std::ranges::all_of(one.a, is_finite) && std::ranges::all_of(one.b, is_finite)) continue;
    throw NumericError(
        "update {}: the factors of '{}' are no longer finite, so they are not saved; checkpoints "
        "and adapter are as they were; lower learning_rate, raise adam_epsilon or set "
        "max_grad_norm",
        update_, one.target.module.path);
  }
  return adapter;
}

void Trainer::write_adapter() {
  lora::Adapter adapter = current_adapter();
  if (adapter.provenance) {
    adapter.provenance->more["update"] = update_;
    if (chosen_) {
      adapter.provenance->more["chosen"] = "best " + chosen_->text();
      adapter.provenance->more[chosen_->text()] = as_loss(*chosen_, stopping_.best_loss());
    } else {
      adapter.provenance->more["chosen"] = chooses() ? "lowest validation loss" : "last";
      if (stopping_.has_best()) adapter.provenance->more["validation_loss"] = stopping_.best_loss();
    }
  }
  core::AtomicDirectory staged(parts_.folder.adapter(), core::Overwrite::kReplace);
  lora::write_peft(adapter, staged.path());
  staged.commit();
}

void Trainer::save() {
  compare_factors();
  on_first(parts_.ranks, [&] { write_checkpoint(); });
  saved_ = update_;
  changed_ = false;
}

void Trainer::write_checkpoint() {
  TrainState state;
  state.update = update_;
  state.tokens = tokens_;
  state.supervised_tokens = supervised_tokens_;
  state.seconds = seconds();
  state.row_tokens = parts_.row_tokens;
  state.evaluation = evaluation_;
  state.suites = suites_;
  state.first_validation_loss = outcome_.first_validation_loss;
  state.first_figure = outcome_.first_figure;
  state.data = parts_.updates.state();
  state.guard = guard_.state();
  state.early_stopping = stopping_.state();
  metrics_->flush();
  state.metrics_bytes = metrics_->position();
  state.fingerprint = parts_.fingerprint;
  state.adapter = current_adapter();
  state.optimizer_updates = optimizer_.updates();
  // The decoder has its own order, the adapter that of paths.
  std::unordered_map<std::string, const model::AdapterParameter*> by_path;
  for (const model::AdapterParameter& one : parts_.decoder.parameters())
    by_path.emplace(one.target.module.path, &one);
  if (optimizer_.updates() > 0) {
    const at::Tensor first = optimizer_.first_moments().cpu();
    const at::Tensor second = optimizer_.second_moments().cpu();
    const auto add = [&](std::int64_t begin, std::int64_t count) {
      state.moments.push_back({taken(first, begin, count), taken(second, begin, count)});
    };
    for (const lora::Factors& factors : state.adapter.factors) {
      const model::AdapterParameter& one = *by_path.at(factors.target.module.path);
      add(one.begin_a, one.a.numel());
      add(one.begin_b, one.b.numel());
    }
  }
  const Checkpoints checkpoints(parts_.folder.checkpoints());
  checkpoints.save(state, parts_.config.save.keep);
  parts_.observer.on_checkpoint(checkpoints.path_of(update_));
}

}  // namespace weft::train
