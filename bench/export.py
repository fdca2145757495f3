"""Measures weft export beside llama.cpp's own tools: base in bf16 plus adapter to GGUF, and PEFT to GGUF LoRA.

The chain of llama.cpp is convert_hf_to_gguf.py, convert_lora_to_gguf.py, llama-export-lora and llama-quantize, built for
this processor."""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "bench"
WEFT = ROOT / "build" / "release" / "bin" / "weft"
LLAMA = Path(os.environ["WEFT_CACHE"]) / "llama.cpp-0.3.36/source"
TOOLS = LLAMA / "build-native/bin"
TYPES = ("bf16", "q8_0", "q4_k_m")


def prepare(layers):
    """A random Llama of TinyLlama's width in bf16 with SmolLM2's tokenizer (1.1 G parameters with 22 layers), and a
    random adapter of rank 16 for every linear layer."""
    folder = WORK / f"synthetic-{layers}"
    if (folder / "adapter" / "adapter_config.json").exists():
        return folder
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM
    tokenizer = WORK / "smollm2"
    if not tokenizer.exists():
        gguf = Path(os.environ["WEFT_CACHE"]) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        subprocess.run([WEFT, "merge", "--model", gguf, "--out", tokenizer, "--dtype", "f32"], check=True)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=4, vocab_size=49152, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2))
    model.save_pretrained(folder / "base", max_shard_size="1GB")
    for file in tokenizer.glob("*token*"):
        shutil.copy(file, folder / "base")
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.01)
    model.save_pretrained(folder / "adapter")
    return folder


def measure(*command, environment=None):
    """Seconds and peak MiB of a command whose outputs are then on the disk."""
    subprocess.run(["sync"])
    code = ("import resource,subprocess,sys;c=subprocess.run(sys.argv[1:],stdout=subprocess.DEVNULL,"
            "stderr=subprocess.DEVNULL).returncode;print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss);sys.exit(c)")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True, capture_output=True, text=True,
                          env=dict(os.environ, **(environment or {})))
    subprocess.run(["sync"])
    return time.monotonic() - start, int(done.stdout) / 1024


PYTHON = {"PYTHONPATH": str(LLAMA / "gguf-py"), "HF_HUB_OFFLINE": "1"}


def chain(folder, out, file_type):
    """llama.cpp's way: seconds and the largest peak of its steps."""
    base, lora, merged = (out / f"chain-{name}.gguf" for name in ("base", "lora", "merged"))
    steps = [measure(sys.executable, LLAMA / "convert_hf_to_gguf.py", folder / "base", "--outfile", base,
                     "--outtype", "bf16", environment=PYTHON),
             lora_chain(folder, out),
             measure(TOOLS / "llama-export-lora", "-m", base, "--lora", lora, "-o", merged)]
    if file_type != "bf16":
        steps.append(measure(TOOLS / "llama-quantize", merged, out / "chain.gguf", file_type, os.cpu_count()))
    return sum(s for s, _ in steps), max(m for _, m in steps)


def lora_chain(folder, out):
    return measure(sys.executable, LLAMA / "convert_lora_to_gguf.py", folder / "adapter", "--base", folder / "base",
                   "--outfile", out / "chain-lora.gguf", environment=PYTHON)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=22, help="fewer for a trial of the script")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    folder = prepare(args.layers)
    out = WORK / "export"
    out.mkdir(exist_ok=True)
    both = ["--model", folder / "base", "--adapter", folder / "adapter", "--out", out / "weft.gguf", "--force"]
    rows = {name: (lambda name=name: measure(WEFT, "export", *both, "--to", "gguf", "--type", name),
                   lambda name=name: chain(folder, out, name)) for name in TYPES}
    rows["LoRA"] = (lambda: measure(WEFT, "export", *both, "--to", "gguf-lora"), lambda: lora_chain(folder, out))
    results = {}
    for number in range(args.rounds):
        for name, (weft, peer) in rows.items():
            for program, run in (("weft", weft), ("llama.cpp", peer)):
                figures = run()
                results.setdefault((name, program), []).append(figures)
                print(f"  round {number + 1} {name:7} {program:10} {figures[0]:6.2f} s {figures[1]:7.0f} MiB", file=sys.stderr)
    print(f"{args.rounds} rounds, {args.layers} layers\n")
    print("| output | weft s | llama.cpp s | weft is faster by | weft MiB | llama.cpp MiB |")
    print("|---|---|---|---|---|---|")
    for name in rows:
        (ours, memory), (theirs, their_memory) = (
            (statistics.median(s for s, _ in results[name, program]), max(m for _, m in results[name, program]))
            for program in ("weft", "llama.cpp"))
        print(f"| {name} | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} | {memory:.0f} | {their_memory:.0f} |")
    (WORK / "export.json").write_text(json.dumps(
        [{"output": name, "program": program, "rounds": values} for (name, program), values in results.items()], indent=2))


if __name__ == "__main__":
    main()
