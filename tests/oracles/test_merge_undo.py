"""What merging writes on request leads back to the very files of the base."""
import hashlib
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge_features import load, save_base, train

warnings.simplefilter("ignore")
TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
ADAPTERS = {"linear": dict(target_modules="all-linear"),
            "dora-and-head": dict(target_modules=["q_proj", "lm_head"], use_dora=True),
            "saved": dict(target_modules=["q_proj"], modules_to_save=["embed_tokens", "norm"])}


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    made = {}
    for name, dtype in TYPES.items():
        made[name] = save_base(tmp_path_factory.mktemp("base"), dtype=dtype)
        (made[name] / "README.md").write_text("a model\n")
        (made[name] / "empty.txt").write_text("")
    return made


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    made = {}
    for name, case in ADAPTERS.items():
        made[name] = tmp_path_factory.mktemp("adapter")
        train(made[name], bases["f32"], **case)
    return made


def merge(weft, base, adapter, tmp_path, *options):
    weft("merge", "--model", base, "--adapter", adapter, "--out", tmp_path / "out", "--undo", tmp_path / "undo", *options)
    return tmp_path / "out", tmp_path / "undo"


@pytest.mark.parametrize("to", ["keep", *TYPES])
@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_unmerging_restores_every_file_of_the_base(weft, bases, adapters, tmp_path, base, adapter, to):
    out, undo = merge(weft, bases[base], adapters[adapter], tmp_path, "--dtype", to)
    assert digests(out).get("model.safetensors") != digests(bases[base])["model.safetensors"]
    weft("unmerge", out, "--undo", undo, "--out", tmp_path / "back")
    assert digests(tmp_path / "back") == digests(bases[base])


def test_a_sharded_base_and_a_sharded_output(weft, bases, adapters, tmp_path):
    load(bases["bf16"], torch.bfloat16).save_pretrained(tmp_path / "base", max_shard_size="50KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    out, undo = merge(weft, tmp_path / "base", adapters["linear"], tmp_path, "--max-shard-size", "70KB")
    weft("unmerge", out, "--undo", undo, "--out", tmp_path / "back")
    assert digests(tmp_path / "back") == digests(tmp_path / "base")


def test_the_undo_file_is_small_where_the_update_is(weft, tmp_path):
    torch.manual_seed(4)
    base = save_base(tmp_path / "base", dtype=torch.bfloat16)
    train(tmp_path / "adapter", base, target_modules="all-linear")
    path = tmp_path / "adapter/adapter_model.safetensors"
    save_file({key: value * (0.01 if "lora_B" in key else 1) for key, value in load_file(path).items()}, path)
    _, undo = merge(weft, base, tmp_path / "adapter", tmp_path)
    assert undo.stat().st_size < 0.5 * (base / "model.safetensors").stat().st_size


def test_rounding_at_random_is_undone_too(weft, bases, adapters, tmp_path):
    out, undo = merge(weft, bases["bf16"], adapters["linear"], tmp_path, "--rounding", "stochastic", "--seed", "3")
    weft("unmerge", out, "--undo", undo, "--out", tmp_path / "back")
    assert digests(tmp_path / "back") == digests(bases["bf16"])


def change(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


DAMAGE = {
    "another merged model": (lambda out, undo: change(out / "model.safetensors", -3), "does not come out of"),
    "a damaged undo file": (lambda out, undo: change(undo, 2000), "undo"),
    "a cut undo file": (lambda out, undo: undo.write_bytes(undo.read_bytes()[:-40]), "undo"),
    "a file that is none": (lambda out, undo: undo.write_text("undo " * 100), "is no undo file"),
    "an empty file": (lambda out, undo: undo.write_text(""), "is no undo file"),
    "a lost tensor": (lambda out, undo: (out / "model.safetensors").unlink(), "does not come out of"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_does_not_lead_back_is_an_error_and_leaves_nothing(weft, bases, adapters, tmp_path, name):
    out, undo = merge(weft, bases["bf16"], adapters["linear"], tmp_path)
    damage, word = DAMAGE[name]
    damage(out, undo)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = weft.run("unmerge", out, "--undo", undo, "--out", tmp_path / "back", check=False)
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_every_byte_of_an_undo_file_matters_or_is_harmless(weft, bases, adapters, tmp_path):
    out, undo = merge(weft, bases["bf16"], adapters["linear"], tmp_path)
    whole = undo.read_bytes()
    for at in range(3, len(whole), len(whole) // 40):
        undo.write_bytes(whole)
        change(undo, at)
        done = weft.run("unmerge", out, "--undo", undo, "--out", tmp_path / f"back{at}", check=False)
        assert done.returncode == 2 or digests(tmp_path / f"back{at}") == digests(bases["bf16"]), at


def test_what_cannot_be_undone_is_refused_before_anything_is_written(weft, bases, adapters, smollm2_gguf, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nmodels:\n  - model: {bases['f32']}\n    parameters: {{weight: 1}}\n")
    for arguments, word in ((["--model", smollm2_gguf], "GGUF"), ([recipe], "--undo"),
                            (["--adapter", adapters["linear"]], "--undo")):
        done = weft.run("merge", *arguments, "--out", tmp_path / "out", "--undo", tmp_path / "undo", check=False)
        assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1
    done = weft.run("merge", "--model", bases["f32"], "--adapter", adapters["linear"], "--out", tmp_path / "out",
                    "--undo", tmp_path / "none/undo", check=False)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
