"""Adapters of stacks of experts (PEFT's target_parameters), folded as PEFT's merge_and_unload folds them."""
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, GptOssConfig, GptOssForCausalLM, GraniteMoeConfig, GraniteMoeForCausalLM,
                          Llama4ForCausalLM, Llama4TextConfig, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

warnings.simplefilter("ignore")


def gpt_oss(square):
    """Experts of shape [experts, in, out]."""
    return GptOssForCausalLM(GptOssConfig(
        vocab_size=96, hidden_size=32, intermediate_size=32 if square else 24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=6, num_experts_per_tok=2, sliding_window=16))


def llama4(square):
    """Experts that PEFT takes for [experts, out, in]."""
    return Llama4ForCausalLM(Llama4TextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=32 if square else 24, intermediate_size_mlp=24,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_local_experts=5))


def granite(square):
    """Experts that transformers stores under other names than it loads them by."""
    return GraniteMoeForCausalLM(GraniteMoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=32 if square else 24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2))


def mixtral(square):
    """Experts that transformers stacks and stores one by one, as w1, w3 and w2."""
    return MixtralForCausalLM(MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2))


def qwen3_moe(square):
    """The same, as gate_proj, up_proj and down_proj."""
    return Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, moe_intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, num_experts=5, num_experts_per_tok=2))


SPLIT = {name: (build, ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"])
         for name, build in (("mixtral", mixtral), ("qwen3_moe", qwen3_moe))}
RENAMED = (granite, ["experts.gate_up_proj"])
CASES = {
    "gpt-oss": (gpt_oss, ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "gpt-oss-one": (gpt_oss, ["mlp.experts.down_proj"]),
    "llama4": (llama4, ["feed_forward.experts.gate_up_proj", "feed_forward.experts.down_proj"]),
}


def make(tmp_path, name, square=False, **options):
    build, parameters = {**CASES, **SPLIT}.get(name, RENAMED)
    torch.manual_seed(3)
    build(square).save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    settings = dict(r=3, lora_alpha=5, lora_dropout=0.0, target_modules=["q_proj"], target_parameters=parameters)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{**settings, **options}))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.copy_(torch.randn_like(value) * 0.2)
    model.save_pretrained(tmp_path / "adapter")
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    PeftModel.from_pretrained(fresh, tmp_path / "adapter").merge_and_unload().save_pretrained(tmp_path / "peft")
    return load_file(tmp_path / "base/model.safetensors"), load_file(tmp_path / "peft/model.safetensors")


@pytest.mark.parametrize("square", [False, True], ids=["", "square"])
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
@pytest.mark.parametrize("name", CASES)
def test_the_fold_of_a_stack_of_experts_is_pefts(weft, tmp_path, name, options, square):
    base, peft = make(tmp_path, name, square, **options)
    weft("merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    own = load_file(tmp_path / "out/model.safetensors")
    assert own.keys() == base.keys() == peft.keys()
    changed = [key for key in base if not torch.equal(base[key], peft[key])]
    assert len([key for key in changed if base[key].dim() == 3]) == 2 * len(CASES[name][1])
    for key in base:
        assert own[key].dtype == base[key].dtype
        if key not in changed:
            assert torch.equal(own[key], base[key]), key
        assert (own[key] - peft[key]).abs().max() <= 1e-6 * peft[key].abs().max(), key
    weft("inspect", "--verify", tmp_path / "out")


@pytest.mark.parametrize("name", SPLIT)
def test_experts_that_are_stored_one_by_one_take_a_stacked_adapter(weft, tmp_path, name):
    base, peft = make(tmp_path, name)
    weft("merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    own = load_file(tmp_path / "out/model.safetensors")
    assert own.keys() == base.keys() == peft.keys()
    assert sum(not torch.equal(own[key], base[key]) for key in base if ".experts." in key) == 2 * 5 * 3
    for key in base:
        assert (own[key] - peft[key]).abs().max() <= 1e-6 * peft[key].abs().max(), key
    weft("inspect", "--verify", tmp_path / "out")


def test_a_stack_of_another_number_of_experts_is_refused(weft, tmp_path):
    make(tmp_path, "llama4")
    path = tmp_path / "base/model.safetensors"
    tensors = {key: value[:4].clone() if value.dim() == 3 else value for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    done = weft.run("merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out",
                    check=False)
    assert done.returncode == 2 and "5 experts" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_stack_that_is_stored_under_another_name_is_refused(weft, tmp_path):
    make(tmp_path, "renamed")
    done = weft.run("merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out",
                    check=False)
    assert done.returncode == 2 and "experts.gate_up_proj" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
