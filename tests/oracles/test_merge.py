"""Merged and converted models against transformers, PEFT, gguf and the formula in float64."""
import json
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

ADAPTERS = {
    "plain": dict(target_modules=["q_proj", "v_proj"], r=8, lora_alpha=16),
    "all-rslora": dict(target_modules="all-linear", r=16, lora_alpha=16, use_rslora=True),
    "patterns": dict(target_modules="all-linear", r=4, lora_alpha=8, rank_pattern={"down_proj": 12},
                     alpha_pattern={"q_proj": 3.5}, exclude_modules=["k_proj"]),
    "layers": dict(target_modules=["o_proj", "up_proj"], r=5, lora_alpha=4, layers_to_transform=[1]),
}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def make_base(folder, dtype, tied=True):
    torch.manual_seed(3)
    config = LlamaConfig(vocab_size=300, hidden_size=192, intermediate_size=320, num_hidden_layers=2,
                         num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=tied)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {name: make_base(tmp_path_factory.mktemp(name), dtype) for name, dtype in DTYPES.items()}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, bases):
    """PEFT folders, with noise in both factors: updates of some per cent of the weights."""
    made = {}
    for name, case in ADAPTERS.items():
        torch.manual_seed(len(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(load(bases["f32"]), LoraConfig(task_type="CAUSAL_LM", **case))
        for key, value in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(value, std=0.02)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def logits(model):
    ids = torch.arange(120).reshape(2, 60) * 7 % 300
    with torch.no_grad():
        return model(ids).logits.float()


def spread(reference, other):
    return ((reference - other).abs().max() / (reference.max() - reference.min())).item()


def exact_fold(base_folder, peft_folder, weight=1.0):
    """The formula in float64 for every tensor of the base; scales are PEFT's own."""
    base = load(base_folder)
    names = {module: name for name, module in base.named_modules()}
    model = PeftModel.from_pretrained(base, peft_folder)
    tensors = {key: value.double() for key, value in load_file(base_folder / "model.safetensors").items()}
    for layer in model.modules():
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            key = names[layer.base_layer] + ".weight"
            delta = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
            tensors[key] = tensors[key] + weight * layer.scaling["default"] * delta
    return tensors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_every_tensor_is_the_formula_rounded_once(weft, bases, adapters, tmp_path, name, dtype):
    out = tmp_path / "merged"
    weft("merge", "--model", bases[dtype], "--adapter", adapters[name], "--out", out)
    merged = load_file(out / "model.safetensors")
    exact = exact_fold(bases[dtype], adapters[name])
    assert merged.keys() == exact.keys()
    elements = differing = 0
    for key, want in exact.items():
        got = merged[key]
        assert got.dtype == DTYPES[dtype]
        nearest = want.to(DTYPES[dtype])  # by way of float32: may be off at ties, never nearer
        assert ((got.double() - want).abs() <= (nearest.double() - want).abs() + 1e-15).all(), key
        elements += got.numel()
        differing += (got != nearest).sum().item()
    assert differing <= 1e-4 * elements, f"{differing} of {elements}"


@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_logits_are_those_of_base_and_adapter(weft, bases, adapters, tmp_path, name):
    reference = logits(PeftModel.from_pretrained(load(bases["f32"]), adapters[name]))
    assert spread(reference, logits(load(bases["f32"]))) > 1e-2, "the adapter must matter"
    weft("merge", "--model", bases["f32"], "--adapter", adapters[name], "--out", tmp_path / "f32")
    assert spread(reference, logits(load(tmp_path / "f32"))) <= 1e-5
    for dtype, limit in (("bf16", 2e-2), ("f16", 2e-3)):
        weft("merge", "--model", bases["f32"], "--adapter", adapters[name], "--out", tmp_path / dtype,
             "--dtype", dtype)
        config = json.loads((tmp_path / dtype / "config.json").read_text())
        assert config.get("dtype", config.get("torch_dtype")) == str(DTYPES[dtype]).removeprefix("torch.")
        assert load(tmp_path / dtype, "auto").dtype == DTYPES[dtype]
        assert spread(reference, logits(load(tmp_path / dtype))) <= limit


def test_a_sum_of_adapters_is_pefts_own_sum(weft, bases, adapters, tmp_path):
    weft("merge", "--model", bases["f32"], "--adapter", f"{adapters['plain']}:0.7",
         "--adapter", f"{adapters['all-rslora']}:0.4", "--out", tmp_path / "merged")
    model = PeftModel.from_pretrained(load(bases["f32"]), adapters["plain"], adapter_name="a")
    model.load_adapter(adapters["all-rslora"], adapter_name="b")
    # PEFT's exact combination, "cat", wants the same layers in both: fold them one after the other.
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name, weight in (("a", 0.7), ("b", 0.4)):
                if name in layer.scaling:
                    layer.scaling[name] *= weight
    merged = model.merge_and_unload(adapter_names=["a", "b"])
    assert spread(logits(merged), logits(load(tmp_path / "merged"))) <= 1e-5


def test_an_untied_head_stays_as_it_is(weft, adapters, tmp_path):
    base = make_base(tmp_path / "base", torch.float32, tied=False)
    weft("merge", "--model", base, "--adapter", adapters["all-rslora"], "--out", tmp_path / "merged")
    reference = logits(PeftModel.from_pretrained(load(base), adapters["all-rslora"]))
    assert spread(reference, logits(load(tmp_path / "merged"))) <= 1e-5


def test_a_sharded_merge_is_the_same_model(weft, bases, adapters, tmp_path):
    common = ("merge", "--model", bases["bf16"], "--adapter", adapters["all-rslora"])
    weft(*common, "--out", tmp_path / "one")
    weft(*common, "--out", tmp_path / "many", "--max-shard-size", "300KB")
    shards = sorted(tmp_path.glob("many/model-*.safetensors"))
    assert len(shards) > 2
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    one = load_file(tmp_path / "one" / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(t.numel() * 2 for t in one.values())
    many = load(tmp_path / "many", torch.bfloat16).state_dict()
    assert all(torch.equal(many[key], tensor) for key, tensor in one.items())


def test_a_conv1d_base_gets_the_transposed_update(weft, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(1)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=48, n_layer=2, n_head=4))
    base.save_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn", "attn.c_proj", "c_fc"]))
    for key, value in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    weft("merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert spread(logits(model.eval()), logits(load(tmp_path / "out"))) <= 1e-5


def test_a_gguf_conversion_holds_transformers_numbers(smollm2_dir, smollm2_gguf):
    reference = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32).state_dict()
    ours = load_file(smollm2_dir / "model.safetensors")
    assert set(ours) == {key for key in reference if key != "lm_head.weight"}
    for key, tensor in ours.items():
        assert torch.equal(tensor, reference[key]), key
    loaded = load(smollm2_dir).state_dict()
    assert torch.equal(loaded["lm_head.weight"], ours["model.embed_tokens.weight"])


def test_a_converted_configuration_is_transformers_own(smollm2_dir, smollm2_gguf):
    ours = AutoModelForCausalLM.from_pretrained(smollm2_dir).config
    reference = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32).config
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "vocab_size", "max_position_embeddings", "tie_word_embeddings",
                "bos_token_id", "eos_token_id", "hidden_act"):
        assert getattr(ours, key) == getattr(reference, key), key
    assert ours.rms_norm_eps == pytest.approx(reference.rms_norm_eps, rel=1e-6)
    assert ours.dtype == torch.float32


def test_a_converted_tokenizer_gives_wefts_ids(weft, smollm2_dir, smollm2_gguf):
    lines = ["Hello world", "¿Cómo se dice «agua» en náhuatl?", "xochitl, cuicatl; 12345 67.8",
             "<|im_start|>user\nHi<|im_end|>".replace("\n", " "), "  two  spaces\tand a tab", "日本語 እንዴት 👩‍👩‍👧",
             "e\u0301 \u0915\u094d\u0937 \u202eabc"]
    text = "\n".join(lines) + "\n"
    ours = [json.loads(line) for line in weft("tokenize", "--model", smollm2_gguf, input=text).splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    assert ours == [tokenizer.encode(line, add_special_tokens=False) for line in lines]


def test_a_narrower_conversion_rounds_each_number_once(weft, smollm2_dir, smollm2_gguf, tmp_path):
    weft("merge", "--model", smollm2_gguf, "--out", tmp_path / "bf16", "--dtype", "bf16",
         "--max-shard-size", "100MB")
    exact = load_file(smollm2_dir / "model.safetensors")
    rounded = load(tmp_path / "bf16", "auto").state_dict()
    assert rounded["model.norm.weight"].dtype == torch.bfloat16
    for key, tensor in exact.items():
        assert torch.equal(rounded[key], tensor.to(torch.bfloat16)), key


BAD = {
    "no such model": (["--model", "{tmp}/none"], "none"),
    "no such adapter": (["--model", "{base}", "--adapter", "{tmp}/none"], "none"),
    "a weight that is none": (["--model", "{base}", "--adapter", "{tmp}/none:heavy"], "heavy"),
    "a type that is none": (["--model", "{base}", "--dtype", "f8"], "f8"),
    "a size that is none": (["--model", "{base}", "--max-shard-size", "5 apples"], "5 apples"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(weft, bases, tmp_path, name):
    arguments, word = BAD[name]
    filled = [a.format(tmp=tmp_path, base=bases["f32"]) for a in arguments]
    done = weft.run("merge", *filled, "--out", tmp_path / "out", check=False)
    assert done.returncode == 2
    assert word in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
