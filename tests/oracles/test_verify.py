"""weft merge --verify and weft export --verify against transformers and PEFT, computed on their own."""
import json
import math

import pytest
import torch
from gguf import GGUFReader
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = ("Nehuatl nicnequi nimitzittas moztla, tlazohcamati. In tonalli quitlanextia in tlalli. " * 3 +
        "¿Cómo se dice «agua» en náhuatl? Atl. The quick brown fox jumps over the lazy dog.\n")


@pytest.fixture(scope="module")
def adapter(smollm2_dir, tmp_path_factory):
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(smollm2_dir), LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "náhuatl.txt"
    path.write_text(TEXT)
    return path


def predictions(model, smollm2_dir):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT).input_ids]
    assert len(ids) < 512  # one window
    with torch.no_grad():
        return model(torch.tensor([ids[:-1]])).logits[0].double()


def figures(p, q):
    p_log, q_log = torch.log_softmax(p, -1), torch.log_softmax(q, -1)
    kl = (p_log.exp() * (p_log - q_log)).sum(-1)
    return {"tokens": len(kl), "kl": float(kl.mean()), "largest_kl": float(kl.max()),
            "same_top": float((p.argmax(-1) == q.argmax(-1)).double().mean()),
            "largest_difference": float((p - q).abs().max())}


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_merge_verification_equals_transformers_and_peft(weft, smollm2_dir, adapter, text, tmp_path, dtype):
    weft("merge", "--model", smollm2_dir, "--adapter", adapter, "--out", tmp_path / "out", "--dtype", dtype,
         "--verify", text)
    found = json.loads((tmp_path / "out" / "merge.json").read_text())["verification"]
    base = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    reference = predictions(PeftModel.from_pretrained(base, adapter), smollm2_dir)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    expected = figures(reference, predictions(merged, smollm2_dir))
    assert (found["accepted"], found["limit"], found["compute"]) == (True, 1e-3, "f32")
    assert found["tokens"] == expected["tokens"]
    if dtype == "f32":  # Only the order of sums differs.
        assert found["kl"] < 1e-7 and expected["kl"] < 1e-7 and found["same_top"] == 1
    else:
        assert found["kl"] > 1e-6  # There is something to measure,
        for key in ("kl", "largest_kl", "largest_difference"):
            assert math.isclose(found[key], expected[key], rel_tol=0.02), key
        assert abs(found["same_top"] - expected["same_top"]) <= 1.5 / found["tokens"]


def test_merge_beyond_the_limit_is_kept_as_rejected(weft, smollm2_dir, adapter, text, tmp_path):
    options = ["merge", "--model", smollm2_dir, "--adapter", adapter, "--out", tmp_path / "out", "--dtype", "bf16",
               "--verify", text, "--verify-limit", "1e-9"]
    done = weft.run(*options, check=False)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1 and "out.rejected" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.rejected", "out.rejected.json"]
    found = json.loads((tmp_path / "out.rejected" / "merge.json").read_text())["verification"]
    assert not found["accepted"] and found["kl"] > found["limit"] == 1e-9
    AutoModelForCausalLM.from_pretrained(tmp_path / "out.rejected")
    assert weft.run(*options, check=False).returncode == 3  # What an earlier run left does not block the next.
    (tmp_path / "out.rejected" / "notes.md").write_text("mine")
    done = weft.run(*options, "--force", check=False)
    assert done.returncode == 2 and "out.rejected" in done.stderr and (tmp_path / "out.rejected" / "notes.md").exists()


def test_bad_input_of_a_verification_is_found_before_anything_is_written(weft, smollm2_dir, adapter, text, tmp_path):
    merge = ["merge", "--model", smollm2_dir, "--adapter", adapter, "--out", tmp_path / "out"]
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    for options, word in [(["--verify", tmp_path / "none.txt"], "none.txt"), (["--verify", empty], "empty.txt"),
                          (["--verify", text, "--method", "ties:peft"], "--verify"),
                          (["--verify", text, "--verify-limit", "-1"], "--verify-limit")]:
        done = weft.run(*merge, *options, check=False)
        assert done.returncode == 2 and word in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "out").exists()
    done = weft.run("export", "--adapter", adapter, "--to", "peft", "--out", tmp_path / "out", "--verify", text, check=False)
    assert done.returncode == 2 and "--to peft" in done.stderr


def test_exported_files_are_verified_as_they_lie_there(weft, smollm2_dir, adapter, text, tmp_path):
    export = ["export", "--model", smollm2_dir, "--adapter", adapter, "--verify", text]
    plain = weft.json(*export, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")["verification"]
    assert plain["limit"] == 1e-3 and plain["kl"] < 1e-7
    # A block format is measured, and refused beyond the limit that is given.
    blocks = weft.json(*export, "--to", "gguf", "--type", "q4_k_m", "--out", tmp_path / "q4.gguf")["verification"]
    assert "limit" not in blocks and blocks["accepted"] and blocks["kl"] > 1e-3
    base = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    reference = predictions(PeftModel.from_pretrained(base, adapter), smollm2_dir)
    weft("merge", "--model", tmp_path / "q4.gguf", "--out", tmp_path / "back", "--dtype", "f32")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    expected = figures(reference, predictions(back, smollm2_dir))
    assert math.isclose(blocks["kl"], expected["kl"], rel_tol=0.01)
    done = weft.run(*export, "--to", "gguf", "--type", "q4_k_m", "--out", tmp_path / "no.gguf", "--verify-limit", "1e-4",
                    check=False)
    assert done.returncode == 3 and not (tmp_path / "no.gguf").exists() and "no.gguf.rejected" in done.stderr
    assert GGUFReader(tmp_path / "no.gguf.rejected").fields["general.file_type"].contents() == 15
    done = weft.run(*export, "--to", "ollama", "--type", "q4_k_m", "--out", tmp_path / "ollama", "--verify-limit", "1e-4",
                    check=False)
    assert done.returncode == 3 and not (tmp_path / "ollama").exists()
    assert (tmp_path / "ollama.rejected" / "Modelfile").exists()
    assert not list(tmp_path.glob("*.unchecked"))


def test_a_vocabulary_that_splits_the_text_otherwise_is_rejected(weft, smollm2_dir, tmp_path):
    text = tmp_path / "paragraphs.txt"
    text.write_text("Xihuitl!\n\nIhuan atl. 1521\n", encoding="utf-8")
    export = ["export", "--model", smollm2_dir, "--to", "gguf", "--type", "q8_0", "--verify", text]
    found = weft.json(*export, "--out", tmp_path / "right.gguf")["verification"]
    assert found["same_ids"] is True
    done = weft.run(*export, "--out", tmp_path / "wrong.gguf", "--pre", "llama-bpe", check=False)  # splits "!\n\n" otherwise
    assert done.returncode == 3 and not (tmp_path / "wrong.gguf").exists()
    assert GGUFReader(tmp_path / "wrong.gguf.rejected").fields["tokenizer.ggml.pre"].contents() == "llama-bpe"
    ids = AutoTokenizer.from_pretrained(smollm2_dir).encode(text.read_text())
    assert "token 6 of document 1 is" in done.stderr and f"should be {ids[5]} " in done.stderr
    assert len(done.stderr.splitlines()) == 1
