"""Adapters against PEFT: what it writes is read alike, what weft writes it loads, both choose alike."""
import hashlib
import json
import subprocess
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

# A configuration a case: keyword arguments of LoraConfig.
CASES = {
    "list": dict(target_modules=["q_proj", "v_proj"]),
    "suffixes": dict(target_modules=["self_attn.q_proj", "layers.1.mlp.up_proj"], r=4, lora_alpha=10),
    "regex": dict(target_modules=r".*\.(?:self_attn\.[qv]|mlp\.(gate|down))_proj", r=3),
    "regex-lookahead": dict(target_modules=r"model\.layers\.(?!1\.)\d+\.self_attn\.(?P<which>k|o)_proj"),
    "all-linear": dict(target_modules="all-linear", r=2),
    "all-linear-excluding": dict(target_modules="all-linear", exclude_modules=["o_proj", "layers.0.mlp.up_proj"]),
    "exclude-regex": dict(target_modules=["q_proj", "k_proj", "up_proj"], exclude_modules=r".*\.layers\.[01]\.mlp\..*"),
    "rslora": dict(target_modules=["q_proj"], r=5, lora_alpha=7, use_rslora=True),
    "float-alpha": dict(target_modules=["q_proj"], lora_alpha=12.5),
    "rank-pattern": dict(target_modules=["q_proj", "v_proj", "down_proj"], rank_pattern={"q_proj": 2, r"^model\.layers\.1\.mlp\.down_proj": 6}),
    "alpha-pattern": dict(target_modules=["q_proj", "v_proj"], alpha_pattern={"self_attn.v_proj": 3, r"layers\.[02]\.self_attn\.q_proj": 40}),
    "patterns-rslora": dict(target_modules="all-linear", use_rslora=True, rank_pattern={"mlp.*_proj": 3}, alpha_pattern={"k_proj": 1}),
    "layers-list": dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[0, 2]),
    "layers-int": dict(target_modules=["q_proj"], layers_to_transform=1, layers_pattern="layers"),
    "layers-pattern-list": dict(target_modules=["k_proj"], layers_to_transform=[2], layers_pattern=["blocks", "layers"]),
    "dropout-revision": dict(target_modules=["q_proj"], lora_dropout=0.05, revision="abc"),
    "gaussian": dict(target_modules=["q_proj"], init_lora_weights="gaussian"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def load(base):
    return LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)


def wrap(base, case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **case))


def layers_of(model):
    """path -> (rank, alpha, scale) of PEFT's layers."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            path = name.removeprefix("base_model.model.")
            found[path] = (module.r["default"], module.lora_alpha["default"], module.scaling["default"])
    return found


def config_json(case):
    """A configuration file as it would be before PEFT resolves anything."""
    config = LoraConfig(task_type="CAUSAL_LM", **case).to_dict()
    return json.dumps({key: sorted(value) if isinstance(value, set) else value
                       for key, value in config.items() if key != "runtime_config"})


def make_adapter(test_bin, base, config, out, *more):
    done = subprocess.run([test_bin / "make_adapter", base, config, out, "17", *more],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {module["path"]: module for module in json.loads(done.stdout)}


@pytest.mark.parametrize("name", CASES)
def test_reads_what_peft_writes(weft, base, tmp_path, name):
    model = wrap(base, CASES[name])
    for key, value in model.named_parameters():
        if "lora_" in key:
            torch.nn.init.normal_(value)
    model.save_pretrained(tmp_path)
    report = weft.json("inspect", tmp_path)
    modules = {module["path"]: module for module in report["modules"]}
    expected = layers_of(model)
    assert set(modules) == set(expected)
    for path, (rank, alpha, scale) in expected.items():
        assert modules[path]["rank"] == rank
        assert modules[path]["alpha"] == alpha
        assert modules[path]["scale"] == pytest.approx(scale, rel=1e-15)
        layer = model.get_submodule("base_model.model." + path)
        delta = layer.get_delta_weight("default").double().norm().item()
        assert modules[path]["update_norm"] == pytest.approx(delta, rel=1e-5)
    trained = sum(p.numel() for k, p in model.named_parameters() if "lora_" in k)
    assert report["parameters"] == trained


@pytest.mark.parametrize("name", CASES)
def test_chooses_as_peft_does(test_bin, base, tmp_path, name):
    config = tmp_path / "config.json"
    config.write_text(config_json(CASES[name]))
    chosen = make_adapter(test_bin, base, config, tmp_path / "out")
    expected = layers_of(wrap(base, CASES[name]))
    assert set(chosen) == set(expected)
    for path, (rank, _, scale) in expected.items():
        assert chosen[path]["rank"] == rank
        assert chosen[path]["scale"] == pytest.approx(scale, rel=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_peft_loads_what_weft_writes(test_bin, base, tmp_path, name):
    config = tmp_path / "config.json"
    config.write_text(config_json(CASES[name]))
    out = tmp_path / "out"
    make_adapter(test_bin, base, config, out, "random-b")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # PEFT's "inconsistency was discovered"
        model = PeftModel.from_pretrained(load(base), out)
    result = set_peft_model_state_dict(model, load_peft_weights(str(out)))
    assert not result.unexpected_keys
    assert not [key for key in result.missing_keys if "lora_" in key]
    assert set(layers_of(model)) == set(layers_of(wrap(base, CASES[name])))
    # PEFT's own copy of it: same tensors bit for bit, same configuration but for the order of names.
    again = tmp_path / "again"
    model.save_pretrained(again)
    ours, theirs = load_file(out / "adapter_model.safetensors"), load_file(again / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    written = (out / "adapter_config.json").read_text()
    peft = json.loads((again / "adapter_config.json").read_text())
    for key in ("target_modules", "exclude_modules"):
        if isinstance(peft[key], list):
            peft[key].sort()
    if name == "all-linear" or CASES[name]["target_modules"] == "all-linear":
        peft["target_modules"] = json.loads(written)["target_modules"]
    peft["base_model_name_or_path"] = None
    assert written == json.dumps(peft, indent=2, sort_keys=True)


def philox(key, counter):
    """Philox4x32-10, written again from the paper."""
    c, k = [int(x) for x in counter], [int(x) for x in key]
    for _ in range(10):
        x, y = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(y >> 32) ^ c[1] ^ k[0], y & 0xFFFFFFFF, (x >> 32) ^ c[3] ^ k[1], x & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_initial_factors_are_those_that_the_documents_describe(test_bin, base, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(config_json(CASES["list"]))
    make_adapter(test_bin, base, config, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    path = "model.layers.2.self_attn.v_proj"
    a = tensors[f"base_model.model.{path}.lora_A.weight"].numpy().ravel()
    stream = int(hashlib.sha256(path.encode()).hexdigest()[:16], 16)
    bound = np.float32(1 / np.sqrt(32.0))
    for i in range(0, a.size, 7):
        words = philox([17, 0], [i // 4, 0, stream & 0xFFFFFFFF, stream >> 32])
        uniform = np.float32(words[i % 4] >> 8) * np.float32(2.0**-24)
        assert a[i] == (np.float32(2) * uniform - np.float32(1)) * bound
    assert not tensors[f"base_model.model.{path}.lora_B.weight"].any()


REFUSED = {
    "dora": (dict(target_modules=["q_proj"], use_dora=True), "DoRA"),
    "modules-to-save": (dict(target_modules=["q_proj"], modules_to_save=["norm"]), "modules_to_save"),
    "embedding": (dict(target_modules=["embed_tokens", "q_proj"]), "embedding"),
    "lora-bias": (dict(target_modules=["q_proj"], lora_bias=True), "lora_bias"),
    "token-rows": (dict(target_modules=["q_proj"], trainable_token_indices=[3]), "trainable_token_indices"),
    "pissa": (dict(target_modules=["q_proj"], init_lora_weights="pissa"), "pissa"),
    "layer-replication": (dict(target_modules=["q_proj"], layer_replication=[[0, 2], [1, 3]]), "layer_replication"),
}


READ_BY_NONE = {"pissa", "layer-replication"}  # the others fold (test_merge_features.py) and are shown


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_by_name_what_it_does_not_support(weft, base, tmp_path, name):
    case, word = REFUSED[name]
    wrap(base, case).save_pretrained(tmp_path / "adapter")
    shown = weft.run("inspect", tmp_path / "adapter", check=False)
    refusals = [weft.run("merge", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out", check=False)]
    if name in READ_BY_NONE:
        refusals.append(shown)
    else:
        assert shown.returncode == 0
    for done in refusals:
        assert done.returncode == 2
        assert word in done.stderr and done.stderr.splitlines()[-1].startswith("weft ")
    assert not (tmp_path / "out").exists()
