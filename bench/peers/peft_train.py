"""The peer of `script/bench train`: the same work with transformers and PEFT.

Packs prompt-and-answer pairs into rows of SEQ tokens, trains BATCH rows an update with AdamW, and
prints one JSON line: median real tokens per second after the warm-up, losses, peak resident memory.
The configuration is the best known for these packages on a CPU: SDPA attention, no padding, no
caching of keys and values, one OpenMP thread a core; --compile adds torch.compile.
"""
import argparse
import csv
import json
import random
import resource
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="Hugging Face directory")
    parser.add_argument("csv", help="with columns es and nah")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--padded", action="store_true", help="batches of BATCH examples, padded to the longest")
    return parser.parse_args()


def conversations(tokenizer, path):
    """Yields the text of each pair in the model's chat template, as prompt and answer."""
    with open(path, newline="", encoding="utf-8") as file:
        for record in csv.DictReader(file):
            messages = [{"role": "user", "content": f"Traduce al náhuatl: {record['es']}"}]
            yield (tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True),
                   record["nah"] + "<|im_end|>\n")


def examples(tokenizer, path):
    """Yields (ids, labels) of each pair; only answers are labelled."""
    for texts in conversations(tokenizer, path):
        question, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts)
        yield question + answer, [-100] * len(question) + answer


def packed_rows(tokenizer, path, seq):
    """Yields rows of `seq` tokens, one example after the other."""
    ids, labels = [], []
    for more_ids, more_labels in examples(tokenizer, path):
        ids, labels = ids + more_ids, labels + more_labels
        while len(ids) >= seq:
            yield ids[:seq], labels[:seq]
            ids, labels = ids[seq:], labels[seq:]


def shuffled(items):
    """In the order of transformers' Trainer, which draws examples at random."""
    items = list(items)
    random.Random(0).shuffle(items)
    return iter(items)


def padded(batch, pad_id):
    """As transformers' collators do: ids, labels and mask of the longest example's length."""
    longest = max(len(ids) for ids, _ in batch)
    return [torch.tensor(rows) for rows in (
        [ids + [pad_id] * (longest - len(ids)) for ids, _ in batch],
        [labels + [-100] * (longest - len(labels)) for _, labels in batch],
        [[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in batch])]


def main():
    args = parse()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa")
    model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0,
                                             target_modules=TARGETS, task_type="CAUSAL_LM"))
    model.config.use_cache = False
    model.train()
    step = torch.compile(model) if args.compile else model
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-4)
    rows = shuffled(examples(tokenizer, args.csv)) if args.padded else packed_rows(tokenizer, args.csv, args.seq)
    tokens, seconds, losses = [], [], []
    for update in range(args.warmup + args.updates):
        batch = [next(rows) for _ in range(args.batch)]
        ids, labels, mask = padded(batch, tokenizer.pad_token_id or 0)
        inputs = {"input_ids": ids, "labels": labels} | ({"attention_mask": mask} if args.padded else {})
        start = time.perf_counter()
        loss = step(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if update >= args.warmup:
            tokens.append(mask.sum().item())
            seconds.append(time.perf_counter() - start)
    # Packed updates are alike, and a median keeps disturbances out; padded ones are as long as their longest example.
    rate = (sum(tokens) / sum(seconds) if args.padded
            else statistics.median(n / s for n, s in zip(tokens, seconds)))
    print(json.dumps({
        "program": "peft", "dtype": args.dtype, "compiled": args.compile,
        "tokens_per_s": round(rate, 1), "first_loss": losses[0], "last_loss": losses[-1],
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)}))


if __name__ == "__main__":
    main()
