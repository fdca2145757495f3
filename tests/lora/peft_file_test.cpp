#include "lora/peft_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "tests/lora/adapters.h"
#include "tests/support/throws.h"

namespace weft::lora {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using tests::adapter_key;
using tests::AdapterTensor;
using tests::config_with;
using tests::TempDir;
using tests::write_adapter;
using tests::zero_pair;

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";
constexpr const char* kV = "model.layers.0.self_attn.v_proj";

template <typename Number>
std::vector<std::byte> bytes_of(const std::vector<Number>& numbers) {
  std::vector<std::byte> bytes(numbers.size() * sizeof(Number));
  std::memcpy(bytes.data(), numbers.data(), bytes.size());
  return bytes;
}

/// Writes and opens an adapter.
void open(const TempDir& dir, const std::vector<AdapterTensor>& tensors,
          const std::string& config = config_with()) {
  (void)PeftFile::open(write_adapter(dir / "adapter", config, tensors));
}

std::vector<AdapterTensor> with(std::vector<AdapterTensor> tensors, AdapterTensor more) {
  tensors.push_back(std::move(more));
  return tensors;
}

TEST(PeftFile, ReadsShapesRanksAndScalesInOrderOfPath) {
  const TempDir dir;
  auto tensors = zero_pair(kV, 3, 4, 6);
  for (auto& tensor : zero_pair(kQ, 2, 4, 5)) tensors.push_back(tensor);
  const PeftFile file = PeftFile::open(
      write_adapter(dir / "a", config_with(R"("rank_pattern": {"v_proj": 3})"), tensors));
  ASSERT_EQ(file.targets().size(), 2U);
  EXPECT_EQ(file.targets()[0].module.path, kQ);
  EXPECT_EQ(file.targets()[0].module.in, 4);
  EXPECT_EQ(file.targets()[0].module.out, 5);
  EXPECT_EQ(file.targets()[0].scale, 2);
  EXPECT_EQ(file.targets()[1].rank, 3);
  EXPECT_EQ(file.targets()[1].scale, 4.0 / 3);
}

TEST(PeftFile, ReadsF32F16AndBf16Exactly) {
  const TempDir dir;
  const std::vector<float> wide{0.1F, -2, 3, 4e-30F};
  const std::vector<std::uint16_t> f16{0x3c00, 0xc000, 0x0001, 0x7bff};
  const std::vector<std::uint16_t> bf16{0x3f80, 0xc000, 0x0001, 0x7f7f};
  const auto folder =
      write_adapter(dir / "a", config_with(),
                    {{adapter_key(kQ, ".lora_A.weight"), {2, 2}, "F16", bytes_of(f16)},
                     {adapter_key(kQ, ".lora_B.weight"), {2, 2}, "BF16", bytes_of(bf16)},
                     {adapter_key(kV, ".lora_A.weight"), {2, 2}, "F32", bytes_of(wide)},
                     {adapter_key(kV, ".lora_B.weight"), {1, 2}, "F32", {}}});
  const Adapter adapter = read_peft(folder);
  EXPECT_THAT(adapter.factors[0].a, ElementsAre(1.0F, -2.0F, 0x1p-24F, 65504.0F));
  EXPECT_THAT(adapter.factors[0].b,
              ElementsAre(1.0F, -2.0F, 0x1p-133F, std::bit_cast<float>(0x7f7f0000U)));
  EXPECT_EQ(adapter.factors[1].a, wide);
  EXPECT_EQ(PeftFile::open(folder).storage(), "BF16+F16+F32");
}

TEST(PeftFile, HalfAPairNamesTheMissingKey) {
  const TempDir dir;
  EXPECT_THROWS_WITH(open(dir, {zero_pair(kQ, 2, 4, 5)[0]}), InputError,
                     "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "partner");
  EXPECT_THROWS_WITH(open(dir, {zero_pair(kQ, 2, 4, 5)[1]}), InputError, "q_proj.lora_A.weight");
}

TEST(PeftFile, AModuleThatTheConfigurationDoesNotChooseIsAnError) {
  const TempDir dir;
  EXPECT_THROWS_WITH(open(dir, zero_pair("model.layers.0.mlp.up_proj", 2, 4, 5)), InputError,
                     "mlp.up_proj.lora_A.weight", "target_modules");
}

TEST(PeftFile, ARankThatIsNotTheConfigurationsNamesBoth) {
  const TempDir dir;
  EXPECT_THROWS_WITH(open(dir, zero_pair(kQ, 3, 4, 5)), InputError, "lora_A", "[3, 4]", "rank 2");
  auto tensors = zero_pair(kQ, 2, 4, 5);
  tensors[1].shape = {5, 3};
  EXPECT_THROWS_WITH(open(dir, tensors), InputError, "lora_B", "[5, 3]", "rank 2");
}

TEST(PeftFile, TensorsThatAreNoMatricesAreErrors) {
  const TempDir dir;
  auto tensors = zero_pair(kQ, 2, 4, 5);
  tensors[0].shape = {2, 2, 2};
  EXPECT_THROWS_WITH(open(dir, tensors), InputError, "matrix", "[2, 2, 2]");
  tensors[0].shape = {2, 0};
  EXPECT_THROWS_WITH(open(dir, tensors), InputError, "matrix", "[2, 0]");
}

TEST(PeftFile, OtherNumberTypesAreErrors) {
  const TempDir dir;
  auto tensors = zero_pair(kQ, 2, 4, 5);
  tensors[1].dtype = "F64";
  EXPECT_THROWS_WITH(open(dir, tensors), InputError, "lora_B", "F64", "BF16");
}

struct Foreign {
  const char* key;
  const char* what;
};
class ForeignKey : public ::testing::TestWithParam<Foreign> {};

TEST_P(ForeignKey, IsNamedWithWhatItIs) {
  const TempDir dir;
  EXPECT_THROWS_WITH(open(dir, with(zero_pair(kQ, 2, 4, 5), {GetParam().key, {2, 2}, "F32", {}})),
                     InputError, GetParam().key, GetParam().what);
}

INSTANTIATE_TEST_SUITE_P(
    PeftFile, ForeignKey,
    ::testing::Values(
        Foreign{"base_model.model.model.embed_tokens.lora_embedding_A", "lora_embedding_B"},
        Foreign{"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
                "trainable_token_indices"},
        Foreign{"base_model.model.model.layers.0.mlp.gate.weight", "modules_to_save"},
        Foreign{"base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias", "bias"},
        Foreign{"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
                "adapter name"},
        Foreign{"model.layers.0.self_attn.q_proj.lora_a", "mlx-lm"},
        Foreign{"model.layers.0.self_attn.v_proj.lora_A.weight", "base_model.model."},
        Foreign{"base_model.model.lora_A.weight", "base_model.model."}));

TEST(PeftFile, VectorsAndTheConfigurationMustAgree) {
  const TempDir dir;
  const auto pair = zero_pair(kQ, 2, 4, 5);
  const auto vector = [](const char* end, std::int64_t size) {
    return tests::AdapterTensor{adapter_key(kQ, end), {size}, "F32", {}};
  };
  EXPECT_THROWS_WITH(open(dir, with(pair, vector(".lora_magnitude_vector", 5))), InputError,
                     "has a DoRA magnitude", "use_dora = false");
  const std::string dora = config_with(R"("use_dora": true)");
  EXPECT_THROWS_WITH(open(dir, pair, dora), InputError, "has no DoRA magnitude", "use_dora = true");
  EXPECT_THROWS_WITH(open(dir, with(pair, vector(".lora_magnitude_vector", 4)), dora), InputError,
                     "[4]", "5 outputs");
  EXPECT_THROWS_WITH(open(dir, with(pair, vector(".lora_B.bias", 5))), InputError,
                     "has a bias of lora_B", "lora_bias = false");
}

TEST(PeftFile, TrainedRowsAndTheirNumbersMustAgree) {
  const TempDir dir;
  const tests::AdapterTensor rows{
      adapter_key("model.embed_tokens", ".token_adapter.trainable_tokens_delta"),
      {2, 4},
      "F32",
      {}};
  EXPECT_THROWS_WITH(open(dir, {rows}, config_with(R"("trainable_token_indices": [1, 2, 3])")),
                     InputError, "has 2 rows, trainable_token_indices names 3");
  EXPECT_THROWS_WITH(open(dir, {rows}, config_with(R"("trainable_token_indices": [1, 1])")),
                     InputError, "twice");
  EXPECT_THROWS_WITH(
      open(dir, {rows}, config_with(R"("trainable_token_indices": {"wte": [1, 2]})")), InputError,
      "does not say which");
}

TEST(PeftFile, MoreThanPairsIsReadForMergingAndRefusedForComputing) {
  const TempDir dir;
  const auto folder = write_adapter(
      dir / "a", config_with(R"("modules_to_save": ["lm_head"])"),
      with(zero_pair(kQ, 2, 4, 5), {"base_model.model.lm_head.weight", {3, 4}, "F32", {}}));
  const PeftFile file = PeftFile::open(folder);
  ASSERT_EQ(file.saved().size(), 1U);
  EXPECT_EQ(file.saved()[0].tensor, "lm_head.weight");
  EXPECT_EQ(file.keys().size(), 3U);
  EXPECT_THROWS_WITH((void)read_peft(folder), InputError, "modules_to_save", "weft merge");
}

TEST(PeftFile, ControlCharactersInNamesCannotBreakTheLine) {
  const TempDir dir;
  try {
    open(dir, {{"evil\nname", {2, 2}, "F32", {}}});
    FAIL();
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), Not(HasSubstr("\n")));
  }
}

TEST(PeftFile, NotANumberIsFoundWhenLoaded) {
  const TempDir dir;
  auto tensors = zero_pair(kQ, 2, 4, 5);
  std::vector<float> numbers(10, 0.5F);
  numbers[7] = std::numeric_limits<float>::quiet_NaN();
  tensors[1].bytes = bytes_of(numbers);
  const auto folder = write_adapter(dir / "a", config_with(), tensors);
  EXPECT_THROWS_WITH((void)read_peft(folder), InputError, "q_proj.lora_B.weight", "element 7",
                     "nan");
}

TEST(PeftFile, AnEmptyAdapterIsAnError) {
  const TempDir dir;
  EXPECT_THROWS_WITH(open(dir, {}), InputError, "no tensors");
}

TEST(PeftFile, ATruncatedFileIsAnError) {
  const TempDir dir;
  const auto folder = write_adapter(dir / "a", config_with(), zero_pair(kQ, 2, 4, 5));
  const auto file = folder / "adapter_model.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  EXPECT_THROWS_WITH((void)PeftFile::open(folder), InputError, "adapter_model.safetensors");
}

TEST(PeftFile, MissingFilesSayWhatToDo) {
  const TempDir dir;
  EXPECT_THROWS_WITH((void)PeftFile::open(dir / "none"), InputError, "does not exist");
  const auto file = dir.write("file", "x");
  EXPECT_THROWS_WITH((void)PeftFile::open(file), InputError, "is a file", "adapter_config.json");
  dir.write("plain/readme", "x");
  EXPECT_THROWS_WITH((void)PeftFile::open(dir / "plain"), InputError, "adapter_config.json");
  dir.write("run/checkpoint-5/adapter_config.json", config_with());
  EXPECT_THROWS_WITH((void)PeftFile::open(dir / "run"), InputError, "did you mean", "checkpoint-5");
  EXPECT_THROWS_WITH((void)PeftFile::open(dir / "run/checkpoint-5"), InputError,
                     "adapter_model.safetensors");
  dir.write("run/checkpoint-5/adapter_model.bin", "pickle");
  EXPECT_THROWS_WITH((void)PeftFile::open(dir / "run/checkpoint-5"), InputError,
                     "adapter_model.bin", "save_pretrained");
}

TEST(PeftFile, AmbiguousPatternsOfAFileAreAnInputErrorThatNamesIt) {
  const TempDir dir;
  EXPECT_THROWS_WITH(open(dir, zero_pair(kQ, 2, 4, 5),
                          config_with(R"("alpha_pattern": {"q_proj": 8, "self_attn.q_proj": 9})")),
                     InputError, "adapter_config.json", "alpha_pattern");
}

TEST(PeftFile, APatternKeyWithoutUseIsReportedNotRefused) {
  const TempDir dir;
  const auto folder = write_adapter(dir / "a", config_with(R"("rank_pattern": {"k_proj": 9})"),
                                    zero_pair(kQ, 2, 4, 5));
  std::string heard;
  (void)PeftFile::open(folder, [&](core::Level, std::string_view line) { heard = line; });
  EXPECT_THAT(heard, HasSubstr("rank_pattern 'k_proj'"));
}

TEST(PeftFile, DigestCoversConfigurationAndWeights) {
  const TempDir dir;
  const auto first = write_adapter(dir / "a", config_with(), zero_pair(kQ, 2, 4, 5));
  const auto second =
      write_adapter(dir / "b", config_with(R"("lora_dropout": 0.5)"), zero_pair(kQ, 2, 4, 5));
  const auto third = write_adapter(dir / "c", config_with(), zero_pair(kQ, 2, 4, 6));
  const std::string digest = PeftFile::open(first).digest();
  EXPECT_EQ(PeftFile::open(first).digest(), digest);
  EXPECT_NE(PeftFile::open(second).digest(), digest);
  EXPECT_NE(PeftFile::open(third).digest(), digest);
}

}  // namespace
}  // namespace weft::lora
