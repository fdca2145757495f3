#include <fmt/format.h>

#include <array>
#include <map>
#include <string>
#include <string_view>

#include "train/import.h"

namespace weft::train {
namespace {

constexpr std::string_view kTask =
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.";
constexpr std::string_view kTaskWithInput =
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.";

/// How a style of the Alpaca prompt is written: what stands around the task, the instruction
/// and the input.
struct Style {
  std::string_view before_task, after_task;
  std::string_view before_instruction, before_input, after_input;  ///< With an input
  std::string_view after_instruction;                              ///< Without one
};

/// `text` as a Jinja string.
std::string jinja_text(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\'' || c == '\\') {
      out += '\\';
      out += c;
    } else {
      out += c;
    }
  }
  return out + "'";
}

/// A dataset's rows of type instruction have `instruction` and `input` apart from `content`, where
/// there is an input; other programs have `content` alone.
std::string alpaca(const Style& s) {
  const auto task = [&](std::string_view text) {
    return jinja_text(std::string(s.before_task) + std::string(text) + std::string(s.after_task));
  };
  return fmt::format(
      "{{{{- bos_token }}}}\n"
      "{{%- for message in messages %}}\n"
      "{{%- if message['role'] == 'user' %}}\n"
      "{{%- if message['input'] is defined and message['input'] %}}\n"
      "{{{{- {} + {} + message['instruction'] + {} + message['input'] + {} }}}}\n"
      "{{%- else %}}\n"
      "{{{{- {} + {} + message['content'] + {} }}}}\n"
      "{{%- endif %}}\n"
      "{{%- elif message['role'] == 'assistant' %}}\n"
      "{{{{- message['content'] + eos_token }}}}\n"
      "{{%- endif %}}\n"
      "{{%- endfor %}}\n",
      task(kTaskWithInput), jinja_text(s.before_instruction), jinja_text(s.before_input),
      jinja_text(s.after_input), task(kTask), jinja_text(s.before_instruction),
      jinja_text(s.after_instruction));
}

/// Begin and end of a message, by role.
constexpr std::string_view kChatMl =
    "{%- for message in messages %}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n";

constexpr std::string_view kLlama3 =
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
    "(message['content'] | trim) + '<|eot_id|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
    "{%- endif %}\n";

constexpr std::string_view kGemma =
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "{%- if message['role'] == 'system' %}\n"
    "{{- raise_exception('System role not supported') }}\n"
    "{%- endif %}\n"
    "{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + "
    "'\\n' + (message['content'] | trim) + '<end_of_turn>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<start_of_turn>model\\n' }}\n"
    "{%- endif %}\n";

constexpr std::string_view kPhi3 =
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "{{- '<|assistant|>\\n' }}\n"
    "{%- endif %}\n";

}  // namespace

std::string named_template(std::string_view name) {
  static const std::map<std::string_view, std::string> kTemplates{
      {"alpaca", alpaca({.before_task = "",
                         .after_task = "\n\n",
                         .before_instruction = "### Instruction:\n",
                         .before_input = "\n\n### Input:\n",
                         .after_input = "\n\n### Response:\n",
                         .after_instruction = "\n\n### Response:\n"})},
      {"alpaca-chat", alpaca({.before_task = "SYSTEM: ",
                              .after_task = "\n",
                              .before_instruction = "USER: ",
                              .before_input = "\n",
                              .after_input = "\nASSISTANT:",
                              .after_instruction = "\nASSISTANT:"})},
      {"alpaca-chatml", alpaca({.before_task = "<|im_start|>system\n",
                                .after_task = "<|im_end|>\n",
                                .before_instruction = "<|im_start|>user\n",
                                .before_input = "\n",
                                .after_input = "<|im_end|>\n<|im_start|>assistant\n",
                                .after_instruction = "<|im_end|>\n<|im_start|>assistant\n"})},
      {"alpaca-phi", alpaca({.before_task = "<|system|>\n",
                             .after_task = "<|end|>\n",
                             .before_instruction = "<|user|>\n",
                             .before_input = "<|end|>",
                             .after_input = "<|assistant|>",
                             .after_instruction = "<|end|>\n<|assistant|>\n"})},
      {"chatml", std::string(kChatMl)},
      {"llama3", std::string(kLlama3)},
      {"gemma", std::string(kGemma)},
      {"phi_3", std::string(kPhi3)}};
  const auto found = kTemplates.find(name);
  return found == kTemplates.end() ? "" : found->second;
}

}  // namespace weft::train
