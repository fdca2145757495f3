"""`script/bench train`: training speed and memory of weft and of transformers + PEFT.

Both programs train the same adapter shape on the same sentence pairs, in turns: rows of 512 tokens,
two an update. A figure is the median over updates after the warm-up, then over rounds. Both get the
same number of threads; PEFT additionally compiled and uncompiled, since either may win.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "bench"
WEFT = ROOT / "build" / "release" / "bin" / "weft"
WARMUP = 2


def prepare(cache: Path):
    """The model as a Hugging Face directory that both read, and the pairs."""
    model = WORK / "smollm2"
    if not model.exists():
        gguf = cache / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        subprocess.run([WEFT, "merge", "--model", gguf, "--out", model, "--dtype", "f32"], check=True)
    if not (WORK / "pairs" / "train.csv").exists():
        subprocess.run([ROOT / "build/release/bin/split_pairs", cache / "data/elotl/axolotl.csv",
                        "--out", WORK / "pairs", "--columns", "es,nah,variant,document,iso", "--seed", "42"],
                       check=True, stdout=subprocess.DEVNULL)
    shutil.copy(ROOT / "bench" / "train.yaml", WORK / "train.yaml")


def run_weft(dtype, updates, threads):
    run = WORK / f"run-{dtype}"
    shutil.rmtree(run, ignore_errors=True)
    command = ["/usr/bin/env", "python3", "-c",
               "import resource,subprocess,sys;c=subprocess.run(sys.argv[1:],stderr=subprocess.DEVNULL).returncode;"
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss);sys.exit(c)",
               WEFT, "train", WORK / "train.yaml", "--set", f"dtype={dtype}", "--set", f"output_dir={run}",
               "--set", f"threads={threads}", "--set", f"max_updates={updates + WARMUP}"]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    rates = [b["tokens"] / (b["seconds"] - a["seconds"]) for a, b in zip(steps, steps[1:])]
    return {"tokens_per_s": statistics.median(rates[WARMUP - 1:]),
            "peak_rss_gib": int(done.stdout.split()[-1]) / 2**20,
            "first_loss": steps[0]["loss"], "last_loss": steps[-1]["loss"]}


def run_peft(dtype, updates, threads, compiled):
    command = [sys.executable, ROOT / "bench/peers/peft_train.py", WORK / "smollm2",
               WORK / "pairs/train.csv", "--dtype", dtype, "--updates", updates,
               "--warmup", WARMUP + compiled, "--threads", threads]
    if compiled:
        command.append("--compile")
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True,
                          env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def machine():
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line),
                platform.processor())
    return f"{name}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes minutes)")
    args = parser.parse_args()
    cache = Path(os.environ["WEFT_CACHE"])
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(cache)

    programs = [("weft", lambda dtype: run_weft(dtype, args.updates, args.threads)),
                ("PEFT", lambda dtype: run_peft(dtype, args.updates, args.threads, False))]
    if not args.no_compile:
        programs.append(("PEFT, torch.compile", lambda dtype: run_peft(dtype, args.updates, args.threads, True)))
    results = {}
    for round_number in range(args.rounds):
        for dtype in args.dtypes.split(","):
            for name, run in programs:
                figures = run(dtype)
                results.setdefault((dtype, name), []).append(figures)
                print(f"  round {round_number + 1} {dtype:9} {name:20} {figures['tokens_per_s']:7.1f} tokens/s",
                      file=sys.stderr)

    import peft
    import torch
    import transformers
    table, record = [], []
    for dtype in args.dtypes.split(","):
        speed = {name: statistics.median(r["tokens_per_s"] for r in results[dtype, name]) for name, _ in programs}
        memory = {name: max(r["peak_rss_gib"] for r in results[dtype, name]) for name, _ in programs}
        for name, _ in programs:
            table.append(f"| {dtype} | {name} | {speed[name]:.0f} | {speed['weft'] / speed[name]:.2f} "
                         f"| {memory[name]:.2f} | {memory[name] / memory['weft']:.2f} |")
            record.append({"dtype": dtype, "program": name, "tokens_per_s": speed[name],
                           "peak_rss_gib": memory[name], "rounds": results[dtype, name]})
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    print(f"{machine()}; {versions}; {args.rounds} rounds of {args.updates} updates\n")
    print("| dtype | program | tokens/s | weft is faster by | peak GiB | times weft's |")
    print("|---|---|---|---|---|---|")
    print("\n".join(table))
    (WORK / "train.json").write_text(json.dumps(
        {"machine": machine(), "versions": versions, "results": record}, indent=2))


if __name__ == "__main__":
    main()
