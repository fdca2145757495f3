#include "export/file_type.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::exporting {
namespace {

using checkpoint::Storage;

Storage chosen(std::string_view type, std::string_view name, std::vector<std::int64_t> shape,
               ModelShape model = {.layers = 32}) {
  return storage_for(find_file_type(type), name, shape, model);
}

TEST(FileType, NamesAreReadInAnyCaseAndUnknownOnesListTheKnown) {
  EXPECT_EQ(find_file_type("Q4_K_M").id, 15);
  EXPECT_EQ(find_file_type("bf16").id, 32);  // ggml's own numbering has 24
  EXPECT_THROWS_WITH(static_cast<void>(find_file_type("q3_k_m")), ConfigError, "q3_k_m", "q4_k_m");
}

TEST(FileType, VectorsAndNormsStayF32) {
  EXPECT_EQ(chosen("q4_k_m", "blk.0.attn_norm.weight", {4096}), Storage::kF32);
  EXPECT_EQ(chosen("f16", "blk.0.attn_q.bias", {4096}), Storage::kF32);
  EXPECT_EQ(chosen("q8_0", "blk.0.attn_q_norm.weight", {2, 64}), Storage::kF32);
}

TEST(FileType, MediumMixesGiveMoreBitsToTheLayersAtTheEndsAndEveryThirdBetween) {
  const auto value = [](int layer) {
    return chosen("q4_k_m", fmt::format("blk.{}.attn_v.weight", layer), {1024, 4096});
  };
  for (const int layer : {0, 3, 6, 9, 28, 31}) EXPECT_EQ(value(layer), Storage::kQ6_K) << layer;
  for (const int layer : {4, 5, 7, 8, 26, 27}) {
    EXPECT_EQ(value(layer), layer == 27 ? Storage::kQ6_K : Storage::kQ4_K) << layer;
  }
  EXPECT_EQ(chosen("q4_k_m", "blk.0.attn_q.weight", {4096, 4096}), Storage::kQ4_K);
}

TEST(FileType, SmallMixGivesFiveBitsToTheFirstLayers) {
  EXPECT_EQ(chosen("q4_k_s", "blk.3.attn_v.weight", {1024, 4096}), Storage::kQ5_K);
  EXPECT_EQ(chosen("q4_k_s", "blk.4.attn_v.weight", {1024, 4096}), Storage::kQ4_K);
  EXPECT_EQ(chosen("q4_k_s", "blk.3.ffn_down.weight", {4096, 14336}), Storage::kQ5_K);
  EXPECT_EQ(chosen("q4_k_s", "blk.4.ffn_down.weight", {4096, 14336}), Storage::kQ4_K);
}

TEST(FileType, TheHeadGetsSixBitsAndSoDoesAnEmbeddingThatIsTheHead) {
  EXPECT_EQ(chosen("q4_0", "output.weight", {32000, 4096}), Storage::kQ6_K);
  EXPECT_EQ(chosen("q4_0", "token_embd.weight", {32000, 4096}), Storage::kQ4_0);
  EXPECT_EQ(chosen("q4_0", "token_embd.weight", {32000, 4096}, {.layers = 32, .tied_head = true}),
            Storage::kQ6_K);
}

TEST(FileType, RowsThatAreNoSuperBlocksFallBack) {
  EXPECT_EQ(chosen("q4_k_s", "blk.9.attn_q.weight", {576, 576}), Storage::kQ5_0);
  EXPECT_EQ(chosen("q5_k_s", "blk.9.attn_q.weight", {576, 576}), Storage::kQ5_1);
  EXPECT_EQ(chosen("q6_k", "blk.9.attn_q.weight", {576, 576}), Storage::kQ8_0);
  EXPECT_EQ(chosen("q4_k_m", "token_embd.weight", {100, 576}, {.layers = 30, .tied_head = true}),
            Storage::kQ8_0);
  EXPECT_EQ(chosen("q4_0", "blk.9.attn_q.weight", {48, 48}), Storage::kF16);
}

TEST(FileType, SharedHeadsOfSeventyBillionGetFiveBits) {
  const ModelShape large{.layers = 80, .shared_heads_of_80_layers = true};
  EXPECT_EQ(chosen("q4_k_s", "blk.40.attn_v.weight", {1024, 8192}, large), Storage::kQ5_K);
}

TEST(FileType, AttentionBesideEightExpertsGetsMore) {
  const auto beside = [](std::int64_t experts, std::string_view type, std::string_view name) {
    return chosen(type, name, {1024, 4096}, {.layers = 32, .experts = experts});
  };
  EXPECT_EQ(beside(8, "q4_k_m", "blk.5.attn_v.weight"), Storage::kQ8_0);
  EXPECT_EQ(beside(8, "q4_0", "blk.5.attn_k.weight"), Storage::kQ8_0);
  EXPECT_EQ(beside(8, "q4_k_s", "blk.5.attn_output.weight"), Storage::kQ5_K);
  EXPECT_EQ(beside(8, "q5_k_m", "blk.5.attn_output.weight"), Storage::kQ5_K);
  EXPECT_EQ(beside(8, "q4_0", "blk.5.attn_output.weight"), Storage::kQ4_0);
  EXPECT_EQ(beside(8, "q4_k_m", "blk.5.ffn_down_exps.weight"), Storage::kQ4_K);
  EXPECT_EQ(beside(64, "q4_k_m", "blk.5.attn_k.weight"), Storage::kQ4_K);
  EXPECT_EQ(beside(8, "q4_k_m", "blk.5.ffn_gate_inp.weight"), Storage::kF32);
}

}  // namespace
}  // namespace weft::exporting
