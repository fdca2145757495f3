"""`script/bench mxfp4`: GPT-OSS-120B's layers in MXFP4, inspected, planned and merged; time and memory.

The model has the shapes of the published one, cut to a few layers and a small vocabulary, and random
numbers: 128 experts of 2880 x 5760 and 2880 x 2880 a layer. There is no peer: transformers and PEFT
hold the dequantised model in memory. Memory is what the process has beyond mapped files (RssAnon),
looked at every 5 ms. A merge of two layers writes 13 GB.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parents[1]
EXPERTS, HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY = 128, 2880, 2880, 64, 8, 64, 1000
CONFIG = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "torch_dtype": "bfloat16",
    "attention_bias": True, "eos_token_id": 256, "experts_per_token": 4, "head_dim": HEAD, "hidden_act": "silu",
    "hidden_size": HIDDEN, "initial_context_length": 4096, "intermediate_size": INNER,
    "max_position_embeddings": 131072, "num_attention_heads": HEADS, "num_experts_per_tok": 4,
    "num_key_value_heads": KV_HEADS, "num_local_experts": EXPERTS, "pad_token_id": 256, "rms_norm_eps": 1e-05,
    "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096,
                     "rope_type": "yarn", "truncate": False},
    "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
    "quantization_config": {"modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router",
                                                       "model.embed_tokens", "lm_head"], "quant_method": "mxfp4"},
}
TRAINING = """base_model: {model}
output_dir: {folder}/run
datasets: [{{path: {folder}/data.jsonl, type: completion}}]
sequence_len: 512
tokens_per_update: 2048
adapter: {{r: 16, lora_alpha: 32, target_modules: [q_proj, k_proj, v_proj, o_proj]}}
max_updates: 10
eval: {{every: null}}
"""


def layer_tensors(layer):
    generator = torch.Generator().manual_seed(layer)

    def noise(*shape, spread=0.02):
        return (torch.randn(shape, generator=generator) * spread).to(torch.bfloat16)

    def stack(out, width):
        return (torch.randint(0, 256, (EXPERTS, out, width // 32, 16), generator=generator, dtype=torch.uint8),
                torch.randint(115, 122, (EXPERTS, out, width // 32), generator=generator, dtype=torch.uint8))

    own = {}
    for name, rows in (("q_proj", HEADS * HEAD), ("k_proj", KV_HEADS * HEAD), ("v_proj", KV_HEADS * HEAD)):
        own[f"self_attn.{name}.weight"], own[f"self_attn.{name}.bias"] = noise(rows, HIDDEN), noise(rows)
    own["self_attn.o_proj.weight"], own["self_attn.o_proj.bias"] = noise(HIDDEN, HEADS * HEAD), noise(HIDDEN)
    own["self_attn.sinks"] = noise(HEADS)
    for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        own[name] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    own["mlp.router.weight"], own["mlp.router.bias"] = noise(EXPERTS, HIDDEN), noise(EXPERTS)
    own["mlp.experts.gate_up_proj_blocks"], own["mlp.experts.gate_up_proj_scales"] = stack(2 * INNER, HIDDEN)
    own["mlp.experts.down_proj_blocks"], own["mlp.experts.down_proj_scales"] = stack(HIDDEN, INNER)
    own["mlp.experts.gate_up_proj_bias"] = noise(EXPERTS, 2 * INNER)
    own["mlp.experts.down_proj_bias"] = noise(EXPERTS, HIDDEN)
    return {f"model.layers.{layer}.{name}": value for name, value in own.items()}


def write_model(folder, layers):
    folder.mkdir(parents=True)
    kinds = ["sliding_attention", "full_attention"]
    config = CONFIG | {"num_hidden_layers": layers, "layer_types": [kinds[i % 2] for i in range(layers)]}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    index = {}

    def write(name, tensors):
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    for layer in range(layers):
        write(f"model-{layer + 1:05}-of-{layers + 1:05}.safetensors", layer_tensors(layer))
    generator = torch.Generator().manual_seed(99)
    table = (torch.randn(VOCABULARY, HIDDEN, generator=generator) * 0.02).to(torch.bfloat16)
    write(f"model-{layers + 1:05}-of-{layers + 1:05}.safetensors",
          {"model.embed_tokens.weight": table, "lm_head.weight": table.flip(0).contiguous(),
           "model.norm.weight": torch.ones(HIDDEN, dtype=torch.bfloat16)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=letters | {"<|return|>": 256}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|return|>").save_pretrained(folder)


def write_adapter(folder, layers, experts):
    """PEFT's files: attention, or one stack of experts a layer (target_parameters)."""
    folder.mkdir()
    rank, tensors = 16, {}
    generator = torch.Generator().manual_seed(3)
    query, key = HEADS * HEAD, KV_HEADS * HEAD
    widths = {"q_proj": (HIDDEN, query), "k_proj": (HIDDEN, key), "v_proj": (HIDDEN, key), "o_proj": (query, HIDDEN)}
    for layer in range(layers):
        path = f"base_model.model.model.layers.{layer}."
        pairs = {f"self_attn.{name}": (rank, *width) for name, width in widths.items()}
        if experts:
            pairs = {"mlp.experts": (rank * EXPERTS, HIDDEN, 2 * INNER)}
        for name, (rows, width, out) in pairs.items():
            tensors[f"{path}{name}.lora_A.weight"] = torch.randn(rows, width, generator=generator) * 0.02
            tensors[f"{path}{name}.lora_B.weight"] = torch.randn(out, rows, generator=generator) * 0.02
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 32, "lora_dropout": 0.0, "bias": "none",
        "target_modules": [] if experts else list(widths), "inference_mode": True,
        "target_parameters": ["mlp.experts.gate_up_proj"] if experts else None}))


def run(what, *arguments):
    """Runs weft; prints its time and the largest RssAnon that was seen."""
    begin = time.monotonic()
    process = subprocess.Popen([ROOT / "build/release/bin/weft", *map(str, arguments)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    peak = 0
    done = threading.Event()

    def watch():
        nonlocal peak
        while not done.wait(0.005):
            try:
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("RssAnon:"):
                        peak = max(peak, int(line.split()[1]))
            except OSError:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, errors = process.communicate()
    done.set()
    watcher.join()
    seconds = time.monotonic() - begin
    if process.returncode != 0:
        print(f"{what}: exit status {process.returncode}", *(out + errors).splitlines()[-5:], sep="\n  ")
    print(f"{what}: {seconds:.1f} s, peak {peak / 1024:.0f} MiB beyond mapped files", flush=True)
    return out, errors, {"seconds": seconds, "peak_mib": peak / 1024, "status": process.returncode}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / "build/bench/mxfp4", help="is removed at the end")
    arguments = parser.parse_args()
    folder, layers = arguments.folder, arguments.layers
    shutil.rmtree(folder, ignore_errors=True)
    results = {}
    try:
        write_model(folder / "model", layers)
        size = sum(path.stat().st_size for path in (folder / "model").iterdir())
        print(f"{layers} layers of GPT-OSS-120B in MXFP4: {size / 1e9:.1f} GB, {os.cpu_count()} cores", flush=True)
        rows = [{"prompt": f"{i}, {i + 1}, {i + 2}", "completion": f" {i + 3}"} for i in range(1000, 1200)]
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "train.yaml").write_text(TRAINING.format(model=folder / "model", folder=folder))
        out, _, results["inspect"] = run("inspect", "inspect", folder / "model")
        print(*(f"  {line}" for line in out.splitlines() if "MXFP4" in line), sep="\n")
        for kind in ("none", "nf4"):
            base = f"base_quantization={kind}"
            out, _, results[base] = run(f"train --check, {base}", "train", folder / "train.yaml", "--check", "--set", base)
            print(*(f"  {line}" for line in out.splitlines() if line.startswith(("base ", "memory "))), sep="\n")
        for experts in (False, True):
            name = "experts" if experts else "attention"
            write_adapter(folder / name, layers, experts)
            _, errors, results[name] = run(f"merge, adapter of {name}", "merge", "--model", folder / "model",
                                           "--adapter", folder / name, "--out", folder / "out")
            print(*(f"  {line}" for line in errors.splitlines() if "MXFP4" in line), sep="\n")
            shutil.rmtree(folder / "out", ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    (ROOT / "build/bench").mkdir(exist_ok=True)
    (ROOT / "build/bench/mxfp4.json").write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(any(result["status"] for result in results.values()))


if __name__ == "__main__":
    main()
