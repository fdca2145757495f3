#pragma once

#include <string>

#include "batch/compose.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {

/// Some of the words of weft train and weft eval, so that batches are read without LibTorch.
struct FakeAdapter {
  std::int64_t r = 8;
  double lora_alpha = 16;
};
struct FakeTrain {
  std::filesystem::path base_model;
  std::filesystem::path output_dir;
  std::filesystem::path data;
  std::int64_t seed = 42;
  double learning_rate = 2e-4;
  double num_epochs = 1;
  std::int64_t threads = 0;
  FakeAdapter adapter;
};
struct FakeStage {
  std::string name;
  std::optional<std::filesystem::path> model;
  std::vector<std::filesystem::path> adapter;
};
struct FakeEval {
  std::filesystem::path base_model;
  std::vector<FakeStage> stages;
  std::vector<std::filesystem::path> text;
  std::optional<std::filesystem::path> output, ledger;
  std::int64_t threads = 0;
};

inline void describe(schema::Schema<FakeAdapter>& s) {
  s.field("r", &FakeAdapter::r, "rank").range(1, 64).alias("rank");
  s.field("lora_alpha", &FakeAdapter::lora_alpha, "alpha");
}
inline void describe(schema::Schema<FakeTrain>& s) {
  s.field("base_model", &FakeTrain::base_model, "base").required();
  s.field("output_dir", &FakeTrain::output_dir, "folder").required();
  s.field("data", &FakeTrain::data, "data");
  s.field("seed", &FakeTrain::seed, "seed");
  s.field("learning_rate", &FakeTrain::learning_rate, "rate").positive();
  s.field("num_epochs", &FakeTrain::num_epochs, "epochs");
  s.field("threads", &FakeTrain::threads, "threads");
  s.section("adapter", &FakeTrain::adapter, "adapter");
  s.alias("lora_r", "adapter.r");
}
inline void describe(schema::Schema<FakeStage>& s) {
  s.field("name", &FakeStage::name, "name").required();
  s.field("model", &FakeStage::model, "model");
  s.field("adapter", &FakeStage::adapter, "adapters");
}
inline void describe(schema::Schema<FakeEval>& s) {
  s.field("base_model", &FakeEval::base_model, "base").required();
  s.list("stages", &FakeEval::stages, "stages");
  s.field("text", &FakeEval::text, "text");
  s.field("output", &FakeEval::output, "output");
  s.field("ledger", &FakeEval::ledger, "ledger");
  s.field("threads", &FakeEval::threads, "threads");
}

/// A folder with a base, data and a common configuration, and JOBS.yaml beside them.
class BatchFiles {
 public:
  BatchFiles() {
    folder_.write("base.bin", "weights");
    folder_.write("nah.csv", "a,b\n");
    folder_.write("oto.csv", "c,d\n");
    folder_.write("common.yaml", "base_model: base.bin\noutput_dir: elsewhere\nthreads: 1\n");
    engine_.train = schema::section_info<FakeTrain>();
    engine_.evaluation = schema::section_info<FakeEval>();
    engine_.plan = [](const std::string&) {
      return batch::TrainPlan{.memory_bytes = 1, .updates = 10};
    };
  }

  /// JOBS.yaml of these keys, beside output_dir and base.
  batch::Batch load(const std::string& keys) {
    return read("output_dir: runs\nbase: common.yaml\n" + keys);
  }
  batch::Batch read(const std::string& text) {
    folder_.write("jobs.yaml", text);
    return batch::load_batch(folder_ / "jobs.yaml", engine_, {});
  }

  [[nodiscard]] std::filesystem::path operator/(std::string_view name) const {
    return folder_ / name;
  }
  [[nodiscard]] const TempDir& folder() const { return folder_; }
  [[nodiscard]] batch::Engine& engine() { return engine_; }

 private:
  TempDir folder_;
  batch::Engine engine_;
};

/// What `work` throws says; empty where it throws nothing.
template <typename Type, typename Work>
std::string error_of(const Work& work) {
  try {
    work();
  } catch (const Type& error) {
    return error.what();
  }
  return "";
}

inline std::vector<std::string> names_of(const batch::Batch& batch) { return batch.record.jobs; }

}  // namespace weft::tests
