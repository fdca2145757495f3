"""Every set of product kernels that the processor has: the same losses as PEFT, rows of the same quality, and a run that
goes on with its own kernels only. Tiles of AMX are emulated where the processor has none."""
import json
import os
import warnings

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from test_model import divergence, reference, reference_logits, rows_of, weft_logits
from test_train import metrics, set_up, train_with_peft

warnings.simplefilter("ignore")
torch.set_num_threads(2)
SETS = ["amx", "avx512_bf16", "avx512", "avx2", "portable", "amx_emulated", "aten"]


@pytest.fixture(scope="module", autouse=True)
def no_choice():
    """The processor's own choice, whatever the caller's environment asks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WEFT_KERNELS", raising=False)
        yield


@pytest.fixture(scope="module")
def machine(weft):
    return weft.json("inspect", "--machine")


@pytest.fixture(params=SETS)
def kernels(request, machine, monkeypatch):
    if request.param not in ("amx_emulated", "aten") and request.param not in [rate["kernels"] for rate in machine["rates"]]:
        pytest.skip(f"this processor lacks {request.param}")
    monkeypatch.setenv("WEFT_KERNELS", request.param)
    return request.param


@pytest.fixture(scope="module")
def trained(smollm2_dir, tmp_path_factory):
    """A random model of two layers with SmolLM2's tokenizer, and 20 updates of it by PEFT."""
    folder = tmp_path_factory.mktemp("kernels")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapted, config = set_up(folder, model)
    return folder, train_with_peft(adapted, tokenizer, config)


def test_the_machine_is_described(machine):
    assert machine["processor"] and machine["cores"] >= 1 and machine["available_bytes"] > 0
    rates = {rate["kernels"]: rate for rate in machine["rates"]}
    assert machine["kernels"] in rates and "portable" in rates and not rates.keys() & {"amx_emulated", "aten"}
    assert all(rate["bfloat16_gflops"] > 1 and rate["float32_gflops"] > 1 for rate in rates.values())


def losses_of(weft, folder, run, dtype):
    weft("train", folder / "config.yaml", "--set", f"dtype={dtype}", "--set", f"output_dir={run}")
    return metrics(run), metrics(run, "gradient_norm")


def test_training_in_float32_equals_peft(weft, kernels, trained, tmp_path):
    folder, (losses, norms) = trained
    ours = losses_of(weft, folder, tmp_path / "run", "float32")
    assert ours[0] == pytest.approx(losses, rel=1e-4)
    assert ours[1] == pytest.approx(norms, rel=1e-3)


@pytest.fixture(scope="module")
def portable(weft, trained, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_KERNELS", "portable")
        return losses_of(weft, trained[0], tmp_path_factory.mktemp("portable") / "run", "bfloat16")


def test_training_in_bfloat16_equals_that_of_the_portable_kernels(weft, kernels, trained, portable, tmp_path):
    """Sums of exact products in another order: apart by roundings, which 20 updates let grow."""
    ours = losses_of(weft, trained[0], tmp_path / "run", "bfloat16")
    assert ours[0] == pytest.approx(trained[1][0], rel=2e-2)
    assert ours[0] == pytest.approx(portable[0], rel=2e-3)
    assert ours[1] == pytest.approx(portable[1], rel=3e-2)


def test_bf16_is_as_near_as_its_rounding(weft, kernels, trained, tmp_path):
    base = trained[0] / "base"
    rows = rows_of(199)
    exact, rounded = (reference_logits(reference(base, dtype), rows) for dtype in (torch.float32, torch.bfloat16))
    ours = weft_logits(weft, tmp_path, base, rows, "--dtype", "bf16")
    assert divergence(exact, ours) <= 1.5 * divergence(exact, rounded)


def train(weft, folder, run, updates, *options, environment=None, **more):
    settings = dict(output_dir=run, dtype="bfloat16", max_updates=updates, lr_scheduler="constant")
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return weft.run("train", folder / "config.yaml", *changes, *options, env=os.environ | (environment or {}), **more)


def adapter_of(run):
    return (run / "adapter/adapter_model.safetensors").read_bytes()


def test_a_run_that_goes_on_has_the_bits_of_one_that_never_stopped(weft, kernels, trained, tmp_path):
    train(weft, trained[0], tmp_path / "whole", 6)
    train(weft, trained[0], tmp_path / "run", 4)
    train(weft, trained[0], tmp_path / "run", 6, "--resume")
    assert adapter_of(tmp_path / "run") == adapter_of(tmp_path / "whole")


def test_a_run_goes_on_with_its_own_kernels_only(weft, machine, trained, tmp_path):
    own = machine["kernels"]
    others = [rate["kernels"] for rate in reversed(machine["rates"]) if rate["kernels"] != own]
    if not others:
        pytest.skip("this processor has one set of kernels")
    other = others[0]
    train(weft, trained[0], tmp_path / "run", 2, environment={"WEFT_KERNELS": other})
    refused = train(weft, trained[0], tmp_path / "run", 4, "--resume", check=False)
    assert refused.returncode == 2
    assert f"write WEFT_KERNELS={other} before the command" in refused.stderr
    assert f"kernels was {other}" in refused.stderr and own in refused.stderr


@pytest.fixture(scope="module")
def usual(weft, trained, tmp_path_factory):
    run = tmp_path_factory.mktemp("usual") / "run"
    train(weft, trained[0], run, 6, "--set", "threads=2")
    return adapter_of(run)


@pytest.mark.parametrize("threads, environment", [
    (1, {}), (3, {}), (8, {}), (2, {"OMP_WAIT_POLICY": "active"}), (8, {"OMP_WAIT_POLICY": "active"}),
    (8, {"OMP_WAIT_POLICY": "passive"}), (2, {"OMP_PROC_BIND": "true"}), (2, {"OMP_DYNAMIC": "true"}),
    (3, {"GOMP_SPINCOUNT": "1000000000"}), (2, {"OMP_NUM_THREADS": "1"})])
def test_neither_threads_nor_how_they_wait_change_a_bit(weft, trained, usual, tmp_path, threads, environment):
    """More threads than cores, and threads that wait by spinning, end in time and with the same bits."""
    train(weft, trained[0], tmp_path / "run", 6, "--set", f"threads={threads}", environment=environment, timeout=120)
    assert adapter_of(tmp_path / "run") == usual


def test_bound_threads_do_not_leave_one_core(weft, machine):
    done = weft.run("inspect", "--machine", "--json", env=os.environ | {"OMP_PROC_BIND": "true"})
    assert json.loads(done.stdout)["cores"] == machine["cores"]
    assert "OMP_PROC_BIND=true is not followed" in done.stderr


@pytest.mark.parametrize("name, told", [("avx1024", "there are no such kernels"), ("avx_2", "there are no such kernels (nearest: 'avx2')"),
                                        ("amx", "this processor, or its operating system, lacks these instructions")])
def test_kernels_that_are_not_there_are_one_line(weft, machine, tmp_path, name, told):
    if name in [rate["kernels"] for rate in machine["rates"]]:
        pytest.skip("this processor has them")
    done = weft.run("inspect", "--machine", check=False, env=os.environ | {"WEFT_KERNELS": name})
    assert done.returncode == 2 and done.stdout == ""
    assert told in done.stderr and done.stderr.count("\n") == 1 and machine["kernels"] in done.stderr
