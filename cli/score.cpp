#include <fmt/format.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/command.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/file.h"
#include "core/terminal.h"
#include "eval/metrics/answer_metric.h"
#include "eval/statistics/bootstrap.h"
#include "eval/statistics/figures.h"
#include "eval/statistics/statistic.h"

namespace weft::cli {

Run add_score(CommandLine& app);

namespace {

using Json = nlohmann::ordered_json;

struct ScoreArguments {
  std::string answers;
  std::vector<std::string> references;
  std::vector<std::string> metrics = eval::default_answer_metrics();
  bool json = false;
};

/// A text a line; of a .jsonl file each line is a JSON string, so that a text may have line ends.
std::vector<std::string> read_texts(const std::string& file) {
  const std::string text = core::read_text(file);
  const bool is_json = std::filesystem::path(file).extension() == ".jsonl";
  std::vector<std::string> texts;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string line(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (is_json) {
      const Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (!value.is_string())
        throw InputError("{}:{}: expected a JSON string", file, texts.size() + 1);
      line = value.get<std::string>();
    }
    texts.push_back(std::move(line));
  }
  return texts;
}

/// The references of each answer.
std::vector<std::vector<std::string>> read_references(const ScoreArguments& arguments,
                                                      std::size_t answers) {
  std::vector<std::vector<std::string>> all(answers);
  for (const std::string& file : arguments.references) {
    std::vector<std::string> texts = read_texts(file);
    if (texts.size() != answers) {
      throw InputError("{} has {} lines and {} has {}: expected a reference for each answer", file,
                       texts.size(), arguments.answers, answers);
    }
    for (std::size_t i = 0; i < answers; ++i) all[i].push_back(std::move(texts[i]));
  }
  return all;
}

int run(const ScoreArguments& arguments) {
  for (const std::string& spec : arguments.metrics) {
    if (const eval::AnswerMetric metric = eval::answer_metric(spec); metric.prepare)
      metric.prepare();
  }
  const std::vector<std::string> answers = read_texts(arguments.answers);
  if (answers.empty()) throw InputError("{}: there is no answer in it", arguments.answers);
  const auto references = read_references(arguments, answers.size());
  Json scores = Json::array();
  core::Table table({"score", "value", "95 % interval", "signature"});
  for (const std::string& spec : arguments.metrics) {
    const eval::AnswerMetric metric = eval::answer_metric(spec, arguments.references.size());
    eval::Statistic statistic{.width = metric.width, .rows = {}, .of = metric.of};
    for (std::size_t i = 0; i < answers.size(); ++i) {
      const std::vector<double> sums = metric.statistics(answers[i], references[i]);
      statistic.rows.insert(statistic.rows.end(), sums.begin(), sums.end());
    }
    const double value = eval::value(statistic);
    std::optional<eval::Interval> range;
    if (answers.size() > 1)
      range = eval::interval(eval::resample(statistic.units(), eval::figure_of(statistic)), 0.95,
                             statistic.units());
    const eval::FigureKind& kind = *eval::figure_kind(metric.name);
    table.add({std::string(kind.title), fmt::format("{:.{}f}", value, kind.digits),
               range ? fmt::format("{:.{}f} .. {:.{}f}", range->low, kind.digits, range->high,
                                   kind.digits)
                     : "-",
               metric.signature});
    scores.push_back({{"metric", spec},
                      {"name", metric.name},
                      {"value", value},
                      {"interval", range ? Json{range->low, range->high} : Json(nullptr)},
                      {"signature", metric.signature}});
  }
  if (arguments.json) {
    print("{}\n", Json{{"answers", answers.size()}, {"scores", scores}}.dump(2));
  } else {
    print("{}", table.text());
  }
  return 0;
}

}  // namespace

Run add_score(CommandLine& app) {
  auto arguments = std::make_shared<ScoreArguments>();
  ScoreArguments& a = *arguments;
  app.description(
      "Scores answers against references, line by line, as weft eval scores what it generates: "
      "chrF, chrF++, BLEU and TER are sacrebleu's, to the signature. See docs/eval.md.");
  app.option("ANSWERS", a.answers, "a text a line; .jsonl: a JSON string a line").required();
  app.option("--reference", a.references, "the same for the references; several files: any fits")
      .required();
  app.option("--metric", a.metrics,
             "chrf, chrf++, chrf++_unicode, bleu, ter, exact_match, f1; variants after a colon: "
             "bleu:intl, ter:no_punct (default: chrf chrf++)");
  app.flag("--json", a.json, "JSON with all digits");
  return [arguments] { return run(*arguments); };
}

}  // namespace weft::cli
