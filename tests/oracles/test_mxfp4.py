"""GPT-OSS whose experts are stored in MXFP4, as it is published, beside transformers' numbers of the same bytes."""
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from family_models import VOCABULARY, write_byte_level
from gguf_tools import convert_all, differing, divergence, llama_logits, tensors
from test_model import assert_close, reference, reference_logits, rows_of, weft_logits

warnings.simplefilter("ignore")
torch.set_num_threads(2)

STACKS = ("gate_up_proj", "down_proj")
QUANTIZATION = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}


def pack(out, width, generator):
    """Blocks and scales of a stack of 5 experts, at random: numbers of about 0.05 to 0.2."""
    blocks = torch.randint(0, 256, (5, out, width // 32, 16), generator=generator, dtype=torch.uint8)
    scales = torch.randint(120, 124, (5, out, width // 32), generator=generator, dtype=torch.uint8)
    return blocks, scales


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The packed model, and the one that transformers makes of it."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    generator = torch.Generator().manual_seed(6)
    model = GptOssForCausalLM(GptOssConfig(
        vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=None, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=5, num_experts_per_tok=2, sliding_window=7,
        max_position_embeddings=128, initializer_range=0.1)).to(torch.bfloat16)
    write_byte_level(folder / "plain")
    shutil.copytree(folder / "plain", folder / "packed")
    model.save_pretrained(folder / "plain")
    plain = load_file(folder / "plain/model.safetensors")
    packed = dict(plain)
    for layer in range(2):
        for name, (out, width) in zip(STACKS, ((2 * 96, 64), (64, 96))):
            key = f"model.layers.{layer}.mlp.experts.{name}"
            blocks, scales = pack(out, width, generator)
            dequantised = convert_moe_packed_tensors(blocks, scales)
            assert packed.pop(key).shape == dequantised.shape
            packed[key + "_blocks"], packed[key + "_scales"], plain[key] = blocks, scales, dequantised
    save_file(plain, folder / "plain/model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "plain/config.json").read_text())
    (folder / "packed/config.json").write_text(json.dumps(config | {"quantization_config": QUANTIZATION}))
    save_file(packed, folder / "packed/model.safetensors", metadata={"format": "pt"})
    return folder / "packed", folder / "plain"


def adapter_of(plain, folder, **options):
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=5, lora_dropout=0.0, **options))
    torch.manual_seed(7)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.copy_(torch.randn_like(value) * 0.1)
    model.save_pretrained(folder / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    PeftModel.from_pretrained(fresh, folder / "adapter").merge_and_unload().save_pretrained(folder / "peft")
    return folder / "adapter", load_file(folder / "peft/model.safetensors")


def test_inspect_shows_the_stacks_and_the_digest_of_their_numbers(weft, models):
    packed, plain = (weft.json("inspect", "--tensors", model) for model in models)
    assert packed["weights_digest"] == plain["weights_digest"]
    tensors = {tensor["name"]: tensor for tensor in packed["tensors"]}
    assert tensors.keys() == {tensor["name"] for tensor in plain["tensors"]}
    stack = tensors["model.layers.1.mlp.experts.gate_up_proj"]
    assert stack["shape"] == [5, 64, 192] and stack["type"] == "MXFP4"
    assert stack["bytes"] == 5 * 64 * 192 // 32 * 17
    assert "MXFP4" in weft("inspect", models[0])


def test_logits_are_those_of_transformers(weft, tmp_path, models):
    packed, plain = models
    wanted = reference_logits(reference(plain), rows_of(199))
    assert_close(weft_logits(weft, tmp_path, packed, rows_of(199)), wanted)


@pytest.mark.parametrize("options", [
    dict(target_modules=["q_proj", "o_proj"]),
    dict(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
], ids=["attention", "experts"])
def test_the_fold_is_pefts(weft, tmp_path, models, options):
    packed, plain = models
    adapter, peft = adapter_of(plain, tmp_path, **options)
    done = weft.run("merge", "--model", packed, "--adapter", adapter, "--out", tmp_path / "f32", "--dtype", "f32")
    assert done.stderr.count("MXFP4") == 1
    own = load_file(tmp_path / "f32/model.safetensors")
    assert own.keys() == peft.keys()
    for key in own:
        assert (own[key] - peft[key]).abs().max() <= 1e-6 * peft[key].abs().max(), key

    # As it is merged when nothing is said: BF16, with the bits of the same merge into the plain model.
    for model, name in ((packed, "own"), (plain, "other")):
        weft("merge", "--model", model, "--adapter", adapter, "--out", tmp_path / name)
    own, other = (load_file(tmp_path / name / "model.safetensors") for name in ("own", "other"))
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
    assert all(value.dtype == torch.bfloat16 for value in own.values())
    configs = [json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "own", plain)]
    assert configs[0] == configs[1]
    weft("inspect", "--verify", tmp_path / "own")
    merged = reference_logits(reference(tmp_path / "own"), rows_of(199))
    assert_close(weft_logits(weft, tmp_path, tmp_path / "own", rows_of(199)), merged)


@pytest.mark.parametrize("left", ["blocks", "scales"])
def test_half_of_a_stack_is_refused(weft, tmp_path, models, left):
    tensors = load_file(models[0] / "model.safetensors")
    gone = {"blocks": "scales", "scales": "blocks"}[left]
    del tensors[f"model.layers.1.mlp.experts.down_proj_{gone}"]
    (tmp_path / "config.json").write_text((models[0] / "config.json").read_text())
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    done = weft.run("inspect", tmp_path, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"down_proj_{left}'" in done.stderr and f"down_proj_{gone}'" in done.stderr


def stacks_of(file):
    return {name: tensor for name, tensor in tensors(file).items() if "_exps.weight" in name}


def test_gguf_has_the_blocks_of_the_converter(weft, probe, cache, tmp_path, models):
    packed, plain = models
    assert convert_all(cache, [(packed, tmp_path / "theirs.gguf", "bf16", "smollm")]) == {}
    done = weft.run("export", "--to", "gguf", "--type", "bf16", "--model", packed, "--out", tmp_path / "ours.gguf")
    assert "truncate" in done.stderr  # of the family's own positions
    assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []
    ours, theirs = (GGUFReader(tmp_path / f"{name}.gguf").fields for name in ("ours", "theirs"))
    for key in ("general.file_type", "general.size_label", "gpt-oss.expert_count", "gpt-oss.rope.scaling.type"):
        assert ours[key].contents() == theirs[key].contents(), key
    assert ours["general.file_type"].contents() == 38
    assert {tensor.tensor_type for tensor in stacks_of(tmp_path / "ours.gguf").values()} == {39}

    # Read back: the same numbers, and what transformers computes with them.
    digests = {weft.json("inspect", model)["weights_digest"] for model in (packed, plain, tmp_path / "ours.gguf")}
    assert len(digests) == 1
    wanted = reference_logits(reference(plain), rows_of(199))
    assert_close(weft_logits(weft, tmp_path, tmp_path / "ours.gguf", rows_of(199)), wanted)
    # llama.cpp rounds activations to 8 bits before it multiplies them with such blocks.
    rows = rows_of(199)
    found = llama_logits(probe, tmp_path / "ours.gguf", rows, tmp_path)
    assert divergence(np.concatenate([w.numpy() for w in wanted]), found) < 1e-2


def test_gguf_of_any_type_keeps_blocks_that_nothing_changes(weft, tmp_path, models):
    packed, plain = models
    adapter, _ = adapter_of(plain, tmp_path, target_modules=["q_proj", "o_proj"])
    kept = stacks_of(export(weft, tmp_path / "bf16.gguf", packed, "bf16"))
    for name, model, options in (("q8_0", packed, []), ("q4_k_m", packed, ["--adapter", adapter]),
                                 ("f32", tmp_path / "bf16.gguf", [])):
        found = stacks_of(export(weft, tmp_path / f"{name}.gguf", model, name, *options))
        assert found.keys() == kept.keys()
        assert all(found[key].tensor_type == 39 and found[key].data.tobytes() == kept[key].data.tobytes() for key in kept)
    # As plain numbers: those of the model that transformers dequantises.
    of_plain = stacks_of(export(weft, tmp_path / "plain.gguf", plain, "f32"))
    weft("merge", "--model", tmp_path / "bf16.gguf", "--out", tmp_path / "back", "--dtype", "f32")
    again = stacks_of(export(weft, tmp_path / "again.gguf", tmp_path / "back", "f32"))
    assert all(of_plain[key].tensor_type == 0 and np.array_equal(of_plain[key].numbers(), again[key].numbers()) for key in kept)


def test_gguf_has_an_adapter_of_the_stacks_folded_in(weft, tmp_path, models):
    packed, plain = models
    adapter, _ = adapter_of(plain, tmp_path, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    weft("merge", "--model", packed, "--adapter", adapter, "--out", tmp_path / "folded", "--dtype", "f32")
    kept = stacks_of(export(weft, tmp_path / "kept.gguf", packed, "f32"))
    wanted = tensors(export(weft, tmp_path / "folded.gguf", tmp_path / "folded", "f32"))
    for name, base in (("straight", packed), ("again", tmp_path / "kept.gguf")):
        found = tensors(export(weft, tmp_path / f"{name}.gguf", base, "f32", "--adapter", adapter))
        assert found.keys() == wanted.keys()
        for key, tensor in found.items():
            unchanged = "gate_exps.weight" in key or "up_exps.weight" in key
            expected = (kept if unchanged else wanted)[key]
            assert tensor.tensor_type == expected.tensor_type == (39 if unchanged else 0)
            assert tensor.data.tobytes() == expected.data.tobytes(), key


def export(weft, out, model, kind, *options):
    weft("export", "--to", "gguf", "--type", kind, "--model", model, "--out", out, *options)
    return out
