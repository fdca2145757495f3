#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>

#include "core/version.h"
#include "tests/support/process.h"
#include "tests/support/temp_dir.h"

namespace weft::tests {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Program, PrintsItsVersion) {
  const Finished done = run_weft({"--version"});
  EXPECT_EQ(done.status, 0);
  EXPECT_EQ(done.out, "weft " + std::string(core::kVersion) + "\n");
}

TEST(Program, HelpListsTheCommandsOnStandardOutput) {
  const Finished done = run_weft({"--help"});
  EXPECT_EQ(done.status, 0);
  EXPECT_THAT(done.out, HasSubstr("merge"));
  EXPECT_EQ(done.err, "");
#ifdef WEFT_WITH_TORCH
  EXPECT_THAT(done.out, HasSubstr("train"));
#else
  EXPECT_THAT(done.out, Not(HasSubstr("train")));
#endif
}

TEST(Program, NamesTheNearestCommandAndExitsWithTwo) {
  const Finished done = run_weft({"inspct"});
  EXPECT_EQ(done.status, 2);
  EXPECT_EQ(done.err, "weft: unknown command 'inspct', did you mean 'inspect'?; see weft --help\n");
}

TEST(Program, AnUnknownOptionIsOneLineAndExitsWithTwo) {
  const Finished done = run_weft({"inspect", "--no-such-option", "x"});
  EXPECT_EQ(done.status, 2);
  EXPECT_THAT(done.err, HasSubstr("--no-such-option"));
  EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1);
}

TEST(Program, AMisspeltOptionIsNamedBeforeWhatIsMissingWithoutIt) {
  const Finished done = run_weft({"merge", "--modle", "x"});
  EXPECT_EQ(done.status, 2);
  EXPECT_EQ(done.err,
            "weft merge: unknown option '--modle', did you mean '--model'? (see weft merge "
            "--help)\n");
}

TEST(Program, AMisspeltSubcommandIsToldWhichThereAre) {
  const Finished done = run_weft({"ledger", "lst"});
  EXPECT_EQ(done.status, 2);
  EXPECT_THAT(done.err, HasSubstr("unknown command 'lst'; there are list, show"));
}

TEST(Program, HelpOfACommandIsItsOwn) {
  EXPECT_EQ(run_weft({"help", "merge"}).out, run_weft({"merge", "--help"}).out);
  EXPECT_THAT(run_weft({"help", "mrge"}).err, HasSubstr("did you mean 'merge'"));
}

TEST(Program, PathsThatAreNoUtf8AreRefusedInOneLine) {
  const Finished argument = run_weft({"inspect", "caf\xe9/model"});
  EXPECT_EQ(argument.status, 2);
  EXPECT_THAT(argument.err, HasSubstr("'caf...' is not UTF-8"));
  const TempDir temp;
  const std::filesystem::path folder = temp / "caf\xe9";
  std::filesystem::create_directory(folder);
  const Finished inside =
      run_process({"bash", "-c", "cd \"$0\" && exec \"$1\" inspect .", folder.string(),
                   std::filesystem::absolute(weft_program()).string()});
  EXPECT_EQ(inside.status, 2);
  EXPECT_THAT(inside.err, HasSubstr("current folder is not UTF-8"));
  EXPECT_EQ(std::count(inside.err.begin(), inside.err.end(), '\n'), 1);
}

TEST(Program, AMissingModelIsOneLineAndExitsWithTwo) {
  for (const std::string command : {"inspect", "merge", "tokenize"}) {
    std::vector<std::string> arguments{command};
    if (command != "inspect") arguments.emplace_back("--model");
    arguments.emplace_back("/nonexistent/model");
    if (command == "merge") arguments.insert(arguments.end(), {"--out", "/nonexistent/out"});
    const Finished done = run_weft(arguments);
    EXPECT_EQ(done.status, 2) << command << ": " << done.err;
    EXPECT_THAT(done.err, HasSubstr("/nonexistent/model"));
    EXPECT_EQ(std::count(done.err.begin(), done.err.end(), '\n'), 1) << done.err;
  }
}

TEST(Program, AnswersHelpWithoutLoadingLibTorch) {
  // The loader's own trace names every library that a start opens.
  const Finished done = run_process({"env", "LD_DEBUG=files", weft_program(), "--help"});
  EXPECT_EQ(done.status, 0);
  EXPECT_THAT(done.err, HasSubstr("libfmt"));
  EXPECT_THAT(done.err, Not(HasSubstr("libtorch_cpu")));
}

TEST(Program, ScoreNeedsNoLibTorch) {
  const TempDir folder;
  const std::string answers = folder.write("answers.txt", "in atl\nin tetl\n").string();
  const std::string references = folder.write("references.txt", "in atl\nin tepetl\n").string();
  const Finished done = run_process({"env", "LD_DEBUG=files", weft_program(), "score", answers,
                                     "--reference", references, "--metric", "exact_match"});
  EXPECT_EQ(done.status, 0) << done.err.substr(0, 2000);
  EXPECT_THAT(done.out, HasSubstr("0.5000"));
  EXPECT_THAT(done.err, Not(HasSubstr("libtorch_cpu")));
}

#ifdef WEFT_WITH_TORCH
TEST(Program, LoadsOneOpenMpRuntimeAndNoCudaKernels) {
  const Finished done = run_process({"env", "LD_DEBUG=files", weft_program(), "logits", "--help"});
  EXPECT_EQ(done.status, 0) << done.err.substr(0, 2000);
  std::set<std::string> openmp;
  static const std::regex kLoaded(R"(calling init: (\S*/lib(?:gomp|omp|iomp5)[^/\s]*))");
  for (std::sregex_iterator it(done.err.begin(), done.err.end(), kLoaded), end; it != end; ++it) {
    openmp.insert((*it)[1]);
  }
  EXPECT_EQ(openmp.size(), 1U) << ::testing::PrintToString(openmp);
  EXPECT_THAT(done.err, HasSubstr("libtorch_cpu"));
  EXPECT_THAT(done.err, Not(HasSubstr("libtorch_cuda")));
  EXPECT_THAT(done.err, Not(HasSubstr("libtorch_python")));
}
#endif

}  // namespace
}  // namespace weft::tests
