"""`script/bench ranks`: data parallel on one machine, as ratios.

The same training as one rank with one thread, as N ranks with one thread each, and as one process with N
threads, in turns. A figure is the median over updates after the warm-up, then over rounds. One rank and N
ranks have the same threads each, so that their adapters have to be the same, bit for bit: that is checked.
There is no peer: the question is what ranks cost beside threads (docs/data-parallel.md).
"""
import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from train import ROOT, WARMUP, WEFT, WORK, machine, prepare

MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def run(name, ranks, threads, options):
    """Tokens a second, seconds of an update, and the adapter's digest."""
    folder = WORK / f"run-ranks-{name.replace(' ', '-')}"
    shutil.rmtree(folder, ignore_errors=True)
    words = [*(MPIRUN + ["-np", str(ranks)] if ranks else []), WEFT, "train", WORK / "train.yaml",
             "--set", f"output_dir={folder}", "--set", f"threads={threads}",
             *(word for option in options for word in ("--set", option))]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stderr}{' '.join(map(str, words))} failed")
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [step for step in steps if "loss" in step]
    seconds = [b["seconds"] - a["seconds"] for a, b in zip(steps, steps[1:])][WARMUP - 1:]
    adapter = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    return {"tokens_per_s": statistics.median(s["tokens"] / t for s, t in zip(steps[WARMUP:], seconds)),
            "update_s": statistics.median(seconds), "digest": hashlib.sha256(adapter).hexdigest()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2, metavar="N")
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096, help="of an update, in rows of 512")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    if not shutil.which("mpirun"):
        parser.error("there is no mpirun on this machine (Debian: openmpi-bin)")
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(Path(os.environ["WEFT_CACHE"]))
    options = [f"dtype={args.dtype}", f"tokens_per_update={args.tokens}", f"max_updates={args.updates + WARMUP}"]
    n = args.ranks
    shapes = {"1 rank, 1 thread": (1, 1), f"{n} ranks, 1 thread each": (n, 1), f"1 process, {n} threads": (0, n)}
    results = {name: [] for name in shapes}
    for round_number in range(args.rounds):
        for name, (ranks, threads) in shapes.items():
            results[name].append(run(name, ranks, threads, options))
            print(f"  round {round_number + 1} {name:26} {results[name][-1]['tokens_per_s']:7.1f} tokens/s",
                  file=sys.stderr)
    first, several, _ = shapes
    digests = {one["digest"] for name in (first, several) for one in results[name]}
    if len(digests) != 1:
        raise SystemExit("one rank and several gave different adapters")
    middle = {name: {key: statistics.median(one[key] for one in all_of) for key in ("tokens_per_s", "update_s")}
              for name, all_of in results.items()}
    base = middle[first]["tokens_per_s"]
    print(f"{machine()}; {args.dtype}, {args.tokens} tokens an update; one rank and {n} have the same adapter\n")
    print("| how | tokens/s | an update, s | beside one rank |")
    print("|---|---|---|---|")
    for name, one in middle.items():
        print(f"| {name} | {one['tokens_per_s']:.0f} | {one['update_s']:.2f} | {one['tokens_per_s'] / base:.2f} |")
    (WORK / "ranks.json").write_text(json.dumps({"machine": machine(), "arguments": vars(args), "results": results},
                                                indent=2))


if __name__ == "__main__":
    main()
