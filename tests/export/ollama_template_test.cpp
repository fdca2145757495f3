#include "export/ollama_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weft::exporting {
namespace {

constexpr const char* kChatml =
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

std::optional<OllamaTemplate> find(const std::string& source, std::string_view bos = "") {
  return find_ollama_template(text::ChatTemplate(source, {{"bos_token", bos}}), bos);
}

TEST(OllamaTemplate, ChatmlIsKnownByWhatItRenders) {
  const auto found = find(kChatml);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->name, "chatml");
  EXPECT_EQ(found->system, "");
  EXPECT_THAT(found->stops, ::testing::Contains("<|im_end|>"));
}

TEST(OllamaTemplate, ASystemMessageOfTheTemplatesOwnBecomesSystem) {
  const auto found = find(
      std::string("{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are Smol."
                  "<|im_end|>\\n' }}{% endif %}") +
      kChatml);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->name, "chatml");
  EXPECT_EQ(found->system, "You are Smol.");
}

TEST(OllamaTemplate, BosIsLeftToOllama) {
  const auto found = find(
      "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
      "'<|end_header_id|>\\n\\n' + m['content'] + '<|eot_id|>' }}{% endfor %}"
      "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}",
      "<|begin_of_text|>");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->name, "llama3");
}

TEST(OllamaTemplate, BosMayBePartOfTheFormat) { EXPECT_TRUE(find(kChatml, "<|im_start|>")); }

TEST(OllamaTemplate, ATemplateThatRefusesSystemMessagesIsStillKnown) {
  const auto found = find(
      "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
      "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else "
      "m['role']) + '\\n' + m['content'] + '<end_of_turn>\\n' }}{% endfor %}"
      "{{ '<start_of_turn>model\\n' }}");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->name, "gemma");
}

TEST(OllamaTemplate, FormatsOfOtherFamiliesAreKnown) {
  const auto name = [](const std::string& turn, const std::string& begin, const std::string& end) {
    const auto found = find(begin + "{% for m in messages %}{{ " + turn + " }}{% endfor %}" + end);
    return found ? std::string(found->name) : std::string();
  };
  EXPECT_EQ("phi4", name("'<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>'",
                         "", "{{ '<|im_start|>assistant<|im_sep|>' }}"));
  EXPECT_EQ("command-r",
            name("'<|START_OF_TURN_TOKEN|>' + {'system': '<|SYSTEM_TOKEN|>', 'user': "
                 "'<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}[m['role']] + m['content'] + "
                 "'<|END_OF_TURN_TOKEN|>'",
                 "", "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}"));
  EXPECT_EQ("glm4", name("'<|' + m['role'] + '|>\\n' + m['content']", "{{ '[gMASK]<sop>' }}",
                         "{{ '<|assistant|>' }}"));
  EXPECT_EQ("tulu", name("'<|' + m['role'] + '|>\\n' + m['content'] + ('<|endoftext|>' if "
                         "m['role'] == 'assistant' else '') + '\\n'",
                         "", "{{ '<|assistant|>\\n' }}"));
}

TEST(OllamaTemplate, AnythingElseIsNotGuessed) {
  EXPECT_FALSE(find("{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"));
  // One blank more than ChatML.
  std::string other = kChatml;
  other.insert(other.find("<|im_end|>"), 1, ' ');
  EXPECT_FALSE(find(other));
}

}  // namespace
}  // namespace weft::exporting
