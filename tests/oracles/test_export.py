"""GGUF models and adapters, and portable PEFT, against llama.cpp, transformers and PEFT."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from gguf_tools import FILE_TYPES, convert, differing, divergence, llama_logits, tensors, weft_logits

LOGIT_LIMITS = {"f32": 1e-7, "bf16": 0.02, "q8_0": 0.05, "q5_k_m": 0.05, "q4_k_m": 0.05}
TEXTS = ["¿Cómo se dice «agua» en náhuatl? Atl.", "Nehuatl nicnequi nimitzittas moztla, tlazohcamati.",
         "The quick brown fox: 12345 jumps!\tOver  two spaces…", "<|im_start|>user\nHola<|im_end|>\nāēīō ʔ 😶‍🌫️"]


def randomise(model, seed, scale=0.02):
    """Gives every B numbers, so that the adapter changes something."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for b in module.lora_B.values():
                b.weight.data = torch.randn(b.weight.shape, generator=generator) * scale


def make_adapter(model_dir, folder, seed=0, **options):
    torch.manual_seed(seed)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), LoraConfig(**options))
    randomise(model, seed)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter(smollm2_dir, tmp_path_factory):
    """rsLoRA, and ranks and alphas by pattern: what llama.cpp's converter reads wrongly."""
    return make_adapter(smollm2_dir, tmp_path_factory.mktemp("adapter"), r=8, lora_alpha=12, use_rslora=True,
                        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"],
                        rank_pattern={"v_proj": 4}, alpha_pattern={"down_proj": 5})


@pytest.fixture(scope="session")
def rows(smollm2_dir):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    return [tokenizer(text).input_ids for text in TEXTS]


@pytest.fixture(scope="session")
def f32(weft, smollm2_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("f32") / "model.gguf"
    weft("export", "--model", smollm2_dir, "--to", "gguf", "--type", "f32", "--out", path)
    return path


@pytest.mark.parametrize("name", FILE_TYPES)
def test_blocks_and_mixes_equal_llama_quantize(weft, probe, smollm2_dir, f32, tmp_path, name):
    weft("export", "--model", smollm2_dir, "--to", "gguf", "--type", name, "--out", tmp_path / "ours.gguf")
    probe("quantize", f32, tmp_path / "theirs.gguf", FILE_TYPES[name])
    assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []
    if name == "q4_k_m":
        assert GGUFReader(tmp_path / "ours.gguf").fields["general.file_type"].contents() == FILE_TYPES[name]


@pytest.fixture(scope="session")
def odd_model(smollm2_dir, tmp_path_factory):
    """A model of 17 layers with an untied head, and numbers that strain the quantisers: constant and zero
    blocks, single peaks, all of one sign, tiny, denormal and large numbers, ties."""
    folder = tmp_path_factory.mktemp("odd")
    torch.manual_seed(5)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=256, intermediate_size=512, num_hidden_layers=17, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=len(tokenizer), tie_word_embeddings=False, bos_token_id=1, eos_token_id=2))
    weights = model.state_dict()
    generator = torch.Generator().manual_seed(9)
    for name, value in weights.items():
        if value.dim() != 2 or "embed" in name or "head" in name:
            continue
        blocks = value.reshape(-1, 32)
        kind = torch.randint(0, 12, (blocks.shape[0], 1), generator=generator)
        peak = torch.zeros_like(blocks)
        peak[:, 3] = -0.7
        for number, odd in enumerate([torch.zeros_like(blocks), torch.full_like(blocks, 0.25), blocks.abs() + 0.1,
                                      -blocks.abs() - 0.1, peak, blocks * 1e-7, blocks * 1e-37, blocks * 1e5,
                                      (blocks * 64).round() / 4]):
            blocks = torch.where(kind == number, odd, blocks)
        weights[name] = blocks.reshape(value.shape).contiguous()
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", FILE_TYPES)
def test_blocks_of_strained_numbers_equal_llama_quantize(weft, probe, odd_model, tmp_path, name):
    weft("export", "--model", odd_model, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    weft("export", "--model", odd_model, "--to", "gguf", "--type", name, "--out", tmp_path / "ours.gguf")
    probe("quantize", tmp_path / "f32.gguf", tmp_path / "theirs.gguf", FILE_TYPES[name])
    assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []


def test_metadata_and_tensors_equal_those_of_the_converter(cache, smollm2_dir, f32, tmp_path):
    convert(cache, smollm2_dir, tmp_path / "c.gguf")
    ours, theirs = GGUFReader(f32).fields, GGUFReader(tmp_path / "c.gguf").fields
    assert ours.keys() - theirs.keys() == {"tokenizer.ggml.add_eos_token"}  # false, which is llama.cpp's default
    assert theirs.keys() - ours.keys() == set()
    different = {k for k in theirs if not k.startswith("GGUF.") and
                 (ours[k].types != theirs[k].types or ours[k].contents() != theirs[k].contents())}
    assert different == {"general.name"}  # the converter spells the folder's name in title case
    assert differing(f32, tmp_path / "c.gguf") == []


@pytest.mark.parametrize("name", ["f32", "bf16", "q8_0", "q4_k_m"])
def test_one_pass_equals_merging_first(weft, smollm2_dir, adapter, tmp_path, name):
    weft("merge", "--model", smollm2_dir, "--adapter", f"{adapter}:0.75", "--out", tmp_path / "merged", "--dtype", "f32")
    weft("export", "--model", tmp_path / "merged", "--to", "gguf", "--type", name, "--out", tmp_path / "two.gguf")
    report = weft.json("export", "--model", smollm2_dir, "--adapter", f"{adapter}:0.75", "--to", "gguf", "--type", name,
                       "--out", tmp_path / "one.gguf")
    different = differing(tmp_path / "one.gguf", tmp_path / "two.gguf")
    if name == "bf16":  # one rounding instead of two: a few numbers in a million
        for tensor in different:
            a, b = (tensors(tmp_path / f"{way}.gguf")[tensor].numbers(np.uint16) for way in ("one", "two"))
            assert np.mean(a != b) < 1e-4
    else:
        assert different == []
    assert len(report["updates"]) == 150
    retained = np.array([update["retained"] for update in report["updates"]])
    assert abs(retained.mean() - 1) < {"f32": 1e-4, "bf16": 0.01, "q8_0": 0.05, "q4_k_m": 0.3}[name]


@pytest.mark.parametrize("name", ["f32", "bf16", "q8_0", "q5_k_m", "q4_k_m"])
def test_llama_cpp_computes_our_logits(weft, probe, smollm2_dir, adapter, rows, tmp_path, name):
    """llama.cpp's own dequantiser makes F32 weights of our file; computing with them it gives weft's logits. As it
    computes with the file itself, it rounds the activations too (to 8 bits beside quantised weights, to BF16 beside
    BF16), which no choice of weights can undo."""
    gguf = tmp_path / "model.gguf"
    weft("export", "--model", smollm2_dir, "--adapter", adapter, "--to", "gguf", "--type", name, "--out", gguf)
    probe("quantize", gguf, tmp_path / "exact.gguf", 0)
    ours = weft_logits(weft, gguf, rows, tmp_path)
    base = weft_logits(weft, smollm2_dir, rows, tmp_path)
    exact = llama_logits(probe, tmp_path / "exact.gguf", rows, tmp_path)
    assert divergence(ours, exact) < 1e-7
    assert divergence(ours, llama_logits(probe, gguf, rows, tmp_path)) < LOGIT_LIMITS[name]
    assert divergence(base, exact) > 0.02  # the adapter is in it


def test_llama_cpp_reads_the_tokens_of_transformers(weft, probe, smollm2_dir, f32):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    texts = [text for text in TEXTS if "\n" not in text]
    lines = probe("tokens", f32, input="".join(text + "\n" for text in texts)).splitlines()
    assert [list(map(int, line.split())) for line in lines] == [tokenizer(text).input_ids for text in texts]


@pytest.fixture(scope="session")
def extended(smollm2_dir, tmp_path_factory):
    """SmolLM2 with tokens for Nahuatl, of which one occurs in the probe text of llama.cpp's converter."""
    folder = tmp_path_factory.mktemp("extended")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    tokenizer.add_tokens(["nehuatl", "tlazohcamati", "¿Cómo", "нещо"])
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir)
    model.resize_token_embeddings(len(tokenizer) + 60, mean_resizing=False)  # padded, as models are
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_extended_vocabulary_keeps_its_ids_and_pre_tokenizer(weft, probe, extended, tmp_path):
    """llama.cpp#9927, #8649, #27277, #15842: the converter does not know the probe's ids any more and stops."""
    done = weft.run("export", "--model", extended, "--to", "gguf", "--type", "q8_0", "--out", tmp_path / "x.gguf")
    assert "smollm" in done.stderr
    fields = GGUFReader(tmp_path / "x.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == "[PAD49215]"
    tokenizer = AutoTokenizer.from_pretrained(extended)
    texts = [text for text in TEXTS if "\n" not in text] + ["xnehuatl нещо nehuatl tlazohcamati"]
    lines = probe("tokens", tmp_path / "x.gguf", input="".join(text + "\n" for text in texts)).splitlines()
    assert [list(map(int, line.split())) for line in lines] == [tokenizer(text).input_ids for text in texts]
    ours = [json.loads(line) for line in weft("tokenize", "--model", tmp_path / "x.gguf",
                                              input="".join(text + "\n" for text in texts)).splitlines()]
    assert ours == [tokenizer(text).input_ids for text in texts]


def test_unknown_pre_tokenizer_is_refused_with_what_to_give(weft, extended, tmp_path):
    """A missing .pre loads in llama.cpp with degraded quality, so none is written silently."""
    data = json.loads((extended / "tokenizer.json").read_text())
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in extended.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "tokenizer.json").unlink()
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": "x"}, "behavior": "Isolated", "invert": False}, data["pre_tokenizer"]]}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    done = weft.run("export", "--model", folder, "--to", "gguf", "--out", tmp_path / "x.gguf", check=False)
    assert done.returncode == 2 and "--pre" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "x.gguf").exists()
    weft("export", "--model", folder, "--to", "gguf", "--out", tmp_path / "x.gguf", "--pre", "smollm")


def test_gguf_base_carries_its_metadata_and_untouched_bytes(weft, smollm2_gguf, tmp_path):
    weft("export", "--model", smollm2_gguf, "--to", "gguf", "--type", "q4_1", "--out", tmp_path / "x.gguf")
    before, after = GGUFReader(smollm2_gguf), GGUFReader(tmp_path / "x.gguf")
    storage = {"general.file_type", "general.quantization_version"}
    for key, field in before.fields.items():
        if not key.startswith(("GGUF.", "quantize.imatrix.")) and key not in storage:
            assert after.fields[key].types == field.types and after.fields[key].contents() == field.contents(), key
    old, new = tensors(smollm2_gguf), tensors(tmp_path / "x.gguf")
    same = [n for n in old if old[n].tensor_type == new[n].tensor_type]
    assert len(same) > 200 and all(old[n].data.tobytes() == new[n].data.tobytes() for n in same)


@pytest.mark.parametrize("name,limit", [("f32", 1e-8), ("f16", 1e-6)])
def test_lora_gguf_gives_the_adapters_logits(weft, probe, smollm2_dir, adapter, f32, rows, tmp_path, name, limit):
    """llama.cpp ignores use_rslora and alpha_pattern, and has one alpha: the scales are in B."""
    weft("export", "--model", smollm2_dir, "--adapter", adapter, "--to", "gguf-lora", "--type", name, "--out",
         tmp_path / "lora.gguf")
    theirs = llama_logits(probe, f32, rows, tmp_path, lora=tmp_path / "lora.gguf")
    ours = weft_logits(weft, smollm2_dir, rows, tmp_path, adapter=adapter)
    assert divergence(ours, theirs) < limit
    assert divergence(weft_logits(weft, smollm2_dir, rows, tmp_path), theirs) > 1e-3
    fields = GGUFReader(tmp_path / "lora.gguf").fields
    assert fields["adapter.lora.alpha"].contents() == 0  # ranks differ


def test_lora_gguf_equals_the_converters_where_it_is_right(weft, cache, smollm2_dir, tmp_path):
    """Same tensors, up to the scale that weft folds into B: alpha / r is 2 here, which is exact."""
    source = cache / "llama.cpp-0.3.36" / "source"
    if not source.exists():
        pytest.skip("llama.cpp's source is not there (script/setup --tests)")
    folder = make_adapter(smollm2_dir, tmp_path / "plain", r=8, lora_alpha=16, target_modules="all-linear")
    subprocess.run([sys.executable, source / "convert_lora_to_gguf.py", folder, "--base", smollm2_dir, "--outfile",
                    tmp_path / "theirs.gguf", "--outtype", "f32"], check=True, capture_output=True,
                   env={"PYTHONPATH": str(source / "gguf-py"), "HF_HUB_OFFLINE": "1"})
    weft("export", "--model", smollm2_dir, "--adapter", folder, "--to", "gguf-lora", "--out", tmp_path / "ours.gguf")
    ours, theirs = tensors(tmp_path / "ours.gguf"), tensors(tmp_path / "theirs.gguf")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        factor = 2 if name.endswith("lora_b") else 1
        assert np.array_equal(ours[name].numbers(), factor * theirs[name].numbers()), name
    fields = GGUFReader(tmp_path / "ours.gguf").fields
    expected = GGUFReader(tmp_path / "theirs.gguf").fields
    assert fields["adapter.lora.alpha"].contents() == 8
    for key in ("general.architecture", "general.type", "adapter.type"):
        assert fields[key].contents() == expected[key].contents()


def peft_update(base_dir, folder):
    """module: B A scale, as PEFT merges it."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_dir), folder)
    return {name: module.get_delta_weight("default").double() for name, module in model.named_modules()
            if isinstance(module, LoraLayer)}


def test_portable_peft_is_one_plain_adapter_of_the_same_update(weft, smollm2_dir, adapter, tmp_path):
    """vLLM and LoRAX have one rank, llama.cpp and Ollama know neither rsLoRA nor alpha_pattern."""
    weft("export", "--adapter", adapter, "--to", "peft", "--out", tmp_path / "portable")
    config = json.loads((tmp_path / "portable" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (8, 8, False)
    assert isinstance(config["lora_alpha"], int)  # Ollama parses an unsigned integer
    assert not config.get("rank_pattern") and not config.get("alpha_pattern") and not config.get("modules_to_save")
    assert config["bias"] == "none"
    for key, value in load_file(tmp_path / "portable" / "adapter_model.safetensors").items():
        assert value.shape[0 if ".lora_A." in key else 1] == 8, key
    before, after = peft_update(smollm2_dir, adapter), peft_update(smollm2_dir, tmp_path / "portable")
    assert before.keys() == after.keys()
    for name in before:
        assert torch.allclose(before[name], after[name], rtol=0, atol=2e-6 * float(before[name].abs().max())), name


def test_portable_peft_sums_adapters_without_cross_terms(weft, smollm2_dir, adapter, tmp_path):
    """peft#1155, #3004, #3761: add_weighted_adapter 'linear' works on the factors."""
    other = make_adapter(smollm2_dir, tmp_path / "other", seed=3, r=4, lora_alpha=4, target_modules=["q_proj", "up_proj"])
    weft("export", "--adapter", f"{adapter}:0.5", "--adapter", f"{other}:-1.5", "--to", "peft", "--out", tmp_path / "sum")
    one, two, found = (peft_update(smollm2_dir, path) for path in (adapter, other, tmp_path / "sum"))
    assert found.keys() == one.keys() | two.keys()
    for name in found:
        expected = 0.5 * one.get(name, 0) - 1.5 * two.get(name, 0)
        assert torch.allclose(expected, found[name], rtol=0, atol=2e-6 * float(expected.abs().max())), name


def test_faithful_peft_keeps_the_configuration(weft, smollm2_dir, adapter, tmp_path):
    weft("export", "--adapter", adapter, "--to", "peft", "--profile", "faithful", "--out", tmp_path / "same")
    config = json.loads((tmp_path / "same" / "adapter_config.json").read_text())
    assert config["use_rslora"] and config["rank_pattern"] and config["alpha_pattern"]
    before, after = load_file(adapter / "adapter_model.safetensors"), load_file(tmp_path / "same" / "adapter_model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_numbers_that_are_not_finite_are_refused_by_name(weft, odd_model, tmp_path):
    folder = tmp_path / "nan"
    folder.mkdir()
    for file in odd_model.iterdir():
        (folder / file.name).symlink_to(file)
    weights = load_file(odd_model / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][5, 7] = float("nan")
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = weft.run("export", "--model", folder, "--to", "gguf", "--type", "q4_k_m", "--out", tmp_path / "x.gguf", check=False)
    assert done.returncode == 1 and "model.layers.3.mlp.up_proj.weight" in done.stderr
    assert not (tmp_path / "x.gguf").exists()


def test_ollama_folder_of_a_model_and_of_an_adapter(weft, smollm2_dir, adapter, tmp_path):
    weft("export", "--model", smollm2_dir, "--adapter", adapter, "--to", "ollama", "--type", "q4_k_m", "--out",
         tmp_path / "model")
    lines = (tmp_path / "model" / "Modelfile").read_text()
    assert lines.startswith('FROM ./model.gguf\nTEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n')
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM' in lines
    assert 'PARAMETER stop "<|im_end|>"\n' in lines
    assert GGUFReader(tmp_path / "model" / "model.gguf").fields["general.file_type"].contents() == 15
    weft("export", "--model", smollm2_dir, "--adapter", adapter, "--to", "ollama", "--from", "smollm2:135m", "--out",
         tmp_path / "adapter")
    assert (tmp_path / "adapter" / "Modelfile").read_text().startswith("FROM smollm2:135m\nADAPTER ./adapter.gguf\n")
    assert "blk.0.attn_q.weight.lora_b" in tensors(tmp_path / "adapter" / "adapter.gguf")


def test_check_names_who_misreads_and_the_repair_is_read_by_all(weft, adapter, tmp_path):
    readers = "vllm,llama.cpp,ollama,lorax,transformers"
    done = weft.run("export", "--check", readers, "--adapter", adapter, "--json", check=False)
    verdicts = {report["reader"]: report["verdict"] for report in json.loads(done.stdout)}
    assert done.returncode == 3
    assert verdicts == {"vllm": "misreads", "llama.cpp": "misreads", "ollama": "misreads", "lorax": "misreads",
                        "transformers": "reads"}
    weft("export", "--adapter", adapter, "--to", "peft", "--out", tmp_path / "portable")
    assert weft.run("export", "--check", readers, "--adapter", tmp_path / "portable").returncode == 0
