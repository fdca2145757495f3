#include "data/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"

namespace weft::data {
namespace {

/// The first 32 of 64 hexadecimal digits.
std::array<std::uint64_t, 2> half_of(const std::string& digits) {
  std::array<std::uint64_t, 2> half{};
  std::from_chars(digits.data(), digits.data() + 16, half[0], 16);
  std::from_chars(digits.data() + 16, digits.data() + 32, half[1], 16);
  return half;
}

/// The example's text with what is learned between white brackets.
std::string marked_text(const ExampleView& example, const text::Tokenizer& tokenizer) {
  std::string out;
  std::size_t t = 0;
  while (t < example.tokens.size()) {
    const std::uint8_t learned = example.supervised[t];
    std::vector<std::int32_t> run;
    while (t < example.tokens.size() && example.supervised[t] == learned) {
      run.push_back(example.tokens[t++]);
    }
    const std::string text = tokenizer.decode(run);
    out += learned != 0 ? "⟦" + text + "⟧" : text;
  }
  return out;
}

double share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string percent(double value) { return fmt::format("{:.3g} %", value * 100); }

}  // namespace

void describe(schema::Schema<PreflightLimits>& s) {
  s.field("min_supervised_share", &PreflightLimits::min_supervised_share,
          "least share of the tokens that must be learned")
      .range(0, 1);
  s.field("max_dropped_share", &PreflightLimits::max_dropped_share,
          "largest share of examples left out for their length")
      .range(0, 1);
  s.field("max_bad_share", &PreflightLimits::max_bad_share, "largest share of rows left out as bad")
      .range(0, 1);
  s.field("min_end_share", &PreflightLimits::min_end_share,
          "least share of examples that learn where to stop")
      .range(0, 1);
  s.field("max_duplicate_share", &PreflightLimits::max_duplicate_share,
          "largest share of examples that repeat an earlier one")
      .range(0, 1);
  s.field("min_examples", &PreflightLimits::min_examples, "least number of examples").at_least(1);
}

double Preflight::supervised_share() const { return share(supervised, tokens); }
double Preflight::end_share() const {
  // Of a text that was split only the last piece has its end, of a truncated one none has.
  const std::int64_t with_end =
      prompts.examples - prompts.pieces + prompts.split - prompts.truncated_texts;
  return with_end == 0 && prompts.examples > 0 ? 1 : share(ends, with_end);
}

void judge(Preflight& p, const PreflightLimits& limits) {
  p.violations.clear();
  const auto say = [&](std::string text) { p.violations.push_back(std::move(text)); };
  if (p.prompts.examples < limits.min_examples) {
    say(fmt::format("{} examples, wanted at least {} (min_examples)", p.prompts.examples,
                    limits.min_examples));
  }
  if (p.supervised_share() < limits.min_supervised_share) {
    say(fmt::format("{} of the tokens are learned, wanted at least {} (min_supervised_share)",
                    percent(p.supervised_share()), percent(limits.min_supervised_share)));
  }
  const double dropped = share(p.prompts.dropped, p.prompts.samples);
  if (dropped > limits.max_dropped_share) {
    say(
        fmt::format("{} of the examples are longer than sequence_len and left out, at most {} are "
                    "allowed (max_dropped_share)",
                    percent(dropped), percent(limits.max_dropped_share)));
  }
  const double bad = share(p.bad_rows, p.rows + p.bad_rows);
  if (bad > limits.max_bad_share) {
    say(fmt::format("{} of the rows are bad and left out, at most {} are allowed (max_bad_share)",
                    percent(bad), percent(limits.max_bad_share)));
  }
  if (p.end_share() < limits.min_end_share) {
    say(fmt::format("{} of the examples learn where to stop, wanted at least {} (min_end_share)",
                    percent(p.end_share()), percent(limits.min_end_share)));
  }
  const double repeated = share(p.duplicates, p.prompts.examples);
  if (repeated > limits.max_duplicate_share) {
    say(fmt::format(
        "{} of the examples repeat an earlier one, at most {} may (max_duplicate_share)",
        percent(repeated), percent(limits.max_duplicate_share)));
  }
  if (p.doubled_bos > 0) {
    say(
        fmt::format("{} examples begin with two BOS tokens; the chat template and the data both "
                    "write one",
                    p.doubled_bos));
  }
}

Inspector::Inspector(const text::Tokenizer& tokenizer)
    : tokenizer_(tokenizer), stops_(tokenizer.stop_ids()) {
  if (tokenizer.eos()) stops_.push_back(*tokenizer.eos());
}

void Inspector::add(const ExampleView& example, const Origin& origin, std::int64_t place) {
  const std::span<const std::int32_t> tokens = example.tokens;
  Preflight& p = found_;
  p.tokens += std::ssize(tokens);
  p.supervised +=
      std::accumulate(example.supervised.begin(), example.supervised.end(), std::int64_t{0});
  p.longest = std::max<std::int64_t>(p.longest, std::ssize(tokens));
  for (std::size_t t = tokens.size(); t-- > 0;) {
    if (example.supervised[t] == 0) continue;
    if (std::ranges::find(stops_, tokens[t]) != stops_.end()) ++p.ends;
    break;
  }
  const auto bos = tokenizer_.bos();
  // A model whose BOS is also its EOS may write it twice for a reason.
  if (bos && bos != tokenizer_.eos() && tokens.size() > 1 && tokens[0] == *bos &&
      tokens[1] == *bos) {
    ++p.doubled_bos;
  }
  core::Sha256 hash;
  hash.update(std::as_bytes(tokens));
  digests_.push_back(half_of(hash.finish()));
  if (counted_++ == 0 || place < sample_place_) {
    sample_place_ = place;
    p.sample = marked_text(example, tokenizer_);
    p.sample_origin = origin.text();
  }
}

Preflight Inspector::finish(const PromptStatistics& prompts, const ReadStatistics& rows) {
  Preflight p = std::move(found_);
  p.prompts = prompts;
  p.rows = rows.rows;
  p.bad_rows = rows.bad_rows;
  p.unused = rows.unused;
  for (const Fault& fault : rows.faults) {
    p.faults.push_back(fmt::format("{}: {}", fault.origin.text(), fault.what));
  }
  std::ranges::sort(digests_);
  const auto repeats = std::ranges::unique(digests_);
  p.duplicates = std::ssize(repeats);
  if (counted_ > 0) p.mean_length = static_cast<double>(p.tokens) / static_cast<double>(counted_);
  return p;
}

void add(Preflight& sum, Preflight&& part) {
  add(sum.prompts, part.prompts);
  sum.rows += part.rows;
  sum.bad_rows += part.bad_rows;
  for (std::string& fault : part.faults) {
    if (sum.faults.size() < kFaultsKept) sum.faults.push_back(std::move(fault));
  }
  sum.tokens += part.tokens;
  sum.supervised += part.supervised;
  sum.longest = std::max(sum.longest, part.longest);
  sum.mean_length = share(sum.tokens, sum.prompts.examples);
  sum.ends += part.ends;
  sum.doubled_bos += part.doubled_bos;
  for (const auto& [name, rows] : part.unused) sum.unused[name] += rows;
  if (sum.template_date.empty()) sum.template_date = std::move(part.template_date);
  if (sum.sample.empty()) {
    sum.sample = std::move(part.sample);
    sum.sample_origin = std::move(part.sample_origin);
  }
}

std::int64_t count_repeats(const ExampleTable& examples) {
  std::vector<std::array<std::uint64_t, 2>> digests(examples.size());
  constexpr std::int64_t kGrain = 4096;
  core::parallel_for(std::ssize(digests), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      core::Sha256 hash;
      hash.update(std::as_bytes(examples[i].tokens));
      digests[i] = half_of(hash.finish());
    }
  });
  std::ranges::sort(digests);
  return std::ssize(std::ranges::unique(digests));
}

Preflight inspect_examples(const Examples& data, const text::Tokenizer& tokenizer,
                           const PreflightLimits& limits) {
  Inspector inspector(tokenizer);
  std::int64_t place = 0;
  for (const Example& example : data.examples) inspector.add(example, example.origin, place++);
  Preflight p = inspector.finish(data.prompts, data.rows);
  judge(p, limits);
  return p;
}

nlohmann::json to_json(const Preflight& p) {
  return {{"rows", p.rows},
          {"bad_rows", p.bad_rows},
          {"faults", p.faults},
          {"samples", p.prompts.samples},
          {"examples", p.prompts.examples},
          {"dropped", p.prompts.dropped},
          {"truncated", p.prompts.truncated},
          {"truncated_texts", p.prompts.truncated_texts},
          {"split", p.prompts.split},
          {"pieces", p.prompts.pieces},
          {"answerless", p.prompts.answerless},
          {"boundary_encoded_apart", p.prompts.unmerged},
          {"boundary_straddled", p.prompts.straddled},
          {"end_appended", p.prompts.appended_end},
          {"longest_before_limit", p.prompts.longest},
          {"tokens", p.tokens},
          {"supervised_tokens", p.supervised},
          {"supervised_share", p.supervised_share()},
          {"longest", p.longest},
          {"mean_length", p.mean_length},
          {"end_supervised", p.ends},
          {"end_supervised_share", p.end_share()},
          {"doubled_bos", p.doubled_bos},
          {"duplicates", p.duplicates},
          {"unused_columns", p.unused},
          {"not_in_template", p.prompts.unnamed},
          {"template_date", p.template_date},
          {"sample", p.sample},
          {"sample_origin", p.sample_origin},
          {"violations", p.violations}};
}

Preflight preflight_from_json(const nlohmann::json& json) {
  try {
    Preflight p;
    const auto take = [&](const char* key, auto& value) { json.at(key).get_to(value); };
    take("rows", p.rows);
    take("bad_rows", p.bad_rows);
    take("faults", p.faults);
    take("samples", p.prompts.samples);
    take("examples", p.prompts.examples);
    take("dropped", p.prompts.dropped);
    take("truncated", p.prompts.truncated);
    take("truncated_texts", p.prompts.truncated_texts);
    take("split", p.prompts.split);
    take("pieces", p.prompts.pieces);
    take("answerless", p.prompts.answerless);
    take("boundary_encoded_apart", p.prompts.unmerged);
    take("boundary_straddled", p.prompts.straddled);
    take("end_appended", p.prompts.appended_end);
    take("longest_before_limit", p.prompts.longest);
    take("tokens", p.tokens);
    take("supervised_tokens", p.supervised);
    take("longest", p.longest);
    take("mean_length", p.mean_length);
    take("end_supervised", p.ends);
    take("doubled_bos", p.doubled_bos);
    take("duplicates", p.duplicates);
    take("unused_columns", p.unused);
    take("not_in_template", p.prompts.unnamed);
    take("template_date", p.template_date);
    take("sample", p.sample);
    take("sample_origin", p.sample_origin);
    return p;
  } catch (const nlohmann::json::exception& error) {
    throw InputError("the findings cannot be read: {}", error.what());
  }
}

std::string to_text(const Preflight& p) {
  std::string out = fmt::format(
      "examples    {} ({} tokens, mean {:.1f}, longest {})\n"
      "learned     {} tokens ({}); {} of the examples learn where to stop\n",
      p.prompts.examples, p.tokens, p.mean_length, p.longest, p.supervised,
      percent(p.supervised_share()), percent(p.end_share()));
  out += fmt::format("left out    {} bad rows, {} too long, {} without answer\n", p.bad_rows,
                     p.prompts.dropped, p.prompts.answerless);
  if (p.prompts.truncated + p.prompts.split > 0) {
    out +=
        fmt::format("cut         {} truncated, {} split\n", p.prompts.truncated, p.prompts.split);
  }
  if (p.prompts.unmerged + p.prompts.straddled > 0) {
    out += fmt::format(
        "boundary    {} prompts encoded apart from their answer, {} with a token "
        "across\n",
        p.prompts.unmerged, p.prompts.straddled);
  }
  if (p.prompts.appended_end > 0) {
    out +=
        fmt::format("end         EOS added to {} examples whose template does not end the turn\n",
                    p.prompts.appended_end);
  }
  if (!p.unused.empty()) {
    out += fmt::format("not used    columns {} (rows that fill them)\n", count_list(p.unused));
  }
  if (!p.prompts.unnamed.empty()) {
    out += fmt::format("no effect   {} (rows; the chat template does not name them)\n",
                       count_list(p.prompts.unnamed));
  }
  if (!p.template_date.empty()) {
    out +=
        fmt::format("date        {}, which the chat template prints as today's\n", p.template_date);
  }
  if (p.duplicates > 0) out += fmt::format("repeated    {} examples\n", p.duplicates);
  for (const std::string& fault : p.faults) out += fmt::format("bad row     {}\n", fault);
  if (!p.sample.empty()) out += fmt::format("sample      {}\n{}\n", p.sample_origin, p.sample);
  for (const std::string& violation : p.violations)
    out += fmt::format("REFUSED     {}\n", violation);
  return out;
}

}  // namespace weft::data
