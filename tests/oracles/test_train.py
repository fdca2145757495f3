"""weft train against PEFT and torch.optim.AdamW, live; its files against PEFT's and TensorBoard's readers."""
import json
import re
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM,
                          get_cosine_schedule_with_warmup)

PAIRS = [
    ("Buenos días", "Cualli tonalli"),
    ("¿Cómo te llamas?", "¿Quen motoca?"),
    ("El maíz crece en la milpa", "In centli mozcaltia ipan milli"),
    ("Mi casa es grande", "Nocal huey"),
    ("Quiero beber agua", "Nicnequi niatliz"),
    ("La flor es hermosa", "In xochitl cualtzin"),
    ("El sol ya salió", "Ye oquiz in tonatiuh"),
    ("Los perros duermen", "In itzcuintin cochih"),
    ("Mañana iremos al mercado de la ciudad con nuestros hijos",
     "Moztla tiazqueh tianquizco ipan altepetl inhuan topilhuan"),
    ("Gracias", "Tlazohcamati"),
    ("El río baja de la montaña", "In atoyatl temo itech tepetl"),
]


def set_up(folder, model, targets="all-linear", parameters=None, **changes):
    """Writes an initial adapter with both factors random, the pairs, and the configuration."""
    torch.manual_seed(11)
    adapted = get_peft_model(model, LoraConfig(
        r=4, lora_alpha=8, target_modules=targets, target_parameters=parameters, init_lora_weights=False,
        task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.mul_(0.1)
    adapted.save_pretrained(folder / "initial")
    (folder / "train.jsonl").write_text("".join(
        json.dumps({"prompt": f"{a}\n", "completion": b}, ensure_ascii=False) + "\n"
        for a, b in PAIRS), encoding="utf-8")
    config = {
        "base_model": str(folder / "base"), "output_dir": str(folder / "run"),
        "datasets": [{"path": "train.jsonl", "type": "completion"}],
        "sequence_len": 256, "packing": False, "shuffle": False, "dtype": "float32",
        "tokens_per_update": 100, "adapter": {"init_from": "initial"}, "learning_rate": 2e-3,
        "lr_scheduler": "cosine", "warmup": 3, "weight_decay": 0.01, "max_grad_norm": 1.0,
        "max_updates": 20, "num_epochs": 100, "save": {"every": "7u", "keep": 1},
    } | changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return adapted, config


def updates_of(tokenizer, limit):
    """The batches of one epoch: examples in order, as many whole ones as fit into `limit` tokens."""
    batch, size = [], 0
    for prompt, answer in PAIRS:
        head = tokenizer(prompt + "\n", add_special_tokens=False)["input_ids"]
        tail = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        if batch and size + len(head) + len(tail) > limit:
            yield batch
            batch, size = [], 0
        batch.append((head + tail, [-100] * len(head) + tail))
        size += len(head) + len(tail)
    yield batch


def train_with_peft(model, tokenizer, config):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config["learning_rate"],
                                  weight_decay=config["weight_decay"])
    schedule = get_cosine_schedule_with_warmup(optimizer, config["warmup"], config["max_updates"])
    losses, norms = [], []
    model.train()
    while True:
        for batch in updates_of(tokenizer, config["tokens_per_update"]):
            supervised = sum(label != -100 for _, labels in batch for label in labels)
            total = 0.0
            for ids, labels in batch:
                logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
                loss = torch.nn.functional.cross_entropy(
                    logits, torch.tensor(labels[1:]), reduction="sum") / supervised
                loss.backward()
                total += loss.item()
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, config["max_grad_norm"]).item())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(total)
            if len(losses) == config["max_updates"]:
                return losses, norms


def metrics(folder, key="loss"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[key] for line in lines if key in line]


def check_against_peft(weft, folder, model, tokenizer, **changes):
    adapted, config = set_up(folder, model, **changes)
    weft("train", folder / "config.yaml")
    losses, norms = train_with_peft(adapted, tokenizer, config)
    assert metrics(folder / "run") == pytest.approx(losses, rel=1e-4)
    assert metrics(folder / "run", "gradient_norm") == pytest.approx(norms, rel=1e-3)
    assert losses[-1] < losses[0]
    ours = load_file(folder / "run/adapter/adapter_model.safetensors")
    adapted.save_pretrained(folder / "theirs")
    theirs = load_file(folder / "theirs/adapter_model.safetensors")
    initial = load_file(folder / "initial/adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in theirs:
        a, b = ours[name].flatten(), theirs[name].flatten()
        assert torch.cosine_similarity(a, b, dim=0) >= 0.9999, name
        # What training changed agrees as well, not only what it started from.
        a, b = a - initial[name].flatten(), b - initial[name].flatten()
        assert torch.cosine_similarity(a, b, dim=0) >= 0.999, name


@pytest.fixture(scope="module")
def tiny(smollm2_dir, tmp_path_factory):
    """A random model of two layers with SmolLM2's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)).eval()
    with torch.no_grad():  # Random models are flat; sharper ones show mistakes.
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return folder


@pytest.fixture(scope="module")
def trained(weft, tiny):
    """The tiny model, trained against PEFT in the first test that needs it."""
    model = AutoModelForCausalLM.from_pretrained(tiny / "base", dtype=torch.float32)
    check_against_peft(weft, tiny, model, AutoTokenizer.from_pretrained(tiny / "base"))
    return tiny


def test_twenty_updates_equal_peft_on_a_random_model(trained):
    assert (trained / "run/adapter/adapter_config.json").exists()


def test_twenty_updates_equal_peft_on_smollm2(weft, smollm2_dir, tmp_path):
    (tmp_path / "base").symlink_to(smollm2_dir)
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    # Small updates: the real size matters here, and its reference takes a second an example.
    check_against_peft(weft, tmp_path, model, AutoTokenizer.from_pretrained(smollm2_dir),
                       tokens_per_update=50)


def test_peft_loads_the_adapter_and_gives_our_logits(weft, trained, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(trained / "base")
    rows = [tokenizer(a + "\n" + b)["input_ids"] for a, b in PAIRS[:4]]
    (tmp_path / "ids.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    weft("logits", "--model", trained / "base", "--adapter", trained / "run/adapter",
         "--ids", tmp_path / "ids.jsonl", "--out", tmp_path / "logits.safetensors", "--dtype", "f32")
    base = AutoModelForCausalLM.from_pretrained(trained / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, trained / "run/adapter").eval()
    ours = load_file(tmp_path / "logits.safetensors")
    for i, row in enumerate(rows):
        with torch.no_grad():
            theirs = model(input_ids=torch.tensor([row])).logits[0]
        spread = (theirs.max() - theirs.min()).item()
        assert (ours[str(i)] - theirs).abs().max().item() <= 1e-4 * spread


def test_tensorboard_reads_the_curve_once_after_a_resumed_run(weft, trained):
    run = trained / "run"
    weft("train", trained / "config.yaml", "--resume", "--set", "max_updates=24")
    reader = EventAccumulator(str(run))
    reader.Reload()
    losses = metrics(run)
    points = reader.Scalars("train/loss")
    assert [p.step for p in points] == list(range(1, 25))
    assert [p.value for p in points] == pytest.approx(losses, rel=1e-6)
    assert len(reader.Scalars("train/learning_rate")) == 24


def mebibytes(text):
    """The plan's own figure: '883.1 MiB', '1.20 GiB'."""
    number, unit = re.search(r"memory +about ([0-9.]+) ([MG])iB", text).groups()
    return float(number) * (1024 if unit == "G" else 1)


@pytest.mark.parametrize("changes", [
    {},
    {"gradient_checkpointing": "all"},
    {"memory_limit": "720MiB"},
    {"base_quantization": "nf4", "dtype": "float32"},
], ids=["as it is", "recomputed", "limited", "nf4"])
def test_memory_stays_within_its_plan(weft, smollm2_gguf, tmp_path, changes):
    """On the real model, with examples enough for several rows: the kernel's figure, not our own."""
    lines = [{"prompt": f"{i} {a}\n", "completion": f"{b} {a} {b}"} for i in range(200) for a, b in PAIRS]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    config = {"base_model": str(smollm2_gguf), "output_dir": str(tmp_path / "run"),
              "datasets": [{"path": "train.jsonl", "type": "completion"}], "sequence_len": 512,
              "tokens_per_update": 1024, "adapter": {"r": 16, "target_modules": ["all-linear"]},
              "max_updates": 4, "save": {"every": "2u"}} | changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    peak = 0
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen([str(weft.path), "train", str(tmp_path / "config.yaml")],
                                   stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:  # getrusage would count this process, which was copied first
            status = Path(f"/proc/{process.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+([0-9]+) kB", status):
                peak = int(found.group(1)) / 1024
            time.sleep(0.02)
        log.seek(0)
        text = log.read()
    assert process.returncode == 0, text
    plan = mebibytes(text)
    assert 0.5 * plan <= peak <= 1.1 * plan, (peak, text)
    if "memory_limit" in changes:
        assert plan <= 720
