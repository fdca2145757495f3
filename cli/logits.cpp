#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"
#include "cli/command.h"
#include "cli/computing_model.h"
#include "core/error.h"
#include "core/file.h"

namespace weft::cli {

Run add_logits(CommandLine& app);

namespace {

struct LogitsArguments {
  ModelArguments model{.dtype = "f32"};
  std::string ids;
  std::string out;
  bool force = false;
};

using Ids = std::vector<std::int32_t>;

Ids parse_line(const std::string& file, std::size_t line, std::string_view text,
               std::int64_t vocabulary) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto is_id = [](const nlohmann::json& id) {
    return id.is_number_integer() && id >= 0 && id <= std::int64_t{0x7fffffff};
  };
  if (!json.is_array() || json.empty() || !std::ranges::all_of(json, is_id)) {
    throw InputError("{}:{}: expected a JSON array of token ids, such as [1, 345, 2]", file, line);
  }
  Ids ids = json.get<Ids>();
  const auto outside = std::ranges::find_if(ids, [&](std::int32_t id) { return id >= vocabulary; });
  if (outside != ids.end()) {
    throw InputError("{}:{}: token id {} at position {} is outside the model's vocabulary of {}",
                     file, line, *outside, outside - ids.begin(), vocabulary);
  }
  return ids;
}

std::vector<Ids> read_ids(const std::string& file, std::int64_t vocabulary) {
  const std::string text = core::read_text(file);
  std::vector<Ids> rows;
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    rows.push_back(parse_line(file, rows.size() + 1, rest.substr(0, end), vocabulary));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (rows.empty()) throw InputError("{}: no line with token ids", file);
  return rows;
}

int run_logits(const LogitsArguments& arguments) {
  core::require_writable(arguments.out, core::OutputKind::kFile,
                         arguments.force ? core::Overwrite::kReplace : core::Overwrite::kRefuse);
  const core::Log log = stderr_log("logits");
  OpenedModel opened = open_model(arguments.model, log);
  const std::vector<Ids> rows = read_ids(arguments.ids, opened.spec.vocabulary);
  const std::size_t longest = std::ranges::max(rows, {}, &Ids::size).size();
  ComputingModel model =
      load_model(std::move(opened), arguments.model, static_cast<std::int64_t>(longest), log);
  std::vector<checkpoint::TensorPlan> plan;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    plan.push_back({std::to_string(i),
                    "F32",
                    {static_cast<std::int64_t>(rows[i].size()), model.decoder.spec().vocabulary}});
  }
  checkpoint::SafetensorsWriter writer(arguments.out, std::move(plan));
  for (const checkpoint::TensorPlan& tensor : writer.order()) {
    const at::Tensor logits = model.decoder.logits(rows.at(std::stoull(tensor.name))).contiguous();
    writer.write({logits.const_data_ptr<float>(), static_cast<std::size_t>(logits.numel())});
  }
  writer.finish();
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace

Run add_logits(CommandLine& app) {
  auto arguments = std::make_shared<LogitsArguments>();
  app.description(
      "Writes the logits of every position for given token ids, to compare with other programs.\n"
      "The output holds tensors \"0\", \"1\", ... (one a line of the input), F32, [tokens, "
      "vocabulary].");
  declare_model(app, arguments->model);
  app.option("--ids", arguments->ids, "file with one JSON array of token ids a line").required();
  app.option("--out", arguments->out, "safetensors file to write").required();
  app.flag("--force", arguments->force, "replace --out if it exists");
  return [arguments] { return run_logits(*arguments); };
}

}  // namespace weft::cli
