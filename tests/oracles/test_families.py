"""Model families in GGUF: tiny random models of each, against llama.cpp's converter and library, transformers and PEFT."""
import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)

from gguf_tools import FILE_TYPES, convert, differing, divergence, llama_logits, tensors, weft_logits

SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256, vocab_size=49152, bos_token_id=1, eos_token_id=2, initializer_range=0.3)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
CONFIGS = {
    "llama": LlamaConfig(**SIZES, attention_bias=True, tie_word_embeddings=False),
    "llama3": LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=32),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2_yarn": Qwen2Config(**SIZES, tie_word_embeddings=False, rope_parameters=YARN),
    "qwen3": Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True),
}
TRAINED = [name for name in CONFIGS if name != "qwen3"]  # that weft computes itself
TEXTS = ["¿Cómo se dice «agua» en náhuatl? Atl.", "Nehuatl nicnequi nimitzittas moztla, tlazohcamati. " * 4]


@pytest.fixture(scope="module", params=CONFIGS)
def family(request, smollm2_dir, tmp_path_factory):
    """NAME, its folder, and token ids. Norms and biases, which start as ones and zeros, get numbers too."""
    folder = tmp_path_factory.mktemp(request.param) / request.param
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() == 1:
                value.add_(0.2 * torch.randn(value.shape))
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    tokenizer.save_pretrained(folder)
    return request.param, folder, [tokenizer(text).input_ids for text in TEXTS]


def transformers_logits(model, rows):
    with torch.inference_mode():
        return np.concatenate([model.eval()(torch.tensor([row])).logits[0].numpy() for row in rows])


def test_the_file_is_the_converters(weft, cache, family, tmp_path):
    name, folder, _ = family
    weft("export", "--model", folder, "--to", "gguf", "--type", "bf16", "--out", tmp_path / "ours.gguf")
    # transformers reads any tokenizer of a qwen2 with Qwen's rules, which with this vocabulary no converter knows.
    convert(cache, folder, tmp_path / "theirs.gguf", "bf16", pre="smollm" if name.startswith("qwen2") else None)
    ours, theirs = (GGUFReader(tmp_path / name).fields for name in ("ours.gguf", "theirs.gguf"))
    assert theirs.keys() - ours.keys() == set()
    for key in ours.keys() - theirs.keys():  # said where the converter leaves it to llama.cpp's default
        assert key in ("tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_bos_token") and not ours[key].contents()
    different = {k for k in theirs if not k.startswith("GGUF.") and
                 (ours[k].types != theirs[k].types or ours[k].contents() != theirs[k].contents())}
    assert different <= {"general.name"}  # the converter spells the folder's name in title case
    # Rotary factors differ in their last bit: the converter takes its powers in single precision, weft in double.
    different = differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf")
    assert different == (["rope_freqs.weight"] if name == "llama3" else [])
    for tensor in different:
        ours, theirs = (tensors(tmp_path / file)[tensor].numbers() for file in ("ours.gguf", "theirs.gguf"))
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_llama_cpp_gives_the_logits_of_transformers(weft, probe, family, tmp_path):
    name, folder, rows = family
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    expected = transformers_logits(AutoModelForCausalLM.from_pretrained(folder), rows)
    assert divergence(expected, llama_logits(probe, tmp_path / "f32.gguf", rows, tmp_path)) < 1e-6
    weft("export", "--model", folder, "--to", "gguf", "--type", "q4_k_m", "--out", tmp_path / "q4.gguf")
    probe("quantize", tmp_path / "f32.gguf", tmp_path / "theirs.gguf", FILE_TYPES["q4_k_m"])
    assert differing(tmp_path / "q4.gguf", tmp_path / "theirs.gguf") == []


def test_the_file_is_a_base_again(weft, family, tmp_path):
    name, folder, rows = family
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    weft("merge", "--model", tmp_path / "f32.gguf", "--out", tmp_path / "back", "--dtype", "f32")
    expected = transformers_logits(AutoModelForCausalLM.from_pretrained(folder), rows)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back).__name__ == ("LlamaForCausalLM" if name == "mistral" else
                                   AutoModelForCausalLM.from_pretrained(folder).__class__.__name__)
    assert np.abs(transformers_logits(back, rows) - expected).max() <= 1e-4 * np.ptp(expected)
    if name in TRAINED:
        assert divergence(expected, weft_logits(weft, tmp_path / "f32.gguf", rows, tmp_path)) < 1e-8


def test_an_adapter_in_gguf_gives_pefts_logits(weft, probe, family, tmp_path):
    _, folder, rows = family
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data = torch.randn(value.shape) * 0.05
    model.save_pretrained(tmp_path / "adapter")
    expected = transformers_logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder),
                                                             tmp_path / "adapter"), rows)
    both = ["--model", folder, "--adapter", tmp_path / "adapter"]
    weft("export", *both, "--to", "gguf-lora", "--out", tmp_path / "lora.gguf")
    weft("export", "--model", folder, "--to", "gguf", "--type", "f32", "--out", tmp_path / "base.gguf")
    weft("export", *both, "--to", "gguf", "--type", "f32", "--out", tmp_path / "merged.gguf")
    base = llama_logits(probe, tmp_path / "base.gguf", rows, tmp_path)
    assert divergence(expected, base) > 1e-2
    for found in (llama_logits(probe, tmp_path / "base.gguf", rows, tmp_path, lora=tmp_path / "lora.gguf"),
                  llama_logits(probe, tmp_path / "merged.gguf", rows, tmp_path)):
        assert divergence(expected, found) < 1e-6


def test_what_the_architecture_cannot_say_is_told(weft, smollm2_dir, tmp_path):
    """llama.cpp attends to everything where these models look at a window."""
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=32, max_window_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "window")
    AutoTokenizer.from_pretrained(smollm2_dir).save_pretrained(tmp_path / "window")
    done = weft.run("export", "--model", tmp_path / "window", "--to", "gguf", "--type", "q8_0", "--out", tmp_path / "x.gguf")
    assert "last 32 tokens" in done.stderr
    assert tensors(tmp_path / "x.gguf")["blk.0.attn_q.bias"].shape == [64]
