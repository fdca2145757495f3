"""The peer of `script/bench train --qvac`: LoRA by QVAC's fork of llama.cpp, in C++ on ggml.

PROGRAM is its llama-finetune-lora. It gets a GGUF base and the text of peft_train.py's examples one
after the other, and trains rows of SEQ tokens, one an update, rank 16 on all linear layers, AdamW. Its
progress line after each update is the clock: a token is one of a row, of which it computes and
supervises all. It is stopped after the last update wanted. Prints one JSON line as peft_train.py does;
`mean_loss` is over all updates, since the program prints no other.

f32 base, since others were measured slower; keys and values cached in f32, so that all products take
ggml's f32 path; no flash attention (it has no backward). docs/performance.md says what it computes.
"""
import argparse
import json
import re
import statistics
import subprocess
import time
from pathlib import Path

from transformers import AutoTokenizer

from peft_train import conversations

MODULES = "attn_q,attn_k,attn_v,attn_o,ffn_gate,ffn_up,ffn_down"
PROGRESS = re.compile(r"train: .*data=[0-9]+/[0-9]+ loss=([0-9.]+|-?nan|inf)")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program", type=Path)
    parser.add_argument("model", help="Hugging Face directory, for its chat template")
    parser.add_argument("gguf", type=Path, help="the same model; f32 is the fastest here")
    parser.add_argument("csv", help="with columns es and nah")
    parser.add_argument("work", type=Path, help="folder for the text and the adapter")
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache-type", default="f32", help="of keys and values")
    return parser.parse_args()


def write_text(tokenizer, csv, path, characters):
    """As many whole examples as `characters` needs."""
    with open(path, "w", encoding="utf-8") as file:
        for prompt, answer in conversations(tokenizer, csv):
            file.write(prompt + answer)
            if file.tell() >= characters:
                return


def peak_gib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+([0-9]+) kB", status)[1]) / 2**20


def lines_of(stream):
    """Lines as they come; a progress line ends with a carriage return."""
    pending = ""
    while chunk := stream.read1(4096):
        *lines, pending = re.split(r"[\r\n]", pending + chunk.decode("utf-8", "replace"))
        yield from lines


def train(command, work, updates):
    """Times of the ends of the first `updates` updates, the mean loss, the peak in GiB."""
    process = subprocess.Popen([str(part) for part in command], cwd=work, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    times, log = [], []
    try:
        for line in lines_of(process.stderr):
            log.append(line)
            if progress := PROGRESS.search(line):
                times.append(time.perf_counter())
                if len(times) == updates:
                    return times, float(progress[1]), peak_gib(process.pid)
    finally:
        process.kill()
        process.wait()
    raise SystemExit("\n".join([*log[-20:], f"{command[0]} ended after {len(times)} of {updates} updates"]))


def main():
    args = parse()
    updates = args.warmup + args.updates
    args.work.mkdir(parents=True, exist_ok=True)
    work = args.work.resolve()
    text = work / "train.txt"
    # Its rows begin every SEQ / 2 tokens: this is enough at up to 7 characters a token; the pairs have 2.4.
    write_text(AutoTokenizer.from_pretrained(args.model), args.csv, text, 4 * args.seq * (updates + 4))
    command = [args.program.resolve(), "--model", args.gguf.resolve(), "--file", text, "--lora-rank", args.rank,
               "--lora-alpha", 2 * args.rank, "--lora-modules", MODULES, "--learning-rate", "2e-4",
               "--ctx-size", args.seq, "--batch-size", args.seq, "--ubatch-size", args.seq,
               "--flash-attn", "off", "--cache-type-k", args.cache_type, "--cache-type-v", args.cache_type,
               "--threads", args.threads, "--checkpoint-save-steps", 0,
               "--output-adapter", work / "adapter.gguf"]
    times, loss, peak = train(command, work, updates)
    seconds = [after - before for before, after in zip(times, times[1:])][args.warmup - 1:]
    print(json.dumps({"program": "qvac", "base": args.gguf.stem, "mean_loss": loss,
                      "tokens_per_s": round(args.seq / statistics.median(seconds), 1),
                      "peak_rss_gib": round(peak, 2)}))


if __name__ == "__main__":
    main()
