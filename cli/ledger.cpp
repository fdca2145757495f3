#include "eval/ledger/ledger.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"
#include "core/terminal.h"
#include "eval/report/chart.h"
#include "eval/report/compare.h"
#include "eval/report/report.h"
#include "eval/report/tables.h"
#include "eval/statistics/analysis.h"

namespace weft::cli {
namespace {

using Json = nlohmann::ordered_json;

struct LedgerArguments {
  std::string ledger, id, other, tag, figure, out, format = "csv";
  std::vector<std::string> ids;
  bool json = false, force = false, remove = false;
};

eval::Ledger open(const LedgerArguments& a, eval::sqlite::Access access) {
  if (!a.ledger.empty()) return {a.ledger, access};
  const auto path = eval::default_ledger();
  if (!path)
    throw ConfigError("WEFT_LEDGER=none says that there is no ledger: name one (--ledger)");
  return {*path, access};
}

std::string dump(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// Prints, or writes to --out.
void give(const LedgerArguments& a, const std::string& text) {
  if (a.out.empty()) {
    print("{}", text);
    return;
  }
  core::require_writable(a.out, core::OutputKind::kFile,
                         a.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse);
  core::write_text(a.out, text);
}

Json to_json(const eval::LedgerEntry& entry) {
  const eval::Circumstances& c = entry.circumstances;
  return {{"id", entry.id},         {"recorded_at", c.recorded_at},
          {"name", c.name},         {"tags", entry.tags},
          {"run", c.run},           {"program", c.program},
          {"machine", c.machine},   {"threads", c.threads},
          {"kernels", c.kernels},   {"seconds", c.seconds},
          {"stages", entry.stages}, {"suites", entry.suites},
          {"gates", entry.gates},   {"gates_failed", entry.gates_failed}};
}

std::string gates_cell(const eval::LedgerEntry& entry) {
  if (entry.gates == 0) return "-";
  if (entry.gates_failed == 0) return fmt::format("{} passed", entry.gates);
  return fmt::format("{} of {} FAILED", entry.gates_failed, entry.gates);
}

int list(const LedgerArguments& a) {
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  const auto entries = ledger.entries();
  if (a.json) {
    Json all = Json::array();
    for (const eval::LedgerEntry& entry : entries) all.push_back(to_json(entry));
    print("{}", dump(all));
    return 0;
  }
  core::Table table({"id", "recorded (UTC)", "name", "tags", "stages", "suites", "gates", "time"});
  for (const eval::LedgerEntry& entry : entries) {
    const eval::Circumstances& c = entry.circumstances;
    table.add({std::to_string(entry.id), c.recorded_at, c.name,
               fmt::format("{}", fmt::join(entry.tags, " ")),
               fmt::format("{}", fmt::join(entry.stages, " ")),
               fmt::format("{}", fmt::join(entry.suites, " ")), gates_cell(entry),
               core::human_duration(c.seconds)});
  }
  print("{}", table.text());
  return 0;
}

eval::LedgerEntry entry_of(eval::Ledger& ledger, std::int64_t id) {
  const auto entries = ledger.entries();
  return *std::ranges::find(entries, id, &eval::LedgerEntry::id);
}

Json stage_contents(const eval::StageResult& stage) {
  Json adapters = Json::array();
  for (std::size_t i = 0; i < stage.adapters.size(); ++i)
    adapters.push_back(
        {{"path", stage.adapters[i].string()}, {"sha256", stage.adapter_digests.at(i)}});
  return {{"stage", stage.name},
          {"model", stage.model.string()},
          {"sha256", stage.model_digest},
          {"quantise", stage.quantise},
          {"adapters", adapters}};
}

int show(const LedgerArguments& a) {
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  const std::int64_t id = ledger.find(a.id);
  const eval::LedgerEntry entry = entry_of(ledger, id);
  const eval::Recorded recorded = ledger.read(id);
  const eval::Analysis analysis = eval::analyse(recorded.evaluation, recorded.bootstrap);
  const eval::Circumstances& c = recorded.circumstances;
  if (a.json) {
    Json json = to_json(entry);
    for (const eval::StageResult& stage : recorded.evaluation.stages)
      json["contents"].push_back(stage_contents(stage));
    json.update(
        eval::to_json(recorded.evaluation, analysis, eval::Detail::kFigures, recorded.bootstrap));
    json["gates"] = eval::to_json(recorded.gates);
    print("{}", dump(json));
    return 0;
  }
  print("{} {}, recorded {}{}\n", id, c.name, c.recorded_at,
        entry.tags.empty() ? std::string() : fmt::format(", tags {}", fmt::join(entry.tags, " ")));
  print("{}, {} threads{}, {}; took {}\n", c.program, c.threads,
        c.kernels.empty() ? "" : fmt::format(", kernels {}", c.kernels), c.machine,
        core::human_duration(c.seconds));
  if (!c.run.empty()) print("run {}\n", c.run);
  core::Table contents({"stage", "holds", "SHA-256"});
  for (const eval::StageResult& stage : recorded.evaluation.stages) {
    contents.add({stage.name, stage.model.string(), stage.model_digest.substr(0, 16)});
    for (std::size_t i = 0; i < stage.adapters.size(); ++i)
      contents.add(
          {"", "with " + stage.adapters[i].string(), stage.adapter_digests.at(i).substr(0, 16)});
  }
  print("{}\n{}", contents.text(),
        eval::to_table(recorded.evaluation, analysis, recorded.bootstrap));
  if (!recorded.gates.empty()) print("\n{}", eval::gates_table(recorded.gates));
  return 0;
}

int compare(const LedgerArguments& a) {
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  const eval::Recorded earlier = ledger.read(ledger.find(a.id));
  const eval::Changes changes = a.other.empty()
                                    ? eval::compare_ends(earlier)
                                    : eval::compare(earlier, ledger.read(ledger.find(a.other)));
  const std::string name = a.other.empty() ? earlier.evaluation.stages.front().name : a.id;
  print("{}", a.json ? dump(eval::to_json(changes)) : eval::to_text(changes, name));
  return static_cast<int>(eval::has_drifted(changes) ? ExitCode::kRefused : ExitCode::kDone);
}

/// The recorded values of one figure, the oldest first.
std::vector<eval::LedgerFigure> history(eval::Ledger& ledger, const std::string& text) {
  const eval::GateTerm wanted = eval::parse_figure(text);
  std::vector<eval::LedgerFigure> all = ledger.figures();
  std::erase_if(all, [&](const eval::LedgerFigure& figure) {
    const bool stage = figure.stage == wanted.stage || figure.stage == "base+" + wanted.stage;
    return figure.name != wanted.figure || !stage || !std::isfinite(figure.value) ||
           (!wanted.suite.empty() && figure.suite != wanted.suite);
  });
  std::vector<std::string> suites;
  for (const eval::LedgerFigure& figure : all) {
    if (std::ranges::find(suites, figure.suite) == suites.end()) suites.push_back(figure.suite);
  }
  if (suites.size() > 1)
    throw ConfigError("'{}' was recorded on several suites ({}): write {}.SUITE.{}", text,
                      fmt::join(suites, ", "), wanted.figure, wanted.stage);
  if (all.empty())
    throw ConfigError("'{}' was never recorded in ledger '{}' (weft ledger list)", text,
                      ledger.path().string());
  return all;
}

/// "--o--": a value within its interval on a strip from `low` to `high`.
std::string strip(const eval::LedgerFigure& figure, double low, double high) {
  constexpr int kWidth = 40;
  const auto place = [&](double value) {
    const double share = high > low ? (value - low) / (high - low) : 0.5;
    // Whatever the ledger holds stays on the strip.
    return static_cast<std::size_t>(std::lround(std::clamp(share, 0.0, 1.0) * (kWidth - 1)));
  };
  std::string line(kWidth, ' ');
  if (figure.interval) {
    for (std::size_t i = place(figure.interval->low); i <= place(figure.interval->high); ++i)
      line[i] = '-';
  }
  line[place(figure.value)] = 'o';
  return line;
}

/// The ends of all values and intervals.
std::pair<double, double> range_of(const std::vector<eval::LedgerFigure>& values) {
  double low = values.front().value, high = low;
  for (const eval::LedgerFigure& value : values) {
    const eval::Interval range = value.interval.value_or(eval::Interval{value.value, value.value});
    low = std::min({low, value.value, range.low});
    high = std::max({high, value.value, range.high});
  }
  return {low, high};
}

/// Above strips: their ends.
std::string scale(double low, double high, int digits) {
  return fmt::format("|{:<19.{}f}{:>19.{}f}|", low, digits, high, digits);
}

void draw(const LedgerArguments& a, const eval::ChartSeries& series, const eval::FigureKind& kind,
          const char* x_label) {
  const eval::ChartText text{.title = a.figure,
                             .x_label = x_label,
                             .note = fmt::format("{}{}", kind.title,
                                                 kind.better < 0   ? ", less is better"
                                                 : kind.better > 0 ? ", more is better"
                                                                   : "")};
  give(a, eval::svg_chart({&series, 1}, text));
}

std::string strips(const std::vector<eval::LedgerFigure>& values,
                   const std::vector<eval::LedgerEntry>& entries, int digits) {
  const auto [low, high] = range_of(values);
  core::Table table({"id", "recorded (UTC)", "tags", "value", scale(low, high, digits)});
  for (const eval::LedgerFigure& value : values) {
    const auto entry = std::ranges::find(entries, value.evaluation, &eval::LedgerEntry::id);
    table.add({std::to_string(value.evaluation), entry->circumstances.recorded_at,
               fmt::format("{}", fmt::join(entry->tags, " ")),
               fmt::format("{:.{}f}", value.value, digits),
               fmt::format("|{}|", strip(value, low, high))});
  }
  return table.text();
}

/// "bits_per_byte.nahuatl" or "bits_per_byte" of the stages of one evaluation, in their order.
std::vector<eval::LedgerFigure> along_stages(eval::Ledger& ledger, const LedgerArguments& a) {
  std::string name = a.figure, suite;
  if (eval::figure_kind(name) == nullptr) {
    const eval::GateTerm wanted = eval::parse_figure(a.figure);
    if (!wanted.suite.empty())
      throw ConfigError("'{}' names a stage, and --evaluation draws all of them: write {}.{}",
                        a.figure, wanted.figure, wanted.suite);
    name = wanted.figure;
    suite = wanted.stage;
  }
  std::vector<eval::LedgerFigure> all = ledger.figures(ledger.find(a.id));
  std::vector<std::string> suites;
  for (const eval::LedgerFigure& figure : all) {
    if (figure.name == name && std::ranges::find(suites, figure.suite) == suites.end())
      suites.push_back(figure.suite);
  }
  std::erase_if(all, [&](const eval::LedgerFigure& figure) {
    return figure.name != name || !std::isfinite(figure.value) ||
           (!suite.empty() && figure.suite != suite);
  });
  if (suite.empty() && suites.size() > 1)
    throw ConfigError("'{}' was measured on several suites ({}): write {}.SUITE", a.figure,
                      fmt::join(suites, ", "), name);
  if (all.empty())
    throw ConfigError("'{}' was not measured in evaluation {}, which has it of {}", a.figure, a.id,
                      suites.empty() ? "no suite" : fmt::format("{}", fmt::join(suites, ", ")));
  return all;
}

int plot_stages(const LedgerArguments& a) {
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  const auto values = along_stages(ledger, a);
  const eval::FigureKind& kind = *eval::figure_kind(values.front().name);
  if (a.out.empty()) {
    const auto [low, high] = range_of(values);
    core::Table table({"stage", "value", "difference", scale(low, high, kind.digits)});
    for (const eval::LedgerFigure& value : values) {
      table.add({value.stage, fmt::format("{:.{}f}", value.value, kind.digits),
                 value.difference ? fmt::format("{:+.{}f}", *value.difference, kind.digits) : "-",
                 fmt::format("|{}|", strip(value, low, high))});
    }
    print("{}", table.text());
    return 0;
  }
  eval::ChartSeries series{.name = a.figure, .points = {}, .dots = true};
  bool updates = true;
  for (const eval::LedgerFigure& value : values) {
    const auto update = eval::update_of(value.stage);
    updates = updates && update;
    const auto place = static_cast<double>(series.points.size() + 1);
    series.points.push_back(
        {update ? static_cast<double>(*update) : place, value.value, value.interval});
  }
  draw(a, series, kind, updates ? "updates" : "stage");
  return 0;
}

int plot(const LedgerArguments& a) {
  if (!a.id.empty()) return plot_stages(a);
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  const auto values = history(ledger, a.figure);
  const eval::FigureKind* kind = eval::figure_kind(values.front().name);
  if (a.out.empty()) {
    print("{}", strips(values, ledger.entries(), kind->digits));
    return 0;
  }
  eval::ChartSeries series{.name = a.figure, .points = {}, .dots = true};
  for (const eval::LedgerFigure& value : values)
    series.points.push_back({static_cast<double>(value.evaluation), value.value, value.interval});
  draw(a, series, *kind, "evaluation");
  return 0;
}

/// A field of a CSV file (RFC 4180).
std::string csv(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string csv(std::optional<double> number) {
  return number && std::isfinite(*number) ? fmt::format("{}", *number) : std::string();
}

std::string csv_table(const std::vector<eval::LedgerEntry>& entries,
                      const std::vector<eval::LedgerFigure>& figures) {
  std::string text =
      "id,recorded_at,name,tags,stage,suite,language,figure,value,low,high,difference,"
      "difference_low,difference_high,p\n";
  for (const eval::LedgerFigure& f : figures) {
    const auto entry = std::ranges::find(entries, f.evaluation, &eval::LedgerEntry::id);
    const auto low = [](const auto& i) { return i ? std::optional(i->low) : std::nullopt; };
    const auto high = [](const auto& i) { return i ? std::optional(i->high) : std::nullopt; };
    text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}\n", f.evaluation,
                        entry->circumstances.recorded_at, csv(entry->circumstances.name),
                        csv(fmt::format("{}", fmt::join(entry->tags, " "))), csv(f.stage),
                        csv(f.suite), csv(f.language), f.name, csv(f.value), csv(low(f.interval)),
                        csv(high(f.interval)), csv(f.difference), csv(low(f.difference_interval)),
                        csv(high(f.difference_interval)), csv(f.p));
  }
  return text;
}

Json json_table(const std::vector<eval::LedgerEntry>& entries,
                const std::vector<eval::LedgerFigure>& figures) {
  Json all = Json::array();
  for (const eval::LedgerEntry& entry : entries) {
    Json json = to_json(entry);
    json["figures"] = Json::array();
    for (const eval::LedgerFigure& f : figures) {
      if (f.evaluation != entry.id) continue;
      json["figures"].push_back(
          {{"stage", f.stage},
           {"suite", f.suite},
           {"language", f.language},
           {"figure", f.name},
           {"value", eval::json_number(f.value)},
           {"interval", eval::json_bounds(f.interval)},
           {"difference", f.difference ? eval::json_number(*f.difference) : Json(nullptr)},
           {"difference_interval", eval::json_bounds(f.difference_interval)},
           {"p", f.p ? Json(*f.p) : Json(nullptr)}});
    }
    all.push_back(std::move(json));
  }
  return all;
}

int export_figures(const LedgerArguments& a) {
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  std::vector<eval::LedgerEntry> entries = ledger.entries();
  std::vector<eval::LedgerFigure> figures;
  if (a.ids.empty()) {
    figures = ledger.figures();
  } else {
    std::vector<eval::LedgerEntry> chosen;
    for (const std::string& name : a.ids) {
      const std::int64_t id = ledger.find(name);
      chosen.push_back(*std::ranges::find(entries, id, &eval::LedgerEntry::id));
      std::ranges::move(ledger.figures(id), std::back_inserter(figures));
    }
    entries = std::move(chosen);
  }
  give(a, a.format == "json" ? dump(json_table(entries, figures)) : csv_table(entries, figures));
  return 0;
}

int tag(const LedgerArguments& a) {
  eval::Ledger ledger = open(a, eval::sqlite::Access::kRead);
  if (a.remove) {
    if (!a.tag.empty())
      throw ConfigError("--remove takes the tag alone: weft ledger tag {} --remove", a.tag);
    ledger.remove_tag(a.id);
    return 0;
  }
  if (a.tag.empty()) throw ConfigError("no name: weft ledger tag EVALUATION NAME");
  ledger.tag(ledger.find(a.id), a.tag, a.force);
  return 0;
}

constexpr const char* kWhich = "number, tag, or latest";

using Arguments = std::shared_ptr<LedgerArguments>;

/// Declares a subcommand; `chosen` becomes what runs it.
CommandLine subcommand(CommandLine& app, const char* name, const char* what,
                       int (*run)(const LedgerArguments&), const Arguments& a,
                       const std::shared_ptr<Run>& chosen) {
  CommandLine command = app.subcommand(name, what);
  command.option("--ledger", a->ledger, "the ledger (default: the nearest weft.db)");
  command.when_chosen([a, run, chosen] { *chosen = [a, run] { return run(*a); }; });
  return command;
}

}  // namespace

Run add_ledger(CommandLine& app);
Run add_ledger(CommandLine& app) {
  auto a = std::make_shared<LedgerArguments>();
  auto chosen = std::make_shared<Run>();
  app.description("Shows and compares the evaluations that weft eval has recorded.");
  app.require_subcommand();
  const auto json = [&](CommandLine command) {
    command.flag("--json", a->json, "print JSON");
    return command;
  };
  json(subcommand(app, "list", "every evaluation, the oldest first", list, a, chosen));

  CommandLine one = json(subcommand(app, "show", "all figures of one evaluation", show, a, chosen));
  one.option("EVALUATION", a->id, kWhich).required();

  CommandLine two =
      json(subcommand(app, "compare",
                      "what changed from one to another; exit status 3 when the same inputs "
                      "gave other figures",
                      compare, a, chosen));
  two.option("EARLIER", a->id, kWhich).required();
  two.option("LATER", a->other,
             "number, tag, or latest; without it EARLIER's last stage is compared with its "
             "first: what a training run has learned and forgotten");

  CommandLine drawn = subcommand(app, "plot", "one figure over all evaluations", plot, a, chosen);
  drawn.option("FIGURE", a->figure, "as in gates: bits_per_byte.SUITE.STAGE").required();
  drawn.option("--evaluation", a->id,
               "draw the stages of one evaluation, such as the updates of a training run; "
               "FIGURE is then bits_per_byte.SUITE");
  drawn.option("--out", a->out, "SVG file; without it, lines of text");
  drawn.flag("--force", a->force, "overwrite --out");

  CommandLine table =
      subcommand(app, "export", "all figures as a table, a line each", export_figures, a, chosen);
  table.option("EVALUATION", a->ids, "number, tag, or latest; all without");
  table.option("--format", a->format, "csv (default) or json").one_of({"csv", "json"});
  table.option("--out", a->out, "file instead of standard output");
  table.flag("--force", a->force, "overwrite --out");

  CommandLine named = subcommand(app, "tag", "give an evaluation a name", tag, a, chosen);
  named.option("EVALUATION", a->id, "number, tag, or latest; with --remove the tag").required();
  named.option("NAME", a->tag, "letters, digits, '.', '_', '-', '+'");
  named.flag("--force", a->force, "take the name from another evaluation");
  named.flag("--remove", a->remove, "remove the name");
  return [chosen] { return (*chosen)(); };
}

}  // namespace weft::cli
