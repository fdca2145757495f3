#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>

#include "cli/adapter_argument.h"
#include "cli/command.h"
#include "cli/interrupt.h"
#include "cli/model_output.h"
#include "cli/output.h"
#include "core/error.h"
#include "core/output_claim.h"
#include "core/parallel.h"
#include "export/gguf_lora.h"
#include "export/gguf_model.h"
#include "export/ollama.h"
#include "export/peft.h"
#include "export/readers.h"

namespace weft::cli {
namespace {

struct ExportArguments : ModelOutputOptions {
  std::string to;
  std::string type;
  std::string name;
  std::string pre;
  std::string from;
  std::string imatrix;
  std::string profile;  ///< Empty: portable.
  std::vector<std::string> check;
};

exporting::InputPaths inputs_of(const ExportArguments& options) {
  exporting::InputPaths inputs;
  inputs.model = options.model;
  for (const std::string& adapter : options.adapters) {
    const AdapterArgument parsed = parse_adapter(adapter);
    inputs.adapters.push_back({parsed.directory, parsed.weight});
  }
  inputs.allow_other_base = options.allow_other_base;
  inputs.also_reads = {options.imatrix, options.verify.text};
  return inputs;
}

void require(const std::string& value, const char* option, const std::string& to) {
  if (value.empty()) throw ConfigError("--to {} needs {}", to, option);
}

/// Types that keep a model's numbers are held to the limit of merging; what a block format costs is
/// measured, and refused beyond the limit that the user gives.
merge::Verify verify_type(const ExportArguments& options, const exporting::FileType& type) {
  const bool plain = type.name == "f32" || type.name == "f16" || type.name == "bf16";
  return start_verification(options,
                            plain ? std::optional<double>(merge::kVerificationLimit) : std::nullopt,
                            stderr_log("export"));
}

int run_gguf(const ExportArguments& options) {
  require(options.model, "--model", options.to);
  exporting::GgufRequest request;
  request.inputs = inputs_of(options);
  request.out = options.out;
  request.type = &exporting::find_file_type(options.type.empty() ? "q8_0" : options.type);
  request.importance = options.imatrix;
  request.name = options.name;
  if (!options.pre.empty()) request.pre = options.pre;
  request.overwrite = options.overwrite();
  core::claim_output({request.out, core::OutputKind::kFile}, all_paths(request.inputs),
                     request.overwrite);  // Before the base is measured.
  request.verify = verify_type(options, *request.type);
  const exporting::GgufReport report =
      exporting::write_gguf(request, {progress_line(), &catch_interrupts()}, stderr_log("export"));
  if (options.json) {
    print("{}\n", exporting::report_json(report).dump(2, ' ', false,
                                                      nlohmann::json::error_handler_t::replace));
  } else {
    print("{}output    {}\n", exporting::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

int print_adapter(const ExportArguments& options, const exporting::AdapterReport& report) {
  if (options.json) {
    print("{}\n", exporting::report_json(report).dump(2, ' ', false,
                                                      nlohmann::json::error_handler_t::replace));
  } else {
    print("{}output    {}\n", exporting::report_table(report), options.out);
  }
  return static_cast<int>(ExitCode::kDone);
}

void require_adapter(const ExportArguments& options) {
  if (options.adapters.empty()) throw ConfigError("--to {} needs --adapter", options.to);
}

int run_gguf_lora(const ExportArguments& options) {
  require(options.model, "--model", options.to);
  require_adapter(options);
  if (options.type != "f32" && options.type != "f16" && !options.type.empty()) {
    throw ConfigError("--to gguf-lora writes --type f32 or f16, not '{}'", options.type);
  }
  exporting::GgufLoraRequest request;
  request.inputs = inputs_of(options);
  request.out = options.out;
  request.half = options.type == "f16";
  request.overwrite = options.overwrite();
  return print_adapter(options, exporting::write_gguf_lora(request, stderr_log("export")));
}

int run_peft(const ExportArguments& options) {
  require_adapter(options);
  if (!options.profile.empty() && options.profile != "portable" && options.profile != "faithful") {
    throw ConfigError("--profile '{}' is unknown; it is portable or faithful", options.profile);
  }
  exporting::PeftRequest request;
  request.adapters = inputs_of(options).adapters;
  request.out = options.out;
  request.profile = options.profile == "faithful" ? exporting::PeftProfile::kFaithful
                                                  : exporting::PeftProfile::kPortable;
  request.overwrite = options.overwrite();
  return print_adapter(options, exporting::write_portable_peft(request, stderr_log("export")));
}

int run_ollama(const ExportArguments& options) {
  require(options.model, "--model", options.to);
  if (!options.from.empty()) require_adapter(options);
  exporting::OllamaRequest request;
  request.inputs = inputs_of(options);
  request.out = options.out;
  request.type = &exporting::find_file_type(options.type.empty() ? "q8_0" : options.type);
  request.from = options.from;
  request.importance = options.imatrix;
  request.name = options.name;
  if (!options.pre.empty()) request.pre = options.pre;
  request.overwrite = options.overwrite();
  core::claim_output({request.out, core::OutputKind::kFolder}, all_paths(request.inputs),
                     request.overwrite);
  request.verify = verify_type(options, *request.type);
  const exporting::OllamaReport report = exporting::write_ollama(
      request, {progress_line(), &catch_interrupts()}, stderr_log("export"));
  if (options.json) {
    nlohmann::json json = {{"weights", report.weights}, {"chat_template", report.chat_template}};
    if (report.verification) json["verification"] = merge::verification_json(*report.verification);
    print("{}\n", json.dump(2));
  } else {
    if (report.verification) print("{}", merge::verification_line(*report.verification));
    print("output    {} ({}, Modelfile)\n", options.out, report.weights);
  }
  return static_cast<int>(ExitCode::kDone);
}

/// Exit status 3 when a reader that was asked about does not read the adapter.
int run_check(const ExportArguments& options) {
  if (options.adapters.size() != 1) throw ConfigError("--check needs one --adapter");
  const exporting::AdapterTraits adapter =
      exporting::traits_of(parse_adapter(options.adapters.front()).directory);
  std::vector<exporting::ReaderReport> reports;
  bool all = true;
  for (const std::string& reader : options.check) {
    reports.push_back(exporting::check_reader(adapter, reader));
    all = all && reports.back().verdict == exporting::Verdict::kReads;
  }
  if (options.json) {
    print("{}\n", exporting::report_json(reports).dump(2));
  } else {
    print("{}", exporting::report_table(reports));
  }
  return static_cast<int>(all ? ExitCode::kDone : ExitCode::kRefused);
}

/// Options that are of other outputs are refused, not passed over.
void refuse_idle_options(const ExportArguments& options, bool writes_model) {
  struct Idle {
    bool given;
    const char* option;
    bool used;
    const char* of;
  };
  const bool of_peft = options.to == "peft";
  const bool of_lora = options.to == "gguf-lora";
  const std::array<Idle, 7> idle{{
      {!options.type.empty(), "--type", writes_model || of_lora,
       "gguf, gguf-lora and ollama models"},
      {!options.name.empty(), "--name", writes_model, "models (--to gguf, --to ollama)"},
      {!options.pre.empty(), "--pre", writes_model, "models (--to gguf, --to ollama)"},
      {!options.from.empty(), "--from", options.to == "ollama", "--to ollama"},
      {!options.imatrix.empty(), "--imatrix", writes_model, "models that are quantised"},
      {!options.profile.empty(), "--profile", of_peft, "--to peft"},
      {!options.model.empty(), "--model", !of_peft, "outputs that are made of a base"},
  }};
  for (const Idle& option : idle) {
    if (!option.given || option.used) continue;
    throw ConfigError("{} has no effect with --to {}{}: it is of {}; leave it out", option.option,
                      options.to, options.from.empty() ? "" : " --from", option.of);
  }
  if (options.allow_other_base && !writes_model) {
    throw ConfigError(
        "--allow-other-base has no effect with --to {}{}: the weights of the base are not "
        "compared; "
        "leave it out",
        options.to, options.from.empty() ? "" : " --from");
  }
}

int run_export(const ExportArguments& options) {
  if (!options.check.empty()) return run_check(options);
  if (options.to.empty()) throw ConfigError("what shall be done? give --to or --check");
  constexpr std::array<std::string_view, 4> kOutputs{"gguf", "gguf-lora", "peft", "ollama"};
  if (std::ranges::find(kOutputs, options.to) == kOutputs.end()) {
    throw ConfigError("--to '{}' is unknown; it is {}", options.to, fmt::join(kOutputs, ", "));
  }
  const bool writes_model =
      options.to == "gguf" || (options.to == "ollama" && options.from.empty());
  if (options.verify.wanted() && !writes_model) {
    throw ConfigError("--verify compares models; --to {}{} writes an adapter", options.to,
                      options.from.empty() ? "" : " --from");
  }
  refuse_idle_options(options, writes_model);
  core::set_thread_count(options.threads);
  require(options.out, "--out", options.to);
  if (options.to == "gguf") return run_gguf(options);
  if (options.to == "gguf-lora") return run_gguf_lora(options);
  if (options.to == "peft") return run_peft(options);
  return run_ollama(options);
}

}  // namespace

Run add_export(CommandLine& app);
Run add_export(CommandLine& app) {
  const auto options = std::make_shared<ExportArguments>();
  app.description("Write a model or an adapter for the programs that run it.");
  declare_model_input(app, *options);
  app.option("--to", options->to, "gguf, gguf-lora, peft or ollama");
  app.option(
      "--type", options->type,
      "of --to gguf: q8_0 (default), f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q4_k_s, q4_k_m, "
      "q5_k_s, q5_k_m, q6_k; of --to gguf-lora: f32 (default), f16");
  app.option("--imatrix", options->imatrix,
             "importance matrix (of weft imatrix or llama-imatrix) that the block formats "
             "spend their bits by");
  app.option("--from", options->from,
             "of --to ollama: a model that Ollama has; the adapter is then not merged");
  app.option("--profile", options->profile,
             "of --to peft: portable (default; one rank, scales folded in) or faithful");
  app.option("--check", options->check,
             "tell who reads the adapter as it is: vllm,llama.cpp,ollama,lorax,transformers")
      .split_at(',');
  app.option("--name", options->name,
             "general.name of the GGUF file; default: the name of the base");
  app.option("--pre", options->pre,
             "tokenizer.ggml.pre, where the tokenizer is none that llama.cpp knows");
  declare_model_output(app, *options, "what to write");
  return [options] { return run_export(*options); };
}

}  // namespace weft::cli
