"""Families that transformers lacks, against transformers and PEFT: each is computed there by the family that it is
published as a variation of, with its own matrices and changes. Where the family has q, k and v in one matrix, the
reference has that matrix as well, so that PEFT's adapter of it is the family's.
"""
import json
from dataclasses import dataclass, field
from typing import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from test_decoders import GLM, check_close, check_greedy, check_updates, family, make, rows, without
from test_model import reference, reference_logits, weft_logits
from test_train import set_up

LLAMA = family("LlamaForCausalLM", "llama")


class Part(torch.nn.Module):
    """Some columns of what the matrix FUSED of its owner gives."""

    def __init__(self, owner, fused, columns):
        super().__init__()
        self.owner = [owner]  # in a list: it is no part of this one
        self.fused, self.columns = fused, columns

    def forward(self, x):
        return getattr(self.owner[0], self.fused)(x)[..., self.columns]


def one_after_the_other(q, k, v):
    return torch.cat([q, k, v])


def grouped(kv_heads):
    """The queries of a head of keys, then it and its values."""
    return lambda q, k, v: torch.cat([x.view(kv_heads, -1) for x in (q, k, v)], 1).flatten()


def fuse(attention, fused, order):
    """Makes q_proj, k_proj and v_proj parts of one matrix, which has their rows in ORDER."""
    names = ("q_proj", "k_proj", "v_proj")
    apart = [getattr(attention, name) for name in names]
    rows_of_each = torch.arange(sum(linear.out_features for linear in apart)).split(
        [linear.out_features for linear in apart])
    taken = order(*rows_of_each)
    whole = torch.nn.Linear(apart[0].in_features, len(taken), bias=apart[0].bias is not None)
    with torch.no_grad():
        for key, value in whole.named_parameters():
            value.copy_(torch.cat([getattr(linear, key) for linear in apart])[taken])
    setattr(attention, fused, whole)
    for name, own in zip(names, rows_of_each):
        setattr(attention, name, Part(attention, fused, taken.argsort()[own]))


def unchanged(model):
    pass


@dataclass
class Variation:
    """A family in the terms of one that transformers has."""
    base: dict  # configuration of that one
    config: dict  # its own
    names: dict = field(default_factory=dict)  # parts of that one's names, and what they are here
    fused: str = ""  # matrix of q, k and v
    order: Callable = one_after_the_other  # of its rows
    before: Callable = unchanged  # changes the reference, and then its weights are written
    after: Callable = unchanged  # changes what it computes from them
    besides: dict = field(default_factory=dict)  # tensors that its files hold as well

    @property
    def architecture(self):
        return self.config["architectures"][0]

    def renamed(self, name):
        for old, new in self.names.items():
            name = name.replace(old, new)
        return name

    def write(self, folder, spread=0.2):
        """The model as published; returns the reference."""
        model = reference(make(folder.with_name("reference"), self.base, spread))
        self.before(model)
        if self.fused:
            for layer in model.model.layers:
                fuse(layer.self_attn, self.fused, self.order)
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.besides | {self.renamed(name): value.clone() for name, value in model.state_dict().items()},
                  folder / "model.safetensors")
        self.after(model)
        return model

    def as_published(self, adapter):
        """Gives an adapter of the reference the family's names."""
        tensors = load_file(adapter / "adapter_model.safetensors")
        save_file({self.renamed(name): value for name, value in tensors.items()}, adapter / "adapter_model.safetensors")
        config = json.loads((adapter / "adapter_config.json").read_text())
        config["target_modules"] = [self.renamed(name) for name in config["target_modules"]]
        (adapter / "adapter_config.json").write_text(json.dumps(config))

    def worded(self, tokenizer):
        """The same with a tokenizer's vocabulary, long enough for its examples."""
        def changed(config):
            sizes = dict(vocab_size=len(tokenizer), padded_vocab_size=len(tokenizer), max_position_embeddings=256,
                         seq_length=256, model_max_length=256)
            return config | {key: value for key, value in sizes.items() if key in config} | dict(
                eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
        return Variation(**(vars(self) | dict(base=changed(self.base), config=changed(self.config))))


def internlm2(heads):
    return Variation(
        LLAMA | dict(num_key_value_heads=heads),
        family("InternLM2ForCausalLM", "internlm2", num_key_value_heads=heads, bias=False),
        {"embed_tokens": "tok_embeddings", "lm_head": "output", "self_attn": "attention", "o_proj": "wo",
         "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "mlp": "feed_forward",
         "gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}, "wqkv", grouped(heads))


def orion(eps, heads):
    def layer_norms(model):
        torch.manual_seed(1)
        for owner in [model.model, *model.model.layers]:
            for name, module in list(owner.named_children()):
                if "norm" in name:
                    norm = torch.nn.LayerNorm(48, eps=eps)
                    torch.nn.init.normal_(norm.weight, 1, 0.2)
                    torch.nn.init.normal_(norm.bias, 0, 0.2)
                    setattr(owner, name, norm)

    return Variation(LLAMA | dict(num_key_value_heads=heads),
                     family("OrionForCausalLM", "orion", rms_norm_eps=eps, num_key_value_heads=heads), before=layer_norms)


def yayi2(packed, dim):
    config = without(family("YayiForCausalLM", "yayi", rope_theta=100000.0, head_dim=dim), "num_key_value_heads")
    return Variation(LLAMA | dict(num_key_value_heads=1, head_dim=dim, rope_theta=100000.0), config,
                     fused="W_pack" if packed else "")


def normalise_head(model):
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))


def baichuan2(vocabulary):
    """Any vocabulary but that of the first generation, 64000, is of the second."""
    sizes = dict(vocab_size=vocabulary)
    config = without(family("BaichuanForCausalLM", "baichuan"), "num_key_value_heads")
    return Variation(LLAMA | dict(num_key_value_heads=6) | sizes, config | sizes, fused="W_pack", after=normalise_head)


def baichuan2_with_alibi():
    """modeling_baichuan.py of the 13B: ALiBi's slopes times the distance, and no turning."""
    heads, dim = 6, 8

    def alibi(model):
        normalise_head(model)
        power = 2 ** (-(2 ** -(2 - 3)))  # 4 heads
        slopes = torch.tensor([power ** (i + 1) for i in range(4)])
        extra = 2 ** (-(2 ** -(3 - 3)))  # 8 heads, every other one
        slopes = torch.cat([slopes, torch.tensor([extra ** (2 * i + 1) for i in range(2)])])

        def attend(self, hidden_states, **_):
            q, k, v = (projection(hidden_states).view(1, -1, heads, dim).transpose(1, 2)
                       for projection in (self.q_proj, self.k_proj, self.v_proj))
            place = torch.arange(q.shape[2])
            scores = q @ k.transpose(2, 3) / dim ** 0.5 + slopes[:, None, None] * (place - place[:, None])
            scores = scores.masked_fill(place > place[:, None], float("-inf"))
            return self.o_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)), None

        for layer in model.model.layers:
            layer.self_attn.forward = attend.__get__(layer.self_attn)

    config = without(family("BaichuanForCausalLM", "baichuan", model_max_length=64), "num_key_value_heads",
                     "max_position_embeddings")
    return Variation(LLAMA | dict(num_key_value_heads=6), config, fused="W_pack", after=alibi)


def chatglm3(heads=2, base=10000.0):
    return Variation(
        GLM | dict(partial_rotary_factor=0.5, num_key_value_heads=heads, rope_theta=base, rms_norm_eps=1.5625e-7),
        dict(architectures=["ChatGLMModel"], model_type="chatglm", padded_vocab_size=199, hidden_size=48, num_layers=3,
             num_attention_heads=6, kv_channels=16, ffn_hidden_size=80, seq_length=64, layernorm_epsilon=1.5625e-7,
             multi_query_attention=heads != 6, multi_query_group_num=heads, rmsnorm=True, add_bias_linear=False,
             add_qkv_bias=True, post_layer_norm=True, original_rope=True, rope_ratio=base / 10000,
             tie_word_embeddings=False),
        {"model.layers": "transformer.encoder.layers", "model.embed_tokens": "transformer.embedding.word_embeddings",
         "model.norm": "transformer.encoder.final_layernorm", "lm_head": "transformer.output_layer",
         "self_attn": "self_attention", "o_proj": "dense", "gate_up_proj": "dense_h_to_4h",
         "down_proj": "dense_4h_to_h"}, "query_key_value",
        besides={"transformer.rotary_pos_emb.inv_freq": torch.zeros(4)})


VARIATIONS = {
    "internlm2_1_head": internlm2(1),
    "internlm2": internlm2(2),
    "internlm2_6_heads": internlm2(6),
    "orion": orion(1e-5, 2),
    "orion_6_heads": orion(1e-5, 6),
    "orion_large_eps": orion(1e-2, 2),
    "yayi2": yayi2(False, 8),
    "yayi2_wide": yayi2(False, 14),
    "yayi2_packed": yayi2(True, 8),
    "yayi2_packed_wide": yayi2(True, 14),
    "baichuan2": baichuan2(199),
    "baichuan2_published_vocabulary": baichuan2(125696),
    "baichuan2_alibi": baichuan2_with_alibi(),
    "chatglm3": chatglm3(),
    "chatglm3_6_heads": chatglm3(6),
    "chatglm3_other_base": chatglm3(base=50000.0),
}
# For what takes longer.
CHOSEN = ["internlm2", "orion", "yayi2", "yayi2_packed", "baichuan2", "baichuan2_alibi", "chatglm3"]


@pytest.mark.parametrize("name", VARIATIONS)
def test_logits_equal_transformers(weft, tmp_path, name):
    variation = VARIATIONS[name]
    model = variation.write(tmp_path / "model")
    check_close(weft_logits(weft, tmp_path, tmp_path / "model", rows()), reference_logits(model, rows()),
                variation.architecture)


@pytest.mark.parametrize("name", ["internlm2", "yayi2_packed", "chatglm3"])
def test_the_reference_computes_what_it_is_made_of(tmp_path, name):
    """Its fused matrix changes nothing: it gives the logits of the model in transformers' own form."""
    model = VARIATIONS[name].write(tmp_path / "model")
    for fused, apart in zip(reference_logits(model, rows()),
                            reference_logits(reference(tmp_path / "reference"), rows())):
        torch.testing.assert_close(fused, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CHOSEN)
def test_adapters_equal_peft(weft, tmp_path, name):
    variation = VARIATIONS[name]
    model = variation.write(tmp_path / "model")
    base = reference_logits(model, rows())
    adapted = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(3)
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    variation.as_published(tmp_path / "adapter")
    wanted = reference_logits(adapted, rows())
    assert (wanted[2] - base[2]).abs().max() > 0.02 * (base[2].max() - base[2].min())
    got = weft_logits(weft, tmp_path, tmp_path / "model", rows(), "--adapter", tmp_path / "adapter")
    check_close(got, wanted, variation.architecture, "adapters")


@pytest.fixture
def worded(smollm2_dir, tmp_path):
    """Writes a variation with SmolLM2's tokenizer into "base"; returns it and its reference."""
    def write(name):
        tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
        variation = VARIATIONS[name].worded(tokenizer)
        model = variation.write(tmp_path / "base", 0.12)
        tokenizer.save_pretrained(tmp_path / "base")
        return variation, model
    return write


@pytest.mark.parametrize("name", CHOSEN)
def test_greedy_generation_equals_transformers(weft, worded, tmp_path, name):
    variation, model = worded(name)
    check_greedy(weft, tmp_path / "base", model, variation.architecture)


@pytest.mark.parametrize("name", CHOSEN)
def test_training_equals_peft(weft, worded, tmp_path, name):
    variation, model = worded(name)
    adapted, config = set_up(tmp_path, model, max_updates=10)
    check_updates(weft, tmp_path, adapted, config, variation.architecture, variation.as_published)
