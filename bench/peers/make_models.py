"""Writes models for `script/bench merge`: OUT/base, OUT/a, OUT/b, Llamas in bf16 of TinyLlama's shape
(1.1 G parameters with 22 layers), a and b small random changes of base, and OUT/adapter,
OUT/adapter-2, OUT/adapter-3, random rank-16 adapters for every linear layer. Usage: make_models.py OUT [LAYERS]"""
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

out, layers = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 22
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
model = LlamaForCausalLM(LlamaConfig(hidden_size=2048, intermediate_size=5632, num_hidden_layers=layers,
                                     num_attention_heads=32, num_key_value_heads=4, vocab_size=32000,
                                     max_position_embeddings=2048))
model.save_pretrained(out / "base", max_shard_size="1GB")
base = [value.detach().clone() for value in model.parameters()]
with torch.no_grad():
    for name in "ab":
        for value, start in zip(model.parameters(), base):
            value.copy_(start.float() + 0.002 * torch.randn(start.shape, dtype=torch.float32))
        model.save_pretrained(out / name, max_shard_size="1GB")
    for value, start in zip(model.parameters(), base):
        value.copy_(start)
model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
for adapter in ("adapter", "adapter-2", "adapter-3"):
    for name, value in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.kaiming_uniform_(value, a=5 ** 0.5)
        elif "lora_B" in name:
            torch.nn.init.normal_(value, std=0.01)
    model.save_pretrained(out / adapter)
