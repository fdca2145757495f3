// ledger_writer LEDGER COUNT: records COUNT evaluations and prints the number of each when it is
// there; for the test that kills it.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "tests/eval/sample_evaluation.h"

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    weft::eval::Ledger ledger(argv[1], weft::eval::sqlite::Access::kWrite);
    const int count = std::atoi(argv[2]);
    for (int i = 0; i < count; ++i) {
      std::printf("%lld\n", static_cast<long long>(weft::tests::record(
                                ledger, weft::tests::sample_evaluation(1 + i % 3))));
      std::fflush(stdout);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
