"""What adapters change besides pairs of factors, folded as PEFT computes it, and faults of other tools."""
import json
import warnings

import pytest
import torch
from peft import LoraConfig, MontecloraConfig, PeftModel, VeloraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

warnings.simplefilter("ignore")
VOCABULARY = 96


def save_base(folder, tied=True, qwen=False, dtype=torch.float32):
    torch.manual_seed(3)
    sizes = dict(vocab_size=VOCABULARY, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    model = Qwen2ForCausalLM(Qwen2Config(**sizes)) if qwen else LlamaForCausalLM(LlamaConfig(**sizes))
    model.to(dtype).save_pretrained(folder)
    return folder


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def logits(model, vocabulary=VOCABULARY):
    ids = torch.arange(80).reshape(2, 40) * 7 % vocabulary
    with torch.no_grad():
        return model.double()(ids).logits


def spread(reference, other):
    return ((reference - other).abs().max() / (reference.max() - reference.min())).item()


def train(folder, base, resize=None, **case):
    """A PEFT folder with noise in everything that is trained; returns the model that PEFT loads from it."""
    torch.manual_seed(5)
    model = load(base)
    if resize:
        model.resize_token_embeddings(resize)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, **case))
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.05)
    model.save_pretrained(folder)
    fresh = load(base)
    if resize:
        fresh.resize_token_embeddings(resize)
    return PeftModel.from_pretrained(fresh, folder).eval()


FEATURES = {
    "dora": dict(target_modules=["q_proj", "down_proj"], use_dora=True),
    "dora-rslora-patterns": dict(target_modules="all-linear", use_dora=True, use_rslora=True,
                                 rank_pattern={"down_proj": 7}, alpha_pattern={"q_proj": 3}),
    "embedding": dict(target_modules=["embed_tokens", "v_proj"]),
    "embedding-dora": dict(target_modules=["embed_tokens", "v_proj"], use_dora=True),
    "embedding-tied": dict(target_modules=["embed_tokens", "v_proj"], ensure_weight_tying=True),
    "head": dict(target_modules=["lm_head", "v_proj"]),
    "saved-embedding": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
    "saved-head": dict(target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "saved-both": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "saved-tied": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "saved-norms": dict(target_modules=["q_proj"], modules_to_save=["input_layernorm", "norm"]),
    "tokens": dict(target_modules=["q_proj"], trainable_token_indices=[3, 90, 7]),
    "tokens-by-name": dict(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [5, 2]}),
}


TRAINING_ONLY = {
    "velora": (dict(velora_config=VeloraConfig(num_groups=4)), "lora_velora_embed"),
    "monteclora": (dict(monteclora_config=MontecloraConfig(num_samples=4)), "lora_monteclora_sampler"),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return {tied: save_base(tmp_path_factory.mktemp("base"), tied) for tied in (True, False)}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", FEATURES)
def test_the_folded_model_computes_what_peft_computes(weft, bases, tmp_path, name, tied):
    if not tied and FEATURES[name].get("ensure_weight_tying"):
        pytest.skip("PEFT ties only what the base ties")
    reference = logits(train(tmp_path / "adapter", bases[tied], **FEATURES[name]))
    assert spread(reference, logits(load(bases[tied]))) > 1e-3, "the adapter must matter"
    weft("merge", "--model", bases[tied], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert spread(reference, logits(load(tmp_path / "out"))) <= 1e-6
    record = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert record["adapters"][0]["used"].keys() == load_file(tmp_path / "adapter/adapter_model.safetensors").keys()
    weft("inspect", "--verify", tmp_path / "out")


@pytest.mark.parametrize("name,tied", [("embedding", False), ("embedding-tied", True), ("head", False),
                                       ("saved-embedding", False), ("saved-both", False), ("saved-tied", True),
                                       ("tokens", True), ("dora", True)])
def test_tied_embeddings_are_one_decision_written_to_the_configuration(weft, bases, tmp_path, name, tied):
    """huggingface/peft#2777 #2864 #2018, huggingface/transformers#45127, unslothai/unsloth#9331."""
    train(tmp_path / "adapter", bases[True], **FEATURES[name])
    weft("merge", "--model", bases[True], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) is not tied


RESIZED = {
    "resized": dict(target_modules=["q_proj"]),
    "resized-saved": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "resized-tokens": dict(target_modules=["q_proj"], trainable_token_indices=[96, 97, 98]),
    "resized-embedding": dict(target_modules=["q_proj", "embed_tokens", "lm_head"]),
}


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", RESIZED)
def test_new_tokens_neither_collapse_nor_mismatch(weft, bases, tmp_path, name, tied):
    """huggingface/peft#2244 #2898, hiyouga/LlamaFactory#7997, huggingface/transformers#45127."""
    model = train(tmp_path / "adapter", bases[tied], resize=99, **RESIZED[name])
    reference = logits(model, 99)
    done = weft.run("merge", "--model", bases[tied], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert "99" in done.stderr and "tokenizer" in done.stderr
    merged = load(tmp_path / "out")
    assert merged.config.vocab_size == 99 and merged.get_input_embeddings().weight.shape[0] == 99
    assert spread(reference, logits(merged, 99)) <= 1e-6


def test_saved_tensors_are_the_trained_bits(weft, bases, tmp_path):
    """vllm-project/vllm#9280: modules_to_save is folded, bit for bit."""
    train(tmp_path / "adapter", bases[False], **FEATURES["saved-both"])
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    weft("merge", "--model", bases[False], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(merged[name], saved["base_model.model." + name])


def test_trained_token_rows_are_the_trained_bits(weft, bases, tmp_path):
    """vllm-project/vllm#36501: trained rows replace the base's, all other rows stay."""
    train(tmp_path / "adapter", bases[True], **FEATURES["tokens"])
    rows = load_file(tmp_path / "adapter" / "adapter_model.safetensors")[
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"]
    weft("merge", "--model", bases[True], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    expected = load_file(bases[True] / "model.safetensors")["model.embed_tokens.weight"]
    expected[torch.tensor([3, 90, 7])] = rows
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")["model.embed_tokens.weight"], expected)


@pytest.mark.parametrize("name", ["dora", "dora-rslora-patterns", "embedding-dora"])
def test_dora_is_the_formula_in_double_rounded_once(weft, bases, tmp_path, name):
    """W' = m / |W + s B A| (W + s B A), norms over the input of each output (PEFT's DoraLinearLayer)."""
    model = train(tmp_path / "adapter", bases[False], **FEATURES[name])
    for dtype in (torch.float32, torch.bfloat16):
        out = tmp_path / str(dtype)
        weft("merge", "--model", bases[False], "--adapter", tmp_path / "adapter", "--out", out,
             "--dtype", "f32" if dtype == torch.float32 else "bf16")
        merged = load_file(out / "model.safetensors")
        checked = 0
        for path, layer in model.get_base_model().named_modules():
            magnitude = getattr(layer, "lora_magnitude_vector", None)
            if not magnitude:
                continue
            base = layer.base_layer.weight.double()
            if hasattr(layer, "lora_embedding_A") and "default" in layer.lora_embedding_A:
                a, b = layer.lora_embedding_A["default"], layer.lora_embedding_B["default"]
                whole = base + layer.scaling["default"] * (b.double() @ a.double()).T
                factor = magnitude["default"].weight.double() / whole.norm(dim=0)
                exact = whole * factor[None, :]
            else:
                a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                whole = base + layer.scaling["default"] * b.double() @ a.double()
                exact = whole * (magnitude["default"].weight.double() / whole.norm(dim=1))[:, None]
            got = merged[path + ".weight"]
            nearest = exact.to(dtype)
            assert ((got.double() - exact).abs() <= (nearest.double() - exact).abs() * (1 + 1e-6) + 1e-14).all()
            checked += 1
        assert checked > 1


def test_dora_on_conv1d_uses_norms_of_outputs(weft, tmp_path):
    """invoke-ai/InvokeAI#9517: the norm is per output, whichever way the layer is stored."""
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=48, n_layer=2, n_head=4)).save_pretrained(
        tmp_path / "base")
    model = train(tmp_path / "adapter", tmp_path / "base", target_modules=["c_attn", "c_fc"], use_dora=True,
                  fan_in_fan_out=True)
    weft("merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert spread(logits(model), logits(load(tmp_path / "out"))) <= 1e-6


@pytest.mark.parametrize("case", [dict(lora_bias=True), dict(bias="all"), dict(bias="lora_only")],
                         ids=["lora_bias", "bias-all", "bias-lora_only"])
def test_biases_are_folded(weft, tmp_path, case):
    base = save_base(tmp_path / "base", qwen=True)
    model = train(tmp_path / "adapter", base, target_modules=["q_proj", "k_proj"], **case)
    assert any("bias" in key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    weft("merge", "--model", base, "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert spread(logits(model), logits(load(tmp_path / "out"))) <= 1e-6


def test_a_bias_without_a_place_is_refused(weft, bases, tmp_path):
    train(tmp_path / "adapter", bases[True], target_modules=["q_proj"], lora_bias=True)
    done = weft.run("merge", "--model", bases[True], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out",
                    check=False)
    assert done.returncode == 2 and "q_proj.bias" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_an_adapter_of_a_mutated_base_is_refused_and_its_portable_form_folds(weft, bases, tmp_path, method):
    torch.manual_seed(5)
    model = get_peft_model(load(bases[True]), LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6,
                                                         target_modules=["q_proj", "down_proj"], init_lora_weights=method))
    model.peft_config["default"].init_lora_weights = True  # So that the initial adapter loads as it is.
    model.save_pretrained(tmp_path / "initial")
    model.peft_config["default"].init_lora_weights = method
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.02)
    reference = logits(model.eval())
    model = model.float()
    model.save_pretrained(tmp_path / "mutated")
    done = weft.run("merge", "--model", bases[True], "--adapter", tmp_path / "mutated", "--out", tmp_path / "out",
                    check=False)
    assert done.returncode == 2 and method in done.stderr and not (tmp_path / "out").exists()
    model.save_pretrained(tmp_path / "portable", path_initial_model_for_weight_conversion=tmp_path / "initial")
    weft("merge", "--model", bases[True], "--adapter", tmp_path / "portable", "--out", tmp_path / "out")
    assert spread(reference, logits(load(tmp_path / "out"))) <= 1e-5


@pytest.mark.parametrize("name", ["dora", "embedding", "saved-both", "tokens"])
def test_what_cannot_use_a_feature_says_so_in_one_line(weft, bases, tmp_path, name):
    train(tmp_path / "adapter", bases[True], **FEATURES[name])
    for to in ("peft", "gguf-lora"):
        base = ["--model", bases[True]] if to == "gguf-lora" else []
        done = weft.run("export", *base, "--adapter", tmp_path / "adapter", "--to", to, "--out", tmp_path / "out",
                        check=False)
        assert done.returncode == 2 and "weft merge" in done.stderr and done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", TRAINING_ONLY)
def test_what_a_method_keeps_for_training_alone_changes_no_weight(weft, bases, tmp_path, name):
    case, part = TRAINING_ONLY[name]
    reference = train(tmp_path / "adapter", bases[True], target_modules=["q_proj", "down_proj"], **case)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kept = [key for key in weights if part in key]
    assert len(kept) >= 4
    done = weft.run("merge", "--model", bases[True], "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert f"{len(kept)} tensors" in done.stderr and f"{name}_config" in done.stderr
    assert spread(logits(reference), logits(load(tmp_path / "out"))) < 1e-5
    uses = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert all(key in json.dumps(uses) for key in kept)  # Every key is accounted for.
    # Without the configuration that announces them the same tensors have no meaning.
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config[f"{name}_config"] = None
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    done = weft.run("merge", "--model", bases[True], "--adapter", tmp_path / "adapter", "--out", tmp_path / "no", check=False)
    assert done.returncode == 2 and part in done.stderr


def test_an_adapter_key_that_fits_nothing_is_an_error(weft, bases, tmp_path):
    """axolotl warns only when no key was merged; export-lora drops tensors without a partner silently."""
    train(tmp_path / "adapter", bases[True], **FEATURES["dora"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    for key, name in (("base_model.model.model.layers.0.mlp.gate.weight", "mlp.gate"),
                      ("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", "layers.7")):
        save_file({**tensors, key: torch.ones(4, 48)}, file)
        done = weft.run("merge", "--model", bases[True], "--adapter", tmp_path / "adapter", "--out",
                        tmp_path / "out", check=False)
        assert done.returncode == 2 and name in done.stderr and not (tmp_path / "out").exists()


def test_two_dora_adapters_are_summed_as_changes_of_the_base(weft, bases, tmp_path):
    """Each changes the base by its own W' - W; the sum is of these, with the weights asked for."""
    train(tmp_path / "a", bases[False], **FEATURES["dora"])
    train(tmp_path / "b", bases[False], **FEATURES["saved-norms"])
    tensors = {}
    for name in ("a", "b"):
        weft("merge", "--model", bases[False], "--adapter", tmp_path / name, "--out", tmp_path / f"out-{name}")
        tensors[name] = load_file(tmp_path / f"out-{name}" / "model.safetensors")
    weft("merge", "--model", bases[False], "--adapter", f"{tmp_path / 'a'}:0.5", "--adapter", f"{tmp_path / 'b'}:2",
         "--out", tmp_path / "out")
    base = load_file(bases[False] / "model.safetensors")
    for key, got in load_file(tmp_path / "out" / "model.safetensors").items():
        want = base[key].double()
        for name, weight in (("a", 0.5), ("b", 2)):
            want = want + weight * (tensors[name][key].double() - base[key].double())
        torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-7)
