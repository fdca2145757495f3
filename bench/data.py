"""`script/bench data`: what a million examples cost before the first update, and in memory.

Sentence pairs are drawn from the demo's corpus, with another number in each so that all differ, and
trained for two updates: a hundred of them, which is the run without data, then all of them twice,
with an empty token cache and with the one that the first run left. There is no peer: trainers that
keep lists of Python objects are in another class (docs/performance.md).
"""
import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from train import ROOT, WORK, machine, prepare

CONFIG = """base_model: {model}
output_dir: run-data
datasets: [{{path: {data}, type: instruction}}]
sequence_len: 512
tokens_per_update: 2048
adapter: {{r: 16, lora_alpha: 32}}
max_updates: 2
eval: {{every: null}}
log_every: 1
token_cache: tokens
"""


def write_examples(path, count):
    with open(WORK / "pairs/train.csv", newline="", encoding="utf-8") as file:
        # With the chat template's 25 tokens, about 60 an example.
        pairs = [(row["es"], row["nah"]) for row in csv.DictReader(file) if len(row["es"] + row["nah"]) <= 60]
    rng = random.Random(1)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            spanish, nahuatl = rng.choice(pairs)
            file.write(json.dumps({"instruction": f"Traduce {number}: {spanish}", "output": nahuatl},
                                  ensure_ascii=False) + "\n")


def run(data, model, threads):
    config = WORK / "data.yaml"
    config.write_text(CONFIG.format(model=model, data=data), encoding="utf-8")
    begin = time.monotonic()
    process = subprocess.Popen([ROOT / "build/release/bin/weft", "train", config, "--force", "--set",
                                f"threads={threads}"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    first, lines = None, []
    for line in process.stderr:
        lines.append(line)
        if first is None and "update 1/" in line:
            first = time.monotonic() - begin
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit("".join(lines))
    return {"first_update_s": first, "peak_mib": usage.ru_maxrss / 1024,
            "cpu_s": usage.ru_utime + usage.ru_stime, "said": [line for line in lines if "tokens" in line]}


def peak_of_check(data, model):
    """The peak without weights: reading, tokenising and planning alone."""
    (WORK / "data.yaml").write_text(CONFIG.format(model=model, data=data), encoding="utf-8")
    process = subprocess.Popen([ROOT / "build/release/bin/weft", "train", WORK / "data.yaml", "--check",
                                "--force"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"weft train --check ended with {process.returncode}")
    return usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    cache = Path(os.environ["WEFT_CACHE"])
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(cache)
    model = cache / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
    few, many = WORK / "few.jsonl", WORK / "many.jsonl"
    write_examples(few, 100)
    write_examples(many, args.examples)
    shutil.rmtree(WORK / "tokens", ignore_errors=True)
    results = {}
    for name, data in (("100 examples", few), (f"{args.examples} examples, first run", many),
                       (f"{args.examples} examples, second run", many)):
        check = peak_of_check(data, model)  # makes the tokens where there are none yet
        if name.endswith("first run"):
            shutil.rmtree(WORK / "tokens")
        results[name] = {**run(data, model, args.threads), "check_mib": check}
        print(name, results[name], file=sys.stderr)
    base = results["100 examples"]["check_mib"]
    print(f"{machine()}; {args.threads} threads; {many.stat().st_size / 2**20:.0f} MiB of JSON\n")
    print("| run | first update after s | processor s | peak MiB | without weights | of it for data |")
    print("|---|---|---|---|---|---|")
    for name, one in results.items():
        print(f"| {name} | {one['first_update_s']:.1f} | {one['cpu_s']:.1f} | {one['peak_mib']:.0f} "
              f"| {one['check_mib']:.0f} | {one['check_mib'] - base:.0f} |")
    print("\n" + "".join(results[f"{args.examples} examples, second run"]["said"]))
    (WORK / "data.json").write_text(json.dumps({"machine": machine(), "results": results}, indent=2))
    many.unlink()
    shutil.rmtree(WORK / "tokens")


if __name__ == "__main__":
    main()
