"""The peer of `script/bench eval`: the same scoring, answers and choices with transformers and lm-eval.

Reads the questions and answers that weft scored, scores the answers in padded batches sorted by
length, writes answers in left-padded batches with a KV cache, has lm-eval score every choice after
its context and on its own, and prints one JSON line.
"""
import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="Hugging Face directory")
    parser.add_argument("pairs", help="JSON: [[question, answer], ...]")
    parser.add_argument("choices", help="JSONL: context, choices, answer")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch", type=int, default=8, help="texts scored at once")
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--answer-batch", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def score(model, examples, pad, batch):
    """Sum of -ln p over the answers' tokens, logits for answers only where that is possible."""
    total = 0.0
    examples = sorted(examples, key=lambda e: len(e[0]) + len(e[1]), reverse=True)
    for first in range(0, len(examples), batch):
        part = examples[first:first + batch]
        longest = max(len(q) + len(a) for q, a in part)
        ids = torch.tensor([q + a + [pad] * (longest - len(q) - len(a)) for q, a in part])
        # Padding on the right is seen by no token that counts; without a mask attention is several times as fast.
        hidden = model.model(ids).last_hidden_state
        rows = [hidden[i, len(q) - 1:len(q) + len(a) - 1] for i, (q, a) in enumerate(part)]
        targets = torch.tensor([token for _, a in part for token in a])
        total += torch.nn.functional.cross_entropy(
            model.lm_head(torch.cat(rows)).float(), targets, reduction="sum").item()
    return total


def choose(model, tokenizer, path, batch):
    """Number of questions, and the sum of ln p of all choices after their contexts."""
    import logging
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    logging.disable(logging.WARNING)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device="cpu")
    questions = [json.loads(line) for line in open(path, encoding="utf-8")]
    pairs = [(context, " " + choice) for q in questions for context in (q["context"], "") for choice in q["choices"]]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    begun = time.perf_counter()
    scores = lm.loglikelihood(requests, disable_tqdm=True)
    return {"choose_s": time.perf_counter() - begun, "questions": len(questions),
            "log_p": sum(score for (context, _), (score, _) in zip(pairs, scores) if context)}


def main():
    args = parse()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation="sdpa").eval()
    examples = []
    for question, answer in json.load(open(args.pairs, encoding="utf-8")):
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                               add_generation_prompt=True)
        examples.append((tokenizer(prompt, add_special_tokens=False)["input_ids"],
                         tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]))
    pad = tokenizer.eos_token_id
    with torch.inference_mode():
        score(model, examples[:args.batch], pad, args.batch)  # warm-up
        begun = time.perf_counter()
        loss = score(model, examples, pad, args.batch)
        scoring = time.perf_counter() - begun

        questions = [q for q, _ in examples[:args.answers]]
        begun, new_tokens = time.perf_counter(), 0
        for first in range(0, len(questions), args.answer_batch):
            part = questions[first:first + args.answer_batch]
            longest = max(map(len, part))
            ids = torch.tensor([[pad] * (longest - len(q)) + q for q in part])
            mask = torch.tensor([[0] * (longest - len(q)) + [1] * len(q) for q in part])
            # Every answer is max_tokens long in both programs, so that the work is the same.
            out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=args.max_tokens,
                                 min_new_tokens=args.max_tokens, pad_token_id=pad)
            new_tokens += len(part) * (out.shape[1] - longest)
        generating = time.perf_counter() - begun
    print(json.dumps({"score_s": scoring, "tokens": sum(len(q) + len(a) for q, a in examples),
                      "answer_tokens": sum(len(a) for _, a in examples), "loss": loss,
                      "generate_s": generating, "new_tokens": new_tokens,
                      **choose(model, tokenizer, args.choices, args.batch)}))


if __name__ == "__main__":
    main()
