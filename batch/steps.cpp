#include "batch/steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/suggest.h"

namespace weft::batch {
namespace {

using schema::ConfigNode;
using Kind = ConfigNode::Kind;

const std::vector<std::string>& step_names() {
  static const std::vector<std::string> kNames{"train", "merge", "export", "eval"};
  return kNames;
}

/// The options of a step, or its defaults where it has none.
template <typename Options>
std::optional<Options> read_options(const ConfigNode& node, Problems& problems) {
  ConfigNode section = node.kind == Kind::kNull ? ConfigNode::map() : node;
  section.place = node.place;
  if (section.kind != Kind::kMap) {
    problems.add(node.place,
                 fmt::format("expected options (keys with values), found {}", node.what()));
    return std::nullopt;
  }
  try {
    const auto object =
        schema::read_layers(*schema::section_info<Options>(), {{section, node.place.source}});
    return *static_cast<const Options*>(object.get());
  } catch (const ConfigError& error) {
    problems.add_lines(error.what());
    return std::nullopt;
  }
}

class Reader {
 public:
  explicit Reader(Problems& problems) : problems_(problems) {}

  StepPlan read(const ConfigNode& steps) {
    if (steps.kind == Kind::kNull) return {};
    if (steps.kind != Kind::kList || steps.items.empty()) {
      problems_.add(steps.place, "steps: expected a list, as [train, merge, eval: eval.yaml]");
      return {};
    }
    bool is_first = true;
    for (const ConfigNode& item : steps.items) {
      add(item, is_first);
      is_first = false;
    }
    return std::move(plan_);
  }

 private:
  void add(const ConfigNode& item, bool is_first) {
    ConfigNode options;
    options.place = item.place;
    std::string name = item.text;
    if (item.kind == Kind::kMap && item.entries.size() == 1) {
      name = item.entries.front().key;
      options = item.entries.front().value;
    }
    if ((name == "train") != is_first) {
      problems_.add(item.place, is_first ? "steps: train is the first step of a job"
                                         : "steps: a job trains once, at first");
      return;
    }
    if (plan_.evaluation_place.line > 0) {
      problems_.add(item.place, "steps: eval is the last step of a job");
    } else if (name == "merge") {
      if (plan_.merge || !plan_.exports.empty()) {
        problems_.add(item.place, "steps: merge comes once, before export");
      }
      plan_.merge = read_options<MergeStep>(options, problems_);
    } else if (name == "export") {
      if (auto read = read_options<ExportStep>(options, problems_)) add_export(item, *read);
    } else if (name == "eval") {
      add_evaluation(options);
    } else if (name != "train") {
      const std::string meant = core::nearest(name, step_names());
      problems_.add(
          item.place,
          fmt::format("steps: '{}' is no step; they are train, merge, export, eval{}", name,
                      meant.empty() ? "" : fmt::format("; did you mean '{}'?", meant)));
    }
  }

  void add_export(const ConfigNode& item, const ExportStep& step) {
    if (std::ranges::find(plan_.exports, step.text(), &ExportStep::text) != plan_.exports.end()) {
      problems_.add(item.place,
                    fmt::format("steps: export {} is there twice, and would write one file twice; "
                                "leave one out",
                                step.text()));
      return;
    }
    plan_.exports.push_back(step);
  }

  void add_evaluation(const ConfigNode& node) {
    plan_.evaluation_place = node.place;
    if (node.kind == Kind::kMap) {
      plan_.evaluation.push_back({node, node.place.source});
      return;
    }
    if (node.kind != Kind::kScalar) {
      problems_.add(node.place,
                    "steps: eval needs a configuration of weft eval: eval: FILE, or its keys");
      return;
    }
    try {
      const auto file = schema::resolve_path(node.text, node.place.source->directory);
      const auto [text, source] = schema::read_config_file(file);
      plan_.evaluation.push_back(schema::parse_tree(text, source));
    } catch (const Error& error) {
      problems_.add(node.place, fmt::format("steps: eval: {}", error.what()));
    }
  }

  Problems& problems_;
  StepPlan plan_;
};

}  // namespace

void describe(schema::Schema<MergeStep>& s) {
  s.field("dtype", &MergeStep::dtype, "keep, auto, f32, f16 or bf16, as weft merge --dtype");
  s.field("rounding", &MergeStep::rounding, "as weft merge --rounding");
}

void describe(schema::Schema<ExportStep>& s) {
  s.field("to", &ExportStep::to, "gguf, gguf-lora, peft or ollama, as weft export --to").required();
  s.field("type", &ExportStep::type, "as weft export --type: q8_0, q4_k_m, ...");
  s.field("imatrix", &ExportStep::imatrix, "as weft export --imatrix");
  s.check([](const ExportStep& step, schema::CheckReport& report) {
    constexpr std::array kKinds{"gguf", "gguf-lora", "peft", "ollama"};
    if (std::ranges::find(kKinds, step.to) == kKinds.end()) {
      report.problem("to",
                     fmt::format("expected gguf, gguf-lora, peft or ollama, found '{}'", step.to));
    }
  });
}

StepPlan read_steps(const ConfigNode& steps, Problems& problems) {
  return Reader(problems).read(steps);
}

}  // namespace weft::batch
