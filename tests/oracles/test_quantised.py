"""Bases kept as nf4 and int8 against bitsandbytes: the same numbers, seen through the logits."""
import json

import pytest
import torch
from bitsandbytes import functional as bnb
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(2)

ROWS = [list(range(5, 4000, 37)), [1, 42, 9, 300, 11, 7, 7, 7]]


def nf4(weight):
    """Codes and scales of the library; the scales' codes by its rule for all devices, the nearest
    entry of its map: its CPU kernel looks codes up in a table of 4096 and misses some."""
    codes, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
    mean, tree = state.absmax.mean(), bnb.create_dynamic_map()
    centred = state.absmax - mean
    groups = torch.nn.functional.pad(centred, (0, -len(centred) % 256)).view(-1, 256)
    most = groups.abs().amax(1, keepdim=True)
    nearest = (groups.div(most).unsqueeze(-1) - tree).abs().argmin(-1)
    state.absmax = (tree[nearest] * most).view(-1)[: len(centred)] + mean
    return bnb.dequantize_4bit(codes, state)


def nf4_of_the_cpu_library(weight):
    return bnb.dequantize_4bit(*bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True))


def int8(weight):
    most = weight.abs().amax(dim=1, keepdim=True)
    return torch.round(weight * (127 / most)) * (most / 127)


def logits(weft, tmp_path, model, *options):
    ids, out = tmp_path / "ids.jsonl", tmp_path / "logits.safetensors"
    ids.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    weft("logits", "--model", model, "--ids", ids, "--out", out, "--force", "--dtype", "f32", *options)
    tensors = load_file(out)
    return [tensors[str(i)] for i in range(len(ROWS))]


@pytest.mark.parametrize("name, rule, tolerance", [
    ("nf4", nf4, 1e-3), ("nf4", nf4_of_the_cpu_library, 0.05),
    # This model's numbers come from Q4_1 and lie on a grid with many halves, which the last bit of
    # a product decides: the same rule in double is as far from the rule in fp32.
    ("int8", int8, 0.02)])
def test_logits_are_those_of_the_reference_values(weft, tmp_path, smollm2_dir, name, rule, tolerance):
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32, attn_implementation="eager").eval()
    plain = model(torch.tensor([ROWS[0]])).logits[0].detach()
    noise = (logits(weft, tmp_path, smollm2_dir)[0] - plain).abs().mean().item()  # of fp32 sums
    with torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and path != "lm_head":
                module.weight.copy_(rule(module.weight))
        wanted = [model(torch.tensor([row])).logits[0] for row in ROWS]
    got = logits(weft, tmp_path, smollm2_dir, "--base-quantization", name)
    effect = (wanted[0] - plain).abs().mean().item()
    for ours, theirs in zip(got, wanted, strict=True):
        assert (ours - theirs).abs().mean().item() <= 2 * noise + tolerance * effect
    assert effect > 0.01, "rounding the base should be seen"


def test_a_gguf_files_blocks_give_the_logits_of_its_numbers(weft, tmp_path, smollm2_gguf):
    stored = logits(weft, tmp_path, smollm2_gguf)
    for ours, theirs in zip(stored, logits(weft, tmp_path, smollm2_gguf, "--base-quantization", "none"), strict=True):
        assert torch.equal(ours, theirs)


def test_a_model_without_blocks_cannot_keep_them(weft, smollm2_dir):
    done = weft.run("generate", "--model", smollm2_dir, "--prompt", "x", "--base-quantization", "stored", check=False)
    assert done.returncode == 2
    assert "has no matrices in blocks of a GGUF format" in done.stderr
