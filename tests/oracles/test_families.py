"""Model families in GGUF: tiny random models of each, against llama.cpp's converter and library, transformers and PEFT."""
import json
import re
import shutil

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, AutoTokenizer, Cohere2Config, FalconConfig, Gemma2Config, GPT2Config, LlamaConfig,
                          Qwen2Config, Qwen3MoeConfig)

import family_models
from family_figures import record
from family_models import CASES, LACKING, SIZES, VOCABULARY, logits, reference
from gguf_tools import (FILE_TYPES, convert_all, differing, divergence, llama_logits, tensors, weft_logits)

# What the converter writes otherwise: of the length and the epsilon it knows the keys of ChatGLM's files only.
OTHERWISE = {"glm": {"chatglm.context_length", "chatglm.attention.layer_norm_rms_epsilon"}}
# What it writes in vain: an id of CodeGemma's vocabulary, and llama.cpp's default.
IN_VAIN = {"gemma": {"tokenizer.ggml.eot_token_id"}, "internlm2": {"tokenizer.ggml.add_space_prefix"}}
# What it leaves to llama.cpp's defaults, or forgets.
LEFT_OUT = {"tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.unknown_token_id", "general.file_type"}
ROWS = [[1] + list(range(5, 45)), [int(i) for i in np.random.default_rng(4).integers(3, VOCABULARY, 90)]]


@pytest.fixture(scope="module")
def models(cache, tmp_path_factory):
    """All of them, with a tokenizer, and the converter's file of each: NAME.gguf beside the folder."""
    root = tmp_path_factory.mktemp("families")
    folders = family_models.write_all(root)
    faults = convert_all(cache, [(folder, folder.with_suffix(".gguf"), "bf16", None if CASES[name].pieces else "smollm")
                                 for name, folder in folders.items()])
    assert faults == {}
    return folders


@pytest.fixture(scope="module", params=CASES)
def family(request, models):
    return request.param, models[request.param], logits(reference(request.param), ROWS)


def test_the_file_is_the_converters(weft, family, tmp_path):
    name, folder, _ = family
    weft("export", "--model", folder, "--to", "gguf", "--type", "bf16", "--out", tmp_path / "ours.gguf")
    theirs = folder.with_suffix(".gguf")
    # Rotary factors differ in their last bit: the converter takes its powers in single precision, weft in double.
    different = differing(tmp_path / "ours.gguf", theirs)
    assert different == (["rope_freqs.weight"] if name == "llama3" else [])
    for tensor in different:
        both = (tensors(file)[tensor].numbers() for file in (tmp_path / "ours.gguf", theirs))
        np.testing.assert_allclose(*both, rtol=1e-6)
    ours, theirs = (GGUFReader(file).fields for file in (tmp_path / "ours.gguf", theirs))
    assert theirs.keys() - ours.keys() == IN_VAIN.get(name, set())
    assert ours.keys() - theirs.keys() <= LEFT_OUT
    assert not (ours["tokenizer.ggml.add_eos_token"].contents())
    different = {k: (ours[k].contents(), theirs[k].contents()) for k in theirs.keys() & ours.keys() if not k.startswith("GGUF.") and
                 (ours[k].types != theirs[k].types or ours[k].contents() != theirs[k].contents())}
    different.pop("general.name", None)  # the converter spells the folder's name in title case
    assert different.keys() == OTHERWISE.get(name, set()), different


def test_llama_cpp_gives_the_logits_of_transformers(weft, probe, family, tmp_path):
    name, folder, expected = family
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    limit = 1e-5 if CASES[name].gelu else 1e-6
    found = divergence(expected, llama_logits(probe, tmp_path / "f32.gguf", ROWS, tmp_path))
    assert found < limit
    record(architecture(folder), "gguf_out", found)
    for kind in ("q8_0", "q4_k_m"):
        weft("export", "--model", folder, "--to", "gguf", "--type", kind, "--out", tmp_path / "ours.gguf", "--force")
        probe("quantize", tmp_path / "f32.gguf", tmp_path / "theirs.gguf", FILE_TYPES[kind])
        assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []


def test_the_file_is_a_base_again(weft, family, tmp_path):
    name, folder, expected = family
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    weft("merge", "--model", tmp_path / "f32.gguf", "--out", tmp_path / "back", "--dtype", "f32")
    written = tensors_of(folder), tensors_of(tmp_path / "back")
    assert written[0].keys() == written[1].keys()
    for key, value in written[0].items():  # Gemma's norms are written with 1 added
        np.testing.assert_allclose(written[1][key], value, atol=2e-7, err_msg=key)
    before, after = (json.loads((at / "config.json").read_text()) for at in (folder, tmp_path / "back"))
    assert after["architectures"] == (["LlamaForCausalLM"] if name == "mistral" else before["architectures"])
    if CASES[name].made is None:
        for key in ("hidden_act", "activation"):  # GGUF does not say which GELU it is
            if key in after:
                after[key] = before[key]
        (tmp_path / "back" / "config.json").write_text(json.dumps(after))
        back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager").eval()
        assert np.abs(logits(back, ROWS) - expected).max() <= 1e-4 * np.ptp(expected)
    found = divergence(expected, weft_logits(weft, tmp_path / "f32.gguf", ROWS, tmp_path))
    assert found < (1e-5 if CASES[name].gelu else 1e-8)
    record(architecture(folder), "gguf_in", found)
    # The way out again: what was read says all that was written.
    weft("export", "--model", tmp_path / "back", "--to", "gguf", "--type", "q8_0", "--out", tmp_path / "again.gguf")
    weft("export", "--model", tmp_path / "f32.gguf", "--to", "gguf", "--type", "q8_0", "--out", tmp_path / "straight.gguf")
    weft("export", "--model", folder, "--to", "gguf", "--type", "q8_0", "--out", tmp_path / "first.gguf")
    for other in ("again.gguf", "straight.gguf"):
        assert differing(tmp_path / "first.gguf", tmp_path / other) == []


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_importance_of_each_expert_is_used_as_llama_quantize_uses_it(weft, probe, models, tmp_path, name):
    folder = models[name]
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    random = np.random.default_rng(6)
    writer = GGUFWriter(tmp_path / "imatrix.gguf", "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["text"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 512)
    for key, tensor in tensors(tmp_path / "f32.gguf").items():
        if key.startswith("blk.") and key.endswith(".weight") and len(tensor.shape) > 1 and "ffn_gate_inp" not in key:
            experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
            sums = random.lognormal(size=(experts, tensor.shape[-1])).astype(np.float32)
            counts = random.integers(0, 3, (experts, 1)).astype(np.float32) * (experts > 1) + (experts == 1)
            writer.add_tensor(key + ".in_sum2", sums)
            writer.add_tensor(key + ".counts", counts.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for kind in ("q4_0", "q4_k_m", "q5_1"):
        weft("export", "--model", folder, "--to", "gguf", "--type", kind, "--imatrix", tmp_path / "imatrix.gguf", "--out",
             tmp_path / "ours.gguf", "--force")
        probe("quantize", tmp_path / "f32.gguf", tmp_path / "theirs.gguf", FILE_TYPES[kind], tmp_path / "imatrix.gguf")
        assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []


def assert_simulated_as_exported(weft, tmp_path, exported, base, **stage):
    """A stage that quantises to Q4_0 in memory measures what the file does."""
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in family_models.WORDS))
    (tmp_path / "eval.yaml").write_text(json.dumps({
        "base_model": str(base), "record": False, "text": [str(tmp_path / "corpus.jsonl")], "distribution": {},
        "stages": [{"name": "simulated", "quantise": "q4_0", **{key: [str(value)] for key, value in stage.items()}},
                   {"name": "exported", "model": str(exported)}]}))
    weft("eval", tmp_path / "eval.yaml", "--out", tmp_path / "out.json")
    simulated, file = (stage["suites"][0] for stage in json.loads((tmp_path / "out.json").read_text())["stages"])
    assert simulated["items"]["loss"] == file["items"]["loss"]
    assert file["distribution"]["kl"]["max"] == 0


@pytest.mark.parametrize("name", ["mixtral_few", "gpt_oss"])
def test_simulated_quantisation_of_experts_equals_the_exported_file(weft, models, tmp_path, name):
    exported = tmp_path / "model.gguf"
    weft("export", "--model", models[name], "--to", "gguf", "--type", "q4_0", "--out", exported)
    assert_simulated_as_exported(weft, tmp_path, exported, base=models[name])


def architecture(folder):
    return json.loads((folder / "config.json").read_text())["architectures"][0]


def tensors_of(folder):
    return {key: value.float().numpy() for key, value in load_file(folder / "model.safetensors").items()}


def adapted(name, folder, out):
    """An adapter of PEFT on a model that transformers has, with numbers in both factors."""
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=list(CASES[name].targets), fan_in_fan_out=name == "gpt2"))
    for key, value in model.named_parameters():
        if "lora_B" in key:
            value.data = torch.randn(value.shape) * 0.05
    model.save_pretrained(out)
    return logits(model.eval(), ROWS)


def hand_made(name, folder, out):
    """An adapter as PEFT would write it."""
    random = torch.Generator().manual_seed(3)
    state = {}
    for key, value in load_file(folder / "model.safetensors").items():
        path = key.removesuffix(".weight")
        if path.endswith(CASES[name].targets) and value.dim() == 2:
            state[f"base_model.model.{path}.lora_A.weight"] = torch.randn(4, value.shape[1], generator=random) * 0.1
            state[f"base_model.model.{path}.lora_B.weight"] = torch.randn(value.shape[0], 4, generator=random) * 0.05
    out.mkdir()
    save_file(state, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text(json.dumps(dict(
        peft_type="LORA", task_type="CAUSAL_LM", r=4, lora_alpha=6, use_rslora=True, target_modules=list(CASES[name].targets))))


def test_an_adapter_in_gguf_gives_pefts_logits(weft, probe, family, tmp_path):
    name, folder, plain = family
    both = ["--model", folder, "--adapter", tmp_path / "adapter"]
    if CASES[name].made is None:
        expected = adapted(name, folder, tmp_path / "adapter")
    else:  # transformers, and so PEFT, has no such model: the fold is what the adapter means
        hand_made(name, folder, tmp_path / "adapter")
        weft("merge", *both, "--out", tmp_path / "folded")
        weft("export", "--model", tmp_path / "folded", "--to", "gguf", "--type", "f32", "--out", tmp_path / "folded.gguf")
        expected = llama_logits(probe, tmp_path / "folded.gguf", ROWS, tmp_path)
    weft("export", *both, "--to", "gguf-lora", "--out", tmp_path / "lora.gguf")
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "base.gguf")
    weft("export", *both, "--to", "gguf", "--type", "f32", "--out", tmp_path / "merged.gguf")
    limit = 1e-5 if CASES[name].gelu else 1e-6
    assert divergence(expected, plain) > 100 * limit
    for found in (llama_logits(probe, tmp_path / "base.gguf", ROWS, tmp_path, lora=tmp_path / "lora.gguf"),
                  llama_logits(probe, tmp_path / "merged.gguf", ROWS, tmp_path)):
        assert divergence(expected, found) < limit
        record(architecture(folder), "gguf_lora", divergence(expected, found))
    # The file is a base for the adapter too.
    weft("export", "--model", tmp_path / "base.gguf", "--adapter", tmp_path / "adapter", "--to", "gguf", "--type", "f32", "--out",
         tmp_path / "other.gguf")
    assert differing(tmp_path / "merged.gguf", tmp_path / "other.gguf") == []


def test_what_the_architecture_cannot_say_is_told(weft, models, tmp_path):
    """llama.cpp attends to everything where these models look at a window."""
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=1)
    done = weft.run("export", "--model", written(config, models, tmp_path), "--to", "gguf", "--type", "q8_0", "--out",
                    tmp_path / "x.gguf")
    assert "last 32 tokens" in done.stderr
    assert tensors(tmp_path / "x.gguf")["blk.0.attn_q.bias"].shape == [64]


def written(config, models, tmp_path):
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(models["llama"].parent / "bytes").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_layers_that_slide_otherwise_are_said(weft, probe, models, tmp_path):
    types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = Cohere2Config(**{**SIZES, "num_hidden_layers": 4}, sliding_window=32, layer_types=types)
    torch.manual_seed(5)
    folder = written(config, models, tmp_path)
    expected = logits(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval(), ROWS)
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "x.gguf")
    assert divergence(expected, llama_logits(probe, tmp_path / "x.gguf", ROWS, tmp_path)) < 1e-6
    weft("merge", "--model", tmp_path / "x.gguf", "--out", tmp_path / "back", "--dtype", "f32")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["layer_types"] == types


def test_an_adapter_of_experts_is_refused_beside_a_model_in_gguf_and_folded_into_it(weft, probe, models, tmp_path):
    folder = models["mixtral_few"]
    state = {}
    for layer, expert in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        path = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.w2"
        state[f"{path}.lora_A.weight"] = torch.randn(2, 96) * 0.1
        state[f"{path}.lora_B.weight"] = torch.randn(64, 2) * 0.1
    (tmp_path / "adapter").mkdir()
    save_file(state, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(dict(
        peft_type="LORA", task_type="CAUSAL_LM", r=2, lora_alpha=4, target_modules=["w2"])))
    both = ["--model", folder, "--adapter", tmp_path / "adapter"]
    done = weft.run("export", *both, "--to", "gguf-lora", "--out", tmp_path / "lora.gguf", check=False)
    assert done.returncode == 2 and "the experts' matrix" in done.stderr and done.stderr.count("\n") == 1
    weft("merge", *both, "--out", tmp_path / "merged", "--dtype", "f32")
    for kind in ("f32", "q4_0"):
        weft("export", *both, "--to", "gguf", "--type", kind, "--out", tmp_path / "ours.gguf", "--force")
        weft("export", "--model", tmp_path / "merged", "--to", "gguf", "--type", kind, "--out", tmp_path / "folded.gguf", "--force")
        assert differing(tmp_path / "ours.gguf", tmp_path / "folded.gguf") == []
    assert "update    in 6 tensors" in weft("export", *both, "--to", "gguf", "--type", "q8_0", "--out", tmp_path / "q8_0.gguf")


def stacked(folder, out):
    """The model with its experts in stacks, as transformers holds them."""
    shutil.copytree(folder, out)
    state, experts = {}, {}
    for key, value in load_file(folder / "model.safetensors").items():
        layer, found, expert = re.sub("block_sparse_moe.experts", "mlp.experts", key).partition(".mlp.experts.")
        if not found:
            state[key] = value
            continue
        number, part, _ = expert.split(".")
        experts.setdefault(layer, {})[int(number), {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}.get(part, part)] = value
    for layer, parts in experts.items():
        numbers = range(len(parts) // 3)
        state[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat([parts[n, "gate_proj"], parts[n, "up_proj"]]) for n in numbers])
        state[f"{layer}.mlp.experts.down_proj"] = torch.stack([parts[n, "down_proj"] for n in numbers])
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["mixtral_few", "qwen3_moe", "gpt_oss"])
def test_an_adapter_of_stacks_of_experts_is_folded_as_a_merge_folds_it(weft, probe, models, tmp_path, name):
    folder, adapter = models[name], tmp_path / "adapter"
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"), LoraConfig(
        r=3, lora_alpha=6, lora_dropout=0.0, target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]))
    for key, value in model.named_parameters():
        if "lora_B" in key:
            value.data = torch.randn(value.shape) * 0.05
    model.save_pretrained(adapter)
    with_adapter = ["--model", folder, "--adapter", adapter]
    weft("merge", *with_adapter, "--out", tmp_path / "f32", "--dtype", "f32")
    for kind in ("f32", "q4_0"):
        done = weft("export", *with_adapter, "--to", "gguf", "--type", kind, "--out", tmp_path / f"{kind}.gguf")
        assert "update    in " in done
        weft("export", "--model", tmp_path / "f32", "--to", "gguf", "--type", kind, "--out", tmp_path / "folded.gguf", "--force")
        assert differing(tmp_path / f"{kind}.gguf", tmp_path / "folded.gguf") == []
    expected = logits(model.eval(), ROWS)
    assert divergence(expected, logits(reference(name), ROWS)) > 1e-4
    assert divergence(expected, llama_logits(probe, tmp_path / "f32.gguf", ROWS, tmp_path)) < 1e-6
    # A base in GGUF, and one in BF16.
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "base.gguf")
    weft("export", "--model", tmp_path / "base.gguf", "--adapter", adapter, "--to", "gguf", "--type", "f32", "--out",
         tmp_path / "other.gguf")
    assert differing(tmp_path / "f32.gguf", tmp_path / "other.gguf") == []
    weft("merge", "--model", folder, "--out", tmp_path / "halves", "--dtype", "bf16")
    weft("merge", "--model", tmp_path / "halves", "--adapter", adapter, "--out", tmp_path / "folded")
    weft("export", "--model", tmp_path / "folded", "--to", "gguf", "--type", "bf16", "--out", tmp_path / "folded.gguf", "--force")
    weft("export", "--model", tmp_path / "halves", "--adapter", adapter, "--to", "gguf", "--type", "bf16", "--out",
         tmp_path / "other.gguf", "--force")
    assert differing(tmp_path / "other.gguf", tmp_path / "folded.gguf") == []
    assert_simulated_as_exported(weft, tmp_path, tmp_path / "q4_0.gguf", base=folder, adapter=adapter)
    if name != "gpt_oss":  # A base that has the stacks itself.
        stacked(folder, tmp_path / "stacks")
        weft("export", "--model", tmp_path / "stacks", "--adapter", adapter, "--to", "gguf", "--type", "f32", "--out",
             tmp_path / "other.gguf", "--force")
        assert differing(tmp_path / "f32.gguf", tmp_path / "other.gguf") == []
    for output in (["gguf-lora", "--model", folder], ["peft"]):
        done = weft.run("export", "--adapter", adapter, "--out", tmp_path / "refused", "--to", *output, check=False)
        assert done.returncode == 2 and "target_parameters" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("config, wanted", [
    (LACKING["opt"], "llama.cpp has no architecture for OPTForCausalLM"),
    (Gemma2Config(**SIZES, head_dim=32, query_pre_attn_scalar=20), "query_pre_attn_scalar = 20"),
    (GPT2Config(**family_models.GPT2_SIZES, scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx = true"),
    (Gemma2Config(**SIZES, head_dim=32, query_pre_attn_scalar=32, attn_logit_softcapping=None),
     "'attn_logit_softcapping' = null"),
    (LlamaConfig(**SIZES, hidden_act="gelu"), "hidden_act = \"gelu\""),
    (FalconConfig(**family_models.FALCON_SIZES, alibi=True), "alibi = true"),
    (Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True, mlp_only_layers=[1]),
     "'model.layers.1.mlp.down_proj.weight' is of a layer without experts"),
    (Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32), "norm_topk_prob = false"),
])
def test_what_gguf_cannot_say_is_refused_by_name(weft, models, tmp_path, config, wanted):
    done = weft.run("export", "--model", written(config, models, tmp_path), "--to", "gguf", "--out", tmp_path / "x.gguf",
                    check=False)
    assert done.returncode == 2 and wanted in done.stderr, done.stderr
    assert not (tmp_path / "x.gguf").exists()
