"""The type of the output and its rounding, held against the exact update in double precision."""
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge_features import save_base, train

warnings.simplefilter("ignore")
ENOUGH = 0.95


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), tied=False, dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """Adapters whose update is this times one of about a fifth of the weights."""
    def make(factor):
        folder = tmp_path_factory.mktemp("adapter")
        train(folder, base, target_modules=["q_proj", "up_proj"])
        weights = load_file(folder / "adapter_model.safetensors")
        save_file({key: value * (factor if "lora_B" in key else 1) for key, value in weights.items()},
                  folder / "adapter_model.safetensors")
        return folder
    made = {}
    return lambda factor: made.setdefault(factor, make(factor))


def updates(base, folder):
    """W, and the update D of every changed tensor, in double."""
    before = {key: value.double() for key, value in load_file(base / "model.safetensors").items()}
    factors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    result = {}
    for key in factors:
        if "lora_A" in key:
            b = factors[key.replace("lora_A", "lora_B")].double()
            name = key.removeprefix("base_model.model.").replace("lora_A.", "")
            result[name] = b @ factors[key].double() * (config["lora_alpha"] / config["r"])
    return before, result


def merge(weft, base, folder, out, *options):
    done = weft.run("merge", "--model", base, "--adapter", folder, "--out", out, *options)
    return load_file(out / "model.safetensors"), json.loads((out / "merge.json").read_text()), done.stderr


def rounded(exact, dtype):
    """Doubles to nearest even in one step; torch's own conversion passes through float32."""
    if dtype == torch.float32:
        return exact.float()
    digits, least = {torch.bfloat16: (8, -133), torch.float16: (11, -24)}[dtype]
    step = torch.ldexp(torch.ones_like(exact), (torch.frexp(exact).exponent - digits).clamp(min=least))
    return ((exact / step).round() * step).to(dtype)


def share(after, before, update):
    return (((after.double() - before) * update).sum() / (update * update).sum()).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_share_retained_and_the_largest_error_are_recorded_per_tensor(weft, base, adapter, tmp_path, dtype):
    name = {torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]
    tensors, record, _ = merge(weft, base, adapter(0.01), tmp_path / "out", "--dtype", name)
    before, update = updates(base, adapter(0.01))
    assert {entry["name"] for entry in record["folded"]} == update.keys()
    for entry in record["folded"]:
        w, d = before[entry["name"]], update[entry["name"]]
        m = tensors[entry["name"]]
        assert torch.equal(m, rounded(w + d, dtype))
        assert entry["dtype"].lower() == name and entry["rounding"] == "nearest"
        assert entry["retained"] == pytest.approx(share(m, w, d), abs=1e-9)
        assert entry["largest_error"] == pytest.approx((m.double() - (w + d)).abs().max().item(), rel=1e-9)


@pytest.mark.parametrize("factor,chosen", [(1, torch.bfloat16), (0.005, torch.float16), (1e-5, torch.float32)])
def test_auto_takes_the_narrowest_type_in_which_every_update_survives(weft, base, adapter, tmp_path, factor, chosen):
    before, update = updates(base, adapter(factor))
    survives = [dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)
                if all(share(rounded(before[k] + d, dtype), before[k], d) >= ENOUGH for k, d in update.items())]
    assert survives[0] == chosen, "the case must be what it says"
    tensors, record, told = merge(weft, base, adapter(factor), tmp_path / "out", "--dtype", "auto")
    assert {value.dtype for value in tensors.values()} == {chosen}
    assert str(chosen).removeprefix("torch.") in (tmp_path / "out/config.json").read_text()
    assert all(entry["retained"] >= ENOUGH for entry in record["folded"])
    assert ("warning" in told) == (chosen != torch.bfloat16)
    sampled = record["auto_dtype"]["sampled"]
    for key, d in update.items():  # These tensors have no more rows than are sampled.
        assert sampled[key]["as_planned"] == pytest.approx(share(rounded(before[key] + d, torch.bfloat16), before[key], d))
        assert sampled[key]["F16"] == pytest.approx(share(rounded(before[key] + d, torch.float16), before[key], d))


def test_auto_does_not_take_f16_for_numbers_beyond_its_range(weft, adapter, tmp_path):
    base = save_base(tmp_path / "base", tied=False, dtype=torch.bfloat16)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][3] = 70000
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    tensors, _, told = merge(weft, base, adapter(0.005), tmp_path / "out", "--dtype", "auto")
    assert {value.dtype for value in tensors.values()} == {torch.float32}
    assert "F16" in told
    failed = weft.run("merge", "--model", base, "--adapter", adapter(0.005), "--dtype", "f16", "--out",
                      tmp_path / "half", check=False)
    assert failed.returncode != 0 and "model.norm.weight" in failed.stderr and not (tmp_path / "half").exists()


def neighbours(m, exact):
    """Whether each number of m is a neighbour of the exact one: nothing of the type lies between."""
    inf = torch.tensor(float("inf"), dtype=m.dtype)
    return ((torch.nextafter(m, -inf).double() < exact) & (exact < torch.nextafter(m, inf).double())).all()


def test_stochastic_rounding_keeps_the_update_in_the_mean_and_its_seed_repeats_it(weft, base, adapter, tmp_path):
    options = ["--dtype", "bf16", "--rounding", "stochastic", "--seed"]
    one, record, _ = merge(weft, base, adapter(0.0005), tmp_path / "one", *options, "7", "--threads", "1")
    again, _, _ = merge(weft, base, adapter(0.0005), tmp_path / "again", *options, "7", "--threads", "2")
    other, _, _ = merge(weft, base, adapter(0.0005), tmp_path / "other", *options, "8")
    before, update = updates(base, adapter(0.0005))
    assert record["rounding"] == "stochastic" and record["seed"] == 7
    assert all(torch.equal(one[key], again[key]) for key in one)
    kept, all_of_it, nearest = 0, 0, 0
    for key, d in update.items():
        assert not torch.equal(one[key], other[key])
        assert neighbours(one[key], before[key] + d)
        kept += ((one[key].double() - before[key]) * d).sum().item()
        nearest += (((before[key] + d).bfloat16().double() - before[key]) * d).sum().item()
        all_of_it += (d * d).sum().item()
    for key in one.keys() - update.keys():
        assert torch.equal(one[key].double(), before[key])
    assert nearest / all_of_it < 0.6 and abs(kept / all_of_it - 1) < 0.2


def test_error_feedback_keeps_the_sum_of_every_row(weft, base, adapter, tmp_path):
    tensors, record, _ = merge(weft, base, adapter(0.01), tmp_path / "out", "--dtype", "bf16", "--rounding",
                               "error_feedback")
    before, update = updates(base, adapter(0.01))
    assert record["rounding"] == "error_feedback" and "seed" not in record
    for key, d in update.items():
        exact = before[key] + d
        step = 2 * exact.abs().amax(1) * 2**-8  # One step of bf16 at the row's largest number, or more.
        assert ((tensors[key].double() - exact).sum(1).abs() <= step).all()
        nearest = (exact.bfloat16().double() - exact).sum(1).abs()
        assert nearest.max() > (tensors[key].double() - exact).sum(1).abs().max()


def test_auto_with_another_rounding_keeps_the_type_and_rounds_so_what_needs_it(weft, base, adapter, tmp_path):
    tensors, record, _ = merge(weft, base, adapter(0.005), tmp_path / "out", "--dtype", "auto", "--rounding",
                               "stochastic")
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    before, update = updates(base, adapter(0.005))
    for entry in record["folded"]:
        w, d = before[entry["name"]], update[entry["name"]]
        needed = share(rounded(w + d, torch.bfloat16), w, d) < ENOUGH
        assert entry["rounding"] == ("stochastic" if needed else "nearest")
    assert len({entry["rounding"] for entry in record["folded"]}) == 2, "the case must have both"
    plain, _, _ = merge(weft, base, adapter(1), tmp_path / "plain", "--dtype", "auto", "--rounding", "stochastic")
    keep, _, _ = merge(weft, base, adapter(1), tmp_path / "keep")
    assert all(torch.equal(plain[key], keep[key]) for key in keep)


@pytest.mark.parametrize("options,word", [(["--rounding", "sloppy"], "sloppy"), (["--dtype", "f8"], "auto"),
                                          (["--method", "magnitude_prune", "--dtype", "auto"], "--dtype auto")])
def test_bad_input_is_one_line_and_leaves_nothing(weft, base, adapter, tmp_path, options, word):
    done = weft.run("merge", "--model", base, "--adapter", adapter(1), "--out", tmp_path / "out", *options, check=False)
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
