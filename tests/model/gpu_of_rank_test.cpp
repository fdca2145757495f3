#include "model/gpu_of_rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "model/device.h"
#include "tests/support/thread_ranks.h"
#include "tests/support/throws.h"

namespace weft::model {
namespace {

using ::testing::ElementsAre;

TEST(GpuOfRank, IsItsNumberAmongTheRanksOfItsMachine) {
  const RankGpus here{1, {11, 12, 13}};
  const RankGpus there{2, {21, 22}};
  EXPECT_THAT(gpus_of_ranks(std::vector{here}, {}), ElementsAre(0));
  EXPECT_THAT(gpus_of_ranks(std::vector{here, here, here}, {}), ElementsAre(0, 1, 2));
  // Ranks need not be dealt out machine by machine.
  EXPECT_THAT(gpus_of_ranks(std::vector{here, there, here, there, here}, {}),
              ElementsAre(0, 0, 1, 1, 2));
}

TEST(GpuOfRank, IsTheOneThatTheRankSeesAlone) {
  EXPECT_THAT(gpus_of_ranks(std::vector<RankGpus>{{1, {11}}, {1, {12}}, {1, {13}}}, {}),
              ElementsAre(0, 0, 0));
  // In another order, and where two see the same.
  EXPECT_THAT(gpus_of_ranks(std::vector<RankGpus>{{1, {12, 11}}, {1, {11, 12}}, {1, {12, 13}}}, {}),
              ElementsAre(0, 0, 1));
}

TEST(GpuOfRank, MovesEarlierRanksWhereALaterOneSeesNoOther) {
  EXPECT_THAT(gpus_of_ranks(std::vector<RankGpus>{{1, {11, 12}}, {1, {11}}}, {}),
              ElementsAre(1, 0));
  // Along a path of several.
  EXPECT_THAT(
      gpus_of_ranks(std::vector<RankGpus>{{1, {11, 12}}, {1, {12, 13}}, {1, {13, 14}}, {1, {11}}},
                    {}),
      ElementsAre(1, 1, 1, 0));
  EXPECT_THROWS_WITH(
      (void)gpus_of_ranks(std::vector<RankGpus>{{1, {11}}, {1, {12, 13}}, {1, {11}}}, {}),
      ConfigError,
      "device cuda: other ranks on this machine need all of the GPUs that rank 2 sees (1)");
}

TEST(GpuOfRank, IsRefusedWhereAMachineHasFewerGpusThanRanks) {
  const RankGpus here{1, {11, 12}};
  EXPECT_THROWS_WITH((void)gpus_of_ranks(std::vector{here, here, here}, {}), ConfigError,
                     "device cuda: 3 ranks run on this machine, which has 2 GPUs for them, and "
                     "each needs one of its own; start 2 there, or take device cpu");
  const RankGpus there{2, {21}};
  EXPECT_THROWS_WITH((void)gpus_of_ranks(std::vector{here, there, there}, {}), ConfigError,
                     "2 ranks run on the machine of rank 1, which has 1 GPU for them");
  // Each sees one GPU, but it is the same.
  EXPECT_THROWS_WITH((void)gpus_of_ranks(std::vector{there, there}, {}), ConfigError,
                     "2 ranks run on this machine, which has 1 GPU for them");
}

TEST(GpuOfRank, ThatIsNamedIsOneRanksAlone) {
  const RankGpus here{1, {11, 12}};
  const RankGpus there{2, {21, 22}};
  EXPECT_THAT(gpus_of_ranks(std::vector{here, there}, 1), ElementsAre(1, 1));
  EXPECT_THAT(gpus_of_ranks(std::vector<RankGpus>{{1, {11}}, {1, {12}}}, 0), ElementsAre(0, 0));
  EXPECT_THROWS_WITH((void)gpus_of_ranks(std::vector{here, there, here}, 1), ConfigError,
                     "device cuda:1: 2 ranks run on this machine and would share that GPU; write "
                     "device cuda");
  EXPECT_THROWS_WITH((void)gpus_of_ranks(std::vector{here, there, there}, 0), ConfigError,
                     "device cuda:0: 2 ranks run on the machine of rank 1");
  // One that is not there is open_device()'s to refuse.
  EXPECT_THAT(gpus_of_ranks(std::vector{here, here}, 7), ElementsAre(7, 7));
}

TEST(GpuOfRank, IsChosenFromWhatAllRanksKnow) {
  const std::vector<RankGpus> all{{7, {1, 2, 3}}, {8, {}}, {7, {~std::uint64_t{0}}}};
  tests::ThreadRanks ranks(3);
  ranks.run([&](core::Communicator& one) {
    EXPECT_EQ(gather_gpus(one, all[static_cast<std::size_t>(one.rank())]), all);
  });
}

TEST(DeviceOfRanks, IsTheProcessorInAllAndOneThatAllName) {
  tests::ThreadRanks ranks(3);
  ranks.run([](core::Communicator& one) {
    EXPECT_FALSE(open_device("cpu", one).is_gpu());
    EXPECT_THROW((void)open_device("tpu", one), ConfigError);
    EXPECT_THROWS_WITH((void)open_device(one.rank() == 1 ? "cuda" : "cpu", one), InputError,
                       "do not agree on `device`");
  });
}

}  // namespace
}  // namespace weft::model
