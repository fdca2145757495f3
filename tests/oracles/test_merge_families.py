"""Adapters under each family's own names, folded by weft and by PEFT; their extraction, and the way back."""
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from family_figures import record
from family_models import CASES, LACKING, VOCABULARY, logits

ROWS = [[1] + list(range(5, 35)), [int(i) for i in np.random.default_rng(4).integers(3, VOCABULARY, 40)]]
FAMILIES = {name: case.targets for name, case in CASES.items() if case.made is None}
FAMILIES["opt"] = ("q_proj", "v_proj", "out_proj", "fc1", "fc2")
# Where a family keeps its embedding and its head.
EMBEDDINGS = {"gpt2": "wte", "gpt_neox": "embed_in", "bloom": "word_embeddings", "falcon": "word_embeddings",
              "falcon_11b": "word_embeddings"}
HEADS = {"gpt_neox": "embed_out"}
# Of the logits' range. Mixtral's random weights make much of each rounding: PEFT's own fold is 4e-5 from its adapter.
LIMITS = {"mixtral": 2e-4}
HEADED = ("llama", "gemma", "phi", "gpt2", "gpt_neox", "bloom", "falcon", "falcon_11b", "opt")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "base"
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(LACKING[request.param] if request.param in LACKING else CASES[request.param].config)
    model.save_pretrained(folder)
    return request.param, folder


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def adapter(name, folder, out, **options):
    """An adapter with numbers in all that it trains; the logits of the adapted model, and PEFT's own fold of it."""
    torch.manual_seed(3)
    model = get_peft_model(load(folder), LoraConfig(r=4, lora_alpha=6, fan_in_fan_out=name == "gpt2", **options))
    for key, value in model.named_parameters():
        if value.requires_grad:
            value.data += torch.randn(value.shape) * 0.03
    model.save_pretrained(out)
    return logits(model.eval(), ROWS), model.merge_and_unload().eval()


def assert_same(folder, expected, base, limit=1e-5):
    """Logits as PEFT's model has them, and not as the base's."""
    assert np.abs(expected - logits(load(base), ROWS)).max() > 1e-2 * np.ptp(expected)
    assert np.abs(logits(load(folder), ROWS) - expected).max() <= limit * np.ptp(expected)


def test_a_fold_is_pefts(weft, family, tmp_path):
    name, base = family
    limit = LIMITS.get(name, 1e-5)
    expected, merged = adapter(name, base, tmp_path / "adapter", target_modules=list(FAMILIES[name]))
    assert np.abs(logits(merged, ROWS) - expected).max() <= limit * np.ptp(expected)
    weft("merge", "--model", base, "--adapter", tmp_path / "adapter", "--out", tmp_path / "out", "--undo", tmp_path / "undo")
    assert_same(tmp_path / "out", expected, base, limit)
    record(type(merged).__name__, "merge", np.abs(logits(load(tmp_path / "out"), ROWS) - expected).max() / np.ptp(expected))
    merged.save_pretrained(tmp_path / "peft")  # under the names of files, experts one by one
    state = load_file(tmp_path / "peft" / "model.safetensors")
    for key, value in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(value, state[key], rtol=1e-5, atol=1e-6)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    weft("inspect", tmp_path / "out", "--verify")
    # What was folded comes out again, and off again.
    weft("extract", "--model", tmp_path / "out", "--base", base, "--rank", "4", "--out", tmp_path / "extracted")
    weft("merge", "--model", base, "--adapter", tmp_path / "extracted", "--out", tmp_path / "again")
    assert_same(tmp_path / "again", expected, base, limit)
    weft("unmerge", tmp_path / "out", "--undo", tmp_path / "undo", "--out", tmp_path / "back")
    for key, value in load_file(base / "model.safetensors").items():
        assert torch.equal(value, load_file(tmp_path / "back" / "model.safetensors")[key])


@pytest.mark.parametrize("kind", ["embedding", "head", "saved-embedding", "saved-head", "saved-both"])
def test_embedding_and_head_are_folded_where_the_family_keeps_them(weft, family, tmp_path, kind):
    """A change of one of two that were one matrix unties them, as it does in PEFT's model before its fold."""
    name, base = family
    if name not in HEADED:
        pytest.skip("the names are those of another family")
    embedding, head = EMBEDDINGS.get(name, "embed_tokens"), HEADS.get(name, "lm_head")
    layer = FAMILIES[name][0]
    options = {"embedding": dict(target_modules=[embedding, layer]), "head": dict(target_modules=[head, layer]),
               "saved-embedding": dict(target_modules=[layer], modules_to_save=[embedding]),
               "saved-head": dict(target_modules=[layer], modules_to_save=[head]),
               "saved-both": dict(target_modules=[layer], modules_to_save=[embedding, head])}[kind]
    expected, _ = adapter(name, base, tmp_path / "adapter", **options)
    weft("merge", "--model", base, "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert_same(tmp_path / "out", expected, base)


def test_published_names_without_the_beginning_are_the_same_model(weft, tmp_path):
    """GPT-2's files on the hub lack "transformer."."""
    base = tmp_path / "base"
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(CASES["gpt2"].config).save_pretrained(base)
    expected, _ = adapter("gpt2", base, tmp_path / "adapter", target_modules=["c_attn", "wte"])
    state = {key.removeprefix("transformer."): value for key, value in load_file(base / "model.safetensors").items()}
    save_file(state, base / "model.safetensors", {"format": "pt"})
    weft("merge", "--model", base, "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert_same(tmp_path / "out", expected, base)
