#include "export/ollama_template.h"

#include <fmt/format.h>

#include <array>
#include <functional>

#include "core/error.h"

namespace weft::exporting {
namespace {

constexpr std::string_view kSystem = "Sysabc";
constexpr std::string_view kUser = "Usrdef";
constexpr std::string_view kAnswer = "Ansghi";
constexpr std::string_view kNext = "Nxtjkl";

/// What a format makes of a conversation: system (may be empty), user, assistant, user, and the
/// beginning of the next answer; without BOS.
using Expected = std::string (*)(std::string_view system);

std::string chatml(std::string_view system) {
  std::string text;
  if (!system.empty()) text += fmt::format("<|im_start|>system\n{}<|im_end|>\n", system);
  return text + fmt::format(
                    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
                    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
                    kUser, kAnswer, kNext);
}

std::string llama3(std::string_view system) {
  const auto turn = [](std::string_view role, std::string_view content) {
    return fmt::format("<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>", role, content);
  };
  std::string text = system.empty() ? "" : turn("system", system);
  return text + turn("user", kUser) + turn("assistant", kAnswer) + turn("user", kNext) +
         "<|start_header_id|>assistant<|end_header_id|>\n\n";
}

std::string gemma(std::string_view system) {
  return fmt::format(
      "<start_of_turn>user\n{}{}{}<end_of_turn>\n<start_of_turn>model\n{}<end_of_turn>\n"
      "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
      system, system.empty() ? "" : "\n\n", kUser, kAnswer, kNext);
}

std::string mistral(std::string_view system) {
  return fmt::format("[INST] {}{}{} [/INST] {}</s>[INST] {} [/INST]", system,
                     system.empty() ? "" : "\n\n", kUser, kAnswer, kNext);
}

std::string zephyr(std::string_view system) {
  std::string text;
  if (!system.empty()) text += fmt::format("<|system|>\n{}</s>\n", system);
  return text +
         fmt::format("<|user|>\n{}</s>\n<|assistant|>\n{}</s>\n<|user|>\n{}</s>\n<|assistant|>\n",
                     kUser, kAnswer, kNext);
}

std::string phi3(std::string_view system) {
  std::string text;
  if (!system.empty()) text += fmt::format("<|system|>\n{}<|end|>\n", system);
  return text + fmt::format(
                    "<|user|>\n{}<|end|>\n<|assistant|>\n{}<|end|>\n<|user|>\n{}<|end|>\n"
                    "<|assistant|>\n",
                    kUser, kAnswer, kNext);
}

std::string phi4(std::string_view system) {
  const auto turn = [](std::string_view role, std::string_view content) {
    return fmt::format("<|im_start|>{}<|im_sep|>{}<|im_end|>", role, content);
  };
  return (system.empty() ? "" : turn("system", system)) + turn("user", kUser) +
         turn("assistant", kAnswer) + turn("user", kNext) + "<|im_start|>assistant<|im_sep|>";
}

std::string command_r(std::string_view system) {
  const auto turn = [](std::string_view role, std::string_view content) {
    return fmt::format("<|START_OF_TURN_TOKEN|><|{}_TOKEN|>{}<|END_OF_TURN_TOKEN|>", role, content);
  };
  return (system.empty() ? "" : turn("SYSTEM", system)) + turn("USER", kUser) +
         turn("CHATBOT", kAnswer) + turn("USER", kNext) +
         "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>";
}

std::string glm4(std::string_view system) {
  std::string text = "[gMASK]<sop>";
  if (!system.empty()) text += fmt::format("<|system|>\n{}", system);
  return text + fmt::format("<|user|>\n{}<|assistant|>\n{}<|user|>\n{}<|assistant|>", kUser,
                            kAnswer, kNext);
}

/// OLMo 2's, made by Tulu.
std::string tulu(std::string_view system) {
  std::string text;
  if (!system.empty()) text += fmt::format("<|system|>\n{}\n", system);
  return text +
         fmt::format("<|user|>\n{}\n<|assistant|>\n{}<|endoftext|>\n<|user|>\n{}\n<|assistant|>\n",
                     kUser, kAnswer, kNext);
}

struct KnownFormat {
  std::string_view name;
  Expected expected;
  std::string_view go;
  std::vector<std::string_view> stops;
};

const std::vector<KnownFormat>& known() {
  // Ollama puts SYSTEM before .Messages as a message of its own.
  static const std::vector<KnownFormat> kKnown{
      {"chatml",
       chatml,
       "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}"
       "<|im_start|>assistant\n",
       {"<|im_start|>", "<|im_end|>"}},
      {"llama3",
       llama3,
       "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}"
       "<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>\n\n",
       {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
      {"gemma",
       gemma,
       "{{- $system := .System }}{{- range .Messages }}{{- if eq .Role \"user\" }}<start_of_turn>"
       "user\n{{ if $system }}{{ $system }}\n\n{{ $system = \"\" }}{{ end }}{{ .Content }}"
       "<end_of_turn>\n{{ else if eq .Role \"assistant\" }}<start_of_turn>model\n{{ .Content }}"
       "<end_of_turn>\n{{ end }}{{ end }}<start_of_turn>model\n",
       {"<start_of_turn>", "<end_of_turn>"}},
      {"mistral",
       mistral,
       "{{- $system := .System }}{{- range .Messages }}{{- if eq .Role \"user\" }}[INST] "
       "{{ if $system }}{{ $system }}\n\n{{ $system = \"\" }}{{ end }}{{ .Content }} [/INST]"
       "{{ else if eq .Role \"assistant\" }} {{ .Content }}</s>{{ end }}{{ end }}",
       {"[INST]", "[/INST]"}},
      {"zephyr",
       zephyr,
       "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}<|assistant|>\n",
       {"<|system|>", "<|user|>", "<|assistant|>", "</s>"}},
      {"phi3",
       phi3,
       "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
       {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"}},
      {"phi4",
       phi4,
       "{{- range .Messages }}<|im_start|>{{ .Role }}<|im_sep|>{{ .Content }}<|im_end|>{{ end }}"
       "<|im_start|>assistant<|im_sep|>",
       {"<|im_start|>", "<|im_sep|>", "<|im_end|>"}},
      {"command-r",
       command_r,
       "{{- range .Messages }}<|START_OF_TURN_TOKEN|>{{ if eq .Role \"system\" }}<|SYSTEM_TOKEN|>"
       "{{ else if eq .Role \"user\" }}<|USER_TOKEN|>{{ else }}<|CHATBOT_TOKEN|>{{ end }}"
       "{{ .Content }}<|END_OF_TURN_TOKEN|>{{ end }}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
       {"<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"}},
      {"glm4",
       glm4,
       "[gMASK]<sop>{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}{{ end }}<|assistant|>",
       {"<|system|>", "<|user|>", "<|assistant|>"}},
      {"tulu",
       tulu,
       "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}{{ if eq .Role \"assistant\" }}"
       "<|endoftext|>{{ end }}\n{{ end }}<|assistant|>\n",
       {"<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"}},
  };
  return kKnown;
}

/// The conversation as the model's template renders it, without `bos` before it; nothing where the
/// template refuses it (some know no system message).
std::optional<std::string> render(const text::ChatTemplate& chat_template, std::string_view bos,
                                  bool with_system) {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (with_system) messages.push_back({{"role", "system"}, {"content", kSystem}});
  messages.push_back({{"role", "user"}, {"content", kUser}});
  messages.push_back({{"role", "assistant"}, {"content", kAnswer}});
  messages.push_back({{"role", "user"}, {"content", kNext}});
  try {
    std::string text = chat_template.render(messages, true).text;
    if (!bos.empty() && text.starts_with(bos)) text.erase(0, bos.size());
    return text;
  } catch (const InputError&) {
    return std::nullopt;
  }
}

/// The system message that a rendering contains although none was said.
std::optional<std::string> default_system(const KnownFormat& format, const std::string& rendered) {
  if (rendered == format.expected("")) return "";
  const std::string marked = format.expected(kSystem);
  const std::size_t at = marked.find(kSystem);
  const std::string_view before = std::string_view(marked).substr(0, at);
  const std::string_view after = std::string_view(marked).substr(at + kSystem.size());
  if (rendered.size() <= before.size() + after.size() || !rendered.starts_with(before) ||
      !rendered.ends_with(after)) {
    return std::nullopt;
  }
  return rendered.substr(before.size(), rendered.size() - before.size() - after.size());
}

}  // namespace

std::optional<OllamaTemplate> find_ollama_template(const text::ChatTemplate& chat_template,
                                                   std::string_view bos) {
  // With BOS as part of the format (SmolLM2's BOS is <|im_start|>), then with BOS before it.
  for (const std::string_view prefix : {std::string_view(), bos}) {
    const auto with_system = render(chat_template, prefix, true);
    const auto without = render(chat_template, prefix, false);
    if (!without) return std::nullopt;
    for (const KnownFormat& format : known()) {
      if (with_system && *with_system != format.expected(kSystem)) continue;
      const auto system = default_system(format, *without);
      if (system) return OllamaTemplate{format.name, format.go, format.stops, *system};
    }
  }
  return std::nullopt;
}

std::string known_ollama_templates() {
  std::string text;
  for (const KnownFormat& format : known()) {
    text += fmt::format("{}{}", text.empty() ? "" : ", ", format.name);
  }
  return text;
}

}  // namespace weft::exporting
