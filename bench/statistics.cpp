// CPU time of the statistics of a large evaluation: 14 stages x 40 suites of 14 one-line documents.
//   build/release/bin/bench_statistics [STAGES SUITES DOCUMENTS]
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <ctime>

#include "eval/statistics/analysis.h"

int main(int argc, char** argv) {
  const auto number = [&](int place, int otherwise) {
    return place < argc ? std::atoi(argv[place]) : otherwise;
  };
  const int stages = number(1, 14), suites = number(2, 40), documents = number(3, 14);
  weft::eval::Evaluation evaluation;
  for (int i = 0; i < stages; ++i) {
    weft::eval::StageResult stage{.name = fmt::format("stage {}", i)};
    for (int j = 0; j < suites; ++j) {
      weft::eval::SuiteResult suite{.name = fmt::format("suite {}", j)};
      for (int k = 0; k < documents; ++k)
        suite.items.push_back(
            {.tokens = 20 + k % 7, .bytes = 60 + k % 11, .loss = 40 + std::sin(i + 3 * j + 7 * k)});
      stage.suites.push_back(std::move(suite));
    }
    evaluation.stages.push_back(std::move(stage));
  }
  const std::clock_t begin = std::clock();
  const weft::eval::Analysis analysis = weft::eval::analyse(evaluation);
  fmt::print("{} stages x {} suites of {} documents: {} comparisons, {:.2f} s of CPU\n", stages,
             suites, documents, analysis.comparisons.size(),
             static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC);
}
