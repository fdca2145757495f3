"""Combined models against mergekit 0.1.5, and against its rules in float64."""
import contextlib
import hashlib
import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

LAYERS = 4


def make_model(folder, seed, dtype=torch.float32, near=None, tied=True, size=0.02):
    """A small Llama; `near` gives a model whose weights these are small changes of."""
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=151, hidden_size=48, intermediate_size=80, num_hidden_layers=LAYERS,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    model = LlamaForCausalLM(config)
    if near is not None:
        with torch.no_grad():
            for (name, value), other in zip(model.named_parameters(), near.parameters()):
                value.copy_(other + size * torch.randn_like(value) * other.std().clamp(min=0.1))
    model.to(dtype).save_pretrained(folder)
    return model


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def zoo(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    base = make_model(folder / "base", 0)
    for seed, name in enumerate("abc", start=1):
        make_model(folder / name, seed, getattr(torch, request.param), base)
    base.to(getattr(torch, request.param)).save_pretrained(folder / "base")
    return folder


def mergekit(recipe, folder, out):
    """Runs mergekit itself on the recipe, in `folder`."""
    from mergekit.config import MergeConfiguration
    from mergekit.io.tasks import LoaderCache
    from mergekit.merge import MergeOptions, run_merge
    LoaderCache().loaders.clear()  # Kept by relative path.
    with contextlib.chdir(folder):
        run_merge(MergeConfiguration.model_validate(recipe), str(out),
                  MergeOptions(copy_tokenizer=False, quiet=True, write_model_card=False))
    return {key: value for path in sorted(out.glob("*.safetensors")) for key, value in load_file(path).items()}


def ours(weft, recipe, folder, out, *options):
    (folder / "ours.yml").write_text(yaml.safe_dump(recipe))
    weft("merge", folder / "ours.yml", "--out", out, *options)
    return load_file(out / "model.safetensors")


def models(*names, **parameters):
    """Entries of `models`; each parameter is a list with a value for each model."""
    return [{"model": name, "parameters": {key: values[i] for key, values in parameters.items()}}
            for i, name in enumerate(names)]


def ulp(tensor):
    bits = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}[tensor.dtype]
    return 2.0 ** (torch.floor(torch.log2(tensor.double().abs().clamp(min=1e-30))) - bits)


T = [{"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]}, {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
     {"value": 0.5}]
EXACT = {  # recipes that mergekit computes in fp32 throughout
    # 10 : 6 : 9 over 25: an odd divisor, so that no mean of bf16 numbers lies midway between two.
    "linear": dict(merge_method="linear", models=models("a", "b", "c", weight=[0.5, 0.3, 0.45])),
    "linear-sum": dict(merge_method="linear", parameters={"normalize": False},
                       models=models("a", "b", weight=[0.5, [0.1, 0.9]])),
    "slerp": dict(merge_method="slerp", base_model="a", models=[{"model": "a"}, {"model": "b"}], parameters={"t": T}),
    "slerp-slices": dict(merge_method="slerp", base_model="b", parameters={"t": T}, slices=[
        {"sources": [{"model": "a", "layer_range": [0, 2]}, {"model": "b", "layer_range": [0, 2]}]},
        {"sources": [{"model": "a", "layer_range": [1, 4]}, {"model": "b", "layer_range": [1, 4]}]}]),
    "passthrough": dict(merge_method="passthrough", slices=[
        {"sources": [{"model": "a", "layer_range": [0, 3]}]},
        {"sources": [{"model": "b", "layer_range": [1, 4],
                      "parameters": {"scale": [{"filter": "o_proj", "value": 0.25}, {"value": 1.0}]}}]}]),
}
FLOAT = {  # recipes that it computes in the type of the models: compared in float32
    "task_arithmetic": dict(merge_method="task_arithmetic", models=models("a", "b", "c", weight=[0.5, 0.3, -0.4]),
                            parameters={"lambda": 0.8}),
    "task_normalised": dict(merge_method="task_arithmetic", models=models("a", "b", weight=[0.5, 0.7]),
                            parameters={"normalize": True}),
    "ties": dict(merge_method="ties", models=models("a", "b", "c", weight=[0.5, 0.3, 0.4], density=[0.3, 0.5, 0.2])),
    "ties-gradient": dict(merge_method="ties", parameters={"normalize": False},
                          models=models("a", "b", weight=[[{"filter": "mlp", "value": 0.5}, {"value": 0}], 0.6],
                                        density=[[1, 0.7, 0.1], 0.5])),
    "breadcrumbs": dict(merge_method="breadcrumbs", models=models("a", "b", weight=[0.5, 0.3], density=[0.6, 0.9],
                                                                  gamma=[0.05, 0.2])),
    "breadcrumbs_ties": dict(merge_method="breadcrumbs_ties",
                             models=models("a", "b", weight=[0.5, 0.3], density=[0.6, 0.4], gamma=[0.05, 0.01])),
    "magnitude-rescaled": dict(merge_method="ties", models=models("a", "b", weight=[1, 1], density=[0.2, 0.3]),
                               parameters={"rescale": True}),
    "model_stock": dict(merge_method="model_stock", models=[{"model": name} for name in "abc"]),
    "model_stock-rows": dict(merge_method="model_stock", models=[{"model": name} for name in "abc"],
                             parameters={"filter_wise": True}),
    "sce": dict(merge_method="sce", models=[{"model": name} for name in "abc"], parameters={"select_topk": 0.2}),
    "sce-all": dict(merge_method="sce", models=[{"model": name} for name in "abc"]),
    "multislerp": dict(merge_method="multislerp", models=models("a", "b", "c", weight=[0.4, 0.8, 0.3])),
    "multislerp-sum": dict(merge_method="multislerp", models=models("a", "b", weight=[0.4, 0.8]),
                           parameters={"normalize_weights": False}),
    "karcher": dict(merge_method="karcher", models=[{"model": name} for name in "abc"]),
    "nearswap": dict(merge_method="nearswap", models=[{"model": "a"}], parameters={"t": 0.0005}),
    "ram": dict(merge_method="ram", models=[{"model": name} for name in "abc"], parameters={"epsilon": 0.001}),
    "ramplus_tl": dict(merge_method="ramplus_tl", models=[{"model": name} for name in "abc"],
                       parameters={"epsilon": 0.001}),
    "nuslerp": dict(merge_method="nuslerp", models=models("a", "b", weight=[0.4, 0.8])),
    "nuslerp-rows": dict(merge_method="nuslerp", models=models("a", "b", weight=[0.4, 0.8]),
                         parameters={"nuslerp_flatten": False}),
    "nuslerp-columns": dict(merge_method="nuslerp", models=models("a", "b", weight=[0.4, 0.8]),
                            parameters={"nuslerp_flatten": False, "nuslerp_row_wise": True}),
}


@pytest.mark.parametrize("name", EXACT)
def test_equals_mergekit_within_one_rounding(weft, zoo, tmp_path, name):
    want = mergekit(EXACT[name], zoo, tmp_path / "mergekit")
    got = ours(weft, EXACT[name], zoo, tmp_path / "ours")
    assert got.keys() == want.keys()
    for key in want:
        assert got[key].dtype == want[key].dtype
        error = (got[key].double() - want[key].double()).abs()
        # bf16: the same number but where fp32 noise crosses a tie. fp32: noise of fp32 sums.
        allowed = ulp(want[key]) * (1 if want[key].dtype == torch.bfloat16 else 8) + 1e-9
        assert (error <= allowed).all(), f"{key}: {error.max()}"
        if want[key].dtype == torch.bfloat16:
            assert (error > 0).float().mean() < 2e-3, key
    config = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("mergekit", "ours")]
    assert config[0]["num_hidden_layers"] == config[1]["num_hidden_layers"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours")


@pytest.mark.parametrize("name", FLOAT)
@pytest.mark.parametrize("zoo", ["float32"], indirect=True)
def test_equals_mergekit_in_float32(weft, zoo, tmp_path, name):
    recipe = dict(FLOAT[name], dtype="float32")
    if recipe["merge_method"] != "nuslerp" or name == "nuslerp-rows":
        recipe["base_model"] = "base"
    want = mergekit(recipe, zoo, tmp_path / "mergekit")
    got = ours(weft, recipe, zoo, tmp_path / "ours")
    base = load_file(zoo / "base" / "model.safetensors")
    assert got.keys() == want.keys()
    for key in want:
        update = (want[key] - base[key]).double().norm()
        error = (got[key] - want[key]).double()
        # Elements whose magnitudes are equal in float32 may be chosen differently; nothing else.
        assert ((error.abs() > 1e-6).sum() <= 2 and error.norm() <= 1e-2 * update) or \
            error.norm() <= 1e-5 * update, f"{key}: {error.norm() / update}"


def test_arcee_fusion_takes_the_elements_that_mergekit_takes(weft, tmp_path):
    """mergekit's own functions in float64: in float32 its divergences are rounding for the most part."""
    from mergekit.merge_methods.arcee_fusion import DynamicThresholdFusion, _compute_importance
    base = make_model(tmp_path / "base", 1)
    make_model(tmp_path / "a", 2, near=base)
    recipe = dict(merge_method="arcee_fusion", base_model="base", dtype="float32",
                  models=[{"model": "base"}, {"model": "a"}])
    got = ours(weft, recipe, tmp_path, tmp_path / "ours")
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("base", "a")]
    taken = 0
    for key, value in got.items():
        b, x = (file[key].double() for file in files)
        mask, _ = DynamicThresholdFusion().compute_fusion_mask(_compute_importance(x, b))
        want = (b + (x - b) * mask).float()
        other = value != want  # weft ranks importances as floats: equals at the threshold may differ.
        assert other.sum() <= max(1, value.numel() // 10000), f"{key}: {other.sum()} of {value.numel()}"
        taken += int(mask.sum())
    assert 0 < taken < sum(value.numel() for value in got.values()) / 2
    want = mergekit(recipe, tmp_path, tmp_path / "mergekit")
    assert got.keys() == want.keys()


def test_model_and_adapter_is_folded_on_the_fly(weft, zoo, tmp_path):
    from peft import LoraConfig, get_peft_model
    torch.manual_seed(9)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(zoo / "base", dtype=torch.float32),
                           LoraConfig(target_modules=["q_proj", "down_proj"], r=4, task_type="CAUSAL_LM"))
    for key, value in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(value, std=0.02)
    model.save_pretrained(zoo / "lora")
    recipe = dict(merge_method="task_arithmetic", base_model="base", dtype="float32",
                  models=models("base+lora", "a", weight=[0.5, 0.25]))
    got = ours(weft, recipe, zoo, tmp_path / "ours")
    merged = model.merge_and_unload().state_dict()
    base, other = (load_file(zoo / name / "model.safetensors") for name in ("base", "a"))
    for key, value in got.items():
        want = base[key].double() + 0.5 * (merged[key].double() - base[key].double()) \
            + 0.25 * (other[key].double() - base[key].double())
        assert (value.double() - want).abs().max() <= 1e-6, key


# --- the rules in float64 with weft's order of equals and weft's draws ------------------------------

def philox(seed, name, count):
    """lora::RandomStream: Philox4x32-10, key = seed, counter = (block, 64 bits of the name's SHA-256)."""
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    name_bits = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16)
    mask = np.uint64(0xffffffff)
    c = [blocks & mask, blocks >> np.uint64(32), np.full_like(blocks, name_bits & 0xffffffff),
         np.full_like(blocks, name_bits >> 32)]
    key = [seed & 0xffffffff, seed >> 32]
    for _ in range(10):
        x, y = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(y >> np.uint64(32)) ^ c[1] ^ np.uint64(key[0]), y & mask,
             (x >> np.uint64(32)) ^ c[3] ^ np.uint64(key[1]), x & mask]
        key = [(key[0] + 0x9E3779B9) & 0xffffffff, (key[1] + 0xBB67AE85) & 0xffffffff]
    words = np.stack(c, axis=1).reshape(-1)[:count]
    return (words >> np.uint64(8)).astype(np.float64) * 2.0 ** -24


def magnitude(delta):
    return np.abs(delta).astype(np.float32).reshape(-1)


def top(keys, count):
    """Mask of the `count` largest, equals by place."""
    mask = np.zeros(keys.size, bool)
    mask[np.argsort(-keys, kind="stable")[:count]] = True
    return mask


def sparse(method, delta, own, seed, stream):
    density, count = own["density"], delta.size
    if density >= 1:
        return delta
    if method.startswith("ties"):
        keep = top(magnitude(delta), max(1, int(density * count)))
    elif method.startswith("breadcrumbs"):
        stay = int(density * count)
        bottom = max(0, count - stay - int(own["gamma"] * count))
        keep = top(magnitude(delta), count - bottom) & ~top(magnitude(delta), count - bottom - stay)
    elif method.startswith("dare"):
        keep = philox(seed, stream, count) < density
    else:  # della
        rows = magnitude(delta).reshape(1 if delta.ndim < 2 else delta.shape[0], -1)
        rank = np.argsort(np.argsort(rows, axis=1, kind="stable"), axis=1, kind="stable")
        p = density - own["epsilon"] + rank / (rows.shape[1] - 1) * 2 * own["epsilon"]
        keep = philox(seed, stream, count) < p.reshape(-1)
    kept = delta * keep.reshape(delta.shape)
    if method.startswith(("dare", "della")):
        kept = kept * (np.abs(delta).sum() / np.abs(kept).sum())
    return kept


def rule(method, base, others, own, seed, key):
    """mergekit's generalised task arithmetic in float64."""
    weight = [o["weight"] for o in own]
    deltas = np.stack([w * sparse(method, x - base, o, seed, f"{key}\n{i}")
                       for i, (x, o, w) in enumerate(zip(others, own, weight))])
    if method.endswith("ties") or method == "della":
        sign = np.where(deltas.sum(axis=0) >= 0, 1, -1)
        mask = np.sign(deltas) == sign
        mixed = (deltas * mask).sum(axis=0)
        divisor = sum(w * m for w, m in zip(weight, mask))
        if method in ("ties", "della"):
            mixed = mixed / np.where(divisor == 0, 1, divisor)
    else:
        mixed = deltas.sum(axis=0)
    return base + mixed


@pytest.mark.parametrize("method", ["ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "della",
                                    "della_linear"])
def test_is_the_exact_rule_rounded_once(weft, zoo, tmp_path, method):
    own = [dict(weight=0.6, density=0.4), dict(weight=0.5, density=0.7), dict(weight=-0.2, density=0.5)]
    for o in own:
        if method.startswith("breadcrumbs"):
            o["gamma"] = 0.02
        if method.startswith("della"):
            o["epsilon"] = 0.2
    recipe = dict(merge_method=method, base_model="base",
                  models=[{"model": name, "parameters": o} for name, o in zip("abc", own)])
    got = ours(weft, recipe, zoo, tmp_path / "ours", "--seed", "77")
    files = {name: load_file(zoo / name / "model.safetensors") for name in ("base", "a", "b", "c")}
    for key, value in got.items():
        exact = rule(method, files["base"][key].double().numpy(), [files[n][key].double().numpy() for n in "abc"],
                     own, 77, key)
        want = torch.from_numpy(exact)
        nearest = want.to(value.dtype)  # by way of float32: may be off at ties, never nearer
        assert ((value.double() - want).abs() <= (nearest.double() - want).abs() + 1e-12).all(), key


def test_rounding_of_a_recipe_keeps_the_mean_and_is_recorded(weft, zoo, tmp_path):
    recipe = dict(merge_method="task_arithmetic", base_model="base", dtype="bfloat16",
                  models=[{"model": "a", "parameters": {"weight": 0.05}}])
    nearest = ours(weft, recipe, zoo, tmp_path / "nearest")
    got = ours(weft, {**recipe, "rounding": "stochastic"}, zoo, tmp_path / "recipe", "--seed", "4")
    asked = ours(weft, recipe, zoo, tmp_path / "asked", "--rounding", "stochastic", "--seed", "4")
    back = ours(weft, {**recipe, "rounding": "stochastic"}, zoo, tmp_path / "back", "--rounding", "nearest")
    assert all(torch.equal(value, back[key]) for key, value in nearest.items())  # The option wins over the recipe.
    report = json.loads((tmp_path / "recipe" / "merge.json").read_text())
    assert report["rounding"] == "stochastic" and report["seed"] == 4
    base, a = (load_file(zoo / name / "model.safetensors") for name in ("base", "a"))
    kept = whole = 0.0
    for key, value in got.items():
        assert torch.equal(value, asked[key]), key
        start, exact = base[key].double(), base[key].double() + 0.05 * (a[key].double() - base[key].double())
        step = 2.0 ** (torch.floor(torch.log2(exact.abs().clamp(min=2.0 ** -120))) - 7)
        assert ((value.double() - exact).abs() <= step * 1.001).all(), key
        update = exact - start
        whole += (update * update).sum().item()
        kept += ((value.double() - start) * update).sum().item()
    assert kept / whole == pytest.approx(1, abs=0.1)
    assert any(not torch.equal(value, nearest[key]) for key, value in got.items())


@pytest.mark.parametrize("zoo", ["float32"], indirect=True)
def test_draws_have_the_density_and_do_not_depend_on_threads(weft, zoo, tmp_path):
    recipe = dict(merge_method="dare_linear", base_model="base", parameters={"rescale": False},
                  models=models("a", "b", weight=[1, 0], density=[0.3, 1]))
    one = ours(weft, recipe, zoo, tmp_path / "one", "--seed", "1", "--threads", "1")
    two = ours(weft, recipe, zoo, tmp_path / "two", "--seed", "1", "--threads", "2")
    other = ours(weft, recipe, zoo, tmp_path / "other", "--seed", "2")
    base = load_file(zoo / "base" / "model.safetensors")
    assert all(torch.equal(one[key], two[key]) for key in one)
    kept = np.concatenate([(one[key] != base[key]).reshape(-1).numpy() for key in one])
    again = np.concatenate([(other[key] != base[key]).reshape(-1).numpy() for key in one])
    assert abs(kept.mean() - 0.3) < 4 * (0.3 * 0.7 / kept.size) ** 0.5
    assert abs((kept & again).mean() - 0.09) < 4 * (0.09 * 0.91 / kept.size) ** 0.5
    assert json.loads((tmp_path / "one" / "merge.json").read_text())["seed"] == 1


def test_a_head_that_only_some_models_have_is_written_and_untied(weft, tmp_path):
    base = make_model(tmp_path / "tied", 1)
    make_model(tmp_path / "untied", 2, near=base, tied=False)
    recipe = dict(merge_method="linear", models=models("tied", "untied", weight=[1, 1]))
    got = ours(weft, recipe, tmp_path, tmp_path / "out")
    tied, untied = (load_file(tmp_path / n / "model.safetensors") for n in ("tied", "untied"))
    want = (tied["model.embed_tokens.weight"].double() + untied["lm_head.weight"].double()) / 2
    assert (got["lm_head.weight"].double() - want).abs().max() < 1e-8
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(model.lm_head.weight, got["lm_head.weight"])
    assert torch.equal(model.model.embed_tokens.weight, got["model.embed_tokens.weight"])


BAD = {
    "unknown method": (dict(merge_method="tees", models=models("a", weight=[1])), "tees"),
    "unknown key": (dict(merge_method="linear", model=[]), "model"),
    "unknown parameter": (dict(merge_method="linear", models=models("a", "b", wieght=[1, 1])), "wieght"),
    "no weight": (dict(merge_method="linear", models=[{"model": "a"}, {"model": "b"}]), "weight"),
    "no base": (dict(merge_method="ties", models=models("a", "b", weight=[1, 1])), "base"),
    "three for slerp": (dict(merge_method="slerp", base_model="base", parameters={"t": 0.5},
                             models=[{"model": "a"}, {"model": "b"}]), "exactly 2"),
    "layers": (dict(merge_method="passthrough", slices=[{"sources": [{"model": "a", "layer_range": [0, 9]}]}]), "layer"),
    "no model": (dict(merge_method="linear", models=models("nowhere", weight=[1])), "nowhere"),
    "word": (dict(merge_method="linear", models=models("a", weight=["much"])), "much"),
    "zero": (dict(merge_method="linear", models=models("a", "b", weight=[1, -1])), "sum to 0"),
    "epsilon": (dict(merge_method="della", base_model="base", models=models("a", weight=[1], density=[0.1])), "epsilon"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("zoo", ["float32"], indirect=True)
def test_bad_recipes_give_one_line_and_no_output(weft, zoo, tmp_path, name):
    recipe, word = BAD[name]
    (zoo / "bad.yml").write_text(yaml.safe_dump(recipe))
    done = weft.run("merge", zoo / "bad.yml", "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and word in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


# --- adapters combined in delta space: PEFT's functions on the dense updates ------------------------

@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A base, two adapters of different rank and target, and their dense updates from PEFT."""
    from peft import LoraConfig, get_peft_model
    folder = tmp_path_factory.mktemp("tuned")
    make_model(folder / "base", 0)
    deltas = []
    for seed, (name, rank, targets) in enumerate([("a", 4, ["q_proj", "down_proj"]), ("b", 7, ["q_proj", "up_proj"])]):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32),
                               LoraConfig(target_modules=targets, r=rank, lora_alpha=12, task_type="CAUSAL_LM"))
        for key, value in model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(value, std=0.05)
        model.save_pretrained(folder / name)
        deltas.append({key.removeprefix("base_model.model.") + ".weight": layer.get_delta_weight("default").detach()
                       for key, layer in model.named_modules() if hasattr(layer, "get_delta_weight")})
    return folder, load_file(folder / "base" / "model.safetensors"), deltas


@pytest.mark.parametrize("method", ["task_arithmetic", "magnitude_prune", "ties"])
def test_adapters_are_combined_as_peft_does_with_dense_updates(weft, tuned, tmp_path, method):
    from peft.utils import merge_utils
    folder, base, deltas = tuned
    weights = [0.7, -0.4]
    name = "ties:peft" if method == "ties" else method
    density = [] if method == "task_arithmetic" else ["--parameter", "density=0.35"]
    weft("merge", "--model", folder / "base", "--adapter", f"{folder / 'a'}:0.7", "--adapter", f"{folder / 'b'}:-0.4",
         "--method", name, *density, "--out", tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    for key, value in got.items():
        present = [(w, d[key]) for w, d in zip(weights, deltas) if key in d]
        if not present:
            assert torch.equal(value, base[key]), key
            continue
        arguments = [[d.double() for _, d in present], torch.tensor([w for w, _ in present]).double()]
        delta = getattr(merge_utils, method)(*arguments, **({"density": 0.35} if density else {}))
        error = (value.double() - base[key].double() - delta).abs()
        # PEFT's update is a float32 product: the element at the threshold may be another one.
        assert (error > 1e-6).sum() <= 2, key


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_as_peft_with_our_draws(weft, tuned, tmp_path, method, monkeypatch):
    from peft.utils import merge_utils
    folder, base, deltas = tuned
    weft("merge", "--model", folder / "base", "--adapter", f"{folder / 'a'}:0.7", "--adapter", f"{folder / 'b'}:0.4",
         "--method", f"{method}:peft", "--parameter", "density=0.5", "--seed", "5", "--out", tmp_path / "out")
    got = load_file(tmp_path / "out" / "model.safetensors")
    for key in deltas[0]:
        pair = [(w, i, d[key]) for i, (w, d) in enumerate(zip((0.7, 0.4), deltas)) if key in d]
        masks = iter([torch.from_numpy((philox(5, f"{key}\n{i}", d.numel()) < 0.5).reshape(d.shape)).double()
                      for _, i, d in pair])
        monkeypatch.setattr(torch, "bernoulli", lambda _: next(masks))
        delta = getattr(merge_utils, method)([d.double() for *_, d in pair], torch.tensor([w for w, *_ in pair]).double(),
                                             density=0.5)
        assert (got[key].double() - base[key].double() - delta).abs().max() <= 1e-6, key


def test_an_ambiguous_method_is_refused(weft, tuned, tmp_path):
    done = weft.run("merge", "--model", tuned[0] / "base", "--adapter", tuned[0] / "a", "--method", "ties",
                    "--out", tmp_path / "out", check=False)
    assert done.returncode == 2 and "ties:peft" in done.stderr and not list(tmp_path.iterdir())
