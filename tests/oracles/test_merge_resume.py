"""A merge that is killed goes on at its first unfinished file and writes the bytes of one that was not."""
import hashlib
import json
import signal
import subprocess
import time
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge_features import train
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
SHARDS = ["--max-shard-size", "4MB"]
RESUMED = "from a merge that was stopped"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=512, intermediate_size=1024, num_hidden_layers=8,
                                 num_attention_heads=8, num_key_value_heads=4)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    train(folder, base, target_modules="all-linear")
    return folder


def bytes_of(folder):
    """Every file's digest; of the certificate what does not depend on the clock, the folder's name and earlier merges.

    `digest_kept` tells whether a model's digest was computed by an earlier command: it is kept for a model whose files
    were not written in the last seconds, so that the second merge of a test may know what the first computed.
    """
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
               if path.name != "merge.json"}
    record = json.loads((folder / "merge.json").read_text())
    del record["seconds"], record["certificate_sha256"]
    for model in [record["base"], *record.get("models", [])]:
        del model["digest_kept"]
    return digests, record


def left_behind(out):
    return [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}.part-")]


def kill(weft, arguments, out, files):
    """Starts a merge and kills it when the journal has this many files; how many it has in the end."""
    process = subprocess.Popen([str(weft.path), *map(str, arguments), "--out", str(out)], stderr=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
    recorded = 0
    while process.poll() is None and recorded < files:
        try:
            recorded = len(json.loads(next(iter(left_behind(out))).joinpath("resume.json").read_text())["files"])
        except (OSError, StopIteration):
            time.sleep(0.0005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "killed too late"
    folder, = left_behind(out)
    return len(json.loads((folder / "resume.json").read_text())["files"])


def commands(base, adapter, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"merge_method: linear\nmodels:\n"
                      f"  - model: {base}\n    parameters: {{weight: 0.5}}\n"
                      f"  - model: {base}+{adapter}\n    parameters: {{weight: 0.5}}\n")
    return {"fold": ["merge", "--model", base, "--adapter", adapter, *SHARDS, "--threads", "1"],
            "stochastic": ["merge", "--model", base, "--adapter", adapter, *SHARDS, "--dtype", "bf16", "--rounding",
                           "stochastic", "--seed", "5", "--threads", "1"],
            "recipe": ["merge", recipe, *SHARDS, "--threads", "1"]}


@pytest.mark.parametrize("files", [1, 3, 8])
@pytest.mark.parametrize("command", ["fold", "stochastic", "recipe"])
def test_a_killed_merge_goes_on_and_writes_the_same_bytes(weft, base, adapter, tmp_path, command, files):
    arguments = commands(base, adapter, tmp_path)[command]
    weft(*arguments, "--out", tmp_path / "whole")
    finished = kill(weft, arguments, tmp_path / "out", files)
    assert finished >= files
    done = weft.run(*arguments, "--out", tmp_path / "out")
    assert f"{finished} of " in done.stderr and RESUMED in done.stderr
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert not left_behind(tmp_path / "out")
    weft("inspect", "--verify", tmp_path / "out")


def test_a_merge_killed_twice_goes_on_twice(weft, base, adapter, tmp_path):
    arguments = commands(base, adapter, tmp_path)["fold"]
    weft(*arguments, "--out", tmp_path / "whole")
    first = kill(weft, arguments, tmp_path / "out", 2)
    second = kill(weft, arguments, tmp_path / "out", first + 2)
    assert second >= first + 2
    assert RESUMED in weft.run(*arguments, "--out", tmp_path / "out").stderr
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


CHANGES = {
    "weight": lambda base, adapter: ["--adapter", f"{adapter}:0.5"],
    "type": lambda base, adapter: ["--adapter", adapter, "--dtype", "f16"],
    "rounding": lambda base, adapter: ["--adapter", adapter, "--dtype", "bf16", "--rounding", "error_feedback"],
    "shards": lambda base, adapter: ["--adapter", adapter, "--max-shard-size", "5MB"],
}


@pytest.mark.parametrize("what", CHANGES)
def test_other_parameters_start_anew(weft, base, adapter, tmp_path, what):
    kill(weft, commands(base, adapter, tmp_path)["fold"], tmp_path / "out", 3)
    options = CHANGES[what](base, adapter)
    options = options if "--max-shard-size" in options else [*options, *SHARDS]
    done = weft.run("merge", "--model", base, *options, "--out", tmp_path / "out")
    assert RESUMED not in done.stderr and not left_behind(tmp_path / "out")
    weft("merge", "--model", base, *options, "--out", tmp_path / "whole")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


@pytest.mark.parametrize("what", ["base", "adapter"])
def test_other_inputs_start_anew(weft, base, adapter, tmp_path, what):
    for source, name in ((base, "base"), (adapter, "adapter")):
        (tmp_path / name).mkdir()
        for path in source.iterdir():
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    arguments = ["merge", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", *SHARDS, "--threads", "1"]
    kill(weft, arguments, tmp_path / "out", 3)
    path = {"base": tmp_path / "base/model.safetensors", "adapter": tmp_path / "adapter/adapter_model.safetensors"}[what]
    tensors = {key: value * 2 for key, value in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    done = weft.run(*arguments, "--out", tmp_path / "out")
    assert RESUMED not in done.stderr
    weft(*arguments, "--out", tmp_path / "whole")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_damaged_file_is_written_again(weft, base, adapter, tmp_path):
    arguments = commands(base, adapter, tmp_path)["fold"]
    weft(*arguments, "--out", tmp_path / "whole")
    finished = kill(weft, arguments, tmp_path / "out", 3)
    folder, = left_behind(tmp_path / "out")
    victim = sorted(folder.glob("model-*.safetensors"))[1]
    damaged = bytearray(victim.read_bytes())
    damaged[-5] ^= 1
    victim.write_bytes(damaged)
    assert f"{finished - 1} of " in weft.run(*arguments, "--out", tmp_path / "out").stderr
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_journal_that_cannot_be_read_starts_anew(weft, base, adapter, tmp_path):
    arguments = commands(base, adapter, tmp_path)["fold"]
    kill(weft, arguments, tmp_path / "out", 3)
    folder, = left_behind(tmp_path / "out")
    (folder / "resume.json").write_text('{"key": 3')
    assert RESUMED not in weft.run(*arguments, "--out", tmp_path / "out").stderr
    assert not left_behind(tmp_path / "out")
    weft("inspect", "--verify", tmp_path / "out")


def test_what_is_still_being_written_is_left_alone(weft, base, adapter, tmp_path):
    arguments = [str(weft.path), *map(str, commands(base, adapter, tmp_path)["fold"]), "--out", str(tmp_path / "out")]
    running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not any((folder / "resume.json").exists() for folder in left_behind(tmp_path / "out")):
        assert running.poll() is None
        time.sleep(0.0005)
    running.send_signal(signal.SIGSTOP)
    try:
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 0 and RESUMED not in done.stderr
        assert len(left_behind(tmp_path / "out")) == 1
    finally:
        running.send_signal(signal.SIGKILL)
        running.wait()
