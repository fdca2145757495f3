"""Tiny random models of every family, with a tokenizer of 512 tokens, for the tests of files and of merging. Families that
transformers lacks are made of a Llama that computes the same, its weights renamed and laid out as theirs."""
import json
from dataclasses import dataclass, field

import numpy as np
import sentencepiece
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import (AutoModelForCausalLM, BloomConfig, Cohere2Config, CohereConfig, FalconConfig, Gemma2Config,
                          Gemma3TextConfig, GemmaConfig, Glm4Config, GlmConfig, GPT2Config, GPTNeoXConfig, GptOssConfig,
                          GraniteConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MixtralConfig, Olmo2Config, OPTConfig,
                          Phi3Config, PhiConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2MoeConfig, Qwen3Config, Qwen3MoeConfig,
                          SmolLM3Config)

VOCABULARY = 512
IDS = dict(vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=None, initializer_range=0.3)
SIZES = dict(IDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=256)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=64)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75, original_max_position_embeddings=40,
                long_factor=[1.0 + 0.5 * i for i in range(6)], short_factor=[1.0 + 0.1 * i for i in range(6)])
# GPT-OSS's is without truncation, which llama.cpp cannot: here the bounds are whole dimensions but for a ten-thousandth.
OWN_YARN = dict(rope_type="yarn", rope_theta=(64 / (2 * np.pi)) ** (16 / 2.9999), factor=4.0, original_max_position_embeddings=64,
                beta_fast=32.0, beta_slow=1.0, truncate=False)
LINEAR = dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e6),
              sliding_attention=dict(rope_type="default", rope_theta=10000.0))


def sized(**other):
    return {**SIZES, **other}


@dataclass
class Case:
    config: object
    pieces: str = ""  # a SentencePiece tokenizer, "spaced" or "bare": with a space before each text or not
    targets: tuple = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")
    said: dict = field(default_factory=dict)  # keys of published config.json files that transformers 5 leaves out
    made: object = None  # renames the weights of a Llama
    gelu: bool = False  # llama.cpp's GELU is a table of half precision


def tanh_gelu(**other):
    return dict(gelu=True, **other)


def halves(config, gated=("gate_proj", "up_proj")):
    """Weights of a Llama, q, k and v in one matrix, a group of heads at a time."""
    def grouped(q, k, v):
        groups, dim = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
        parts = [w.reshape(groups, -1, dim, w.shape[-1]) for w in (q, k, v)]
        return torch.cat(parts, 1).reshape(-1, q.shape[-1])
    return grouped


def stacked(q, k, v):
    return torch.cat([q, k, v])


def renamed(state, names, fuse=None, fused=None, mlp=None):
    """A Llama's weights under other names: NAMES by what a name ends with; q, k, v by FUSE into FUSED, gate and up into MLP."""
    out = {}
    for name, value in state.items():
        name = name.removesuffix(".weight")
        layer = name.split(".")[2] if ".layers." in name else ""
        if fuse and name.endswith("q_proj"):
            q, k, v = (state[name[:-6] + part + "_proj.weight"] for part in "qkv")
            out[fused.format(layer) + ".weight"] = fuse(q, k, v)
        elif mlp and name.endswith("gate_proj"):
            out[mlp.format(layer) + ".weight"] = torch.cat([value, state[name[:-9] + "up_proj.weight"]])
        elif not (fuse and name.endswith(("k_proj", "v_proj")) or mlp and name.endswith("up_proj")):
            to = next((new for old, new in names.items() if name.endswith(old)), name)
            out[to.format(layer) + ".weight"] = value.contiguous()
    return out


def internlm2(state, config):
    return renamed(state, {
        "embed_tokens": "model.tok_embeddings", "lm_head": "output", "input_layernorm": "model.layers.{}.attention_norm",
        "post_attention_layernorm": "model.layers.{}.ffn_norm", "o_proj": "model.layers.{}.attention.wo",
        "gate_proj": "model.layers.{}.feed_forward.w1", "up_proj": "model.layers.{}.feed_forward.w3",
        "down_proj": "model.layers.{}.feed_forward.w2"}, halves(config), "model.layers.{}.attention.wqkv")


def baichuan(state, config):
    return renamed(state, {}, stacked, "model.layers.{}.self_attn.W_pack")


def chatglm(state, config):
    """Of a Glm, whose positions turn neighbouring pairs."""
    out = {}
    names = {"embed_tokens": "embedding.word_embeddings", "model.norm": "encoder.final_layernorm", "lm_head": "output_layer",
             "input_layernorm": "encoder.layers.{}.input_layernorm", "o_proj": "encoder.layers.{}.self_attention.dense",
             "post_attention_layernorm": "encoder.layers.{}.post_attention_layernorm",
             "gate_up_proj": "encoder.layers.{}.mlp.dense_h_to_4h", "down_proj": "encoder.layers.{}.mlp.dense_4h_to_h"}
    for name, value in state.items():
        path, suffix = name.rsplit(".", 1)
        layer = path.split(".")[2] if ".layers." in path else ""
        if path.endswith("q_proj"):
            parts = [state[f"{path[:-6]}{part}_proj.{suffix}"] for part in "qkv"]
            out[f"transformer.encoder.layers.{layer}.self_attention.query_key_value.{suffix}"] = torch.cat(parts)
        elif not path.endswith(("k_proj", "v_proj")):
            new = next(new for old, new in names.items() if path.endswith(old))
            out[f"transformer.{new.format(layer)}.{suffix}"] = value.contiguous()
    return out


def unchanged(state, config):
    return {name: value.contiguous() for name, value in state.items()}


GPT2_SIZES = dict(IDS, n_embd=64, n_layer=2, n_head=4, n_positions=256)
NEOX_SIZES = dict(IDS, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=256, hidden_act="gelu_new")
FALCON_SIZES = dict(IDS, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, activation="gelu_new")
NEOX_TARGETS = ("query_key_value", "dense", "dense_4h_to_h")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
GLM_SIZES = sized(head_dim=16, partial_rotary_factor=0.5)
LLAMA_OF = sized(tie_word_embeddings=False)

CASES = {
    "llama": Case(LlamaConfig(**SIZES, attention_bias=True, tie_word_embeddings=False)),
    "llama3": Case(LlamaConfig(**SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3)),
    "mistral": Case(MistralConfig(**SIZES, sliding_window=None, head_dim=32)),
    "qwen2": Case(Qwen2Config(**SIZES, tie_word_embeddings=True)),
    "qwen2_yarn": Case(Qwen2Config(**SIZES, tie_word_embeddings=False, rope_parameters=YARN)),
    "qwen3": Case(Qwen3Config(**SIZES, head_dim=32, tie_word_embeddings=True)),
    # Eight experts have choices of their own in llama-quantize; rows of 256 are whole super-blocks.
    "mixtral": Case(MixtralConfig(**sized(hidden_size=256, intermediate_size=256), num_local_experts=8, num_experts_per_tok=2,
                                  sliding_window=None), targets=ATTENTION),
    "mixtral_few": Case(MixtralConfig(**SIZES, num_local_experts=3, num_experts_per_tok=2, head_dim=32, tie_word_embeddings=True),
                        targets=ATTENTION),
    "qwen2_moe": Case(Qwen2MoeConfig(**SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32,
                                     shared_expert_intermediate_size=64, norm_topk_prob=False, tie_word_embeddings=False),
                      targets=(*ATTENTION, "shared_expert.down_proj", "shared_expert.up_proj")),
    "qwen3_moe": Case(Qwen3MoeConfig(**sized(num_hidden_layers=8), head_dim=32, num_experts=5, num_experts_per_tok=2,
                                     moe_intermediate_size=32, norm_topk_prob=True, tie_word_embeddings=True), targets=ATTENTION),
    "gpt_oss": Case(GptOssConfig(**SIZES, head_dim=32, num_local_experts=5, num_experts_per_tok=2, sliding_window=32,
                                 rope_parameters=OWN_YARN, tie_word_embeddings=False), targets=ATTENTION),
    "smollm3": Case(SmolLM3Config(**sized(num_hidden_layers=4), tie_word_embeddings=True)),
    "granite": Case(GraniteConfig(**SIZES, embedding_multiplier=3.0, residual_multiplier=0.4, attention_multiplier=0.2,
                                  logits_scaling=2.0, attention_bias=True, mlp_bias=True)),
    "gemma": Case(GemmaConfig(**SIZES, head_dim=32), pieces="bare", **tanh_gelu()),
    "gemma2": Case(Gemma2Config(**SIZES, head_dim=32, query_pre_attn_scalar=32, sliding_window=32), pieces="bare", **tanh_gelu()),
    "gemma3": Case(Gemma3TextConfig(**sized(num_hidden_layers=6), head_dim=32, query_pre_attn_scalar=32, sliding_window=32,
                                    rope_parameters=LINEAR), **tanh_gelu()),
    "olmo2": Case(Olmo2Config(**SIZES, tie_word_embeddings=False)),
    "phi3": Case(Phi3Config(**SIZES, tie_word_embeddings=False), targets=("qkv_proj", "o_proj", "gate_up_proj"),
                 said=dict(tokenizer_class="GPT2Tokenizer")),
    "phi3_long": Case(Phi3Config(**SIZES, original_max_position_embeddings=40, rope_parameters=LONGROPE,
                                 tie_word_embeddings=True), pieces="spaced", targets=("qkv_proj", "o_proj", "gate_up_proj")),
    "phi": Case(PhiConfig(**sized(num_key_value_heads=4, intermediate_size=256), partial_rotary_factor=0.5),
                targets=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"), **tanh_gelu()),
    "gpt2": Case(GPT2Config(**GPT2_SIZES), targets=("c_attn", "c_proj", "c_fc"), said=dict(n_ctx=256), **tanh_gelu()),
    "gpt_neox": Case(GPTNeoXConfig(**NEOX_SIZES, rotary_pct=0.25), targets=NEOX_TARGETS, said=dict(rotary_pct=0.25),
                     **tanh_gelu()),
    "gpt_neox_serial": Case(GPTNeoXConfig(**NEOX_SIZES, rotary_pct=1.0, use_parallel_residual=False), targets=NEOX_TARGETS,
                            said=dict(rotary_pct=1.0), **tanh_gelu()),
    "bloom": Case(BloomConfig(**IDS, hidden_size=64, n_layer=2, n_head=4), targets=NEOX_TARGETS, **tanh_gelu()),
    "falcon": Case(FalconConfig(**FALCON_SIZES, multi_query=True, num_kv_heads=1), targets=NEOX_TARGETS, **tanh_gelu()),
    "falcon_40b": Case(FalconConfig(**FALCON_SIZES, new_decoder_architecture=True, num_kv_heads=2), targets=NEOX_TARGETS,
                       **tanh_gelu()),
    "falcon_11b": Case(FalconConfig(**FALCON_SIZES, new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1,
                                    tie_word_embeddings=False), targets=NEOX_TARGETS, **tanh_gelu()),
    "cohere": Case(CohereConfig(**SIZES)),
    "cohere2": Case(Cohere2Config(**sized(num_hidden_layers=4), sliding_window=32), said=dict(rotary_pct=1.0)),
    "glm": Case(GlmConfig(**GLM_SIZES, tie_word_embeddings=False)),
    "glm4": Case(Glm4Config(**GLM_SIZES, tie_word_embeddings=False)),
    "internlm2": Case(LlamaConfig(**LLAMA_OF), pieces="spaced", targets=("wqkv", "wo", "w2"), made=internlm2,
                      said=dict(model_type="internlm2", architectures=["InternLM2ForCausalLM"], bias=False)),
    "baichuan": Case(LlamaConfig(**{**LLAMA_OF, "num_hidden_layers": 32, "num_key_value_heads": 4, "hidden_size": 32,
                                    "intermediate_size": 32}), pieces="spaced", targets=("W_pack", "o_proj", "down_proj"),
                     made=baichuan, said=dict(model_type="baichuan", architectures=["BaichuanForCausalLM"], norm_head=False)),
    "orion": Case(LlamaConfig(**LLAMA_OF), pieces="spaced", made=unchanged,
                  said=dict(model_type="orion", architectures=["OrionForCausalLM"])),
    "chatglm": Case(GlmConfig(**GLM_SIZES, rms_norm_eps=1e-5, tie_word_embeddings=False), targets=("query_key_value", "dense", "dense_4h_to_h"),
                    made=chatglm, said=dict(
                        model_type="chatglm", architectures=["ChatGLMModel"], num_layers=2, seq_length=256,
                        ffn_hidden_size=96, multi_query_group_num=2, multi_query_attention=True, kv_channels=16,
                        layernorm_epsilon=1e-5, add_qkv_bias=True, rmsnorm=True, post_layer_norm=True,
                        add_bias_linear=False, padded_vocab_size=VOCABULARY)),
}
LACKING = {"opt": OPTConfig(**IDS, hidden_size=64, ffn_dim=96, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=64,
                            max_position_embeddings=256)}
WORDS = ["Nehuatl nicnequi nimitzittas moztla, tlazohcamati.", "¿Cómo se dice «agua» en náhuatl? Atl.", "In xochitl in cuicatl 1521",
         "the quick brown fox jumps over 37 lazy dogs", "Yn iquac otlamelahuac, oncan mochiuh; auh in tlacatl."]


def lines():
    """Enough different text for a vocabulary of some hundred tokens."""
    random = np.random.default_rng(11)
    words = " ".join(WORDS).split()
    syllables = [a + b for a in "tlchmnpqxyz" for b in "aeiouáéí"]
    words += ["".join(random.choice(syllables, 3)) for _ in range(400)]
    return WORDS + [" ".join(random.choice(words, 12)) for _ in range(800)]


def write_byte_level(folder):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>", "</s>", "<|user|>"]
    tokenizer.train_from_iterator(lines(), trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    assert tokenizer.get_vocab_size() == VOCABULARY
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                            unk_token="<|endoftext|>").save_pretrained(folder)


def write_pieces(folder, spaced):
    folder.mkdir(parents=True)
    (folder / "text").write_text("\n".join(lines()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, add_dummy_prefix=spaced, minloglevel=2)
    (folder / "text").unlink()
    (folder / "tokenizer.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(dict(
        tokenizer_class="LlamaTokenizer" if spaced else "GemmaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True)))


def make_layer_norms(model):
    """Orion's norms: what its configuration calls rms is a LayerNorm."""
    def replace(parent):
        for name, child in parent.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                setattr(parent, name, torch.nn.LayerNorm(child.weight.shape[0], eps=child.variance_epsilon))
            else:
                replace(child)
    replace(model)
    return model


def reference(name):
    """The model itself, with numbers in norms and biases, which start as ones and zeros."""
    torch.manual_seed(5)
    case = CASES[name]
    model = AutoModelForCausalLM.from_config(case.config, attn_implementation="eager")
    if name == "orion":
        model = make_layer_norms(model)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.dim() == 1 or key.endswith("_bias"):  # those of experts lie in a stack
                value.add_(0.2 * torch.randn(value.shape))
    return model.eval()


def write(name, folder, tokenizer):
    case = CASES[name]
    model = reference(name)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    if case.made:
        state = {key: value for key, value in model.state_dict().items() if not key.endswith("inv_freq")}
        save_file(case.made(state, case.config), folder / "model.safetensors", {"format": "pt"})
        rope = config.pop("rope_parameters", {})
        config.pop("head_dim", None)
        config.pop("hidden_act", None)
        config["rope_theta"] = rope.get("rope_theta", 10000.0)
        if name == "chatglm":
            config = {key: config[key] for key in ("hidden_size", "num_attention_heads", "vocab_size", "eos_token_id",
                                                   "bos_token_id", "tie_word_embeddings")}
        if name in ("baichuan", "orion"):
            config.pop("rope_theta")
    config.update({key: value for key, value in case.said.items() if key != "tokenizer_class"})
    (folder / "config.json").write_text(json.dumps(config))
    for file in tokenizer.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "tokenizer_config.json"
    if "tokenizer_class" in case.said:
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": case.said["tokenizer_class"]}))
    if "glm" in name:  # as the family's files have them
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<|endoftext|>"}))
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 3]}))
    return folder


def write_all(root):
    """Every case, in a folder that llama.cpp does not take for a published model: it looks at names ("phi3")."""
    write_byte_level(root / "bytes")
    write_pieces(root / "spaced", True)
    write_pieces(root / "bare", False)
    return {name: write(name, root / f"tiny_{name.replace('phi', 'fi')}", root / (case.pieces or "bytes"))
            for name, case in CASES.items()}


def logits(model, rows):
    with torch.inference_mode():
        return np.concatenate([model(torch.tensor([row])).logits[0].float().numpy() for row in rows])
