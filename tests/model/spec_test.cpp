#include "model/spec.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/checkpoint.h"
#include "core/error.h"
#include "model/decoder.h"
#include "model/kernels/ops.h"
#include "tests/support/temp_dir.h"
#include "tests/support/throws.h"
#include "tests/support/tiny_model.h"

namespace weft::tests {
namespace {

using model::read_spec;
using model::RopeKind;
using model::Spec;
using nlohmann::json;

json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 100},
          {"hidden_size", 64},
          {"intermediate_size", 96},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 2},
          {"hidden_act", "silu"},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true}};
}

Spec with(std::initializer_list<std::pair<const char*, json>> changes) {
  json config = llama();
  for (const auto& [key, value] : changes) config[key] = value;
  return read_spec(config, "config.json");
}

std::vector<float> frequencies(const Spec& spec, std::int64_t length = 1) {
  const at::Tensor f =
      model::rotary_frequencies(spec.rotaries.front(), spec.max_positions, length).frequencies;
  return {f.const_data_ptr<float>(), f.const_data_ptr<float>() + f.numel()};
}

std::vector<std::int64_t> windows(const Spec& spec) {
  std::vector<std::int64_t> result;
  for (const model::LayerSpec& layer : spec.layers) result.push_back(layer.attention.window);
  return result;
}

/// Whether some tensor of the model is the bias of a module whose path ends so.
bool has_biases(const Spec& spec, const std::string& module) {
  return std::ranges::any_of(model::weight_shapes(spec), [&](const model::WeightShape& tensor) {
    return tensor.name.ends_with(module + ".bias");
  });
}

TEST(Spec, ReadsLlama) {
  const Spec spec = with({});
  EXPECT_EQ(spec.architecture, "LlamaForCausalLM");
  const model::LayerSpec& layer = spec.layers.front();
  EXPECT_EQ(layer.attention.head_dim, 8);
  EXPECT_EQ(layer.attention.kv_heads, 2);
  EXPECT_EQ(layer.input_norm->eps, 1e-5);
  EXPECT_TRUE(spec.head.tied);
  EXPECT_FALSE(has_biases(spec, "_proj"));
  EXPECT_EQ(spec.rotaries.front().theta, 10000);
  EXPECT_EQ(windows(spec), std::vector<std::int64_t>({0, 0}));
  EXPECT_EQ(with({{"head_dim", 12}}).layers[1].attention.q_width(), 96);
  EXPECT_EQ(with({{"num_key_value_heads", nullptr}}).layers[1].attention.kv_heads, 8);
  const Spec biased = with({{"attention_bias", true}, {"mlp_bias", true}});
  for (const char* module : {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"})
    EXPECT_TRUE(has_biases(biased, module)) << module;
}

TEST(Spec, ModelTypeServesWhereArchitecturesAreMissing) {
  EXPECT_EQ(with({{"architectures", nullptr}}).architecture, "LlamaForCausalLM");
}

TEST(Spec, BothSpellingsOfRotaryScalingAgree) {
  const json scaling{{"factor", 4.0},
                     {"low_freq_factor", 1.0},
                     {"high_freq_factor", 4.0},
                     {"original_max_position_embeddings", 128}};
  json older = scaling;
  older["type"] = "llama3";
  json newer = scaling;
  newer["rope_type"] = "llama3";
  newer["rope_theta"] = 50000.0;
  const Spec a = with({{"rope_theta", 50000}, {"rope_scaling", older}});
  const Spec b = with({{"rope_parameters", newer}});
  EXPECT_EQ(a.rotaries.front().kind, RopeKind::kLlama3);
  EXPECT_EQ(frequencies(a), frequencies(b));
  EXPECT_NE(frequencies(a), frequencies(with({{"rope_theta", 50000}})));
}

TEST(Spec, LinearScalingDividesFrequencies) {
  const Spec plain = with({});
  const Spec spec = with({{"rope_scaling", {{"rope_type", "linear"}, {"factor", 2.0}}}});
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(frequencies(spec)[i], frequencies(plain)[i] / 2);
}

TEST(Spec, DynamicScalingStartsBeyondTheContext) {
  const Spec plain = with({});
  const Spec spec = with({{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}}});
  EXPECT_EQ(frequencies(spec, 512), frequencies(plain));
  // theta' = theta (2 * 1024 / 512 - 1)^(8 / 6), d = 8
  const double theta = 10000 * std::pow(3.0, 8.0 / 6.0);
  EXPECT_NEAR(frequencies(spec, 1024)[1], std::pow(theta, -0.25), 1e-6);
}

TEST(Spec, YarnFactorFollowsItsKeys) {
  const auto factor = [](json keys) {
    keys["rope_type"] = "yarn";
    if (!keys.contains("factor")) keys["factor"] = 4.0;
    keys["original_max_position_embeddings"] = 128;
    const Spec spec = with({{"rope_scaling", keys}});
    return model::rotary_frequencies(spec.rotaries.front(), spec.max_positions, 1).factor;
  };
  EXPECT_DOUBLE_EQ(factor(json::object()), 0.1 * std::log(4.0) + 1);
  EXPECT_DOUBLE_EQ(factor({{"attention_factor", 1.5}}), 1.5);
  EXPECT_DOUBLE_EQ(factor({{"mscale", 2.0}, {"mscale_all_dim", 0.5}}),
                   (0.2 * std::log(4.0) + 1) / (0.05 * std::log(4.0) + 1));
  EXPECT_DOUBLE_EQ(factor({{"factor", nullptr}}), 0.1 * std::log(4.0) + 1);  // 512 / 128
}

TEST(Spec, WindowsFollowTheFamily) {
  json config = llama();
  config["architectures"] = {"MistralForCausalLM"};
  EXPECT_EQ(windows(read_spec(config, "c")), std::vector<std::int64_t>({4096, 4096}));
  config["sliding_window"] = nullptr;
  EXPECT_EQ(windows(read_spec(config, "c")), std::vector<std::int64_t>({0, 0}));
  config["sliding_window"] = 7;
  EXPECT_EQ(windows(read_spec(config, "c")), std::vector<std::int64_t>({7, 7}));
  config["architectures"] = {"Qwen2ForCausalLM"};
  config["max_window_layers"] = 1;
  EXPECT_EQ(windows(read_spec(config, "c")), std::vector<std::int64_t>({0, 0}));
  EXPECT_TRUE(has_biases(read_spec(config, "c"), "q_proj"));
  EXPECT_FALSE(has_biases(read_spec(config, "c"), "o_proj"));
  config["use_sliding_window"] = true;
  EXPECT_EQ(windows(read_spec(config, "c")), std::vector<std::int64_t>({0, 7}));
  config["layer_types"] = {"sliding_attention", "full_attention"};
  EXPECT_EQ(windows(read_spec(config, "c")), std::vector<std::int64_t>({7, 0}));
}

TEST(Spec, RefusesByNameWhatItDoesNotCompute) {
  EXPECT_THROWS_WITH(with({{"architectures", {"LamaForCausalLM"}}}), InputError, "config.json",
                     "LamaForCausalLM", "nearest: 'LlamaForCausalLM'", "BloomForCausalLM");
  EXPECT_THROWS_WITH(with({{"hidden_act", "softsign"}}), InputError, "hidden_act", "softsign",
                     "silu");
  EXPECT_THROWS_WITH(with({{"logit_scale", 0.5}}), InputError, "logit_scale", "0.5",
                     "LlamaForCausalLM");
  EXPECT_THROWS_WITH(with({{"final_logit_softcapping", 30.0}}), InputError,
                     "final_logit_softcapping");
  EXPECT_THROWS_WITH(with({{"partial_rotary_factor", 1.5}}), InputError, "partial_rotary_factor",
                     "1.5");
  EXPECT_THROWS_WITH(with({{"rope_scaling", {{"type", "ntk"}, {"factor", 2.0}}}}), InputError,
                     "ntk", "default, linear, dynamic, llama3, yarn, longrope");
  EXPECT_THROWS_WITH(with({{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}}),
                     InputError, "full_attention");
  EXPECT_THROWS_WITH(with({{"quantization_config", {{"quant_method", "gptq"}}}}), InputError,
                     "gptq");
  EXPECT_THROWS_WITH(with({{"layer_types", {"full_attention", "sliding_attention"}}}), InputError,
                     "layer_types");
  json mistral = llama();
  mistral["architectures"] = {"MistralForCausalLM"};
  mistral["attention_bias"] = true;
  EXPECT_THROWS_WITH((void)read_spec(mistral, "c"), InputError, "attention_bias",
                     "MistralForCausalLM");
  EXPECT_NO_THROW(with(
      {{"attention_dropout", 0.0}, {"partial_rotary_factor", 1.0}, {"rope_interleaved", false}}));
}

TEST(Spec, NamesTheDropoutThatItDoesNotApply) {
  EXPECT_EQ(with({{"attention_dropout", 0.1}}).dropouts,
            std::vector<std::string>{"attention_dropout"});
  EXPECT_TRUE(with({{"attention_dropout", 0.0}}).dropouts.empty());
}

TEST(Spec, RefusesValuesThatMakeNoModel) {
  EXPECT_THROWS_WITH((void)read_spec(json::array(), "c"), InputError, "object");
  EXPECT_THROWS_WITH(with({{"hidden_size", nullptr}}), InputError, "hidden_size", "missing");
  EXPECT_THROWS_WITH(with({{"hidden_size", -3}}), InputError, "hidden_size", "-3");
  EXPECT_THROWS_WITH(with({{"hidden_size", "64"}}), InputError, "hidden_size", "\"64\"");
  EXPECT_THROWS_WITH(with({{"vocab_size", 1e18}}), InputError, "vocab_size");
  EXPECT_THROWS_WITH(with({{"num_key_value_heads", 3}}), InputError, "num_attention_heads 8", "3");
  EXPECT_THROWS_WITH(with({{"hidden_size", 60}}), InputError, "60", "head_dim");
  EXPECT_THROWS_WITH(with({{"head_dim", 7}}), InputError, "head_dim 7");
  EXPECT_THROWS_WITH(with({{"rope_scaling", {{"type", "linear"}}}}), InputError, "factor",
                     "missing");
  EXPECT_THROWS_WITH(with({{"rope_scaling", {{"type", "linear"}, {"factor", 0}}}}), InputError,
                     "factor");
  EXPECT_THROWS_WITH(with({{"rms_norm_eps", -1.0}}), InputError, "rms_norm_eps");
  EXPECT_THROWS_WITH(with({{"tie_word_embeddings", "yes"}}), InputError, "tie_word_embeddings");
}

TEST(ReadSpec, MoreLayersThanTensorsAreRefusedBeforeAnythingIsMade) {
  const TempDir temp;
  write_tiny_model(temp / "base");
  auto config = nlohmann::json::parse(slurp(temp / "base/config.json"));
  config["num_hidden_layers"] = 100'000'000;
  temp.write("base/config.json", config.dump());
  EXPECT_THROWS_WITH((void)read_spec(checkpoint::Checkpoint::open(temp / "base")), InputError,
                     "num_hidden_layers is 100000000", "tensors");
}

TEST(Decoder, ANumberThatIsNoneInTheBaseIsNamedWhenItIsRead) {
  const TempDir temp;
  write_tiny_model(temp / "base");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  std::string bytes = slurp(temp / "base/model.safetensors");
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto tensors = nlohmann::json::parse(bytes.substr(8, header));
  const std::size_t begin = tensors[name]["data_offsets"][0];
  const float nan = std::nanf("");
  // Row 2, column 5 of [48, 32].
  std::memcpy(bytes.data() + 8 + header + begin + (2 * 32 + 5) * sizeof nan, &nan, sizeof nan);
  temp.write("base/model.safetensors", bytes);
  const auto base = checkpoint::Checkpoint::open(temp / "base");
  for (const auto format :
       {model::BaseFormat::kDense, model::BaseFormat::kInt8, model::BaseFormat::kNf4}) {
    for (const auto compute : {model::Compute::kF32, model::Compute::kBF16}) {
      EXPECT_THROWS_WITH((void)model::Decoder::load(base, compute, format), InputError,
                         name.c_str(), "nan", "row 2, column 5");
    }
  }
}

}  // namespace
}  // namespace weft::tests
