"""`script/bench eval`: the speed of scoring and of answering, weft and transformers, in turns.

Both score the answers of the same sentence pairs, then answer the first questions greedily, every
answer to its full length. transformers runs at several batch sizes and its best one counts. Times
are without loading the model; the losses of both are printed, since equal work has equal losses.
"""
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from train import ROOT, WORK, machine, prepare

BENCH = ROOT / "build/release/bin/bench_eval"


def run(command, threads):
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True,
                          env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def rates(figures):
    return {"scored": figures["tokens"] / figures["score_s"],
            "answered": figures["new_tokens"] / figures["generate_s"],
            "loss": figures["loss"] / figures["answer_tokens"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batches", default="8,64", help="batch sizes of transformers")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(Path(os.environ["WEFT_CACHE"]))
    with open(WORK / "pairs/test.csv", newline="", encoding="utf-8") as file:
        pairs = [(f"Traduce al náhuatl: {r['es']}", r["nah"]) for r in csv.DictReader(file)][:args.examples]
    (WORK / "eval.json").write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    (WORK / "eval.jsonl").write_text("".join(
        json.dumps({"instruction": q, "output": a}, ensure_ascii=False) + "\n" for q, a in pairs), encoding="utf-8")

    results = {}
    for round_number in range(args.rounds):
        for dtype in args.dtypes.split(","):
            short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
            programs = {"weft": [BENCH, WORK / "smollm2", WORK / "eval.jsonl", short, args.threads, args.answers,
                                 args.max_tokens, 64]}
            for batch in args.batches.split(","):
                programs[f"transformers, batch {batch}"] = [
                    sys.executable, ROOT / "bench/peers/transformers_eval.py", WORK / "smollm2", WORK / "eval.json",
                    "--dtype", dtype, "--batch", batch, "--answer-batch", batch, "--answers", args.answers,
                    "--max-tokens", args.max_tokens, "--threads", args.threads]
            for name, command in programs.items():
                figures = rates(run(command, args.threads))
                results.setdefault((dtype, name), []).append(figures)
                print(f"  round {round_number + 1} {dtype:9} {name:24} {figures['scored']:7.0f} tokens/s scored, "
                      f"{figures['answered']:6.0f} written, loss {figures['loss']:.4f}", file=sys.stderr)

    import torch
    import transformers
    print(f"{machine()}; torch {torch.__version__}, transformers {transformers.__version__}; {args.examples} examples, "
          f"{args.answers} answers of {args.max_tokens} tokens, {args.rounds} rounds\n")
    print("| dtype | program | tokens/s scored | weft is faster by | tokens/s written | weft is faster by |")
    print("|---|---|---|---|---|---|")
    record = []
    for (dtype, name), rounds in results.items():
        median = {key: statistics.median(r[key] for r in rounds) for key in ("scored", "answered")}
        weft = {key: statistics.median(r[key] for r in results[dtype, "weft"]) for key in median}
        print(f"| {dtype} | {name} | {median['scored']:.0f} | {weft['scored'] / median['scored']:.2f} "
              f"| {median['answered']:.0f} | {weft['answered'] / median['answered']:.2f} |")
        record.append({"dtype": dtype, "program": name, **median, "rounds": rounds})
    (WORK / "eval-speed.json").write_text(json.dumps({"machine": machine(), "results": record}, indent=2))


if __name__ == "__main__":
    main()
