#include "checkpoint/gguf_family.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "checkpoint/dequantize.h"
#include "checkpoint/quantize.h"
#include "checkpoint/stored_rows.h"
#include "core/error.h"
#include "tests/support/throws.h"

namespace weft::checkpoint {
namespace {

using Rows = std::vector<std::int64_t>;

const Family& family(std::string_view type) { return *find_family_of(type); }

GgufPlaces places(std::string_view type, const GgufSizes& sizes, std::string_view tensor,
                  const Rows& shape) {
  return gguf_places(family(type), sizes, tensor, shape).value();
}

constexpr GgufSizes kTwoHeads{.hidden = 8, .layers = 2, .heads = 2, .key_heads = 2, .head_dim = 4};
constexpr GgufSizes kShared{
    .hidden = 16, .layers = 2, .heads = 4, .key_heads = 2, .head_dim = 4, .experts = 3};

TEST(GgufForms, CountWhatTheirReadersNeed) {
  for (const Family& row : families()) {
    if (row.gguf == nullptr) continue;
    for (const char* name : {"block_count", "embedding_length", "attention.head_count"}) {
      EXPECT_NE(row.gguf->keys.end(), std::ranges::find(row.gguf->keys, name, &GgufKey::gguf))
          << row.model_type << " " << name;
    }
    std::set<std::string_view> names;
    for (const GgufKey& key : row.gguf->keys) {
      EXPECT_TRUE(names.insert(key.gguf).second) << row.model_type << " twice: " << key.gguf;
    }
  }
}

TEST(GgufNames, FollowFromThePart) {
  const auto name = [](std::string_view type, std::string_view tensor) {
    return gguf_names(family(type), tensor);
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(name("llama", "model.layers.12.self_attn.q_proj.weight"),
            Names{"blk.12.attn_q.weight"});
  EXPECT_EQ(name("gpt2", "transformer.wpe.weight"), Names{"position_embd.weight"});
  EXPECT_EQ(name("falcon", "transformer.h.0.ln_attn.bias"), Names{"blk.0.attn_norm_2.bias"});
  EXPECT_EQ(name("internlm2", "model.layers.3.attention.wqkv.weight"),
            (Names{"blk.3.attn_q.weight", "blk.3.attn_k.weight", "blk.3.attn_v.weight"}));
  EXPECT_EQ(name("gpt_oss", "model.layers.3.self_attn.sinks"), Names{"blk.3.attn_sinks.weight"});
  EXPECT_EQ(name("gpt_oss", "model.layers.3.mlp.experts.down_proj_bias"),
            Names{"blk.3.ffn_down_exps.bias"});
  EXPECT_EQ(name("qwen2_moe", "model.layers.3.mlp.shared_expert_gate.weight"),
            Names{"blk.3.ffn_gate_inp_shexp.weight"});
  EXPECT_EQ(name("qwen2_moe", "model.layers.3.mlp.experts.12.down_proj.weight"),
            Names{"blk.3.ffn_down_exps.weight"});
  EXPECT_EQ(name("gpt_oss", "model.layers.3.mlp.experts.down_proj.weight"), Names{});
  EXPECT_EQ(name("llama", "model.layers.007.self_attn.q_proj.weight"), Names{});
  EXPECT_EQ(name("llama", "model.layers.0.self_attn.q_proj.scale"), Names{});
}

TEST(GgufPlaces, InterleavesTheHalvesOfHeadsForTheRotaryKernel) {
  const GgufPlaces found =
      places("llama", kTwoHeads, "model.layers.0.self_attn.q_proj.weight", {8, 8});
  EXPECT_EQ(found.tensors[0].rows, (Rows{0, 2, 1, 3, 4, 6, 5, 7}));
  EXPECT_EQ(found.group, 4);
  EXPECT_TRUE(places("llama", kTwoHeads, "model.layers.0.self_attn.v_proj.weight", {8, 8})
                  .tensors[0]
                  .rows.empty());
  EXPECT_TRUE(places("qwen2", kTwoHeads, "model.layers.0.self_attn.q_proj.weight", {8, 8})
                  .tensors[0]
                  .rows.empty());
}

TEST(GgufPlaces, GathersQueriesKeysAndValuesOfEachHead) {
  const GgufPlaces found =
      places("gpt_neox", kTwoHeads, "gpt_neox.layers.0.attention.query_key_value.bias", {24});
  const Rows q{0, 1, 2, 3, 12, 13, 14, 15};
  const Rows k{4, 5, 6, 7, 16, 17, 18, 19};
  const Rows v{8, 9, 10, 11, 20, 21, 22, 23};
  Rows all = q;
  all.insert(all.end(), k.begin(), k.end());
  all.insert(all.end(), v.begin(), v.end());
  EXPECT_EQ(found.tensors[0].rows, all);
}

TEST(GgufPlaces, CutsAGroupedMatrixIntoThreeInterleavedOnes) {
  const GgufPlaces found =
      places("internlm2", kShared, "model.layers.0.attention.wqkv.weight", {32, 16});
  ASSERT_EQ(found.tensors.size(), 3U);
  // Groups of two queries, a key and a value, four rows each.
  EXPECT_EQ(found.tensors[0].rows, (Rows{0, 2, 1, 3, 4, 6, 5, 7, 16, 18, 17, 19, 20, 22, 21, 23}));
  EXPECT_EQ(found.tensors[1].rows, (Rows{8, 10, 9, 11, 24, 26, 25, 27}));
  EXPECT_EQ(found.tensors[2].rows, (Rows{12, 13, 14, 15, 28, 29, 30, 31}));
}

TEST(GgufPlaces, HaveEveryRowOnceInGroupsOfNeighbours) {
  for (const Family& row : families()) {
    if (row.gguf == nullptr) continue;
    for (const TensorRow& tensor : row.tensors) {
      // Families that store the three of each head together share no keys.
      const bool by_head = tensor.layout == Layout::kPerHead;
      const std::int64_t fused = tensor.part != Part::kQueryKeyValue ? 16 : by_head ? 24 : 32;
      const std::int64_t outputs =
          tensor.part == Part::kKey || tensor.part == Part::kValue ? 8 : fused;
      Rows shape{outputs, 16};
      if (tensor.layout == Layout::kTransposed) std::swap(shape[0], shape[1]);
      if (gguf_name(tensor).find("norm") != std::string_view::npos) shape = {16};
      if (is_stack(tensor.part)) shape.insert(shape.begin(), kShared.experts);
      if (tensor.part == Part::kSinks) shape = {4};
      const std::string name = tensor_name(tensor, 1, 0, false);
      const GgufPlaces found = gguf_places(row, by_head ? kTwoHeads : kShared, name, shape).value();
      Rows all;
      for (const GgufPlace& place : found.tensors) {
        if (place.rows.empty()) continue;
        all.insert(all.end(), place.rows.begin(), place.rows.end());
        for (std::int64_t at = 0; at < place.outputs; at += found.group) {
          const auto begin = place.rows.begin() + at;
          const auto [low, high] = std::minmax_element(begin, begin + found.group);
          EXPECT_EQ(*high - *low, found.group - 1) << name;
        }
      }
      if (all.empty()) continue;
      std::ranges::sort(all);
      Rows every(static_cast<std::size_t>(outputs));
      std::iota(every.begin(), every.end(), 0);
      EXPECT_EQ(all, every) << name;
    }
  }
}

TEST(GgufPlaces, ShiftTheWeightsOfGemmasNormsAndTransposeGpt2) {
  EXPECT_EQ(places("gemma", kTwoHeads, "model.norm.weight", {8}).shift, 1);
  EXPECT_EQ(places("llama", kTwoHeads, "model.norm.weight", {8}).shift, 0);
  const GgufPlaces found = places("gpt2", kTwoHeads, "transformer.h.0.mlp.c_fc.weight", {8, 32});
  EXPECT_TRUE(found.transposed);
  EXPECT_EQ(found.tensors[0].outputs, 32);
  EXPECT_FALSE(places("gpt2", kTwoHeads, "transformer.h.0.mlp.c_fc.bias", {32}).transposed);
}

TEST(GgufPlaces, AreOneMatrixOfTheFilesStackForEachExpert) {
  const GgufPlaces found =
      places("mixtral", kShared, "model.layers.1.block_sparse_moe.experts.2.w3.weight", {32, 16});
  ASSERT_EQ(found.tensors.size(), 1U);
  EXPECT_EQ(found.tensors[0].name, "blk.1.ffn_up_exps.weight");
  EXPECT_EQ(found.tensors[0].outputs, 32);
  EXPECT_EQ(found.experts, 3);
  EXPECT_EQ(found.expert, 2);
  EXPECT_THROWS_WITH(
      (void)places("qwen3_moe", kShared, "model.layers.1.mlp.experts.3.up_proj.weight", {32, 16}),
      InputError, "a model of 3 experts", "[32, 16]");
}

TEST(GgufPlaces, TakeGateAndUpOfAStackApart) {
  const GgufPlaces halves =
      places("qwen3_moe", kShared, "model.layers.0.mlp.experts.gate_up_proj", {3, 64, 16});
  ASSERT_EQ(halves.tensors.size(), 2U);
  EXPECT_FALSE(halves.transposed);
  EXPECT_EQ(halves.expert, std::nullopt);
  EXPECT_EQ(halves.tensors[1].name, "blk.0.ffn_up_exps.weight");
  EXPECT_EQ(halves.tensors[1].first, 32);
  EXPECT_EQ(halves.tensors[1].step, 1);
  const GgufPlaces turns =
      places("gpt_oss", kShared, "model.layers.0.mlp.experts.gate_up_proj", {3, 16, 64});
  EXPECT_TRUE(turns.transposed);
  EXPECT_EQ(turns.tensors[0].name, "blk.0.ffn_gate_exps.weight");
  EXPECT_EQ(turns.tensors[1].outputs, 32);
  EXPECT_EQ(turns.tensors[1].first, 1);
  EXPECT_EQ(turns.tensors[1].step, 2);
  const GgufPlaces bias =
      places("gpt_oss", kShared, "model.layers.0.mlp.experts.gate_up_proj_bias", {3, 64});
  EXPECT_FALSE(bias.transposed);
  EXPECT_EQ(bias.tensors[0].name, "blk.0.ffn_gate_exps.bias");
  EXPECT_EQ(bias.tensors[0].step, 2);
  EXPECT_THROWS_WITH(
      (void)places("gpt_oss", kShared, "model.layers.0.mlp.experts.down_proj", {4, 16, 64}),
      InputError, "a model of 3 experts", "[4, 16, 64]");
}

TEST(GgufPlaces, RefuseRowsThatAreNoWholeHeads) {
  EXPECT_THROWS_WITH((void)places("bloom", kTwoHeads,
                                  "transformer.h.0.self_attention.query_key_value.weight", {20, 8}),
                     InputError, "must have 24 rows (6 heads of 4)", "[20, 8]");
}

TEST(GgufValue, FollowsTheFamilysDefaults) {
  const auto value = [](std::string_view type, const nlohmann::json& config, const char* key) {
    return gguf_value(config, *family(type).gguf, key, "here");
  };
  EXPECT_EQ(value("gpt2", {{"n_embd", 64}}, "feed_forward_length"), 256);
  EXPECT_EQ(value("gpt2", {{"n_embd", 64}, {"n_inner", 100}}, "feed_forward_length"), 100);
  EXPECT_EQ(value("falcon", {{"num_attention_heads", 8}}, "attention.head_count_kv"), 1);
  EXPECT_EQ(
      value("falcon", {{"num_attention_heads", 8}, {"multi_query", false}, {"num_kv_heads", 4}},
            "attention.head_count_kv"),
      8);
  EXPECT_EQ(
      value("falcon",
            {{"num_attention_heads", 8}, {"new_decoder_architecture", true}, {"num_kv_heads", 4}},
            "attention.head_count_kv"),
      4);
  EXPECT_EQ(value("phi3", {{"sliding_window", nullptr}}, "attention.sliding_window"), std::nullopt);
  EXPECT_THROWS_WITH(
      (void)value("gemma2", {{"attn_logit_softcapping", nullptr}}, "attn_logit_softcapping"),
      InputError, "'attn_logit_softcapping' = null", "'gemma2'");
  EXPECT_THROWS_WITH((void)value("orion", nlohmann::json::object(), "context_length"), InputError,
                     "'max_sequence_length' or 'max_position_embeddings'");
  EXPECT_THROWS_WITH((void)value("llama", {{"hidden_size", "wide"}}, "embedding_length"),
                     InputError, "a positive whole number 'hidden_size'", "wide");
}

TEST(GgufSizes, RefuseHeadsThatTheArchitectureCannotSay) {
  const nlohmann::json config = {{"num_hidden_layers", 2},
                                 {"hidden_size", 64},
                                 {"intermediate_size", 64},
                                 {"num_attention_heads", 4},
                                 {"head_dim", 32}};
  EXPECT_EQ(gguf_sizes(config, *family("llama").gguf, "here").head_dim, 32);
  EXPECT_THROWS_WITH((void)gguf_sizes(config, *family("granite").gguf, "here"), InputError,
                     "heads of 32", "'granite'", "= 16");
}

TEST(GatherColumns, EqualsTheTransposeOfWhatIsStored) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kColumns = 96;
  std::vector<float> numbers(kRows * kColumns);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = static_cast<float>(static_cast<int>(i * 37 % 101) - 50);
  }
  for (const Storage storage : {Storage::kF32, Storage::kBF16, Storage::kQ8_0}) {
    const BlockSize block = block_size(storage);
    std::vector<std::byte> bytes(numbers.size() / block.elements * block.bytes);
    quantize(storage, numbers, bytes);
    std::vector<float> stored(numbers.size());
    dequantize(storage, bytes, stored);
    for (const auto& [begin, end] : {std::pair(0, 96), std::pair(7, 9), std::pair(31, 65)}) {
      std::vector<float> out(static_cast<std::size_t>((end - begin) * kRows));
      gather_columns(storage, bytes, kRows, kColumns, begin, end, out);
      for (std::int64_t column = begin; column < end; ++column) {
        for (std::int64_t row = 0; row < kRows; ++row) {
          EXPECT_EQ(out[static_cast<std::size_t>((column - begin) * kRows + row)],
                    stored[static_cast<std::size_t>(row * kColumns + column)]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft::checkpoint
