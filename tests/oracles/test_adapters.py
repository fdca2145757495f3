"""Adapters combined into an adapter against PEFT's add_weighted_adapter, and adapters extracted from models."""
import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import merge_utils
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from test_combine import philox, rule

WEIGHTS = [0.7, -0.4]
TARGETS = ["q_proj", "v_proj", "down_proj"]


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A base and adapters a, b of rank 4, and c of rank 6 with other modules."""
    folder = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=151, hidden_size=48, intermediate_size=80, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    for seed, (name, rank, targets) in enumerate([("a", 4, TARGETS), ("b", 4, TARGETS), ("c", 6, ["q_proj", "o_proj"])]):
        torch.manual_seed(seed + 1)
        model = get_peft_model(load_base(folder), LoraConfig(target_modules=targets, r=rank, lora_alpha=12,
                                                             task_type="CAUSAL_LM"))
        for key, value in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(value, std=0.05)
        model.save_pretrained(folder / name)
    return folder


def deltas(model, adapter="default"):
    return {key.removeprefix("base_model.model."): layer.get_delta_weight(adapter).detach().double()
            for key, layer in model.named_modules()
            if hasattr(layer, "get_delta_weight") and adapter in layer.lora_A}


def read(folder, path):
    return deltas(PeftModel.from_pretrained(load_base(folder), path))


def peft(folder, names, combination, **options):
    model = PeftModel.from_pretrained(load_base(folder), folder / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    model.add_weighted_adapter(names, WEIGHTS, "m", combination_type=combination, **options)
    return deltas(model, "m")


def combine(weft, folder, names, out, *options):
    adapters = [part for name, weight in zip(names, WEIGHTS) for part in ("--adapter", f"{folder / name}:{weight}")]
    weft("merge", *adapters, *options, "--out", out)
    return read(folder, out), json.loads((out / "merge.json").read_text())


def assert_near(got, expected, share):
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert (got[key] - value).norm() <= share * value.norm(), (key, (got[key] - value).norm() / value.norm())


@pytest.mark.parametrize("names", ["ab", "ac"])
def test_cat_is_the_exact_sum_and_equals_peft(weft, tuned, tmp_path, names):
    got, report = combine(weft, tuned, list(names), tmp_path / "out", "--method", "cat")
    assert_near(got, peft(tuned, list(names), "cat"), 1e-6)
    own = [read(tuned, tuned / name) for name in names]
    exact = {key: sum(w * d[key] for w, d in zip(WEIGHTS, own) if key in d) for key in own[0].keys() | own[1].keys()}
    assert_near(got, exact, 1e-6)
    assert report["relative_error"] == 0
    linear, _ = combine(weft, tuned, list(names), tmp_path / "linear")
    assert all(torch.equal(linear[key], got[key]) for key in got)


def test_merging_into_the_model_and_into_an_adapter_give_the_same(weft, tuned, tmp_path):
    adapters = ["--adapter", f"{tuned / 'a'}:0.7", "--adapter", f"{tuned / 'b'}:-0.4"]
    options = ["--method", "dare_ties:peft", "--parameter", "density=0.5", "--seed", "3"]
    weft("merge", "--model", tuned / "base", *adapters, *options, "--out", tmp_path / "model")
    weft("merge", *adapters, *options, "--rank", "48", "--exact-svd", "--out", tmp_path / "adapter")
    base, merged = (load_file(path / "model.safetensors") for path in (tuned / "base", tmp_path / "model"))
    for key, delta in read(tuned, tmp_path / "adapter").items():
        full = (merged[f"{key}.weight"].double() - base[f"{key}.weight"].double())
        assert (delta - full).abs().max() < 1e-6, key


@pytest.mark.parametrize("names", ["ab", "ac"])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_svd_equals_peft_and_reports_its_error(weft, tuned, tmp_path, names, rank):
    got, report = combine(weft, tuned, list(names), tmp_path / "out", "--method", "svd", "--rank", str(rank))
    assert_near(got, peft(tuned, list(names), "svd", svd_rank=rank), 1e-4)
    exact = peft(tuned, list(names), "cat")
    for module in report["modules"]:
        whole = exact[module["module"]]
        assert module["rank"] == min(rank, torch.linalg.matrix_rank(whole, rtol=1e-5).item())
        assert module["norm"] == pytest.approx(whole.norm().item(), rel=1e-5)
        assert module["error"] == pytest.approx((whole - got[module["module"]]).norm().item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("method,theirs", [("ties:peft", "ties_svd"), ("magnitude_prune", "magnitude_prune_svd"),
                                           ("task_arithmetic", "svd")])
def test_delta_space_methods_equal_peft(weft, tuned, tmp_path, method, theirs):
    density = [] if theirs == "svd" else ["--parameter", "density=0.35"]
    expected = peft(tuned, ["a", "b"], theirs, svd_rank=6, **({"density": 0.35} if density else {}))
    options = ["--method", method, *density, "--rank", "6"]
    exact, _ = combine(weft, tuned, ["a", "b"], tmp_path / "exact", *options, "--exact-svd")
    # PEFT's updates are float32 products: the element at the threshold may be another one.
    assert_near(exact, expected, 1e-4 if theirs == "svd" else 1e-2)
    _, best = combine(weft, tuned, ["a", "b"], tmp_path / "again", *options, "--exact-svd")
    fast, report = combine(weft, tuned, ["a", "b"], tmp_path / "fast", *options)
    for ours, least in zip(report["modules"], best["modules"]):
        assert least["error"] * (1 - 1e-9) <= ours["error"] <= 1.01 * least["error"] + 1e-7
        assert ours["norm"] == pytest.approx(least["norm"], rel=1e-9)


@pytest.mark.parametrize("method", ["linear", "ties", "magnitude_prune"])
def test_peft_factor_methods_equal_peft_and_say_what_they_are(weft, tuned, tmp_path, method):
    density = [] if method == "linear" else ["--parameter", "density=0.35"]
    expected = peft(tuned, ["a", "b"], method, **({"density": 0.35} if density else {}))
    got, report = combine(weft, tuned, ["a", "b"], tmp_path / "out", "--method", f"peft_factor_{method}", *density)
    assert_near(got, expected, 1e-5)
    assert report["relative_error"] > 0.3  # It is no weighted sum.
    done = weft.run("merge", "--adapter", tuned / "a", "--method", "peft_factor_linear", "--out", tmp_path / "warned")
    assert "not the sum" in done.stderr


def test_peft_factor_dare_draws_as_often_as_asked(weft, tuned, tmp_path):
    got, report = combine(weft, tuned, ["a", "b"], tmp_path / "out", "--method", "peft_factor_dare_linear", "--parameter",
                          "density=0.5", "--seed", "9")
    again, _ = combine(weft, tuned, ["a", "b"], tmp_path / "again", "--method", "peft_factor_dare_linear", "--parameter",
                       "density=0.5", "--seed", "9", )
    assert report["seed"] == 9 and all(torch.equal(got[key], again[key]) for key in got)
    factors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    zeros = np.mean([(value == 0).float().mean().item() for value in factors.values()])
    assert 0.15 < zeros < 0.35  # Both adapters' numbers go with a chance of a quarter.


WHOLE = {  # Methods of mergekit on the updates: their parameters.
    "breadcrumbs": dict(density=0.6, gamma=0.05), "breadcrumbs_ties": dict(density=0.6, gamma=0.05),
    "sce": dict(select_topk=0.4), "model_stock": {},
}


def as_models(folder, names, out):
    """Whole models in float32 whose difference from the base is each adapter's update, and a base of zeros."""
    for name in ["base", *names]:
        model = load_base(folder)
        own = {} if name == "base" else read(folder, folder / name)
        with torch.no_grad():
            for key, value in model.named_parameters():
                delta = own.get(key.removesuffix(".weight"))
                value.copy_(torch.zeros_like(value) if delta is None else delta)
        model.save_pretrained(out / name)


@pytest.mark.parametrize("method", WHOLE)
def test_methods_of_mergekit_on_updates_equal_it_on_whole_models(weft, tuned, tmp_path, method):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import MergeOptions, run_merge
    as_models(tuned, "ab", tmp_path)
    weighted = method.startswith("breadcrumbs")
    models = [{"model": str(tmp_path / name), **({"parameters": {"weight": weight}} if weighted else {})}
              for name, weight in zip("ab", WEIGHTS)]
    recipe = dict(merge_method=method, base_model=str(tmp_path / "base"), models=models, parameters=WHOLE[method],
                  dtype="float32")
    run_merge(MergeConfiguration.model_validate(recipe), str(tmp_path / "theirs"),
              MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    options = [part for name, value in WHOLE[method].items() for part in ("--parameter", f"{name}={value}")]
    adapters = [part for name, weight in zip("ab", WEIGHTS)
                for part in ("--adapter", f"{tuned / name}:{weight}" if weighted else tuned / name)]
    weft("merge", *adapters, "--method", method, *options, "--rank", "48", "--exact-svd", "--out", tmp_path / "ours")
    got = read(tuned, tmp_path / "ours")
    # Their updates are float32 products: the element at a threshold may be another one.
    assert_near(got, {key: theirs[f"{key}.weight"].double() for key in got}, 1e-2 if WHOLE[method] else 1e-5)


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_on_updates_is_the_exact_rule_with_our_draws(weft, tuned, tmp_path, method):
    own = [dict(weight=weight, density=0.6, epsilon=0.2) for weight in WEIGHTS]
    got, report = combine(weft, tuned, ["a", "b"], tmp_path / "out", "--method", method, "--parameter", "density=0.6",
                          "--parameter", "epsilon=0.2", "--seed", "7", "--rank", "48", "--exact-svd")
    assert report["seed"] == 7
    updates = [read(tuned, tuned / name) for name in "ab"]
    exact = {key: torch.from_numpy(rule(method, np.zeros(value.shape), [d[key].numpy() for d in updates], own, 7,
                                        f"{key}.weight")) for key, value in updates[0].items()}
    # The updates are float32 products: two elements next in rank may be exchanged.
    assert_near(got, exact, 1e-2)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_peft_factor_dare_equals_peft_with_our_draws(weft, tuned, tmp_path, monkeypatch, method):
    files = [load_file(tuned / name / "adapter_model.safetensors") for name in "ab"]

    def prune(tensor, density, rescale):
        # PEFT does not say whose factor it draws for: its numbers do.
        key, i = next((key, i) for i, file in enumerate(files) for key, value in file.items()
                      if value.shape == tensor.shape and torch.equal(value, tensor))
        draws = philox(9, f"{key.removeprefix('base_model.model.')}\n{i}", tensor.numel())
        kept = tensor * torch.from_numpy(draws < density).reshape(tensor.shape)
        return kept / density if rescale else kept

    monkeypatch.setattr(merge_utils, "random_pruning", prune)
    expected = peft(tuned, ["a", "b"], method, density=0.5)
    got, _ = combine(weft, tuned, ["a", "b"], tmp_path / "out", "--method", f"peft_factor_{method}", "--parameter",
                     "density=0.5", "--seed", "9")
    assert_near(got, expected, 1e-5)


def test_knots_ties_is_ties_in_the_common_space(weft, tuned, tmp_path):
    """The rule of gstoica27/KnOTS with s_on_V, layer by layer, in float64."""
    got, _ = combine(weft, tuned, ["a", "b"], tmp_path / "out", "--method", "knots_ties", "--parameter", "density=0.4")
    own = [read(tuned, tuned / name) for name in "ab"]
    for key in own[0]:
        pair = [d[key] for d in own]
        u, s, v = torch.linalg.svd(torch.cat(pair, dim=1), full_matrices=False)
        u, sv = u[:, s > 1e-5], (torch.diag(s) @ v)[s > 1e-5]
        parts = list(torch.split(sv, pair[0].shape[1], dim=1))
        merged = merge_utils.ties(parts, torch.tensor(WEIGHTS).double(), 0.4)
        expected = u @ merged
        assert (got[key] - expected).norm() < 1e-2 * expected.norm(), key


def test_the_real_adapter_format_is_loaded_by_peft_with_equal_logits(weft, tuned, tmp_path):
    combine(weft, tuned, ["a", "c"], tmp_path / "out")
    ids = torch.arange(30).reshape(2, 15)
    got = PeftModel.from_pretrained(load_base(tuned), tmp_path / "out")(ids).logits
    model = load_base(tuned)
    with torch.no_grad():
        for key, delta in read(tuned, tmp_path / "out").items():
            model.get_submodule(key).weight += delta.float()
        assert (model(ids).logits - got).abs().max() < 1e-5


@pytest.fixture(scope="module")
def finetuned(tuned):
    model = load_base(tuned)
    torch.manual_seed(7)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "layers.1" in name and value.dim() == 2:
                value += 0.1 * torch.randn(value.shape[0], 5) @ torch.randn(5, value.shape[1]) + 0.01 * torch.randn_like(value)
        model.model.norm.weight += 0.5
    model.save_pretrained(tuned / "finetuned")
    return tuned / "finetuned"


@pytest.mark.parametrize("exact", [True, False])
def test_extract_is_the_truncated_svd_of_the_difference(weft, tuned, finetuned, tmp_path, exact):
    done = weft.run("extract", "--model", finetuned, "--base", tuned / "base", "--rank", "5", "--out", tmp_path / "out",
                    *(["--exact-svd"] if exact else []))
    assert "model.norm.weight" in done.stderr
    report = json.loads((tmp_path / "out" / "merge.json").read_text())
    assert report["left_out"] == ["model.norm.weight"]
    got = read(tuned, tmp_path / "out")
    before, after = load_file(tuned / "base" / "model.safetensors"), load_file(finetuned / "model.safetensors")
    assert got.keys() == {key.removesuffix(".weight") for key in before if "layers.1." in key and before[key].dim() == 2}
    for module in report["modules"]:
        key = module["module"]
        whole = after[f"{key}.weight"].double() - before[f"{key}.weight"].double()
        u, s, v = torch.linalg.svd(whole)
        best = u[:, :5] @ torch.diag(s[:5]) @ v[:5]
        assert (got[key] - best).norm() < (1e-5 if exact else 1e-3) * best.norm(), key
        assert module["error"] == pytest.approx((whole - got[key]).norm().item(), rel=1e-3)
        assert module["error"] <= 1.001 * s[5:].norm().item()


def test_extract_of_a_merged_adapter_gives_the_adapter_back(weft, tuned, tmp_path):
    weft("merge", "--model", tuned / "base", "--adapter", tuned / "a", "--out", tmp_path / "merged")
    weft("extract", "--model", tmp_path / "merged", "--base", tuned / "base", "--rank", "4", "--out", tmp_path / "out")
    assert_near(read(tuned, tmp_path / "out"), read(tuned, tuned / "a"), 1e-3)
    # It records its base, so that it is refused on another one.
    assert weft.run("merge", "--model", tmp_path / "merged", "--adapter", tmp_path / "out", "--out", tmp_path / "wrong",
                    check=False).returncode == 2


BAD = {
    "unknown method": (["--method", "tise"], "tise"),
    "whole models only": (["--method", "slerp"], "whole models"),
    "ambiguous": (["--method", "ties"], "ties:peft"),
    "unknown parameter": (["--method", "ties:peft", "--parameter", "densty=0.5"], "density"),
    "no number": (["--method", "ties:peft", "--parameter", "density=x"], "density=x"),
    "parameter of none": (["--method", "svd", "--parameter", "density=0.5"], "no parameters"),
    "rank of cat": (["--method", "cat", "--rank", "3"], "--rank"),
    "ranks differ": (["--adapter", "{c}", "--method", "peft_factor_linear"], "needs one rank"),
    "dtype": (["--dtype", "bf16"], "--dtype"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_line_and_no_output(weft, tuned, tmp_path, name):
    options, expected = BAD[name]
    options = [option.format(c=tuned / "c") for option in options]
    done = weft.run("merge", "--adapter", tuned / "a", *options, "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and expected in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_extract_refuses_models_that_do_not_fit(weft, tuned, tmp_path):
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=151, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
                                 num_attention_heads=4, num_key_value_heads=2)).save_pretrained(tmp_path / "other")
    done = weft.run("extract", "--model", tmp_path / "other", "--base", tuned / "base", "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and "mlp.down_proj.weight" in done.stderr
    done = weft.run("extract", "--model", tuned / "base", "--base", tuned / "base", "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and "nothing to extract" in done.stderr
    assert not (tmp_path / "out").exists()
