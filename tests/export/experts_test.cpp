// Stacks of experts in GGUF files: what becomes one tensor, and of which type.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "checkpoint/dequantize.h"
#include "checkpoint/gguf.h"
#include "core/error.h"
#include "export/gguf_lora.h"
#include "export/gguf_tensors.h"
#include "export/peft.h"
#include "merge/merge.h"
#include "tests/merge/models.h"
#include "tests/support/model_files.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::exporting {
namespace {

namespace fs = std::filesystem;
using checkpoint::Checkpoint;
using checkpoint::Gguf;
using checkpoint::Storage;
using tests::GgufBuilder;
using tests::ModelTensor;
using tests::TempDir;
using Bytes = std::vector<std::byte>;

constexpr std::uint32_t kF32 = 0, kMxfp4 = 39;  // ggml's numbers
constexpr std::uint64_t kExperts = 3, kHidden = 32, kWidth = 64;

/// What a GGUF file would hold: the tensors' types and bytes.
struct Written {
  Storage storage;
  Bytes bytes;
};

std::map<std::string, Written> exported(const fs::path& model, const char* type = "f32",
                                        const std::vector<InputPaths::Adapter>& adapters = {}) {
  const OpenInputs inputs = open_inputs({model, adapters}, {}, Output::kModel);
  const std::vector<GgufTensorJob> jobs = plan_tensors(inputs, find_file_type(type));
  std::map<std::string, Written> tensors;
  for (const checkpoint::GgufTensorPlan& plan : tensors_of(jobs)) {
    tensors[plan.name].storage = plan.storage;
  }
  for (const GgufTensorJob& job : jobs) {
    EXPECT_EQ(job.plan.storage, tensors.at(job.plan.name).storage) << job.plan.name;
    write_tensor(inputs, job, [&](std::span<const std::byte> bytes) {
      auto& all = tensors.at(job.plan.name).bytes;
      all.insert(all.end(), bytes.begin(), bytes.end());
    });
  }
  for (const checkpoint::GgufTensorPlan& plan : tensors_of(jobs)) {
    EXPECT_EQ(tensors.at(plan.name).bytes.size(), plan.bytes()) << plan.name;
  }
  return tensors;
}

/// A Mixtral whose experts are stored one by one, some of them changed.
fs::path changed_mixtral(const TempDir& dir,
                         const std::function<void(std::vector<ModelTensor>&)>& change) {
  const fs::path model = dir / "base";
  tests::write_tiny_model(model, {.experts = 3});
  std::vector<ModelTensor> tensors;
  {
    const Checkpoint base = Checkpoint::open(model);
    for (const checkpoint::TensorInfo& info : base.tensors()) {
      tensors.push_back({info.name, info.shape, core::DType::kF32, base.read(info)});
    }
  }
  change(tensors);
  tests::write_tensors(model / "model.safetensors", tensors);
  return model;
}

std::string expert(int layer, int number, const char* name) {
  return fmt::format("model.layers.{}.block_sparse_moe.experts.{}.{}.weight", layer, number, name);
}

TEST(ExpertsFault, AMatrixThatIsMissingIsNamedAtTheEndOfAnyStack) {
  const auto without = [](const std::string& name) {
    const TempDir dir;
    const fs::path model = changed_mixtral(dir, [&](std::vector<ModelTensor>& tensors) {
      EXPECT_EQ(std::erase_if(tensors, [&](const auto& t) { return t.name == name; }), 1U);
    });
    (void)exported(model);
  };
  EXPECT_THROWS_WITH(without(expert(1, 2, "w3")), InputError, "expert 2",
                     "'blk.1.ffn_up_exps.weight' is missing");
  EXPECT_THROWS_WITH(without(expert(0, 2, "w1")), InputError, "expert 2",
                     "'blk.0.ffn_gate_exps.weight' is missing");
  EXPECT_THROWS_WITH(without(expert(0, 1, "w2")), InputError, "expert 1",
                     "'blk.0.ffn_down_exps.weight' is missing");
  EXPECT_THROWS_WITH(without(expert(0, 0, "w2")), InputError, "expert 0",
                     "'blk.0.ffn_down_exps.weight' is missing");
}

TEST(ExpertsFault, MatricesOfOneStackThatDifferInShape) {
  const TempDir dir;
  const fs::path model = changed_mixtral(dir, [](std::vector<ModelTensor>& tensors) {
    for (ModelTensor& tensor : tensors) {
      if (tensor.name == expert(1, 1, "w1")) tensor = tests::noisy(tensor.name, {24, 32});
    }
  });
  EXPECT_THROWS_WITH((void)exported(model), InputError, "'blk.1.ffn_gate_exps.weight'",
                     "expert 1 has [24, 32], expert 0 has [48, 32]");
}

/// Blocks of 32 numbers of at most 3/4.
std::string packed(std::uint64_t numbers, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes;
  for (std::uint64_t block = 0; block < numbers / 32; ++block) {
    bytes += static_cast<char>(124);
    for (int i = 0; i < 16; ++i) bytes += static_cast<char>(random() & 0xff);
  }
  return bytes;
}

void add_noise(GgufBuilder& file, const std::string& name, const std::vector<std::uint64_t>& shape,
               std::uint32_t type = kF32) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : shape) count *= size;
  const std::uint32_t seed = static_cast<std::uint32_t>(name.size()) + type;
  file.tensor(
      name, shape, type,
      type == kMxfp4 ? packed(count, seed) : tests::bytes_of(tests::noise(count, 0.1F, seed)));
}

/// A model of one layer with its experts in these types: gate, up, down.
fs::path write_gguf_base(const TempDir& dir, const std::string& architecture,
                         const std::array<std::uint32_t, 3>& types) {
  const bool gpt_oss = architecture == "gpt-oss";
  GgufBuilder file;
  tests::add_expert_metadata(file, architecture, kHidden, kWidth, kExperts);
  add_noise(file, "token_embd.weight", {kHidden, 10});
  add_noise(file, "output.weight", {kHidden, 10});
  add_noise(file, "output_norm.weight", {kHidden});
  add_noise(file, "blk.0.attn_norm.weight", {kHidden});
  add_noise(file, gpt_oss ? "blk.0.post_attention_norm.weight" : "blk.0.ffn_norm.weight",
            {kHidden});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    add_noise(file, "blk.0." + std::string(name) + ".weight", {kHidden, kHidden});
  }
  add_noise(file, "blk.0.ffn_gate_inp.weight", {kHidden, kExperts});
  add_noise(file, "blk.0.ffn_gate_exps.weight", {kHidden, kWidth, kExperts}, types[0]);
  add_noise(file, "blk.0.ffn_up_exps.weight", {kHidden, kWidth, kExperts}, types[1]);
  add_noise(file, "blk.0.ffn_down_exps.weight", {kWidth, kHidden, kExperts}, types[2]);
  if (gpt_oss) add_noise(file, "blk.0.attn_sinks.weight", {2});
  return dir.write("base.gguf", file.build());
}

/// A tensor of the file as it lies there, and its numbers.
Bytes bytes_in(const fs::path& file, const std::string& name) {
  const Gguf gguf = Gguf::open(file);
  const auto bytes = gguf.bytes(*gguf.find_tensor(name));
  return {bytes.begin(), bytes.end()};
}

std::vector<float> numbers(Storage storage, const Bytes& bytes) {
  const auto block = checkpoint::block_size(storage);
  std::vector<float> values(bytes.size() / block.bytes * block.elements);
  checkpoint::dequantize(storage, bytes, values);
  return values;
}

TEST(GgufExperts, AStackStaysInMxfp4OnlyWhereNothingChangesAnyOfIt) {
  const TempDir dir;
  const fs::path base = write_gguf_base(dir, "llama", {kMxfp4, kMxfp4, kMxfp4});
  const std::string key = "base_model.model.model.layers.0.block_sparse_moe.experts.1.w2.";
  const fs::path adapter = tests::write_adapter(
      dir / "adapter",
      R"({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["experts.1.w2"]})",
      {tests::noisy(key + "lora_A.weight", {2, kWidth}),
       tests::noisy(key + "lora_B.weight", {kHidden, 2})});
  const auto found = exported(base, "q8_0", {{adapter, 1}});
  for (const char* name : {"blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"}) {
    EXPECT_EQ(found.at(name).storage, Storage::kMXFP4);
    EXPECT_EQ(found.at(name).bytes, bytes_in(base, name));
  }
  const std::string down = "blk.0.ffn_down_exps.weight";
  EXPECT_EQ(found.at(down).storage, Storage::kQ8_0);
  const std::vector<float> before = numbers(Storage::kMXFP4, bytes_in(base, down));
  const std::vector<float> after = numbers(Storage::kQ8_0, found.at(down).bytes);
  ASSERT_EQ(before.size(), after.size());
  const std::size_t each = before.size() / kExperts;
  for (std::size_t e = 0; e < kExperts; ++e) {
    double difference = 0;
    for (std::size_t i = e * each; i < (e + 1) * each; ++i) {
      difference = std::max(difference, std::abs(double{after[i]} - double{before[i]}));
    }
    EXPECT_EQ(difference > 5e-3, e == 1) << difference;
  }
}

TEST(GgufExperts, GateAndUpOfOneStackOfTheModelKeepTheirOwnTypes) {
  const std::string gate = "blk.0.ffn_gate_exps.weight";
  const std::string up = "blk.0.ffn_up_exps.weight";
  for (const bool first : {true, false}) {
    const TempDir dir;
    const fs::path base =
        write_gguf_base(dir, "gpt-oss", {first ? kMxfp4 : kF32, first ? kF32 : kMxfp4, kMxfp4});
    for (const char* type : {"f32", "q8_0"}) {
      const auto found = exported(base, type);
      const Storage other = find_file_type(type).storage;
      EXPECT_EQ(found.at(gate).storage, first ? Storage::kMXFP4 : other);
      EXPECT_EQ(found.at(up).storage, first ? other : Storage::kMXFP4);
      const std::string& kept = first ? gate : up;
      const std::string& plain = first ? up : gate;
      EXPECT_EQ(found.at(kept).bytes, bytes_in(base, kept));
      const std::vector<float> wanted = numbers(Storage::kF32, bytes_in(base, plain));
      const std::vector<float> values = numbers(other, found.at(plain).bytes);
      ASSERT_EQ(values.size(), wanted.size());
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        ASSERT_NEAR(values[i], wanted[i], other == Storage::kF32 ? 0 : 5e-4);
      }
    }
  }
}

/// Of both stacks of both layers, as PEFT writes them: rank 2.
fs::path write_stack_adapter(const TempDir& dir) {
  std::vector<ModelTensor> factors;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string experts = fmt::format("base_model.model.model.layers.{}.mlp.experts.", layer);
    const auto add = [&](const std::string& key, std::int64_t out, std::int64_t in) {
      const auto seed = static_cast<std::uint32_t>(10 * layer + out);
      factors.push_back(
          tests::noisy(experts + key + "lora_A.weight", {2 * 3, in}, core::DType::kF32, seed));
      factors.push_back(
          tests::noisy(experts + key + "lora_B.weight", {out, 2 * 3}, core::DType::kF32, seed + 1));
    };
    add("base_layer.", 2 * 64, 32);  // gate_up_proj
    add("", 32, 64);                 // down_proj
  }
  return tests::write_adapter(
      dir / "adapter",
      R"({"peft_type": "LORA", "r": 2, "lora_alpha": 5, "target_modules": [],)"
      R"("target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]})",
      factors);
}

TEST(GgufExperts, AnAdapterOfStacksIsFoldedAsAMergeFoldsIt) {
  const TempDir dir;
  const fs::path model = tests::write_tiny_model(dir / "base", {.intermediate = 64, .experts = 3});
  const fs::path adapter = write_stack_adapter(dir);
  merge::MergeRequest request;
  request.model = model;
  request.adapters = {{adapter, -0.5}};
  request.dtype = core::DType::kF32;
  request.out = dir / "merged";
  (void)merge::merge_model(request);
  for (const char* type : {"f32", "q8_0"}) {
    const auto wanted = exported(dir / "merged", type);
    const auto found = exported(model, type, {{adapter, -0.5}});
    const auto before = exported(model, type);
    ASSERT_EQ(found.size(), wanted.size());
    for (const auto& [name, tensor] : found) {
      EXPECT_EQ(tensor.bytes, wanted.at(name).bytes) << name;
      const bool changes = name.find("_exps.") != std::string::npos;
      EXPECT_EQ(tensor.bytes != before.at(name).bytes, changes) << name;
    }
  }
}

TEST(ExpertsFault, AnAdapterOfStacksIsNotWrittenAsAnAdapter) {
  const TempDir dir;
  const fs::path model = tests::write_tiny_model(dir / "base", {.intermediate = 64, .experts = 3});
  const fs::path adapter = write_stack_adapter(dir);
  GgufLoraRequest lora;
  lora.inputs = {model, {{adapter, 1}}};
  lora.out = dir / "adapter.gguf";
  EXPECT_THROWS_WITH((void)write_gguf_lora(lora), InputError, "target_parameters", "GGUF",
                     "weft merge");
  PeftRequest peft;
  peft.adapters = {{adapter, 1}};
  peft.out = dir / "peft";
  EXPECT_THROWS_WITH((void)write_portable_peft(peft), InputError, "target_parameters", "--to peft");
}

}  // namespace
}  // namespace weft::exporting
