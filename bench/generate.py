"""`script/bench generate`: the speed at which one answer is written, beside llama.cpp's llama-bench, in turns.

SmolLM2-135M as GGUF files of several types, read by both programs with the same threads. Each writes an answer of
--tokens tokens after a prompt of one, several times; the median counts. `none` widens the file's blocks to the type that
is computed with, as weft did before it could read them where they lie. GB/s: bytes of weights times tokens a second,
which the memory's rate bounds where they do not fit into a cache.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from train import ROOT, WEFT, WORK, machine

BENCH = ROOT / "build/release/bin/bench_generate"
TOOLS = Path(os.environ["WEFT_CACHE"]) / "llama.cpp-0.3.36/source/build-native/bin"


def output_of(*command):
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return done.stdout


def model_of(kind):
    """The demo's model as a GGUF file of a type; q4_k_m holds q5_0 and q8_0 where rows are no whole super-blocks."""
    path = WORK / f"smollm2-{kind}.gguf"
    if not path.exists():
        source = Path(os.environ["WEFT_CACHE"]) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        output_of(WEFT, "export", "--model", source, "--to", "gguf", "--type", kind, "--out", path)
    return path


def rates_of_weft(model, dtype, keeps, args):
    figures = json.loads(output_of(BENCH, model, dtype, args.threads, args.tokens, args.repeats, keeps))
    return figures["rates"], figures["weights"]


def rates_of_llama(model, args):
    runs = json.loads(output_of(TOOLS / "llama-bench", "-m", model, "-p", 0, "-n", args.tokens, "-t", args.threads,
                                "-r", args.repeats, "-o", "json"))
    return runs[0]["samples_ts"], runs[0]["model_size"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--types", default="bf16,q8_0,q4_0,q4_k_m", help="types of GGUF files")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3, help="answers of a program in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="auto", help="what weft computes in: auto, f32 or bf16")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    types = args.types.split(",")
    rates, sizes = {}, {}
    for round_number in range(args.rounds):
        for kind in types:
            model = model_of(kind)
            programs = {"weft": lambda m=model: rates_of_weft(m, args.dtype, "auto", args),
                        "llama.cpp": lambda m=model: rates_of_llama(m, args)}
            if kind != "bf16":
                programs["weft, none"] = lambda m=model: rates_of_weft(m, args.dtype, "none", args)
            for name, measure in programs.items():
                found, sizes[kind, name] = measure()
                rates.setdefault((kind, name), []).extend(found)
                print(f"  round {round_number + 1} {kind:7} {name:12} {statistics.median(found):6.1f} tokens/s",
                      file=sys.stderr)
    print(f"{machine()}; {args.threads} threads, {args.tokens} tokens, {args.rounds} rounds of {args.repeats}\n")
    print("| type | program | tokens/s | of llama.cpp's | GB/s |")
    print("|---|---|---|---|---|")
    record = []
    for (kind, name), found in sorted(rates.items(), key=lambda item: types.index(item[0][0])):
        rate, peer = statistics.median(found), statistics.median(rates[kind, "llama.cpp"])
        print(f"| {kind} | {name} | {rate:.1f} | {rate / peer:.2f} | {rate * sizes[kind, name] / 1e9:.1f} |")
        record.append({"type": kind, "program": name, "tokens_s": rate, "of_llama": rate / peer, "rates": found})
    (WORK / "generate-speed.json").write_text(json.dumps({"machine": machine(), "results": record}, indent=2))


if __name__ == "__main__":
    main()
