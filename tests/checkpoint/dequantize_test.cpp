#include "checkpoint/dequantize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "checkpoint/gguf.h"
#include "core/number.h"
#include "tests/support/source_dir.h"

namespace weft::checkpoint {
namespace {

std::filesystem::path data_folder() { return tests::source_dir() / "tests/checkpoint/data"; }

/// Floats as bits: equality must hold for the sign of zero and for NaN too.
std::vector<std::uint32_t> bits_of(std::span<const float> values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

class AgainstGgufPy : public ::testing::TestWithParam<const char*> {};

// The values are those of the gguf package (tests/oracles/make_dequantize_reference.py).
TEST_P(AgainstGgufPy, EveryBitIsEqual) {
  const Gguf file = Gguf::open(data_folder() / "blocks.gguf");
  const std::string name = GetParam();
  const GgufTensor* const stored = file.find_tensor(name);
  const GgufTensor* const expected = file.find_tensor(name + ".floats");
  ASSERT_TRUE(stored != nullptr && expected != nullptr);
  ASSERT_EQ(name, stored->type->name);
  std::vector<float> reference(1024);
  ASSERT_EQ(reference.size() * sizeof(float), file.bytes(*expected).size());
  std::memcpy(reference.data(), file.bytes(*expected).data(), file.bytes(*expected).size());
  std::vector<float> found(reference.size());
  dequantize(storage_of(name), file.bytes(*stored), found);
  EXPECT_EQ(bits_of(reference), bits_of(found));
}

INSTANTIATE_TEST_SUITE_P(Dequantize, AgainstGgufPy,
                         ::testing::Values("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
                                           "Q4_K", "Q5_K", "Q6_K"),
                         [](const auto& test) { return std::string(test.param); });

TEST(Dequantize, EveryF16PatternEqualsTheScalarConversion) {
  std::vector<std::uint16_t> patterns(0x10000);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  std::vector<float> found(patterns.size());
  dequantize(Storage::kF16, std::as_bytes(std::span(patterns)), found);
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(core::f16_to_float(patterns[i])),
              std::bit_cast<std::uint32_t>(found[i]))
        << i;
  }
}

TEST(Dequantize, EveryStorageHasItsBlockAndName) {
  EXPECT_EQ(Storage::kQ4_K, storage_of("Q4_K"));
  EXPECT_EQ(Storage::kOther, storage_of("I64"));
  EXPECT_EQ(256U, block_size(Storage::kQ6_K).elements);
  EXPECT_EQ(0U, block_size(Storage::kOther).elements);
  // The sizes are ggml's.
  for (const char* name :
       {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"}) {
    EXPECT_EQ(find_ggml_type(name)->block_bytes, block_size(storage_of(name)).bytes) << name;
    EXPECT_EQ(find_ggml_type(name)->block_elements, block_size(storage_of(name)).elements) << name;
    EXPECT_NE(std::string::npos, readable_storages().find(name));
  }
}

TEST(Dequantize, BlocksThatDoNotFitAreAMistakeOfTheCaller) {
  std::vector<std::byte> block(34);
  std::vector<float> out(32);
  EXPECT_NO_THROW(dequantize(Storage::kQ8_0, block, out));
  EXPECT_THROW(dequantize(Storage::kQ8_0, std::span(block).first(33), out), std::logic_error);
  EXPECT_THROW(dequantize(Storage::kQ8_0, block, std::span(out).first(31)), std::logic_error);
  EXPECT_THROW(dequantize(Storage::kOther, block, out), std::logic_error);
}

}  // namespace
}  // namespace weft::checkpoint
