"""Every model family that weft computes, against transformers and PEFT: tiny random models that vary its switches.

Logits and adapters in fp32, bf16 by its distance, generation, training. Families that transformers lacks are
in test_variations.py.
"""
import json
import shutil
import statistics

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from family_figures import record
from test_model import assert_close, divergence, reference_logits, rows_of, weft_logits
from test_train import metrics, set_up, train_with_peft

torch.set_num_threads(2)

SIZES = dict(vocab_size=199, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)


def family(architecture, model_type, **changes):
    return SIZES | dict(architectures=[architecture], model_type=model_type) | changes


def without(config, *keys):
    return {key: value for key, value in config.items() if key not in keys}


QWEN3 = family("Qwen3ForCausalLM", "qwen3", head_dim=16)
SMOLLM3 = family("SmolLM3ForCausalLM", "smollm3", num_hidden_layers=4, pad_token_id=0)
GRANITE = family("GraniteForCausalLM", "granite", attention_multiplier=0.2, residual_multiplier=0.4,
                 embedding_multiplier=6.0, logits_scaling=3.0)
MINISTRAL = family("MinistralForCausalLM", "ministral", head_dim=12)
GEMMA = family("GemmaForCausalLM", "gemma", head_dim=16)
GEMMA2 = family("Gemma2ForCausalLM", "gemma2", head_dim=16, sliding_window=7, query_pre_attn_scalar=24)
GEMMA3 = family("Gemma3ForCausalLM", "gemma3_text", head_dim=16, sliding_window=7, query_pre_attn_scalar=24)
OLMO2 = family("Olmo2ForCausalLM", "olmo2")
PHI3 = family("Phi3ForCausalLM", "phi3", pad_token_id=0)
PHI = family("PhiForCausalLM", "phi")
GPT2 = dict(architectures=["GPT2LMHeadModel"], model_type="gpt2", vocab_size=199, n_embd=48, n_layer=3, n_head=6,
            n_positions=64, bos_token_id=1, eos_token_id=2)
NEOX = without(family("GPTNeoXForCausalLM", "gpt_neox"), "num_key_value_heads")
BLOOM = dict(architectures=["BloomForCausalLM"], model_type="bloom", vocab_size=199, hidden_size=48, n_layer=3,
             n_head=6, bos_token_id=1, eos_token_id=2)
FALCON = without(family("FalconForCausalLM", "falcon"), "num_key_value_heads", "intermediate_size")
FALCON_ALIBI = FALCON | dict(alibi=True)
OPT = without(family("OPTForCausalLM", "opt", ffn_dim=80, word_embed_proj_dim=48), "num_key_value_heads",
              "intermediate_size")
COHERE = family("CohereForCausalLM", "cohere")
COHERE2 = family("Cohere2ForCausalLM", "cohere2", sliding_window=7, num_hidden_layers=4)
GLM = family("GlmForCausalLM", "glm", head_dim=16, pad_token_id=0)
GLM4 = family("Glm4ForCausalLM", "glm4", head_dim=16, pad_token_id=0)
MIXTRAL = family("MixtralForCausalLM", "mixtral", num_local_experts=4, num_experts_per_tok=2)
QWEN2_MOE = family("Qwen2MoeForCausalLM", "qwen2_moe", num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24,
                   shared_expert_intermediate_size=40)
QWEN3_MOE = family("Qwen3MoeForCausalLM", "qwen3_moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=24,
                   head_dim=16)
GPT_OSS = family("GptOssForCausalLM", "gpt_oss", num_local_experts=5, num_experts_per_tok=2, head_dim=16, sliding_window=7,
                 num_hidden_layers=2)
LONGROPE = dict(type="longrope", short_factor=[1.0, 1.5, 2.0, 2.5], long_factor=[2.0, 3.0, 5.0, 8.0])

CONFIGS = {
    "qwen3": QWEN3,
    "qwen3_biased_tied": QWEN3 | dict(attention_bias=True, tie_word_embeddings=True),
    "qwen3_window": QWEN3 | dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "smollm3": SMOLLM3,
    "smollm3_listed": SMOLLM3 | dict(no_rope_layers=[0, 1, 1, 0], tie_word_embeddings=False),
    "smollm3_window": SMOLLM3 | dict(use_sliding_window=True, sliding_window=5, no_rope_layer_interval=2),
    "granite": GRANITE,
    "granite_tied": GRANITE | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "granite_plain_scale": GRANITE | dict(residual_multiplier=1.0, logits_scaling=8.0),
    "ministral_layers": MINISTRAL | dict(sliding_window=5, layer_types=["sliding_attention", "full_attention",
                                                                        "sliding_attention"]),
    "mistral_nemo": family("MistralForCausalLM", "mistral", head_dim=20, sliding_window=None, rope_theta=1e6),
    "gemma": GEMMA,
    "gemma_one_head_of_keys": GEMMA | dict(num_key_value_heads=1, head_dim=24),
    "gemma_gelu": GEMMA | dict(hidden_act="gelu_pytorch_tanh", tie_word_embeddings=False),
    "gemma2": GEMMA2,
    "gemma2_low_caps": GEMMA2 | dict(attn_logit_softcapping=1.0, final_logit_softcapping=2.0),
    "gemma2_no_caps": GEMMA2 | dict(attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma3": GEMMA3 | dict(rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=100.0),
        full_attention=dict(rope_type="linear", factor=4.0, rope_theta=10000.0)),
        layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "gemma3_older": GEMMA3 | dict(rope_theta=1e6, rope_local_base_freq=10000.0, sliding_window_pattern=2),
    "gemma3_linear_older": GEMMA3 | dict(rope_theta=1e6, rope_local_base_freq=300.0, sliding_window_pattern=3,
                                         rope_scaling=dict(rope_type="linear", factor=8.0)),
    "olmo2": OLMO2,
    "olmo2_biased": OLMO2 | dict(attention_bias=True, tie_word_embeddings=True),
    "olmo2_as_many_kv_heads": OLMO2 | dict(num_key_value_heads=6, rms_norm_eps=1e-3),
    "phi3": PHI3,
    "phi3_window_partial": PHI3 | dict(sliding_window=9, head_dim=16, partial_rotary_factor=0.75,
                                       tie_word_embeddings=True),
    "phi3_longrope_beyond": PHI3 | dict(original_max_position_embeddings=12, rope_scaling=LONGROPE),
    "phi3_longrope_within": PHI3 | dict(original_max_position_embeddings=48, rope_scaling=LONGROPE),
    "phi": PHI | dict(partial_rotary_factor=0.5),
    "phi_norms": PHI | dict(qk_layernorm=True, partial_rotary_factor=0.75, num_key_value_heads=6),
    "phi_whole": PHI | dict(partial_rotary_factor=1.0, hidden_act="gelu"),
    "gpt2": GPT2,
    "gpt2_wide": GPT2 | dict(n_inner=100, activation_function="gelu", tie_word_embeddings=False),
    "gpt2_unscaled": GPT2 | dict(scale_attn_weights=False, n_head=3),
    "gpt_neox": NEOX | dict(rotary_pct=0.25),
    "gpt_neox_in_turn": NEOX | dict(use_parallel_residual=False, rotary_pct=0.5, hidden_act="gelu_new"),
    "gpt_neox_no_bias": NEOX | dict(attention_bias=False, rotary_pct=1.0, rotary_emb_base=500, tie_word_embeddings=True),
    "bloom": BLOOM,
    "bloom_8_heads": BLOOM | dict(n_head=8),
    "bloom_untied": BLOOM | dict(tie_word_embeddings=False, n_head=4, layer_norm_epsilon=1e-3),
    "falcon_one_head": FALCON,
    "falcon_groups": FALCON | dict(new_decoder_architecture=True, num_kv_heads=2, bias=True),
    "falcon_groups_one_norm": FALCON | dict(new_decoder_architecture=True, num_kv_heads=3, num_ln_in_parallel_attn=1),
    "falcon_in_turn": FALCON | dict(multi_query=False, parallel_attn=False, ffn_hidden_size=100),
    "falcon_alibi": FALCON_ALIBI | dict(multi_query=False, parallel_attn=False, bias=True),
    "falcon_alibi_one_head": FALCON_ALIBI,
    "falcon_alibi_groups": FALCON_ALIBI | dict(new_decoder_architecture=True, num_kv_heads=2),
    "opt": OPT,
    "opt_gelu": OPT | dict(activation_function="gelu", tie_word_embeddings=False),
    "opt_no_bias": OPT | dict(enable_bias=False),
    "cohere": COHERE,
    "cohere_head_norms": COHERE | dict(use_qk_norm=True, logit_scale=0.3),
    "cohere_biased": COHERE | dict(attention_bias=True, rope_theta=500.0, tie_word_embeddings=False),
    "cohere2": COHERE2,
    "cohere2_pattern": COHERE2 | dict(sliding_window_pattern=2),
    "cohere2_listed": COHERE2 | dict(layer_types=["full_attention"] + ["sliding_attention"] * 3, logit_scale=1.0),
    "glm": GLM,
    "glm_partial": GLM | dict(partial_rotary_factor=0.75, attention_bias=False),
    "glm_whole": GLM | dict(partial_rotary_factor=1.0, tie_word_embeddings=True),
    "glm4": GLM4,
    "glm4_partial": GLM4 | dict(partial_rotary_factor=0.75),
    "mixtral": MIXTRAL,
    "mixtral_window": MIXTRAL | dict(sliding_window=5, num_experts_per_tok=1, num_local_experts=7),
    "mixtral_all": MIXTRAL | dict(num_experts_per_tok=4, head_dim=12, rope_theta=5000.0),
    "qwen2_moe": QWEN2_MOE,
    "qwen2_moe_dense_layers": QWEN2_MOE | dict(decoder_sparse_step=2, norm_topk_prob=True),
    "qwen2_moe_listed": QWEN2_MOE | dict(mlp_only_layers=[0], use_sliding_window=True, sliding_window=5,
                                         max_window_layers=2, qkv_bias=False),
    "qwen3_moe": QWEN3_MOE,
    "qwen3_moe_normalised": QWEN3_MOE | dict(norm_topk_prob=True, attention_bias=True),
    "qwen3_moe_dense_layers": QWEN3_MOE | dict(mlp_only_layers=[1], use_sliding_window=True, sliding_window=5),
    "gpt_oss": GPT_OSS,
    "gpt_oss_low_limit": GPT_OSS | dict(swiglu_limit=0.5, num_experts_per_tok=1, attention_bias=False),
    "gpt_oss_yarn": GPT_OSS | dict(num_experts_per_tok=4, layer_types=["full_attention", "sliding_attention"],
                                   rope_scaling=dict(rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0,
                                                     truncate=False, original_max_position_embeddings=16)),
    "glm4_biased": GLM4 | dict(attention_bias=True, rms_norm_eps=1e-4),
}
# One configuration a family for what takes longer.
CHOSEN = ["qwen3", "smollm3", "granite", "gemma", "gemma2_low_caps", "gemma3_older", "olmo2", "phi3_longrope_beyond",
          "phi_norms", "gpt2", "gpt_neox", "bloom", "falcon_groups", "falcon_alibi", "opt", "cohere_head_norms", "cohere2",
          "glm", "glm4", "mixtral", "qwen2_moe", "qwen3_moe_normalised", "gpt_oss_yarn"]
TARGETS = dict(gpt2=["c_attn", "c_proj", "c_fc"], gpt_neox=["query_key_value", "dense", "dense_h_to_4h"],
               bloom=["query_key_value", "dense", "dense_4h_to_h"], falcon_groups=["query_key_value", "dense_h_to_4h"],
               falcon_alibi=["query_key_value", "dense"],
               opt=["k_proj", "out_proj", "fc2"], phi_norms=["q_proj", "dense", "fc1"],
               phi3_longrope_beyond=["qkv_proj", "gate_up_proj", "down_proj"], glm=["k_proj", "gate_up_proj"],
               glm4=["q_proj", "gate_up_proj", "o_proj"], mixtral=["q_proj", "v_proj", "o_proj"],
               qwen2_moe=["q_proj", "gate_proj", "down_proj", "shared_expert_gate"],
               qwen3_moe_normalised=["k_proj", "o_proj"], gpt_oss_yarn=["q_proj", "k_proj", "v_proj", "o_proj"])
STACKS = ["mixtral", "qwen3_moe_normalised", "gpt_oss_yarn"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
# Adapters of the experts themselves (PEFT's target_parameters), with those of linear layers or alone.
PARAMETERS = {"mixtral": EXPERTS, "qwen2_moe": EXPERTS[1:], "qwen3_moe_normalised": EXPERTS[:1], "gpt_oss_yarn": EXPERTS}
PROMPT = "In altepetl ihuan in atoyatl: nehuatl nicnequi nimitzittas moztla, tlazohcamati."
PLAIN = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def randomise(model, spread=0.2):
    """Weights and biases large enough to matter; norms near what leaves their input's size."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 and not name.endswith("norm.weight"):
                value.normal_(0, spread)
            elif name.endswith(".bias"):
                value.normal_(0, 0.2)
            else:  # Gemma's weights are added to 1, all others start from it.
                value.normal_(0 if "gemma" in model.config.model_type else 1, 0.2)


def make(folder, config, spread=0.2):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    randomise(model, spread)
    model.save_pretrained(folder)
    # What this configuration says must be read, in the spelling it has here.
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(tmp_path_factory.mktemp(name) / "model", CONFIGS[name])
        return made[name]

    return get


def attention_of(folder):
    """Eager, the plain formula. That of Falcon adds ALiBi's slopes twice, to the scores and in their mask; transformers'
    default adds them once, as the models' own code does."""
    return "sdpa" if json.loads((folder / "config.json").read_text()).get("alibi") else "eager"


def reference(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention_of(folder)).eval()


def rows():
    return rows_of(199)


def check_close(got, wanted, architecture, column="logits"):
    assert_close(got, wanted, architecture)
    record(architecture, column, max(((a - b).abs().max() / (b.max() - b.min())).item() for a, b in zip(got, wanted)))


def token_divergences(p_logits, q_logits):
    """KL(p || q) of each token."""
    return [divergence([p[None]], [q[None]]) for ps, qs in zip(p_logits, q_logits) for p, q in zip(ps, qs)]


def name_of(name):
    return CONFIGS[name]["architectures"][0]


def fresh_logits(folder, ids):
    """A fresh model each row: scaling by length remembers the longest it has seen."""
    return [reference_logits(reference(folder), [row])[0] for row in ids]


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(weft, tmp_path, tiny, name):
    folder = tiny(name)
    check_close(weft_logits(weft, tmp_path, folder, rows()), fresh_logits(folder, rows()), name_of(name))


@pytest.mark.parametrize("name", CHOSEN)
def test_bf16_is_as_near_as_its_rounding(weft, tmp_path, tiny, name):
    folder = tiny(name)
    exact = fresh_logits(folder, rows())
    rounded = [reference_logits(reference(folder, torch.bfloat16), [row])[0] for row in rows()]
    ours = weft_logits(weft, tmp_path, folder, rows(), "--dtype", "bf16")
    # The rule of the real model, on a few dozen tokens of a random one: with room for chance. Where a router's
    # choice is a near tie, rounding may turn it round and one token is far off: the middle token is compared.
    middle = statistics.median if CONFIGS[name].keys() & {"num_experts", "num_local_experts"} else statistics.mean
    share = middle(token_divergences(exact, ours)) / middle(token_divergences(exact, rounded))
    assert share <= 1.5
    record(name_of(name), "bf16", share)


WITH_EXPERTS = [(name, None) for name in CHOSEN] + list(PARAMETERS.items())


@pytest.mark.parametrize("name, parameters", WITH_EXPERTS)
def test_adapters_equal_peft(weft, tmp_path, tiny, name, parameters):
    folder = tiny(name)
    model = get_peft_model(reference(folder), LoraConfig(
        r=3, lora_alpha=5, target_modules=TARGETS.get(name, PLAIN), target_parameters=parameters,
        task_type="CAUSAL_LM", fan_in_fan_out=name == "gpt2"))
    torch.manual_seed(3)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    model.save_pretrained(tmp_path / "adapter")
    base = reference_logits(reference(folder), rows())
    wanted = [reference_logits(model, [row])[0] for row in rows()]
    assert (wanted[2] - base[2]).abs().max() > 0.02 * (base[2].max() - base[2].min())
    got = weft_logits(weft, tmp_path, folder, rows(), "--adapter", tmp_path / "adapter")
    check_close(got, wanted, name_of(name), "adapters")


# ---- with a vocabulary -----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def worded(smollm2_dir, tmp_path_factory):
    """The same with SmolLM2's tokenizer, long enough for its examples."""
    made = {}

    def get(name):
        if name in made:
            return made[name]
        tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
        longer = {key: 256 for key in ("max_position_embeddings", "n_positions") if key in CONFIGS[name]}
        config = CONFIGS[name] | longer | dict(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id,
                                               bos_token_id=tokenizer.bos_token_id)
        folder = tmp_path_factory.mktemp(name)
        make(folder / "base", config, 0.12)
        tokenizer.save_pretrained(folder / "base")
        made[name] = folder
        return folder

    return get


def check_greedy(weft, folder, model, architecture):
    out = weft.json("generate", "--model", folder, "--raw", "--prompt", PROMPT, "--max-tokens", 50,
                    "--dtype", "f32")
    prompt, answer = out["prompt_ids"], out["ids"]
    assert len(answer) == 50 or out["finish"] == "stop"
    # Each token is transformers' choice after those before it.
    logits = reference_logits(model, [prompt + answer])[0][len(prompt) - 1:-1]
    assert logits.argmax(1).tolist() == answer
    record(architecture, "generation", len(answer), min)


def check_updates(weft, folder, adapted, config, architecture, as_published=lambda adapter: None):
    """Training in FOLDER beside PEFT's. `as_published` rewrites an adapter in the family's own names."""
    as_published(folder / "initial")
    weft("train", folder / "config.yaml")
    losses, norms = train_with_peft(adapted, AutoTokenizer.from_pretrained(folder / "base"), config)
    assert metrics(folder / "run") == pytest.approx(losses, rel=1e-4)
    record(architecture, "training", max(abs(a / b - 1) for a, b in zip(metrics(folder / "run"), losses)))
    assert metrics(folder / "run", "gradient_norm") == pytest.approx(norms, rel=1e-3)
    ours = load_file(folder / "run/adapter/adapter_model.safetensors")
    adapted.save_pretrained(folder / "theirs")
    as_published(folder / "theirs")
    theirs = load_file(folder / "theirs/adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert torch.cosine_similarity(ours[key].flatten(), theirs[key].flatten(), dim=0) >= 0.9999, key


@pytest.mark.parametrize("name", CHOSEN)
def test_greedy_generation_equals_transformers(weft, worded, name):
    base = worded(name) / "base"
    check_greedy(weft, base, reference(base), name_of(name))


@pytest.mark.parametrize("name, parameters", WITH_EXPERTS)
def test_training_equals_peft(weft, worded, name, parameters, tmp_path):
    folder = worded(name)
    shutil.copytree(folder / "base", tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation=attention_of(tmp_path / "base"),
                                                 **{key: 0.0 for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")
                                                    if name == "gpt2"}, **({"dropout": 0.0} if name == "opt" else {}))
    # What PEFT makes of "all-linear" for stacks of experts, routers included, is more than linear layers.
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"] if name in STACKS else "all-linear"
    if name == "gpt_oss_yarn" and parameters:
        targets = []
    adapted, config = set_up(tmp_path, model, targets, parameters, max_updates=10)
    check_updates(weft, tmp_path, adapted, config, name_of(name))


def test_masks_beside_the_weights_are_left_aside(weft, tmp_path, tiny):
    """Published GPT-NeoX and Pythia files hold them."""
    shutil.copytree(tiny("gpt_neox"), tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    for i in range(3):
        at = f"gpt_neox.layers.{i}.attention."
        tensors |= {at + "bias": torch.ones(1, 1, 64, 64, dtype=torch.bool), at + "masked_bias": torch.tensor(-1e9),
                    at + "rotary_emb.inv_freq": torch.ones(1)}
    save_file(tensors, tmp_path / "model/model.safetensors")
    assert_close(weft_logits(weft, tmp_path, tmp_path / "model", rows()), fresh_logits(tiny("gpt_neox"), rows()))
    digests = [weft.json("inspect", path)["weights_digest"] for path in (tmp_path / "model", tiny("gpt_neox"))]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", CHOSEN)
def test_the_configuration_that_transformers_writes_is_read(weft, tmp_path, tiny, name):
    folder = tmp_path / "model"
    reference(tiny(name)).save_pretrained(folder)
    assert_close(weft_logits(weft, tmp_path, folder, rows()[:2]), fresh_logits(folder, rows()[:2]), name)


def test_slopes_in_bf16_beyond_the_positions_that_it_holds(weft, tmp_path, tiny):
    """From 257 on a position itself is rounded."""
    row = torch.randint(0, 199, (600,), generator=torch.Generator().manual_seed(3)).tolist()
    folder = tiny("falcon_alibi")
    check_close(weft_logits(weft, tmp_path, folder, [row]), fresh_logits(folder, [row]), "FalconForCausalLM")


def test_other_spellings_of_a_class(weft, tmp_path, tiny):
    shutil.copytree(tiny("bloom"), tmp_path / "model")
    for spelling in ("bloomForCausalLm", "BloomModel"):
        (tmp_path / "model/config.json").write_text(json.dumps(CONFIGS["bloom"] | dict(architectures=[spelling])))
        assert_close(weft_logits(weft, tmp_path, tmp_path / "model", rows()), fresh_logits(tiny("bloom"), rows()))
    (tmp_path / "model/config.json").write_text(json.dumps(CONFIGS["bloom"] | dict(
        architectures=["BloomForSequenceClassification"])))
    ids = tmp_path / "ids.jsonl"
    done = weft.run("logits", "--model", tmp_path / "model", "--ids", ids, "--out", tmp_path / "x", check=False)
    assert done.returncode == 2 and "BloomForSequenceClassification" in done.stderr


def test_more_experts_than_there_are_is_one_line(weft, tmp_path, tiny):
    shutil.copytree(tiny("mixtral"), tmp_path / "model")
    for count in (5, 60_000):
        (tmp_path / "model/config.json").write_text(json.dumps(MIXTRAL | dict(num_local_experts=count)))
        (tmp_path / "ids.jsonl").write_text("[1, 2]\n")
        done = weft.run("logits", "--model", tmp_path / "model", "--ids", tmp_path / "ids.jsonl", "--out", tmp_path / "x",
                        check=False)
        assert done.returncode == 2 and f"{count} experts" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name, prefix", [("gpt2", "transformer."), ("bloom", "transformer."), ("gpt_neox", "gpt_neox."),
                                          ("opt", "model.")])
def test_published_names_without_their_beginning(weft, tmp_path, tiny, name, prefix):
    shutil.copytree(tiny(name), tmp_path / "model")
    tensors = load_file(tiny(name) / "model.safetensors")
    save_file({key.removeprefix(prefix): value for key, value in tensors.items()}, tmp_path / "model/model.safetensors")
    for ours, theirs in zip(weft_logits(weft, tmp_path, tmp_path / "model", rows()),
                            weft_logits(weft, tmp_path, tiny(name), rows())):
        assert torch.equal(ours, theirs)


def test_the_text_part_of_a_model_of_text_and_images(weft, tmp_path):
    text = without(CONFIGS["gemma3_older"], "architectures", "bos_token_id", "eos_token_id")
    config = AutoConfig.for_model("gemma3", text_config=text, mm_tokens_per_image=4, vision_config=dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14))
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager").eval()
    randomise(model)
    model.save_pretrained(tmp_path / "model")
    assert AutoConfig.from_pretrained(tmp_path / "model").architectures == ["Gemma3ForConditionalGeneration"]
    check_close(weft_logits(weft, tmp_path, tmp_path / "model", rows()), reference_logits(model, rows()),
                "Gemma3ForCausalLM")
