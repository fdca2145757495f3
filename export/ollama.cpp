#include "export/ollama.h"

#include "core/error.h"
#include "core/output_claim.h"
#include "core/rejected.h"
#include "export/gguf_lora.h"
#include "export/gguf_model.h"
#include "export/ollama_template.h"
#include "text/tokenizer.h"

namespace weft::exporting {
namespace {

/// A text of several lines as a Modelfile quotes it. Ollama knows no escapes inside.
std::string in_quotes(std::string_view text) {
  if (text.find("\"\"\"") != text.npos) {
    throw InputError(
        "the system message of the chat template holds \"\"\", which a Modelfile "
        "cannot quote");
  }
  return fmt::format("\"\"\"{}\"\"\"", text);
}

std::optional<OllamaTemplate> template_of(const std::filesystem::path& model) {
  const auto checkpoint = checkpoint::Checkpoint::open(model);
  const auto chat_template = text::ChatTemplate::load(checkpoint);
  if (!chat_template) return std::nullopt;
  const text::Tokenizer tokenizer = text::Tokenizer::load(checkpoint);
  return find_ollama_template(*chat_template,
                              tokenizer.special_tokens().value("bos_token", std::string()));
}

std::string modelfile(const OllamaRequest& request, const std::optional<OllamaTemplate>& format) {
  std::string text = request.from.empty()
                         ? std::string("FROM ./model.gguf\n")
                         : fmt::format("FROM {}\nADAPTER ./adapter.gguf\n", request.from);
  if (!format) return text;
  text += fmt::format("TEMPLATE {}\n", in_quotes(format->go));
  if (!format->system.empty()) text += fmt::format("SYSTEM {}\n", in_quotes(format->system));
  for (const std::string_view stop : format->stops) {
    text += fmt::format("PARAMETER stop \"{}\"\n", stop);
  }
  return text;
}

}  // namespace

OllamaReport write_ollama(const OllamaRequest& request, const merge::FoldControl& control,
                          const core::Log& log) {
  if (request.from.find_first_of(" \t\r\n") != request.from.npos) {
    throw ConfigError("--from '{}' is no name of an Ollama model", request.from);
  }
  core::claim_output({.path = request.out,
                      .kind = core::OutputKind::kFolder,
                      .may_be_rejected = request.verify != nullptr},
                     all_paths(request.inputs), request.overwrite);
  const std::optional<OllamaTemplate> format = template_of(request.inputs.model);
  if (!format) {
    core::tell(log, core::Level::kWarning,
               fmt::format("the model's chat template is none of {}; the Modelfile has no TEMPLATE",
                           known_ollama_templates()));
  }
  core::AtomicDirectory folder(request.out, request.overwrite);
  OllamaReport report{request.from.empty() ? "model.gguf" : "adapter.gguf",
                      std::string(format ? format->name : "")};
  const std::filesystem::path weights = folder.path() / report.weights;
  if (request.from.empty()) {
    static_cast<void>(write_gguf({.inputs = request.inputs,
                                  .out = weights,
                                  .type = request.type,
                                  .importance = request.importance,
                                  .name = request.name,
                                  .pre = request.pre},
                                 control, log));
  } else {
    core::tell(log, core::Level::kWarning,
               "Ollama is reported to take no ADAPTER line from version 0.34.1 on "
               "(generative-computing/mellea#1651); without --from the adapter is merged into the "
               "model, which every version takes");
    static_cast<void>(write_gguf_lora({.inputs = request.inputs, .out = weights}, log));
  }
  core::write_text(folder.path() / "Modelfile", modelfile(request, format));
  if (request.verify) report.verification = request.verify(weights);
  if (report.verification && !report.verification->accepted()) {
    folder.commit_to(core::rejected_path(request.out));
    merge::refuse(*report.verification, request.out);
  }
  folder.commit();
  core::tell_about_rejected(request.out, log);
  return report;
}

}  // namespace weft::exporting
