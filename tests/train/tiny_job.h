#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"

namespace weft::tests {

/// Sentences of different lengths, as JSONL of prompts and completions.
inline std::string tiny_pairs(int count, int first = 0) {
  static const std::vector<std::string> kWords{
      "atl", "tepetl", "xochitl", "in", "calli", "tonatiuh", "ce", "centli", "itzcuintli", "huey"};
  std::string text;
  for (int i = first; i < first + count; ++i) {
    std::string prompt = "say " + std::to_string(i % 7) + ":";
    std::string answer;
    for (int w = 0; w <= i % 4; ++w) {
      answer += (w > 0 ? " " : "") + kWords[static_cast<std::size_t>((i * 3 + w * 7) % 10)];
    }
    text += nlohmann::json{{"prompt", prompt}, {"completion", answer}}.dump() + "\n";
  }
  return text;
}

/// A small training job in a folder of its own: model, data, configuration.
class TinyJob {
 public:
  explicit TinyJob(const TinyModel& model = {}) {
    write_tiny_model(folder_ / "base", model);
    folder_.write("train.jsonl", tiny_pairs(40));
    folder_.write("valid.jsonl", tiny_pairs(10, 100));
  }

  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const {
    return folder_ / name;
  }
  [[nodiscard]] const TempDir& folder() const { return folder_; }

  /// The configuration; `changes` are YAML lines that are added, `overrides` replace keys.
  [[nodiscard]] std::string yaml(const std::string& changes = "") const {
    return "base_model: base\noutput_dir: run\nseed: 3\ndatasets:\n  - path: train.jsonl\n"
           "sequence_len: 64\ntokens_per_update: 128\ndtype: float32\nlearning_rate: 1e-2\n"
           "adapter: {r: 4, lora_alpha: 8}\nnum_epochs: 3\nwarmup: 2\ntoken_cache: false\n" +
           changes;
  }

  /// metrics.jsonl without what no two runs share.
  [[nodiscard]] std::vector<nlohmann::json> metrics(std::string_view run = "run") const {
    std::vector<nlohmann::json> lines;
    std::istringstream stream(slurp(folder_ / (std::string(run) + "/metrics.jsonl")));
    for (std::string line; std::getline(stream, line);) {
      lines.push_back(nlohmann::json::parse(line));
      for (const char* key : {"seconds", "tokens_per_second", "resident_bytes"}) {
        lines.back().erase(key);
      }
    }
    return lines;
  }

  [[nodiscard]] std::string adapter_bytes(std::string_view run = "run") const {
    return slurp(folder_ / (std::string(run) + "/adapter/adapter_model.safetensors"));
  }

 private:
  TempDir folder_;
};

}  // namespace weft::tests
