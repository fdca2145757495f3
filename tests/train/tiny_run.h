#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "model/runtime.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_model.h"
#include "train/job.h"

namespace weft::tests {

/// Sentences of different lengths, as JSONL of prompts and completions.
inline std::string tiny_pairs(int count, int first = 0) {
  static const std::vector<std::string> kWords{"atl", "tepetl", "xochitl", "in", "calli",
                                               "tonatiuh", "ce", "centli", "itzcuintli", "huey"};
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

/// A small training job in a folder of its own.
class TinyRun {
 public:
  explicit TinyRun(const TinyModel& model = {}) {
    // Such small matrices are not worth a second thread's waiting.
    model::prepare_runtime(1);
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
           "adapter: {r: 4, lora_alpha: 8}\nnum_epochs: 3\nwarmup: 2\n" + changes;
  }

  [[nodiscard]] train::Prepared prepare(const std::string& changes = "",
                                        const std::vector<std::string>& overrides = {}) const {
    core::Origins given;
    auto config = core::parse_config<train::TrainConfig>(
        yaml(changes), {.name = "tiny.yaml", .directory = folder_.path()}, overrides, {}, &given);
    return train::prepare(std::move(config), given, {});
  }

  train::Outcome run(const std::string& changes = "", const std::vector<std::string>& overrides = {},
                     train::Start start = train::Start::kReplace) {
    return run_observed(changes, overrides, start, [](std::int64_t) {});
  }

  /// `after_update` may set `interrupted`.
  train::Outcome run_observed(const std::string& changes, const std::vector<std::string>& overrides,
                              train::Start start,
                              const std::function<void(std::int64_t)>& after_update) {
    struct Listener : train::Observer {
      explicit Listener(const std::function<void(std::int64_t)>& call) : after(call) {}
      void on_update(const train::UpdateReport& report) override { after(report.update); }
      const std::function<void(std::int64_t)>& after;
    };
    const train::Prepared prepared = prepare(changes, overrides);
    train::RunFolder claimed(prepared.config.output_dir, start);
    claimed.claim();
    train::require_sound(prepared);
    Listener listener(after_update);
    interrupted = false;
    return train::train(prepared, claimed, listener, interrupted, {});
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

  std::atomic<bool> interrupted{false};

 private:
  TempDir folder_;
};

}  // namespace weft::tests
