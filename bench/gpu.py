"""`script/check-gpu`: weft on a GPU beside weft on the processor, and beside transformers + PEFT on the same GPU.

The demo's training shows that losses are the processor's, and that two runs give the same bytes, as do several ranks on
several GPUs; its adapter is folded on both, which must give the same files, and the time of each fold is told. Speed is
measured on a
Llama of 1.1 billion random parameters with rank 16 on all linears, in rows of 4096 tokens, an update of two rows.
Memory is the most of the GPU's that the process held, as the driver counts it.
"""
import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "check-gpu"
WEFT = ROOT / "build" / "release" / "bin" / "weft"
CACHE = Path(os.environ.get("WEFT_CACHE", Path.home() / ".cache" / "weft"))
ROW, ROWS, UPDATES, WARMUP = 4096, 2, 6, 2


def gpu_memory(pid):
    """MiB of the GPU that a process holds; 0 where the driver does not tell."""
    text = subprocess.run(["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"],
                          capture_output=True, text=True).stdout
    return sum(int(used) for one, used in (line.split(", ") for line in text.splitlines() if ", " in line)
               if int(one) == pid and used.isdigit())


def run(command, **options):
    """Runs a program and watches what it takes of the GPU: (exit status, output, MiB)."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, **options)
    most = 0
    ended = threading.Event()

    def watch():
        nonlocal most
        while not ended.wait(0.2):
            most = max(most, gpu_memory(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    ended.set()
    watcher.join()
    return process.returncode, output, most


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def train(config, folder, *changes, before=()):
    shutil.rmtree(folder, ignore_errors=True)
    settings = [word for change in (f"output_dir={folder}", *changes) for word in ("--set", change)]
    status, output, memory = run([*before, WEFT, "train", config, *settings])
    if status:
        raise SystemExit(f"weft train {' '.join(changes)} failed:\n{output[-2000:]}")
    return [line for line in lines_of(folder) if "loss" in line], memory


def check_demo():
    """Thirty updates of the demo on both, and once more on the GPU."""
    model = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    pairs = WORK / "pairs"
    if not pairs.exists():
        subprocess.run([ROOT / "build/release/bin/split_pairs", CACHE / "data/elotl/axolotl.csv", "--out", pairs,
                        "--columns", "es,nah,variant,document,iso", "--seed", "42"], check=True,
                       stdout=subprocess.DEVNULL)
    config = WORK / "demo.yaml"
    config.write_text(f"""base_model: {model}
output_dir: run
datasets: [{{path: {pairs}/train.csv, type: instruction, fields: {{instruction: "Traduce: {{es}}", output: "{{nah}}"}}}}]
sequence_len: 512
dtype: bfloat16
token_cache: false
adapter: {{r: 16, lora_alpha: 32}}
tokens_per_update: 1024
max_updates: 30
""")
    # Updates of 1024 tokens are one row on both, so that each holds the same examples.
    on = {device: train(config, WORK / f"demo-{device}", f"device={device}")[0] for device in ("cpu", "cuda")}
    train(config, WORK / "demo-again", "device=cuda")
    apart = [abs(gpu["loss"] / cpu["loss"] - 1) for cpu, gpu in zip(on["cpu"], on["cuda"])]
    adapters = [(WORK / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("demo-cuda", "demo-again")]
    return {"updates": len(apart), "largest_difference_of_losses": max(apart), "last_loss_cpu": on["cpu"][-1]["loss"],
            "last_loss_gpu": on["cuda"][-1]["loss"], "same_bytes_twice": adapters[0] == adapters[1]}


def check_ranks():
    """The same small training as one rank and as several, each on a GPU of its own: the same bytes of the adapter."""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.splitlines()
    gpus = sum(line.startswith("GPU ") for line in listed)
    if gpus < 2:
        return {"skipped": "it needs two GPUs"}
    if shutil.which("mpirun") is None or not (WEFT.parents[1] / "lib/libweft_mpi.so").exists():
        return {"skipped": "it needs mpirun, and a weft that was built with an MPI"}
    digests, ways = {}, {}
    for ranks in range(1, min(gpus, 4) + 1):
        folder = WORK / f"ranks-{ranks}"
        mpirun = ["mpirun", "--allow-run-as-root", "--bind-to", "none", "-np", ranks]
        # Rows are examples, so that an update has about thirty of them.
        train(WORK / "demo.yaml", folder, "device=cuda", "packing=false", "tokens_per_update=4096", "max_updates=6",
              "threads=2", before=mpirun)
        adapter = (folder / "adapter/adapter_model.safetensors").read_bytes()
        digests[ranks] = hashlib.sha256(adapter).hexdigest()
        ways[ranks] = json.loads((folder / "provenance.json").read_text()).get("ranks", {}).get("gradients_over")
    return {"adapters": digests, "gradients_over": ways, "same_bytes": len(set(digests.values())) == 1,
            "over_nccl": all(way is not None and way.startswith("NCCL") for count, way in ways.items() if count > 1)}


def merged(folder, device, *options):
    """A merge into `folder`: its seconds, the SHA-256 of every file, and merge.json without what names the run."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    subprocess.run([str(part) for part in (WEFT, "merge", *options, "--out", folder, "--device", device)], check=True,
                   stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    record = json.loads((folder / "merge.json").read_text())
    computed = sum(device["tensors"] for device in record.pop("devices", []))
    for key in ("seconds", "certificate_sha256"):
        record.pop(key)
    record["base"].pop("digest_kept")  # by which of the runs was the first
    for tensor in record["folded"]:
        tensor.pop("device", None)
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())
             if file.name != "merge.json"}
    return {"seconds": seconds, "files": files, "record": record, "gpu_tensors": computed}


def check_merge():
    """The demo's adapter folded on both, into bases of every type: the same bytes and figures of every file."""
    gguf = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    adapter = WORK / "demo-cpu" / "adapter"
    cases = []
    for dtype in ("f32", "bf16", "f16"):
        base = WORK / f"smollm2-{dtype}"
        subprocess.run([WEFT, "merge", "--model", gguf, "--dtype", dtype, "--out", base, "--force"], check=True,
                       stdout=subprocess.DEVNULL)
        for times in (1, 8):  # the factors of eight stand side by side: rank 128
            options = ["--model", base, "--allow-other-base"]
            for i in range(times):
                options += ["--adapter", f"{adapter}:{1 / (i + 1):.6f}"]
            on = {device: merged(WORK / f"merged-{device}", device, *options) for device in ("cpu", "cuda")}
            cases.append({"base": dtype, "rank": 16 * times, "tensors": len(on["cuda"]["record"]["folded"]),
                          "gpu_tensors": on["cuda"]["gpu_tensors"],
                          "same_files": on["cpu"]["files"] == on["cuda"]["files"],
                          "same_figures": on["cpu"]["record"] == on["cuda"]["record"],
                          "seconds_cpu": on["cpu"]["seconds"], "seconds_gpu": on["cuda"]["seconds"]})
    return cases


def large_model(python):
    """A Llama of 1.1 billion random parameters, and text for it."""
    folder = WORK / "large"
    if not (folder / "model.safetensors").exists():
        code = f"""
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained({str(WORK / 'smollm2')!r})
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
                     num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=4096)
model = LlamaForCausalLM(config).to(torch.bfloat16)
model.save_pretrained({str(folder)!r})
tokenizer.save_pretrained({str(folder)!r})
"""
        subprocess.run([WEFT, "merge", "--model", CACHE / "models/SmolLM2-135M-Instruct.Q4_1.gguf", "--out",
                        WORK / "smollm2", "--force"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([python, "-c", code], check=True)
    text = WORK / "large.txt"
    if not text.exists():
        words = "the quick brown fox jumps over the lazy dog and sees what no one saw before".split()
        text.write_text("\n".join(" ".join(words[(i * i + j * 7 + i * j) % len(words)] for j in range(3600))
                                  for i in range(64)))
    return folder, text


def measure_weft(model, text):
    config = WORK / "large.yaml"
    config.write_text(f"""base_model: {model}
output_dir: run
device: cuda
dtype: bfloat16
datasets: [{{path: {text}, type: text, documents: line}}]
sequence_len: {ROW}
over_length: split
token_cache: false
adapter: {{r: 16, lora_alpha: 32}}
tokens_per_update: {ROW * ROWS}
max_updates: {UPDATES + WARMUP}
""")
    steps, memory = train(config, WORK / "large-run")
    seconds = [b["seconds"] - a["seconds"] for a, b in zip(steps, steps[1:])][WARMUP - 1:]
    return {"tokens_per_s": statistics.median(s["tokens"] / t for s, t in zip(steps[WARMUP:], seconds)),
            "gpu_mib": memory}


PEER = """
import sys, time, statistics, json, torch
from transformers import LlamaForCausalLM
from peft import LoraConfig, get_peft_model
model, variant, row, rows, updates, warmup = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
attention = "flash_attention_2" if variant == "flash" else "sdpa"
base = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation=attention).cuda()
net = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
net.train()
for p in net.parameters():
    if p.requires_grad:
        p.data = p.data.float()
step = torch.compile(net) if variant == "compiled" else net
optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=2e-4)
torch.manual_seed(0)
times = []
for i in range(updates + warmup):
    ids = torch.randint(0, base.config.vocab_size, (rows, row), device="cuda")
    torch.cuda.synchronize(); begin = time.perf_counter()
    with torch.autocast("cuda", torch.bfloat16):
        loss = step(input_ids=ids, labels=ids).loss
    loss.backward(); torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0); optimizer.step(); optimizer.zero_grad()
    torch.cuda.synchronize()
    if i >= warmup: times.append(time.perf_counter() - begin)
print("WEFT " + json.dumps({"tokens_per_s": row * rows / statistics.median(times)}))
"""


def measure_peft(python, model, variant):
    status, output, memory = run([python, "-c", PEER, model, variant, ROW, ROWS, UPDATES, WARMUP])
    found = [line for line in output.splitlines() if line.startswith("WEFT ")]
    if status or not found:
        return {"failed": output.strip().splitlines()[-1:] or [f"exit status {status}"]}
    return json.loads(found[0][5:]) | {"gpu_mib": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--without-peer", action="store_true")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    tests = json.loads(options.tests.read_text())
    gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
                         capture_output=True, text=True).stdout.strip()
    result = {"gpu": gpu, "tests": {key: tests[key] for key in ("tests", "failures", "disabled")},
              "demo": check_demo(), "ranks": check_ranks(), "merge": check_merge()}
    sound = result["tests"]["failures"] == 0 and result["demo"]["same_bytes_twice"] and \
        result["demo"]["largest_difference_of_losses"] < 0.02 and result["ranks"].get("same_bytes", True) and result["ranks"].get("over_nccl", True) and \
        all(case["same_files"] and case["same_figures"] and case["gpu_tensors"] == case["tensors"]
            for case in result["merge"])
    reached = True
    if not options.without_peer:
        model, text = large_model(sys.executable)
        result["weft"] = measure_weft(model, text)
        result["peft"] = {variant: measure_peft(sys.executable, model, variant)
                          for variant in ("eager", "compiled", "flash")}
        compiled = result["peft"]["compiled"]
        if "tokens_per_s" in compiled:
            result["times_of_peft_compiled"] = result["weft"]["tokens_per_s"] / compiled["tokens_per_s"]
            result["share_of_its_memory"] = result["weft"]["gpu_mib"] / max(1, compiled["gpu_mib"])
            reached = result["times_of_peft_compiled"] >= 2 and result["share_of_its_memory"] <= 0.6
    result["seconds"] = time.monotonic() - began
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(1 if not sound else 0 if reached else 3)


if __name__ == "__main__":
    main()
