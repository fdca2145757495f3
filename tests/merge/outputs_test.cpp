// What commands may not replace, and what is left when they are stopped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "merge/combine.h"
#include "merge/combine_adapters.h"
#include "merge/extract.h"
#include "merge/merge.h"
#include "merge/undo.h"
#include "tests/merge/models.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::merge {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using tests::config_of;
using tests::slurp;
using tests::TempDir;

constexpr auto kForce = core::Overwrite::kReplace;

class Outputs : public ::testing::Test {
 protected:
  Outputs() : model(tests::write_tiny_model(dir / "base")) {
    adapter =
        tests::write_noisy_adapter(dir / "adapter", lora::linear_modules(Checkpoint::open(model)),
                                   config_of({"q_proj", "down_proj"}, 4, 8));
    weights = slurp(model / "model.safetensors");
    request.model = model;
    request.adapters = {{adapter, 1}};
    request.out = dir / "out";
    request.overwrite = kForce;
  }

  [[nodiscard]] std::vector<std::string> hidden() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir.path())) {
      const std::string name = entry.path().filename();
      if (name.starts_with('.')) names.push_back(name);
    }
    return names;
  }

  TempDir dir;
  fs::path model;
  fs::path adapter;
  std::string weights;
  MergeRequest request;
};

TEST_F(Outputs, TheBaseIsNotReplacedByWhatIsExtractedFromIt) {
  (void)merge_model(request);
  ExtractRequest extract;
  extract.model = dir / "out";
  extract.base = model;
  extract.overwrite = kForce;
  for (const fs::path& out : {model, dir / "out", model / "adapter"}) {
    extract.out = out;
    EXPECT_THROWS_WITH((void)extract_adapter(extract), InputError, "the input");
  }
  EXPECT_EQ(slurp(model / "model.safetensors"), weights);
}

TEST_F(Outputs, AnAdapterIsNotReplacedByItsCombination) {
  AdapterRequest combine;
  combine.adapters = {{adapter, 0.5}};
  combine.out = adapter;
  combine.overwrite = kForce;
  EXPECT_THROWS_WITH((void)combine_adapters(combine), InputError, "would be replaced");
}

TEST_F(Outputs, TheUndoFileDoesNotReplaceTheBasesWeights) {
  for (const char* name : {"base/model.safetensors", "base/undo.bin", "adapter/undo.bin"}) {
    request.undo = dir / name;
    EXPECT_THROWS_WITH((void)merge_model(request), InputError, "--undo", "lies in the input");
  }
  request.undo = dir / "out/undo.bin";
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "--undo", "--out");
  request.undo.clear();
  (void)merge_model(request);
  EXPECT_THROWS_WITH((void)write_undo(model, dir / "out", model / "model.safetensors", kForce),
                     InputError, "lies in the input");
  EXPECT_EQ(slurp(model / "model.safetensors"), weights);
}

TEST_F(Outputs, TheMergedModelIsNotReplacedByWhatItIsTurnedBackInto) {
  (void)merge_model(request);
  (void)write_undo(model, dir / "out", dir / "undo", core::Overwrite::kRefuse);
  EXPECT_THROWS_WITH((void)unmerge(dir / "out", dir / "undo", dir / "out", kForce), InputError,
                     "would be replaced");
  (void)unmerge(dir / "out", dir / "undo", dir / "back", kForce);
  EXPECT_EQ(slurp(dir / "back/model.safetensors"), weights);
}

TEST_F(Outputs, ARejectedModelThatIsMergedIntoIsNotReplaced) {
  fs::rename(model, dir / "out.rejected");
  request.model = dir / "out.rejected";
  request.verify = [](const fs::path&) { return Verification{}; };
  EXPECT_THROWS_WITH((void)merge_model(request), InputError, "out.rejected", "would be replaced");
}

TEST_F(Outputs, AMergeThatIsInterruptedGoesOnAfterItsFinishedFiles) {
  request.max_shard_bytes = 20'000;
  (void)merge_model(request);
  const std::string whole = slurp(dir / "out/model-00003-of-00005.safetensors");
  const auto names = std::distance(fs::directory_iterator(dir / "out"), {});
  fs::remove_all(dir / "out");
  std::atomic<bool> stop{false};
  FoldControl control;
  control.stop = &stop;
  control.progress = [&](FoldProgress progress) { stop = progress.done > progress.total / 2; };
  EXPECT_THROWS_WITH((void)merge_model(request, control), Interrupted, "files are finished",
                     "goes on");
  EXPECT_FALSE(fs::exists(dir / "out"));
  ASSERT_EQ(hidden().size(), 1U);
  std::string heard;
  (void)merge_model(request, {}, [&](core::Level, std::string_view line) { heard += line; });
  EXPECT_THAT(heard, HasSubstr("from a merge that was stopped"));
  EXPECT_EQ(slurp(dir / "out/model-00003-of-00005.safetensors"), whole);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), {}), names);
  EXPECT_THAT(hidden(), IsEmpty());
}

TEST_F(Outputs, AnInterruptedMergeOfOneFileLeavesNothing) {
  std::atomic<bool> stop{true};
  EXPECT_THROW((void)merge_model(request, {{}, &stop}), Interrupted);
  EXPECT_THAT(hidden(), IsEmpty());
}

TEST_F(Outputs, AKilledMergeOfOneFileIsClearedAwayByTheNext) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  const std::string left = ".out.part-" + std::to_string(child) + "-0badcafe";
  dir.write(left + "/.model.safetensors.part-1-0badcafe", "half");
  (void)merge_model(request);
  EXPECT_THAT(hidden(), IsEmpty());
}

TEST_F(Outputs, WhatLiesBesideTheWeightsIsWrittenToo) {
  for (const char* name :
       {"modeling_tiny.py", "preprocessor_config.json", "tekken.json", "spiece.model",
        "sentencepiece.bpe.model", "LICENSE", "additional_chat_templates/tool_use.jinja"}) {
    dir.write(std::string("base/") + name, name);
  }
  for (const char* name : {"README.md", "pytorch_model.bin", "consolidated.00.pth", "optimizer.pt",
                           ".gitattributes", "original/params.json"}) {
    dir.write(std::string("base/") + name, name);
  }
  (void)merge_model(request);
  for (const char* name :
       {"modeling_tiny.py", "preprocessor_config.json", "tekken.json", "spiece.model",
        "sentencepiece.bpe.model", "LICENSE", "additional_chat_templates/tool_use.jinja"}) {
    EXPECT_EQ(slurp(dir / "out" / name), name);
  }
  for (const char* name : {"README.md", "pytorch_model.bin", "consolidated.00.pth", "optimizer.pt",
                           ".gitattributes", "original"}) {
    EXPECT_FALSE(fs::exists(dir / "out" / name)) << name;
  }
}

}  // namespace
}  // namespace weft::merge
