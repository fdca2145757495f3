// What documents say of the sources is true of them.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>

#include "tests/support/source_dir.h"

namespace weft::tests {
namespace {

namespace fs = std::filesystem;

std::string text_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

/// The sources of all tests, one after the other.
std::string all_tests() {
  std::string all;
  for (const auto& entry : fs::recursive_directory_iterator(source_dir() / "tests")) {
    const fs::path extension = entry.path().extension();
    if (extension == ".cpp" || extension == ".py") all += text_of(entry.path());
  }
  return all;
}

TEST(Documents, EveryTestThatTheFaultsAreHeldByExists) {
  const std::string tests = all_tests();
  const std::string page = text_of(source_dir() / "docs/faults.md");
  static const std::regex kName(R"(`(?:([A-Z]\w+)\.(\w+)|(test_\w+))`)");
  int names = 0;
  for (std::sregex_iterator at(page.begin(), page.end(), kName), end; at != end; ++at, ++names) {
    const std::smatch& match = *at;
    std::ostringstream definition;
    if (match[3].matched) {
      definition << "def " << match[3] << '(';
    } else {
      definition << '(' << match[1] << ", " << match[2] << ')';
    }
    const bool exists = tests.find(definition.str()) != std::string::npos;
    EXPECT_TRUE(exists) << match[0];
  }
  EXPECT_GT(names, 40) << "the table was not found";
}

TEST(Sources, OnlyOneFileWritesToStandardOutputAndStandardError) {
  // What writes past cli/output.h is not checked at the end, stands out of order, or throws.
  static const std::regex kDirect(
      R"(fmt::print\(|std::(cout|cerr|clog|printf|puts|putchar|fputs)\b|\bstd(out|err)\b[^_"\w])");
  int files = 0;
  for (const auto& entry : fs::directory_iterator(source_dir() / "cli")) {
    const fs::path& file = entry.path();
    if (file.extension() != ".cpp" && file.extension() != ".h") continue;
    ++files;
    if (file.stem() == "output") continue;
    std::istringstream lines(text_of(file));
    for (std::string line; std::getline(lines, line);) {
      const std::string code = line.substr(0, line.find("//"));
      EXPECT_FALSE(std::regex_search(code, kDirect)) << file.filename() << ": " << line;
    }
  }
  EXPECT_GT(files, 30);
}

}  // namespace
}  // namespace weft::tests
