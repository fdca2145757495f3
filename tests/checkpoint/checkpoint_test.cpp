#include "checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <set>

#include "checkpoint/gguf.h"
#include "checkpoint/python_json.h"
#include "checkpoint/safetensors.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_models.h"

namespace weft::checkpoint {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using tests::GgufBuilder;
using tests::TempDir;
using tests::TinyLlama;

std::vector<std::int64_t> shape_of(const TinyLlama::Tensor& tensor) {
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(tensor.rows)};
  if (tensor.columns > 0) shape.push_back(static_cast<std::int64_t>(tensor.columns));
  return shape;
}

using Values = std::map<std::string, std::vector<float>>;

/// Writes F32 tensors into as many files as `max_shard_bytes` asks for, with index.
void write_weights(const fs::path& folder, const std::vector<TensorPlan>& plans,
                   const Values& values, std::uint64_t max_shard_bytes = kDefaultShardBytes) {
  const std::vector<Shard> shards = plan_shards(plans, max_shard_bytes);
  for (const Shard& shard : shards) {
    SafetensorsWriter writer(folder / shard.file, shard.tensors);
    for (const TensorPlan& tensor : writer.order()) writer.write(values.at(tensor.name));
    writer.finish();
  }
  write_shard_index(folder, shards);
}

void write_tiny(const fs::path& folder, std::uint64_t max_shard_bytes = kDefaultShardBytes) {
  fs::create_directories(folder);
  core::write_text(folder / "config.json", TinyLlama::config());
  std::vector<TensorPlan> plans;
  Values values;
  const auto tensors = TinyLlama::tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string name = tensors[i].hugging_face + ".weight";
    plans.push_back({name, "F32", shape_of(tensors[i])});
    values[name] = TinyLlama::values(tensors[i], i);
  }
  write_weights(folder, plans, values, max_shard_bytes);
}

fs::path write_gguf(const TempDir& dir, const GgufBuilder& file) {
  return dir.write("m.gguf", file.build());
}

void expect_tiny_values(const Checkpoint& model) {
  const auto tensors = TinyLlama::tensors();
  ASSERT_EQ(tensors.size(), model.tensors().size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo* info = model.find(tensors[i].hugging_face + ".weight");
    ASSERT_NE(nullptr, info) << tensors[i].hugging_face;
    EXPECT_EQ(shape_of(tensors[i]), info->shape);
    EXPECT_EQ(TinyLlama::values(tensors[i], i), model.read(*info)) << info->name;
  }
}

TEST(Checkpoint, ReadsAHuggingFaceFolder) {
  const TempDir dir;
  write_tiny(dir / "m");
  const Checkpoint model = Checkpoint::open(dir / "m");
  EXPECT_EQ(Kind::kHuggingFace, model.kind());
  EXPECT_EQ(8, model.config()["hidden_size"]);
  EXPECT_EQ(nullptr, model.gguf());
  EXPECT_TRUE(std::ranges::is_sorted(model.tensors(), {}, &TensorInfo::name));
  EXPECT_EQ(nullptr, model.find("none"));
  expect_tiny_values(model);
}

TEST(Checkpoint, ShardsAreOneModel) {
  const TempDir dir;
  write_tiny(dir / "m", 500);
  ASSERT_TRUE(fs::exists(dir / "m/model.safetensors.index.json"));
  const Checkpoint model = Checkpoint::open(dir / "m");
  std::set<fs::path> files;
  for (const TensorInfo& tensor : model.tensors()) files.insert(tensor.file);
  EXPECT_GT(files.size(), 3U);
  expect_tiny_values(model);
}

TEST(Checkpoint, GgufTensorsHaveTheirOwnNamesAndOrderBack) {
  const TempDir dir;
  const Checkpoint model = Checkpoint::open(write_gguf(dir, TinyLlama::gguf()));
  EXPECT_EQ(Kind::kGguf, model.kind());
  EXPECT_TRUE(model.side_files().empty());
  expect_tiny_values(model);
}

TEST(Checkpoint, AnyRowsOfAnInterleavedTensorAreThoseOfTheWhole) {
  const TempDir dir;
  const Checkpoint model = Checkpoint::open(write_gguf(dir, TinyLlama::gguf()));
  const TensorInfo& query = *model.find("model.layers.1.self_attn.q_proj.weight");
  const std::vector<float> whole = model.read(query);
  for (std::int64_t begin = 0; begin <= query.rows(); ++begin) {
    for (std::int64_t end = begin; end <= query.rows(); ++end) {
      std::vector<float> part(static_cast<std::size_t>((end - begin) * query.row_elements()));
      model.read_rows(query, begin, end, part);
      EXPECT_TRUE(
          std::equal(part.begin(), part.end(), whole.begin() + begin * query.row_elements()))
          << begin << " to " << end;
    }
  }
  EXPECT_TRUE(model.raw(query).empty());  // Its bytes are not in the model's order.
}

TEST(Checkpoint, InterleavedBiasesAreRestoredToo) {
  const TempDir dir;
  GgufBuilder file = TinyLlama::gguf();
  const std::vector<float> query{0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<float> key{10, 11, 12, 13};
  for (const char* layer : {"blk.0", "blk.1"}) {
    file.f32_tensor(std::string(layer) + ".attn_q.bias", {8},
                    TinyLlama::interleave(query, TinyLlama::kHeads, 1));
    file.f32_tensor(std::string(layer) + ".attn_k.bias", {4},
                    TinyLlama::interleave(key, TinyLlama::kKeyHeads, 1));
    file.f32_tensor(std::string(layer) + ".attn_v.bias", {4}, key);
  }
  const Checkpoint model = Checkpoint::open(write_gguf(dir, file));
  EXPECT_EQ(query, model.read(*model.find("model.layers.0.self_attn.q_proj.bias")));
  EXPECT_EQ(key, model.read(*model.find("model.layers.1.self_attn.k_proj.bias")));
  EXPECT_EQ(key, model.read(*model.find("model.layers.1.self_attn.v_proj.bias")));
  EXPECT_EQ(true, model.config()["attention_bias"]);
  EXPECT_EQ(false, model.config()["mlp_bias"]);
}

TEST(Checkpoint, TheDigestIsOfTheNumbersNotOfTheFile) {
  const TempDir dir;
  write_tiny(dir / "one");
  write_tiny(dir / "many", 300);
  const std::string digest = Checkpoint::open(dir / "one").weights_digest();
  EXPECT_EQ(digest, Checkpoint::open(dir / "many").weights_digest());
  EXPECT_EQ(digest, Checkpoint::open(write_gguf(dir, TinyLlama::gguf())).weights_digest());
  core::set_thread_count(3);
  EXPECT_EQ(digest, Checkpoint::open(dir / "one").weights_digest());
  core::set_thread_count(0);

  // As documented: one line per tensor in order of name.
  std::map<std::string, std::string> lines;
  const auto tensors = TinyLlama::tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string name = tensors[i].hugging_face + ".weight";
    const std::string shape =
        std::to_string(tensors[i].rows) +
        (tensors[i].columns == 0 ? "" : "x" + std::to_string(tensors[i].columns));
    lines[name] = name + " " + shape + " " +
                  core::sha256(tests::bytes_of(TinyLlama::values(tensors[i], i))) + "\n";
  }
  std::string all;
  for (const auto& [name, line] : lines) all += line;
  EXPECT_EQ(core::sha256(all), digest);
}

TEST(Checkpoint, AChangedNumberChangesTheDigest) {
  const TempDir dir;
  write_tiny(dir / "m");
  const std::string before = Checkpoint::open(dir / "m").weights_digest();
  std::string bytes = tests::slurp(dir / "m/model.safetensors");
  bytes.back() ^= 1;
  dir.write("m/model.safetensors", bytes);
  EXPECT_NE(before, Checkpoint::open(dir / "m").weights_digest());
}

TEST(Checkpoint, RotaryBuffersDoNotCountInTheDigest) {
  const TempDir dir;
  const auto write = [&](const char* folder, std::vector<TensorPlan> plans) {
    fs::create_directories(dir / folder);
    core::write_text(dir / folder / "config.json", TinyLlama::config());
    write_weights(dir / folder, plans,
                  {{"w", {1, 2}}, {"model.layers.0.self_attn.rotary_emb.inv_freq", {3}}});
    return Checkpoint::open(dir / folder).weights_digest();
  };
  EXPECT_EQ(write("a", {{"w", "F32", {2}}}),
            write("b", {{"w", "F32", {2}},
                        {"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {1}}}));
}

TEST(Checkpoint, ATiedHeadThatEqualsTheEmbeddingIsAbsent) {
  const TempDir dir;
  core::write_text(dir / "config.json", TinyLlama::config());
  write_weights(dir.path(),
                {{"lm_head.weight", "F32", {2, 1}}, {"model.embed_tokens.weight", "F32", {2, 1}}},
                {{"lm_head.weight", {1, 2}}, {"model.embed_tokens.weight", {1, 2}}});
  const Checkpoint model = Checkpoint::open(dir.path());
  EXPECT_EQ(nullptr, model.find("lm_head.weight"));
  EXPECT_EQ(true, model.config()["tie_word_embeddings"]);
}

TEST(Checkpoint, ATiedHeadThatDiffersIsKeptAndUntied) {
  const TempDir dir;
  core::write_text(dir / "config.json", TinyLlama::config());
  write_weights(dir.path(),
                {{"lm_head.weight", "F32", {2, 1}}, {"model.embed_tokens.weight", "F32", {2, 1}}},
                {{"lm_head.weight", {1, 3}}, {"model.embed_tokens.weight", {1, 2}}});
  const Checkpoint model = Checkpoint::open(dir.path());
  EXPECT_NE(nullptr, model.find("lm_head.weight"));
  EXPECT_EQ(false, model.config()["tie_word_embeddings"]);
}

TEST(Checkpoint, ATiedHeadThatStandsAloneIsTheEmbedding) {
  const TempDir dir;
  core::write_text(dir / "config.json", TinyLlama::config());
  write_weights(dir.path(), {{"lm_head.weight", "F32", {2, 1}}}, {{"lm_head.weight", {1, 2}}});
  const Checkpoint model = Checkpoint::open(dir.path());
  EXPECT_EQ(nullptr, model.find("lm_head.weight"));
  EXPECT_EQ((std::vector<float>{1, 2}), model.read(*model.find("model.embed_tokens.weight")));
}

TEST(Checkpoint, AnUntiedHeadIsATensor) {
  const TempDir dir;
  core::write_text(dir / "config.json", TinyLlama::config(false));
  write_weights(dir.path(),
                {{"lm_head.weight", "F32", {2, 1}}, {"model.embed_tokens.weight", "F32", {2, 1}}},
                {{"lm_head.weight", {1, 2}}, {"model.embed_tokens.weight", {1, 2}}});
  EXPECT_NE(nullptr, Checkpoint::open(dir.path()).find("lm_head.weight"));
}

TEST(Checkpoint, PlainTensorsGiveTheirBytesAndOthersNone) {
  const TempDir dir;
  core::write_text(dir / "config.json", TinyLlama::config());
  {
    SafetensorsWriter writer(dir / "model.safetensors", {{"ids", "I64", {1}}, {"w", "BF16", {2}}});
    const std::vector<std::int64_t> ids{5};
    const std::vector<std::uint16_t> bf16{0x3f80, 0xc000};
    writer.write(std::as_bytes(std::span(ids)));
    writer.write(std::as_bytes(std::span(bf16)));
    writer.finish();
  }
  const Checkpoint model = Checkpoint::open(dir.path());
  EXPECT_EQ(4U, model.raw(*model.find("w")).size());
  EXPECT_EQ((std::vector<float>{1, -2}), model.read(*model.find("w")));
  EXPECT_EQ(8U, model.raw(*model.find("ids")).size());  // To be copied, not to be computed with.
  EXPECT_EQ("I64", model.find("ids")->storage_name);
  EXPECT_THROWS_WITH((void)model.read(*model.find("ids")), InputError, "model.safetensors", "'ids'",
                     "I64", "BF16");
  EXPECT_FALSE(model.weights_digest().empty());
  model.release(*model.find("w"));
  EXPECT_EQ((std::vector<float>{1, -2}), model.read(*model.find("w")));
}

TEST(Checkpoint, SideFilesAreThoseThatAreThere) {
  const TempDir dir;
  write_tiny(dir / "m");
  dir.write("m/tokenizer.json", "{}");
  dir.write("m/generation_config.json", "{}");
  dir.write("m/README.md", "");
  const auto files = Checkpoint::open(dir / "m").side_files();
  EXPECT_EQ((std::vector{dir / "m/generation_config.json", dir / "m/tokenizer.json"}), files);
}

// -- Faults of folders ----------------------------------------------------------------------------

TEST(CheckpointFault, NothingThere) {
  const TempDir dir;
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "none"), InputError, "no such model", "none");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir.path()), InputError, "no model in", "config.json");
}

TEST(CheckpointFault, TheRootOfAHubsCacheNamesTheFolderOfItsFiles) {
  const TempDir dir;
  dir.write("models--x--y/refs/main", "abc");
  dir.write("models--x--y/snapshots/abc/config.json", "{}");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "models--x--y"), InputError, "Hub's cache",
                     "models--x--y/snapshots/abc");
}

TEST(CheckpointFault, HintsAtWhatIsThereInstead) {
  const TempDir dir;
  dir.write("a/adapter_config.json", "{}");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "a"), InputError, "holds an adapter");
  dir.write("b/m.gguf", "");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "b"), InputError, "name the file", "m.gguf");
  dir.write("c/config.json", "{}");
  dir.write("c/pytorch_model.bin", "");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "c"), InputError, "pytorch_model.bin",
                     "safetensors");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir.write("m.safetensors", "x")), InputError,
                     "name the folder");
}

TEST(CheckpointFault, AConfigurationThatIsNone) {
  const TempDir dir;
  write_tiny(dir / "m");
  const auto open_with = [&](std::string_view config) {
    dir.write("m/config.json", config);
    (void)Checkpoint::open(dir / "m");
  };
  EXPECT_THROWS_WITH(open_with("{\n  \"a\": }"), InputError, "config.json:2:8: not JSON");
  EXPECT_THROWS_WITH(open_with(std::string_view("{}\0{}", 5)), InputError,
                     "config.json:1:3: not JSON");
  EXPECT_THROWS_WITH(open_with(""), InputError, "config.json:1:1: not JSON");
  EXPECT_THROWS_WITH(open_with("[1]"), InputError,
                     "config.json: expected a JSON object, found array");
  EXPECT_THROWS_WITH(open_with(R"({"a": 1, "a": 2})"), InputError, "'a' appears twice");
  EXPECT_THROWS_WITH(open_with(std::string(100'000, '[')), InputError, "deeper than 64");
  EXPECT_THROWS_WITH(open_with(R"({"tie_word_embeddings": "yes"})"), InputError,
                     "tie_word_embeddings must be true or false");
}

TEST(CheckpointFault, NoWeights) {
  const TempDir dir;
  dir.write("config.json", "{}");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir.path()), InputError, "neither model.safetensors");
}

class IndexFault : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny(dir / "m", 500);
    index = json::parse(tests::slurp(dir / "m/model.safetensors.index.json"));
  }
  void open() {
    dir.write("m/model.safetensors.index.json", index.dump());
    (void)Checkpoint::open(dir / "m");
  }
  TempDir dir;
  json index;
};

TEST_F(IndexFault, TheUntouchedIndexOpens) { EXPECT_NO_THROW(open()); }

TEST_F(IndexFault, NoWeightMap) {
  index.erase("weight_map");
  EXPECT_THROWS_WITH(open(), InputError, "index.json", "weight_map");
}

TEST_F(IndexFault, FilesOutsideTheFolder) {
  for (const char* file : {"../x.safetensors", "/etc/passwd", "x.bin"}) {
    index["weight_map"]["model.norm.weight"] = file;
    EXPECT_THROWS_WITH(open(), InputError, "'model.norm.weight'", file);
  }
  index["weight_map"]["model.norm.weight"] = 7;
  EXPECT_THROWS_WITH(open(), InputError, "'model.norm.weight'", "found 7");
}

TEST_F(IndexFault, AMissingFile) {
  const std::string file = index["weight_map"]["model.norm.weight"];
  fs::remove(dir / "m" / file);
  EXPECT_THROWS_WITH(open(), InputError, "no such file");
}

TEST_F(IndexFault, ATensorThatNoFileHas) {
  index["weight_map"]["model.extra.weight"] = index["weight_map"]["model.norm.weight"];
  EXPECT_THROWS_WITH(open(), InputError, "'model.extra.weight'", "lacks it");
}

TEST_F(IndexFault, ATensorThatTheIndexLacks) {
  index["weight_map"].erase("model.norm.weight");
  EXPECT_THROWS_WITH(open(), InputError, "'model.norm.weight'", "is not in");
}

TEST_F(IndexFault, ATensorInAnotherFile) {
  index["weight_map"]["model.norm.weight"] =
      index["weight_map"]["model.layers.1.mlp.up_proj.weight"];
  EXPECT_THROWS_WITH(open(), InputError, "'model.norm.weight'", "it is in");
}

TEST_F(IndexFault, ATensorInTwoFiles) {
  SafetensorsWriter writer(dir / "m/extra.safetensors",
                           {{"model.norm.weight", "F32", {8}}, {"x", "F32", {1}}});
  writer.write(std::vector<float>(9));
  writer.finish();
  index["weight_map"]["x"] = "extra.safetensors";
  EXPECT_THROWS_WITH(open(), InputError, "'model.norm.weight' is in two files",
                     "extra.safetensors");
}

// -- Configuration from GGUF metadata
// ---------------------------------------------------------------

json gguf_config_of(const std::function<void(GgufBuilder&)>& change) {
  const TempDir dir;
  GgufBuilder file = TinyLlama::gguf();
  change(file);
  return Checkpoint::open(write_gguf(dir, file)).config();
}

TEST(GgufConfig, HasTheFieldsOfConfigJson) {
  const json config = gguf_config_of([](GgufBuilder&) {});
  EXPECT_EQ(json({"LlamaForCausalLM"}), config["architectures"]);
  EXPECT_EQ("llama", config["model_type"]);
  EXPECT_EQ(8, config["hidden_size"]);
  EXPECT_EQ(12, config["intermediate_size"]);
  EXPECT_EQ(2, config["num_hidden_layers"]);
  EXPECT_EQ(2, config["num_attention_heads"]);
  EXPECT_EQ(1, config["num_key_value_heads"]);
  EXPECT_EQ(4, config["head_dim"]);
  EXPECT_EQ(10, config["vocab_size"]);
  EXPECT_EQ(128, config["max_position_embeddings"]);
  EXPECT_EQ(static_cast<double>(1e-5F), config["rms_norm_eps"]);
  EXPECT_EQ(10000.0, config["rope_theta"]);
  EXPECT_EQ(nullptr, config["rope_scaling"]);
  EXPECT_EQ(true, config["tie_word_embeddings"]);
  EXPECT_EQ(1, config["bos_token_id"]);
  EXPECT_EQ(2, config["eos_token_id"]);
  EXPECT_EQ("float32", config["torch_dtype"]);
}

TEST(GgufConfig, AHeadOfItsOwnIsUntied) {
  const json config = gguf_config_of([](GgufBuilder& file) {
    file.f32_tensor("output.weight", {8, 10}, std::vector<float>(80, 1.0F));
  });
  EXPECT_EQ(false, config["tie_word_embeddings"]);
}

TEST(GgufConfig, LinearScalingIsKept) {
  const json config = gguf_config_of([](GgufBuilder& file) {
    file.text("llama.rope.scaling.type", "linear").f32("llama.rope.scaling.factor", 4.0F);
  });
  EXPECT_EQ(json({{"rope_type", "linear"}, {"factor", 4.0}}), config["rope_scaling"]);
}

TEST(GgufConfig, YarnScalingIsKept) {
  const json config = gguf_config_of([](GgufBuilder& file) {
    file.text("llama.rope.scaling.type", "yarn")
        .f32("llama.rope.scaling.factor", 8.0F)
        .u32("llama.rope.scaling.original_context_length", 64)
        .f32("llama.rope.scaling.yarn_beta_fast", 16.0F);
  });
  EXPECT_EQ(json({{"rope_type", "yarn"},
                  {"factor", 8.0},
                  {"original_max_position_embeddings", 64},
                  {"beta_fast", 16.0}}),
            config["rope_scaling"]);
}

TEST(GgufConfig, Llama3ScalingIsRecoveredFromItsFactors) {
  // Wavelengths 2 pi and 2 pi 2000: below 8192 / 4, where factors are 1, and above 8192.
  const json config = gguf_config_of([](GgufBuilder& file) {
    file.f32("llama.rope.freq_base", 4e6F);
    file.f32_tensor("rope_freqs.weight", {2}, {1.0F, 32.0F});
  });
  EXPECT_EQ(json({{"rope_type", "llama3"},
                  {"factor", 32.0},
                  {"low_freq_factor", 1.0},
                  {"high_freq_factor", 4.0},
                  {"original_max_position_embeddings", 8192}}),
            config["rope_scaling"]);
}

TEST(GgufConfig, FactorsOfOneAreNoScaling) {
  const json config = gguf_config_of([](GgufBuilder& file) {
    file.f32_tensor("rope_freqs.weight", {2}, {1.0F, 1.0F});
  });
  EXPECT_EQ(nullptr, config["rope_scaling"]);
}

#define EXPECT_GGUF_FAULT(change, ...) \
  EXPECT_THROWS_WITH((void)gguf_config_of(change), InputError, "m.gguf: ", __VA_ARGS__)

TEST(GgufFault, ScalingThatCannotBeExpressed) {
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.text("llama.rope.scaling.type", "longrope"); },
                    "'longrope' is not supported");
  EXPECT_GGUF_FAULT(
      [](GgufBuilder& f) {
        f.f32_tensor("rope_freqs.weight", {2}, {1.0F, 2.0F});
      },
      "rope_freqs.weight", "not Llama 3's");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.f32_tensor("rope_freqs.weight", {1}, {1.0F}); },
                    "must hold 2 values");
}

TEST(GgufFault, WhatTheFamilyLacks) {
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.u32("llama.expert_count", 8); }, "mixture of experts");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.f32_tensor("blk.0.attn_x.weight", {1}, {1}); },
                    "'blk.0.attn_x.weight' is not part of");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.u32("split.count", 3); }, "one of 3 parts");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.text("general.type", "adapter"); }, "holds an adapter");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.u32("llama.attention.value_length", 8); },
                    "different width");
}

TEST(GgufFault, MetadataThatIsMissingOrCannotBeMeant) {
  const TempDir dir;
  const auto open = [&](const GgufBuilder& file) {
    (void)Checkpoint::open(dir.write("m.gguf", file.build()));
  };
  GgufBuilder nothing;
  nothing.text("general.architecture", "llama")
      .f32_tensor("token_embd.weight", {8, 10}, std::vector<float>(80));
  EXPECT_THROWS_WITH(open(nothing), InputError, "'llama.embedding_length' is missing");
  GgufBuilder anonymous;
  EXPECT_THROWS_WITH(open(anonymous), InputError, "'general.architecture' is missing");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.f32("llama.rope.freq_base", -1.0F); },
                    "positive number");
  EXPECT_GGUF_FAULT([](GgufBuilder& f) { f.u32("llama.attention.key_length", 0); },
                    "cannot be meant");
}

TEST(GgufFault, TensorsThatAreMissing) {
  const TempDir dir;
  const auto tensors = TinyLlama::tensors();
  for (std::size_t skipped = 0; skipped < tensors.size(); ++skipped) {
    GgufBuilder file = TinyLlama::gguf_metadata();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (i != skipped) TinyLlama::add_gguf_tensor(file, tensors[i], i);
    }
    const std::string name = tensors[skipped].gguf + ".weight";
    EXPECT_THROWS_WITH((void)Checkpoint::open(dir.write("m.gguf", file.build())), InputError,
                       name.c_str(), "missing");
  }
}

TEST(GgufFault, HeadsThatDoNotFitTheRows) {
  const TempDir dir;
  GgufBuilder file = TinyLlama::gguf_metadata();
  auto tensors = TinyLlama::tensors();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].gguf == "blk.1.attn_k") tensors[i].rows = 2, tensors[i].heads = 0;
    TinyLlama::add_gguf_tensor(file, tensors[i], i);
  }
  EXPECT_THROWS_WITH((void)Checkpoint::open(write_gguf(dir, file)), InputError,
                     "'blk.1.attn_k.weight' must have 4 rows", "[2, 8]");
}

TEST(GgufFault, AnUnknownArchitectureNamesTheKnown) {
  const TempDir dir;
  GgufBuilder file = TinyLlama::gguf_metadata("mamba");
  file.f32_tensor("token_embd.weight", {8, 10}, std::vector<float>(80));
  EXPECT_THROWS_WITH((void)Checkpoint::open(write_gguf(dir, file)), InputError, "'mamba'",
                     "supported: llama");
}

TEST(Checkpoint, AVocabularyOfAnyArchitectureOpensWithoutTensors) {
  const TempDir dir;
  const Checkpoint model = Checkpoint::open(write_gguf(dir, TinyLlama::gguf_metadata("gpt2")));
  EXPECT_TRUE(model.tensors().empty());
  EXPECT_EQ("gpt2", model.config()["model_type"]);
  EXPECT_EQ(1, model.gguf()->integer("tokenizer.ggml.bos_token_id"));
}

TEST(TensorInfo, ATensorOfNothingHasNoRowsHoweverLargeItsShape) {
  const TempDir dir;
  dir.write("model/config.json", R"({"model_type": "llama"})");
  dir.write("model/model.safetensors",
            tests::safetensors_bytes(
                R"({"a":{"dtype":"F16","shape":[4611686018427387904,0],"data_offsets":[0,0]},)"
                R"("b":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]},)"
                R"("c":{"dtype":"F32","shape":[3,2,5],"data_offsets":[0,120]}})",
                std::string(120, '\0')));
  const Checkpoint model = Checkpoint::open(dir / "model");
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(model.find(name)->rows(), 0) << name;
    EXPECT_EQ(model.find(name)->elements(), 0) << name;
    EXPECT_TRUE(model.read(*model.find(name)).empty()) << name;
  }
  EXPECT_EQ(model.find("c")->rows(), 6);
  EXPECT_EQ(model.find("c")->row_elements(), 5);
  EXPECT_EQ(model.weights_digest().size(), 64U);  // And ends.
}

TEST(Checkpoint, AConfigurationThatPythonWroteWithInfinityIsRead) {
  const TempDir dir;
  write_tiny(dir / "m");
  const std::string text =
      R"({"model_type": "llama", "a": [0.0, Infinity], "b": "Infinity", "c": -Infinity, "d": NaN})";
  dir.write("m/config.json", text);
  const nlohmann::json config = Checkpoint::open(dir / "m").config();
  EXPECT_EQ(config.at("b"), "Infinity");
  EXPECT_FALSE(config.at("c").is_number());
  EXPECT_EQ(unquote_constants(config.dump()),
            R"({"a":[0.0,Infinity],"b":"Infinity","c":-Infinity,"d":NaN,"model_type":"llama"})");
}

TEST(Checkpoint, TheRootOfACacheOfTheHubLeadsToItsSnapshot) {
  const TempDir dir;
  dir.write("models--x--y/snapshots/0bad/config.json", "{}");
  EXPECT_THROWS_WITH((void)Checkpoint::open(dir / "models--x--y"), InputError, "snapshots/0bad");
}

}  // namespace
}  // namespace weft::checkpoint
