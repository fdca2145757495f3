"""`script/bench eval`: the speed of scoring, answering and choosing of weft and of others, in turns.

weft and transformers score the answers of the same sentence pairs, then answer the first questions
greedily, every answer to its full length. weft and lm-eval choose between four endings of a sentence by the same requests.
Peers run at several batch sizes and the best one counts. Times are without loading the model; losses
and log-probabilities of both are printed, since equal work has equal ones.

llama.cpp's llama-batched-bench answers as many prompts of the same mean length from an F16 GGUF, built for
this processor; its rate of new tokens leaves the time of the prompts out, weft's does not.
"""
import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from train import ROOT, WEFT, WORK, machine, prepare

BENCH = ROOT / "build/release/bin/bench_eval"
LLAMA = Path(os.environ["WEFT_CACHE"]) / "llama.cpp-0.3.36/source/build-native/bin/llama-batched-bench"


def run(command, threads):
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True,
                          env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def rates(figures):
    """Figures of what a program did, by name; a program that does not choose has none for it."""
    made = {"scored": figures["tokens"] / figures["score_s"],
            "answered": figures["new_tokens"] / figures["generate_s"],
            "loss": figures["loss"] / figures["answer_tokens"]}
    if "choose_s" in figures:
        made |= {"chosen": figures["questions"] / figures["choose_s"], "log_p": figures["log_p"]}
    return made


def write_work(examples):
    """The pairs and, made of them, sentences to be completed by their last two words or those of three others."""
    with open(WORK / "pairs/test.csv", newline="", encoding="utf-8") as file:
        pairs = [(f"Traduce al náhuatl: {r['es']}", r["nah"]) for r in csv.DictReader(file)][:examples]
    (WORK / "eval.json").write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
    jsonl = {"eval.jsonl": [{"instruction": q, "output": a} for q, a in pairs], "choices.jsonl": []}
    endings = [" ".join(answer.split()[-2:]) for _, answer in pairs]
    for i, (question, answer) in enumerate(pairs):
        others = [end for end in endings[i + 1:] + endings[:i] if end != endings[i]]
        choices = list(dict.fromkeys(others))[:3]
        choices.insert(i % 4, endings[i])
        jsonl["choices.jsonl"].append({"context": f"{question}\n{' '.join(answer.split()[:-2])}", "choices": choices,
                                       "answer": i % 4})
    for name, rows in jsonl.items():
        (WORK / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def run_batched_bench(answers, max_tokens, threads):
    """New tokens a second of llama.cpp, without and with the time of the prompts."""
    gguf = WORK / "smollm2-f16.gguf"
    if not gguf.exists():
        subprocess.run([WEFT, "export", "--model", WORK / "smollm2", "--to", "gguf", "--type", "f16", "--out", gguf],
                       check=True, stdout=subprocess.DEVNULL)
    prompts = [q for q, _ in json.loads((WORK / "eval.json").read_text(encoding="utf-8"))[:answers]]
    done = subprocess.run([WEFT, "tokenize", "--model", WORK / "smollm2"], input="".join(f"{q}\n" for q in prompts),
                          check=True, capture_output=True, text=True)
    template = 25  # tokens around a question in the chat template
    length = template + round(statistics.mean(len(json.loads(line)) for line in done.stdout.splitlines()))
    done = subprocess.run([LLAMA, "-m", gguf, "-npp", str(length), "-ntg", str(max_tokens), "-npl", str(answers),
                           "-c", str(answers * (length + max_tokens)), "-t", str(threads), "-tb", str(threads),
                           "--output-format", "jsonl"], check=True, capture_output=True, text=True)
    figures = next(json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return {"answered": figures["speed_tg"], "with_prompts": answers * max_tokens / (figures["t_pp"] + figures["t_tg"])}


def peers_of(dtype, batches, args):
    """Command lines of the programs that print what rates() reads."""
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    programs = {"weft": [BENCH, WORK / "smollm2", WORK / "eval.jsonl", WORK / "choices.jsonl", short, args.threads,
                         args.answers, args.max_tokens, 64]}
    for batch in batches:
        programs[f"transformers and lm-eval, batch {batch}"] = [
            sys.executable, ROOT / "bench/peers/transformers_eval.py", WORK / "smollm2", WORK / "eval.json",
            WORK / "choices.jsonl", "--dtype", dtype, "--batch", batch, "--answer-batch", batch, "--answers",
            args.answers, "--max-tokens", args.max_tokens, "--threads", args.threads]
    return programs


def print_table(results):
    """A row a program, with what weft's rate is of it."""
    kinds = ("scored", "answered", "chosen")
    print("| dtype | program | tokens/s scored | weft is faster by | tokens/s written | weft is faster by "
          "| questions/s | weft is faster by |")
    print("|---|---|---|---|---|---|---|---|")
    record = []
    for (dtype, name), rounds in results.items():
        median = {kind: statistics.median(r[kind] for r in rounds) for kind in kinds if kind in rounds[0]}
        weft = {kind: statistics.median(r[kind] for r in results[dtype, "weft"]) for kind in kinds}
        cells = [f"{median[kind]:.{1 if kind == 'chosen' else 0}f} | {weft[kind] / median[kind]:.2f}" if kind in median
                 else " | " for kind in kinds]
        print(f"| {dtype} | {name} | {' | '.join(cells)} |")
        record.append({"dtype": dtype, "program": name, **median, "rounds": rounds})
    (WORK / "eval-speed.json").write_text(json.dumps({"machine": machine(), "results": record}, indent=2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--batches", default="8,64", help="batch sizes of transformers and lm-eval")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(Path(os.environ["WEFT_CACHE"]))
    write_work(args.examples)
    if not LLAMA.exists():
        print(f"llama.cpp is left out: script/bench builds {LLAMA}", file=sys.stderr)

    results = {}
    for round_number in range(args.rounds):
        for dtype in args.dtypes.split(","):
            for name, command in peers_of(dtype, args.batches.split(","), args).items():
                figures = rates(run(command, args.threads))
                results.setdefault((dtype, name), []).append(figures)
                print(f"  round {round_number + 1} {dtype:9} {name:36} {figures['scored']:7.0f} tokens/s scored, "
                      f"{figures['answered']:6.0f} written, {figures['chosen']:5.1f} questions/s; "
                      f"loss {figures['loss']:.4f}, log p {figures['log_p']:.1f}", file=sys.stderr)
            if not LLAMA.exists():
                continue
            figures = run_batched_bench(args.answers, args.max_tokens, args.threads)
            results.setdefault((dtype, "llama.cpp, F16"), []).append(figures)
            print(f"  round {round_number + 1} llama.cpp, F16: {figures['answered']:.0f} written, "
                  f"{figures['with_prompts']:.0f} with the prompts' time", file=sys.stderr)

    import lm_eval
    import torch
    import transformers
    print(f"{machine()}; torch {torch.__version__}, transformers {transformers.__version__}, lm-eval "
          f"{lm_eval.__version__}; {args.examples} examples, {args.answers} answers of {args.max_tokens} tokens, "
          f"{args.rounds} rounds\n")
    print_table(results)


if __name__ == "__main__":
    main()
