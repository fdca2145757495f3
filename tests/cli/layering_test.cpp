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
      {"schema", {"core"}},
      {"checkpoint", {"core"}},
      {"text", {"core", "checkpoint"}},
      {"lora", {"core", "checkpoint"}},
      {"data", {"core", "schema", "checkpoint", "text"}},
      {"model", {"core", "schema", "checkpoint", "text", "lora", "data"}},
      {"train", {"core", "schema", "checkpoint", "text", "lora", "data", "model"}},
      {"merge", {"core", "schema", "checkpoint", "text", "lora"}},
      {"export", {"core", "schema", "checkpoint", "text", "lora", "merge"}},
      {"eval/metrics", {"core", "text"}},
      {"eval/statistics", {"core", "eval/metrics"}},
      {"eval/ledger", {"core", "eval/metrics", "eval/statistics"}},
      {"eval/report",
       {"core", "schema", "checkpoint", "eval/metrics", "eval/statistics", "eval/ledger"}},
      {"eval/run",
       {"core", "schema", "checkpoint", "text", "lora", "data", "model", "merge", "export",
        "eval/metrics", "eval/statistics", "eval/ledger", "eval/report"}},
      {"mpi", {"core"}},
      {"batch",
       {"core", "schema", "checkpoint", "eval/metrics", "eval/statistics", "eval/ledger",
        "eval/report"}},
      {"cli",
       {"core", "schema", "checkpoint", "text", "lora", "data", "model", "train", "merge", "export",
        "eval/metrics", "eval/statistics", "eval/ledger", "eval/report", "eval/run", "batch"}},
  };
  return kTable;
}

/// The row of the table that "eval/ledger/pack.h" falls under; empty for what is no folder of it.
std::string row_of(const std::string& path) {
  for (auto end = path.rfind('/'); end != std::string::npos; end = path.rfind('/', end - 1)) {
    if (allowed().contains(path.substr(0, end))) return path.substr(0, end);
    if (end == 0) break;
  }
  return "";
}

bool is_source(const fs::path& path) {
  return path.extension() == ".h" || path.extension() == ".cpp" || path.extension() == ".in";
}

TEST(Layering, EveryIncludePointsDownTheTable) {
  static const std::regex kInclude(R"re(^\s*#\s*include\s+"([a-z0-9_/]+/)[^/"]+")re");
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
        const std::string target = row_of(match[1]);
        if (target.empty() || target == folder) continue;
        EXPECT_TRUE(may_include.contains(target))
            << entry.path().string() << ":" << line_number << ": " << folder << "/ may not include "
            << target << "/";
      }
    }
  }
  EXPECT_GT(files, 40) << "the test looks at the wrong folder: " << source_dir();
}

TEST(Layering, EverySourceOfAFolderWithRowsBelowItStandsInOneOfThem) {
  for (const auto& entry : fs::recursive_directory_iterator(source_dir() / "eval")) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    const std::string path = fs::relative(entry.path(), source_dir()).generic_string();
    EXPECT_FALSE(row_of(path).empty()) << path << " stands in no folder of the table";
  }
}

TEST(Layering, OnlyTorchFoldersIncludeLibTorch) {
  static const std::regex kTorch(R"re(^\s*#\s*include\s+[<"](ATen|c10|torch)/)re");
  for (const std::string folder :
       {"core", "schema", "checkpoint", "text", "lora", "data", "merge", "export", "eval/metrics",
        "eval/statistics", "eval/ledger", "eval/report", "batch"}) {
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
