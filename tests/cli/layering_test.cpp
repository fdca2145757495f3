// The table of folders (docs/architecture.md) holds: a folder includes only folders that its row
// names, so that data flows one way and the parts without LibTorch stay without it.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "tests/support/source_dir.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;

const std::map<std::string, std::set<std::string>>& allowed() {
  static const std::map<std::string, std::set<std::string>> kTable{
      {"core", {}},
      {"checkpoint", {"core"}},
      {"text", {"core", "checkpoint"}},
      {"lora", {"core", "checkpoint"}},
      {"data", {"core", "checkpoint", "text"}},
      {"model", {"core", "checkpoint", "text", "lora", "data"}},
      {"train", {"core", "checkpoint", "text", "lora", "data", "model"}},
      {"merge", {"core", "checkpoint", "text", "lora"}},
      {"export", {"core", "checkpoint", "text", "lora", "merge"}},
      {"eval", {"core", "checkpoint", "text", "lora", "data", "model", "merge", "export"}},
      {"cli",
       {"core", "checkpoint", "text", "lora", "data", "model", "train", "merge", "export", "eval"}},
  };
  return kTable;
}

bool is_source(const fs::path& path) {
  return path.extension() == ".h" || path.extension() == ".cpp" || path.extension() == ".in";
}

TEST(Layering, EveryIncludePointsDownTheTable) {
  static const std::regex kInclude(R"re(^\s*#\s*include\s+"([a-z_]+)/)re");
  int files = 0;
  for (const auto& [folder, may_include] : allowed()) {
    for (const auto& entry : fs::recursive_directory_iterator(source_dir() / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      ++files;
      std::ifstream file(entry.path());
      int line_number = 0;
      for (std::string line; std::getline(file, line);) {
        ++line_number;
        std::smatch match;
        if (!std::regex_search(line, match, kInclude)) continue;
        const std::string target = match[1];
        if (!allowed().contains(target) || target == folder) continue;
        EXPECT_TRUE(may_include.contains(target))
            << entry.path().string() << ":" << line_number << ": " << folder << "/ may not include "
            << target << "/";
      }
    }
  }
  EXPECT_GT(files, 40) << "the test looks at the wrong folder: " << source_dir();
}

TEST(Layering, OnlyTorchFoldersIncludeLibTorch) {
  static const std::regex kTorch(R"re(^\s*#\s*include\s+[<"](ATen|c10|torch)/)re");
  for (const std::string folder :
       {"core", "checkpoint", "text", "lora", "data", "merge", "export"}) {
    for (const auto& entry : fs::recursive_directory_iterator(source_dir() / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        EXPECT_FALSE(std::regex_search(line, kTorch)) << entry.path().string() << ": " << line;
      }
    }
  }
}

TEST(Layering, NobodyIncludesAllOfTorch) {
  for (const auto& [folder, unused] : allowed()) {
    for (const auto& entry : fs::recursive_directory_iterator(source_dir() / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        EXPECT_EQ(line.find("torch/torch.h"), std::string::npos) << entry.path().string();
      }
    }
  }
}

}  // namespace
}  // namespace weft::tests
