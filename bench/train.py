"""`script/bench train`: training speed and memory of weft and of transformers + PEFT.

Both programs train the same adapter shape on the same sentence pairs, in turns, in rows of 512
tokens; PEFT two rows an update, compiled and not, since either may win, and once as most scripts do it,
with padded batches of 8 in random order. A figure is the median over updates after the warm-up (padded: all tokens by
all time, since their updates differ), then over rounds. All get the same number of threads. A token is one of an example; weft computes common beginnings once.

--qvac adds the LoRA trainer of QVAC's fork of llama.cpp, in rows of 512 tokens, one an update, always from an f32 base.

The share of the matrix products' rate is an update's arithmetic (frozen layers forward and for the input's
gradient, adapters, the head on supervised positions; attention's left out) by its time, relative to the
rate of products at these shapes, the better of LibTorch's and weft's, measured in each round: once for the
tokens of the examples, which is the work that any program has to get done, and once for those that weft
computes, which is what the processor does.
"""
import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "bench"
WEFT = ROOT / "build" / "release" / "bin" / "weft"
WARMUP = 2
QVAC_HELP = """also the LoRA trainer of QVAC's fork of llama.cpp. PROGRAM is llama-finetune-lora, built with
  git clone https://github.com/tetherto/qvac-fabric-llm.cpp && cd qvac-fabric-llm.cpp
  git checkout 57d4c9849a2dff5118843cc9e675b006d8493e04
  cmake -B build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF
  cmake --build build --target llama-finetune-lora"""


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


def minor_faults(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])


def run_weft(dtype, updates, threads, *options):
    """Trains and watches: page faults are counted between the end of the warm-up and the last update but one."""
    run = WORK / f"run-{dtype}"
    shutil.rmtree(run, ignore_errors=True)
    command = [WEFT, "train", WORK / "train.yaml", "--set", f"dtype={dtype}", "--set", f"output_dir={run}",
               "--set", f"threads={threads}", "--set", f"max_updates={updates + WARMUP}",
               *(word for option in options for word in ("--set", option))]
    metrics = run / "metrics.jsonl"
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    faults = {}
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        done = metrics.read_text().count('"loss"') if metrics.exists() else 0
        faults.setdefault(done, minor_faults(process.pid))
        time.sleep(0.05)
    if status:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    seconds = [b["seconds"] - a["seconds"] for a, b in zip(steps, steps[1:])][WARMUP - 1:]
    counted = steps[WARMUP:]
    first = min(n for n in faults if n >= WARMUP)
    last = max(n for n in faults if n < updates + WARMUP)  # the adapter is saved after the last update
    return {"tokens_per_s": statistics.median(s["tokens"] / t for s, t in zip(counted, seconds)),
            "work_gflop_per_s": statistics.median(gigaflop(s, "tokens") / t for s, t in zip(counted, seconds)),
            "done_gflop_per_s": statistics.median(gigaflop(s, "computed_tokens") / t for s, t in zip(counted, seconds)),
            "faults_per_update": (faults[last] - faults[first]) / max(1, last - first),
            "peak_rss_gib": usage.ru_maxrss / 2**20,
            "first_loss": steps[0]["loss"], "last_loss": steps[-1]["loss"]}


def tokens_of(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(line.get("total_tokens", 0) for line in lines)


def peak_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+([0-9]+) kB", status)
    return int(found[1]) if found else 0


def run_together(commands, runs):
    """Starts all, waits for all: tokens of all runs by the time from start to end, and the peaks' sum."""
    for run in runs:
        shutil.rmtree(run, ignore_errors=True)
    begin = time.monotonic()
    processes = [subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL) for command in commands]
    peaks = [0] * len(processes)
    while any(process.poll() is None for process in processes):
        for i, process in enumerate(processes):
            try:
                peaks[i] = max(peaks[i], peak_kib(process.pid))
            except OSError:
                pass
        time.sleep(0.05)
    seconds = time.monotonic() - begin
    if any(process.returncode for process in processes):
        raise SystemExit(f"{' '.join(map(str, commands[0]))} failed")
    return {"tokens_per_s": sum(map(tokens_of, runs)) / seconds, "peak_rss_gib": sum(peaks) / 2**20}


def compare_several(count, dtype, updates, threads):
    """`adapters:` of one run beside as many processes at once, which share the threads."""
    names = [f"a{i}" for i in range(count)]
    together = WORK / "several.yaml"
    together.write_text((WORK / "train.yaml").read_text() + "adapters:\n" + "".join(
        f"  - {{name: {name}, seed: {i + 1}, adapter: {{r: {8 << i % 3}}}}}\n" for i, name in enumerate(names)))
    common = ["--set", f"dtype={dtype}", "--set", f"max_updates={updates}"]
    folder = WORK / "run-several"
    one = run_together([[WEFT, "train", together, *common, "--set", f"threads={threads}",
                         "--set", f"output_dir={folder}", "--force"]], [folder / name for name in names])
    apart, runs = [], []
    for i, name in enumerate(names):
        runs.append(WORK / f"run-apart-{name}")
        apart.append([WEFT, "train", WORK / "train.yaml", *common, "--set", f"threads={max(1, threads // count)}",
                      "--set", f"output_dir={runs[-1]}", "--set", f"seed={i + 1}", "--set", f"adapter.r={8 << i % 3}"])
    return one, run_together(apart, runs)


def gigaflop(step, tokens):
    """An update of SmolLM2-135M with LoRA of rank 16 on step[tokens] tokens, attention's products left out."""
    hidden, kv, wide, layers, vocabulary, rank = 576, 192, 1536, 30, 49152, 16
    shapes = [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden),
              (wide, hidden), (wide, hidden), (hidden, wide)]
    frozen = layers * sum(out * into for out, into in shapes)
    adapter = layers * sum(rank * (out + into) for out, into in shapes)
    return 1e-9 * (step[tokens] * (4 * frozen + 6 * adapter)
                   + step["supervised_tokens"] * 4 * vocabulary * hidden)


def product_rate(dtype, threads):
    """GFLOP/s of LibTorch's and of weft's products: the middle of the base's shapes."""
    short = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    done = subprocess.run([ROOT / "build/release/bin/bench_product", "--dtype", short, "--threads", str(threads)],
                          check=True, capture_output=True, text=True)
    rates = [[float(x) for x in re.findall(r"([0-9]+) GF", line)]
             for line in done.stdout.splitlines() if "W^T" in line or "dy W" in line]
    return {"weft": statistics.median(r[0] for r in rates), "LibTorch": statistics.median(r[1] for r in rates)}


def run_peer(script, arguments, threads):
    """The figures that a script of bench/peers prints as its last line."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS=str(threads))
    done = subprocess.run([sys.executable, ROOT / "bench/peers" / script, *map(str, arguments)],
                          capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{done.stderr}{script} failed")
    return json.loads(done.stdout.splitlines()[-1])


def run_peft(dtype, updates, threads, compiled, *options):
    more = ["--compile", *options] if compiled else options
    return run_peer("peft_train.py", [WORK / "smollm2", WORK / "pairs/train.csv", "--dtype", dtype,
                                      "--updates", updates, "--warmup", WARMUP + compiled, "--threads", threads,
                                      *more], threads)


def run_qvac(program, updates, threads):
    """From an f32 base whatever the others' dtype: docs/performance.md says why."""
    gguf = WORK / "smollm2-f32.gguf"
    if not gguf.exists():
        subprocess.run([WEFT, "export", "--model", WORK / "smollm2", "--to", "gguf", "--type", "f32", "--out", gguf],
                       check=True, stdout=subprocess.DEVNULL)
    return run_peer("qvac_train.py", [program, WORK / "smollm2", gguf, WORK / "pairs/train.csv", WORK / "qvac",
                                      "--updates", updates, "--warmup", WARMUP, "--threads", threads], threads)


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
    parser.add_argument("--peft-dtypes", help="what PEFT trains in, some of --dtypes, by default all: without AVX-512, "
                        "LibTorch's products in bfloat16 are slow, and float32 alone is worth the time")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it takes minutes)")
    parser.add_argument("--variants", action="store_true",
                        help="weft with recomputation and quantised bases, PEFT with padding, as well")
    parser.add_argument("--adapters", type=int, default=0, metavar="N",
                        help="N adapters in one run beside N processes, and nothing else")
    parser.add_argument("--qvac", type=Path, metavar="PROGRAM", help=QVAC_HELP)
    args = parser.parse_args()
    if args.qvac and not shutil.which(args.qvac):
        parser.error(f"--qvac: {args.qvac} is not a program; see --help for how to build it")
    peft_dtypes = (args.peft_dtypes or args.dtypes).split(",")
    if not set(peft_dtypes) <= set(args.dtypes.split(",")):
        parser.error("--peft-dtypes: these are some of --dtypes")
    cache = Path(os.environ["WEFT_CACHE"])
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(cache)
    if args.adapters:
        for dtype in args.dtypes.split(","):
            one, apart = compare_several(args.adapters, dtype, args.updates, args.threads)
            print(f"{dtype}: {args.adapters} adapters, {args.updates} updates each, loading included: one process "
                  f"{one['tokens_per_s']:.0f} tokens/s, {one['peak_rss_gib']:.2f} GiB; as many processes "
                  f"{apart['tokens_per_s']:.0f} tokens/s, {apart['peak_rss_gib']:.2f} GiB "
                  f"({one['tokens_per_s'] / apart['tokens_per_s']:.2f} x the speed in "
                  f"{one['peak_rss_gib'] / apart['peak_rss_gib']:.2f} of the memory)")
        return

    programs = [("weft", lambda dtype: run_weft(dtype, args.updates, args.threads)),
                ("PEFT", lambda dtype: run_peft(dtype, args.updates, args.threads, False))]
    if not args.no_compile:
        programs.append(("PEFT, torch.compile", lambda dtype: run_peft(dtype, args.updates, args.threads, True)))
    variants = [("weft, layers computed again", "gradient_checkpointing=all"),
                ("weft, base in int8", "base_quantization=int8"), ("weft, base in nf4", "base_quantization=nf4")]
    if args.qvac:
        programs.append(("QVAC's llama.cpp, f32 base",
                         lambda dtype: run_qvac(args.qvac.resolve(), args.updates, args.threads)))
    if args.variants:
        for name, option in variants:
            programs.append((name, lambda dtype, option=option: run_weft(dtype, args.updates, args.threads, option)))
        programs.append(("PEFT, padded batches of 8", lambda dtype: run_peft(
            dtype, max(args.updates, 24), args.threads, False, "--padded", "--batch", 8)))

    def is_run(name, dtype):
        return not name.startswith("PEFT") or dtype in peft_dtypes

    results, rates = {}, {}
    for round_number in range(args.rounds):
        for dtype in args.dtypes.split(","):
            rates.setdefault(dtype, []).append(product_rate(dtype, args.threads))
            for name, run in programs:
                if not is_run(name, dtype):
                    continue
                figures = run(dtype)
                results.setdefault((dtype, name), []).append(figures)
                print(f"  round {round_number + 1} {dtype:9} {name:28} {figures['tokens_per_s']:7.1f} tokens/s "
                      f"{figures['peak_rss_gib']:6.2f} GiB", file=sys.stderr)

    import peft
    import torch
    import transformers
    table, notes, record = [], [], []
    for dtype in args.dtypes.split(","):
        names = [name for name, _ in programs if is_run(name, dtype)]
        middle = {(name, key): statistics.median(r[key] for r in results[dtype, name])
                  for name in names for key, value in results[dtype, name][0].items()
                  if not isinstance(value, (str, bool))}
        rate, whose = max((statistics.median(r[whose] for r in rates[dtype]), whose) for whose in ("LibTorch", "weft"))
        for name in names:
            speed, memory = middle[name, "tokens_per_s"], middle[name, "peak_rss_gib"]
            table.append(f"| {dtype} | {name} | {speed:.0f} | {middle['weft', 'tokens_per_s'] / speed:.2f} "
                         f"| {memory:.2f} | {memory / middle['weft', 'peak_rss_gib']:.2f} |")
            record.append({"dtype": dtype, "program": name, "tokens_per_s": speed,
                           "peak_rss_gib": memory, "rounds": results[dtype, name]})
        work, done = middle["weft", "work_gflop_per_s"], middle["weft", "done_gflop_per_s"]
        notes.append(f"{dtype}: weft gets {work:.0f} GFLOP of the examples' arithmetic done a second, {work / rate:.0%} of the "
                     f"{rate:.0f} of {whose}'s products at these shapes (the faster of weft's and LibTorch's), and "
                     f"computes {done:.0f}, {done / rate:.0%}; "
                     f"{middle['weft', 'faults_per_update']:.0f} page faults an update.")
        if dtype not in peft_dtypes:
            best, of = max((statistics.median(r["tokens_per_s"] for r in runs), f"{name} in {other}")
                           for (other, name), runs in results.items() if name.startswith("PEFT"))
            notes.append(f"{dtype}: weft is {middle['weft', 'tokens_per_s'] / best:.2f} times as fast as {of} "
                         f"({best:.0f} tokens/s).")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
    print(f"{machine()}; {versions}; {args.rounds} rounds of {args.updates} updates\n")
    print("| dtype | program | tokens/s | weft is faster by | peak GiB | times weft's |")
    print("|---|---|---|---|---|---|")
    print("\n".join(table) + "\n\n" + "\n".join(notes))
    (WORK / "train.json").write_text(json.dumps(
        {"machine": machine(), "versions": versions, "results": record, "products": rates}, indent=2))


if __name__ == "__main__":
    main()
