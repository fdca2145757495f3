#include "train/schedule.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace weft::train {
namespace {

TEST(Schedule, EqualsTransformersFormulas) {
  const std::map<std::string, SchedulerKind> kinds{{"constant", SchedulerKind::kConstant},
                                                   {"linear", SchedulerKind::kLinear},
                                                   {"cosine", SchedulerKind::kCosine},
                                                   {"inverse_sqrt", SchedulerKind::kInverseSqrt}};
  const auto file =
      nlohmann::json::parse(tests::slurp(tests::source_dir() / "tests/train/data/optimizer.json"));
  ASSERT_EQ(file["schedules"].size(), 16U);
  for (const auto& one : file["schedules"]) {
    const Schedule schedule(kinds.at(one["kind"]), 1.0, one["warmup"], one["total"]);
    for (std::size_t u = 0; u < one["rates"].size(); ++u) {
      EXPECT_NEAR(schedule.rate(static_cast<std::int64_t>(u)), one["rates"][u].get<double>(), 1e-12)
          << one["kind"] << " warmup " << one["warmup"] << " update " << u;
    }
  }
}

TEST(Schedule, CosineGoesFromPeakOverHalfToZero) {
  const Schedule schedule(SchedulerKind::kCosine, 4e-4, 10, 110);
  EXPECT_EQ(schedule.rate(0), 0);
  EXPECT_DOUBLE_EQ(schedule.rate(5), 2e-4);
  EXPECT_DOUBLE_EQ(schedule.rate(10), 4e-4);
  EXPECT_NEAR(schedule.rate(60), 2e-4, 1e-18);
  EXPECT_NEAR(schedule.rate(110), 0, 1e-18);
}

}  // namespace
}  // namespace weft::train
