"""Files of base models against gguf-py, safetensors and transformers."""
import hashlib
import json
import math

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Type
from make_dequantize_reference import random_blocks
from safetensors.torch import load_file, save
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

WIDTH, HEADS, KEY_HEADS, INNER, VOCABULARY = 256, 4, 2, 512, 32
HEAD_DIM = WIDTH // HEADS
# HF name, GGUF name, shape, heads of interleaved rows.
MATRICES = [("model.embed_tokens", "token_embd", (VOCABULARY, WIDTH)),
            ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", (WIDTH, WIDTH)),
            ("model.layers.0.self_attn.k_proj", "blk.0.attn_k", (KEY_HEADS * HEAD_DIM, WIDTH)),
            ("model.layers.0.self_attn.v_proj", "blk.0.attn_v", (KEY_HEADS * HEAD_DIM, WIDTH)),
            ("model.layers.0.self_attn.o_proj", "blk.0.attn_output", (WIDTH, WIDTH)),
            ("model.layers.0.mlp.gate_proj", "blk.0.ffn_gate", (INNER, WIDTH)),
            ("model.layers.0.mlp.up_proj", "blk.0.ffn_up", (INNER, WIDTH)),
            ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", (WIDTH, INNER))]
VECTORS = [("model.norm", "output_norm"), ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
           ("model.layers.0.post_attention_layernorm", "blk.0.ffn_norm")]
TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1,
         Type.Q4_K, Type.Q5_K, Type.Q6_K]


def add_metadata(writer, theta=500000.0):
    writer.add_context_length(131072)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([chr(97 + i) for i in range(26)] + [f"<{i}>" for i in range(6)])
    writer.add_token_types([1] * 26 + [3] * 6)
    writer.add_token_merges(["a b"])


def write_llama(path, kind, rng, extra=()):
    """A GGUF file of one layer in blocks of `kind`; returns {HF name: floats by gguf-py}."""
    writer = gguf.GGUFWriter(path, "llama")
    add_metadata(writer)
    processor = LlamaTensorProcessor({"num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS})
    expected = {}
    for hf, name, shape in MATRICES:
        floats = rng.normal(0, 0.05, shape).astype(np.float32)
        try:
            data = gguf.quants.quantize(floats, kind)
        except NotImplementedError:  # gguf-py reads K-quants and does not write them.
            data = random_blocks(kind, rng, *shape)
        writer.add_tensor(name + ".weight", data, raw_dtype=kind)
        read = gguf.quants.dequantize(data, kind).reshape(shape).astype(np.float32)
        expected[hf + ".weight"] = processor.process(read, name + ".weight").weights
    for hf, name in VECTORS:
        expected[hf + ".weight"] = rng.normal(1, 0.1, WIDTH).astype(np.float32)
        writer.add_tensor(name + ".weight", expected[hf + ".weight"])
    for name, values in extra:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def bits(array):
    return np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_storage_gives_the_bits_of_gguf_py(weft, tmp_path, kind):
    expected = write_llama(tmp_path / "m.gguf", kind, np.random.default_rng(int(kind)))
    weft("merge", "--model", tmp_path / "m.gguf", "--out", tmp_path / "out", "--dtype", "f32")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape, name
        assert np.array_equal(bits(found[name].numpy()), bits(values)), name


def test_the_real_model_has_transformers_names_and_numbers(smollm2_gguf, smollm2_dir):
    model = AutoModelForCausalLM.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    expected = model.state_dict()
    del expected["lm_head.weight"]  # Tied.
    found = load_file(smollm2_dir / "model.safetensors")
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert torch.equal(values.view(torch.int32), found[name].view(torch.int32)), name


def test_the_real_configuration_is_the_one_transformers_derives(smollm2_gguf, smollm2_dir):
    expected = AutoConfig.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name).to_dict()
    found = AutoConfig.from_pretrained(smollm2_dir).to_dict()
    # Where they come from and what is read from elsewhere.
    ignored = {"_name_or_path", "_model_name_or_path", "architectures", "dtype",
               "transformers_version", "unk_token_id"}
    assert {k: v for k, v in found.items() if k not in ignored} == \
        {k: v for k, v in expected.items() if k not in ignored}


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_its_tensor(weft, tmp_path, factor):
    # llama.cpp, conversion/llama.py, generate_extra_tensors, in its single precision.
    base = 1.0 / (500000.0 ** (torch.arange(0, HEAD_DIM, 2, dtype=torch.float32) / HEAD_DIM))
    factors = []
    for frequency in base:
        wavelength = 2 * math.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    factors = torch.tensor(factors, dtype=torch.float32)
    write_llama(tmp_path / "m.gguf", Type.F16, np.random.default_rng(0),
                [("rope_freqs.weight", factors.numpy())])
    weft("merge", "--model", tmp_path / "m.gguf", "--out", tmp_path / "out", "--dtype", "f16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config.rope_parameters["rope_type"] == "llama3"
    assert model.config.rope_parameters["factor"] == factor
    found = model.model.rotary_emb.inv_freq
    assert torch.allclose(found, base / factors, rtol=2e-6, atol=0)


def test_safetensors_are_byte_for_byte_those_of_the_package(weft, tmp_path):
    expected = write_llama(tmp_path / "m.gguf", Type.F16, np.random.default_rng(1))
    for dtype in ("f32", "f16", "bf16"):
        out = tmp_path / dtype
        weft("merge", "--model", tmp_path / "m.gguf", "--out", out, "--dtype", dtype)
        written = (out / "model.safetensors").read_bytes()
        tensors = load_file(out / "model.safetensors")
        assert set(tensors) == set(expected)
        assert save(tensors, metadata={"format": "pt"}) == written


def test_sharded_models_load_in_transformers(weft, tmp_path):
    expected = write_llama(tmp_path / "m.gguf", Type.F16, np.random.default_rng(2))
    out = tmp_path / "out"
    weft("merge", "--model", tmp_path / "m.gguf", "--out", out, "--dtype", "f32",
         "--max-shard-size", "300KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * v.size for v in expected.values())
    assert len(set(index["weight_map"].values())) > 3
    state = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    for name, values in expected.items():
        assert np.array_equal(bits(state[name].numpy()), bits(values)), name


def test_the_digest_is_of_the_numbers_whatever_file_holds_them(weft, smollm2_gguf, smollm2_dir):
    report = weft.json("inspect", smollm2_gguf)
    assert report["weights_digest"] == weft.json("inspect", smollm2_dir)["weights_digest"]
    lines = b""
    for name, values in sorted(load_file(smollm2_dir / "model.safetensors").items()):
        shape = "x".join(map(str, values.shape))
        digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
        lines += f"{name} {shape} {digest}\n".encode()
    assert report["weights_digest"] == hashlib.sha256(lines).hexdigest()


def test_inspect_counts_what_gguf_py_counts(weft, smollm2_gguf):
    reader = gguf.GGUFReader(smollm2_gguf)
    report = weft.json("inspect", smollm2_gguf, "--no-hash", "--tensors")
    assert report["parameters"] == sum(int(t.n_elements) for t in reader.tensors)
    assert report["bytes"] == sum(int(t.n_bytes) for t in reader.tensors)
    assert len(report["tensors"]) == len(reader.tensors)
    kinds = {t.tensor_type.name for t in reader.tensors}
    assert {entry["type"] for entry in report["types"]} == kinds
    template = bytes(reader.fields["tokenizer.chat_template"].parts[-1])
    assert report["chat_template"]["sha256"] == hashlib.sha256(template).hexdigest()


def test_every_vocabulary_file_of_llama_cpp_is_read(weft, cache):
    files = sorted((cache / "llama.cpp-0.3.36" / "models").glob("*.gguf"))
    assert len(files) > 10
    for file in files:
        report = weft.json("inspect", file)
        reader = gguf.GGUFReader(file)
        assert report["tokenizer"]["tokens"] == len(reader.fields["tokenizer.ggml.tokens"].data), file


@pytest.mark.parametrize("keep", [0, 3, 20, 4096, 1 << 20, 98_000_000])
def test_a_file_cut_short_gets_one_line_and_status_2(weft, smollm2_gguf, tmp_path, keep):
    short = tmp_path / "short.gguf"
    with open(smollm2_gguf, "rb") as source:
        short.write_bytes(source.read(keep))
    for command in (["inspect", short], ["merge", "--model", short, "--out", tmp_path / "out"]):
        done = weft.run(*command, check=False)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1 and str(short) in done.stderr
        assert not (tmp_path / "out").exists()
