#include "core/sha256_lanes.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "core/hash.h"
#include "core/number.h"

// Each lane must give what the one-stream Sha256 (OpenSSL) gives for the same bytes.

namespace weft::core {
namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(std::size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(engine() & 0xffU);
  return bytes;
}

std::string alone(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.finish();
}

class Sha256LanesTest : public testing::TestWithParam<Sha256Lanes::Way> {
 protected:
  void SetUp() override {
    if (!Sha256Lanes::available(GetParam()))
      GTEST_SKIP() << "the processor has no such instructions";
    for (unsigned lane = 0; lane < Sha256Lanes::kLanes; ++lane) {
      streams_.push_back(random_bytes(std::size_t{70} << 10, lane));
    }
  }

  [[nodiscard]] Sha256Lanes::Sources sources(std::size_t from) const {
    Sha256Lanes::Sources all;
    for (std::size_t lane = 0; lane < all.size(); ++lane) all[lane] = streams_[lane].data() + from;
    return all;
  }

  void expect_digests_of(std::size_t length) {
    Sha256Lanes hash(GetParam());
    for (std::size_t lane = 0; lane < Sha256Lanes::kLanes; ++lane) hash.start(lane);
    const std::size_t blocks = length / Sha256Lanes::kBlock;
    // In two steps, the second of which may be of no block.
    const std::size_t first = (blocks + 1) / 2;
    hash.update(sources(0), first);
    hash.update(sources(first * Sha256Lanes::kBlock), blocks - first);
    for (std::size_t lane = 0; lane < Sha256Lanes::kLanes; ++lane) {
      const auto all = std::span<const std::byte>(streams_[lane]).first(length);
      ASSERT_EQ(alone(all), hash.finish(lane, all.subspan(blocks * Sha256Lanes::kBlock)))
          << length << " bytes, lane " << lane;
    }
  }

  std::vector<Bytes> streams_;
};

TEST_P(Sha256LanesTest, EqualTheOneStreamOfEveryLength) {
  for (std::size_t length = 0; length <= 300; ++length) expect_digests_of(length);
  expect_digests_of(65535);
  expect_digests_of(65536);
  expect_digests_of(70000);
}

TEST_P(Sha256LanesTest, ALaneStartsAgainWhileTheOthersGoOn) {
  Sha256Lanes hash(GetParam());
  for (std::size_t lane = 0; lane < Sha256Lanes::kLanes; ++lane) hash.start(lane);
  hash.update(sources(0), 3);
  const auto of = [&](std::size_t lane, std::size_t begin, std::size_t end) {
    return std::span<const std::byte>(streams_[lane]).subspan(begin, end - begin);
  };
  EXPECT_EQ(alone(of(5, 0, 200)), hash.finish(5, of(5, 192, 200)));
  hash.start(5);
  hash.update(sources(192), 2);
  EXPECT_EQ(alone(of(5, 192, 330)), hash.finish(5, of(5, 320, 330)));
  EXPECT_EQ(alone(of(15, 0, 383)), hash.finish(15, of(15, 320, 383)));
  EXPECT_EQ(alone(of(0, 0, 320)), hash.finish(0, {}));
}

TEST_P(Sha256LanesTest, HalvesAreHashedAsFloats) {
  Sha256Lanes hash(GetParam());
  for (std::size_t lane = 0; lane < Sha256Lanes::kLanes; ++lane) hash.start(lane);
  constexpr std::size_t kCount = std::size_t{33} * 16;
  hash.update_bf16(sources(0), kCount / 16);
  for (std::size_t lane = 0; lane < Sha256Lanes::kLanes; ++lane) {
    std::vector<float> floats(kCount);
    for (std::size_t i = 0; i < kCount; ++i) {
      std::uint16_t bits = 0;
      std::memcpy(&bits, streams_[lane].data() + 2 * i, sizeof bits);
      floats[i] = bf16_to_float(bits);
    }
    EXPECT_EQ(alone(std::as_bytes(std::span(floats))), hash.finish(lane, {}));
  }
}

TEST_P(Sha256LanesTest, LanesWithoutAStreamNeedNoBytes) {
  for (const std::size_t lane : {std::size_t{0}, std::size_t{1}, std::size_t{15}}) {
    Sha256Lanes hash(GetParam());
    hash.start(lane);
    Sha256Lanes::Sources from{};
    from[lane] = streams_[lane].data();
    hash.update(from, 5);
    const auto all = std::span<const std::byte>(streams_[lane]).first(330);
    EXPECT_EQ(alone(all), hash.finish(lane, all.subspan(320))) << lane;
  }
}

INSTANTIATE_TEST_SUITE_P(Ways, Sha256LanesTest,
                         testing::Values(Sha256Lanes::Way::kWide, Sha256Lanes::Way::kPairs),
                         [](const auto& way) {
                           return way.param == Sha256Lanes::Way::kWide ? "wide" : "pairs";
                         });

}  // namespace
}  // namespace weft::core
