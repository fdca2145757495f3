"""`script/bench merge`: combining whole models, weft beside mergekit; folding, weft beside PEFT and cp.

Every program reads the same bf16 models of TinyLlama's shape and writes a whole model to disk, in
turns. A figure is the median over rounds of the wall time of the whole process; memory is the peak
resident size. User CPU seconds stand beside it, as they mean something on a machine that is not quiet.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "bench" / "merge"
WEFT = ROOT / "build" / "release" / "bin" / "weft"


def pair(**parameters):
    return [{"model": name, "parameters": dict(weight=weight, **parameters)} for name, weight in (("a", 0.6), ("b", 0.4))]


RECIPES = {
    "linear": dict(merge_method="linear", models=pair(), dtype="bfloat16"),
    "slerp": dict(merge_method="slerp", base_model="a", models=[{"model": "a"}, {"model": "b"}],
                  parameters={"t": 0.4}, dtype="bfloat16"),
    "dare_ties": dict(merge_method="dare_ties", base_model="base", models=pair(density=0.5), dtype="bfloat16"),
    "ties": dict(merge_method="ties", base_model="base", models=pair(density=0.3), dtype="bfloat16"),
    # mergekit folds each adapter into a full copy of the base first (--lora-merge-cache).
    "adapters": dict(merge_method="ties", base_model="base", dtype="bfloat16", models=[
        {"model": f"base+{name}", "parameters": {"weight": weight, "density": 0.3}}
        for name, weight in (("adapter", 0.5), ("adapter-2", 0.3), ("adapter-3", 0.2))]),
}
# What weft's time must be times to give the peer's at least, and the memory it may take in MiB.
WANTED = {("fold", "cp + fsync"): 1 / 1.3, ("fold", "PEFT"): 6, ("linear", "mergekit"): 4, ("slerp", "mergekit"): 4,
          ("dare_ties", "mergekit"): 8, ("ties", "mergekit"): 15, ("adapters", "mergekit"): 10}
MEMORY = {"fold": 200}
PEFT = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload().save_pretrained(sys.argv[3])
"""


def measure(command):
    """Runs in a process of its own, whose only child is the command."""
    for made in ("out", "cache"):
        shutil.rmtree(WORK / made, ignore_errors=True)
    code = ("import json,resource,subprocess,sys,time\nt=time.time()\n"
            "done=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,stderr=subprocess.PIPE)\n"
            "u=resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "sys.stderr.buffer.write(done.stderr[-2000:] if done.returncode else b'')\n"
            "print(json.dumps([time.time()-t,u.ru_utime,u.ru_maxrss/1024]))\nsys.exit(done.returncode)")
    environment = dict(os.environ, HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True, capture_output=True, text=True,
                          cwd=WORK, env=environment)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--layers", type=int, default=22, help="22: 1.1 G parameters")
    parser.add_argument("--only", default="fold,adapters,linear,slerp,dare_ties,ties",
                        help="adapters: three of them by ties")
    parser.add_argument("--no-peers", action="store_true")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    made = WORK / f"made-{args.layers}-with-3-adapters"
    if not made.exists():
        shutil.rmtree(WORK)  # There may be models of another size.
        WORK.mkdir()
        subprocess.run([sys.executable, ROOT / "bench/peers/make_models.py", WORK, str(args.layers)], check=True)
        made.touch()
    jobs = {}
    for name in args.only.split(","):
        if name == "fold":
            jobs[name, "weft"] = [WEFT, "merge", "--model", "base", "--adapter", "adapter", "--out", "out"]
            jobs[name, "cp + fsync"] = ["sh", "-c", "cp -r base out && sync out/*"]
            jobs[name, "PEFT"] = [sys.executable, "-c", PEFT, "base", "adapter", "out"]
            continue
        (WORK / f"{name}.yml").write_text(yaml.safe_dump(RECIPES[name]))
        jobs[name, "weft"] = [WEFT, "merge", f"{name}.yml", "--out", "out"]
        jobs[name, "mergekit"] = [sys.executable, "-c", "from mergekit.scripts.run_yaml import main; main()",
                                  f"{name}.yml", "out", "--no-copy-tokenizer", "--no-write-model-card",
                                  "--lora-merge-cache", "cache"]
    if args.no_peers:
        jobs = {key: command for key, command in jobs.items() if key[1] in ("weft", "cp + fsync")}
    results = {}
    for _ in range(args.rounds):
        for key, command in jobs.items():
            results.setdefault(key, []).append(measure(command))
            print(*key, *(f"{figure:.1f}" for figure in results[key][-1]), file=sys.stderr)
    print("| work | program | s | user s | peak MiB | times weft's s | wanted |\n|---|---|---|---|---|---|---|")
    for (name, program), rounds in results.items():
        seconds, user, memory = (statistics.median(figures) for figures in zip(*rounds))
        weft = statistics.median(figures[0] for figures in results[name, "weft"])
        wanted = WANTED.get((name, program))
        wanted = f"<= {MEMORY.get(name, 400)} MiB" if program == "weft" else f">= {wanted:.2g}"
        print(f"| {name} | {program} | {seconds:.2f} | {user:.1f} | {memory:.0f} | {seconds / weft:.2f} | {wanted} |")
    (WORK / "merge.json").write_text(json.dumps([{"work": key[0], "program": key[1], "rounds": value}
                                                 for key, value in results.items()], indent=2))
    for made in ("out", "cache"):
        shutil.rmtree(WORK / made, ignore_errors=True)


if __name__ == "__main__":
    main()
