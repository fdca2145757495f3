"""The model against transformers and PEFT: logits, generation, adapters (fp32), and bf16's distance.

Every check runs the program; the reference is computed here from the same files. Attention is eager,
so that the reference is the plain formula.
"""
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(2)

TEXTS = [
    "The capital of Mexico is a large city in a high valley, and",
    "Traduce al náhuatl: Los niños juegan junto al río cuando llueve.",
    "In notlahtol nechnamiqui ihuan nechyolpaquiltia; in altepetl",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "1 + 1 = 2, 2 + 2 = 4, 4 + 4 =",
]


def reference(directory, dtype=torch.float32, **options):
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager", **options)
    return model.eval()


def reference_logits(model, rows):
    with torch.no_grad():
        return [model(torch.tensor([row])).logits[0].float() for row in rows]


def weft_logits(weft, tmp_path, directory, rows, *options):
    ids, out = tmp_path / "ids.jsonl", tmp_path / "logits.safetensors"
    ids.write_text("".join(json.dumps(row) + "\n" for row in rows))
    weft("logits", "--model", directory, "--ids", ids, "--out", out, "--force", *options)
    tensors = load_file(out)
    assert len(tensors) == len(rows)
    return [tensors[str(i)] for i in range(len(rows))]


def assert_close(got, wanted, what=""):
    """Largest difference within 1e-4 of the logits' range."""
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == torch.float32
        spread = (theirs.max() - theirs.min()).item()
        difference = (ours - theirs).abs().max().item()
        assert difference <= 1e-4 * spread, f"{what}: {difference} of a range of {spread}"


# ---- random tiny models, each with a feature or two ----------------------------------------------

LLAMA = dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=199, hidden_size=48,
             intermediate_size=112, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, hidden_act="silu",
             bos_token_id=1, eos_token_id=2)
MISTRAL = LLAMA | dict(model_type="mistral", architectures=["MistralForCausalLM"])
QWEN2 = LLAMA | dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"])

CONFIGS = {
    "grouped_queries": LLAMA,
    "no_grouping_tied": LLAMA | dict(num_key_value_heads=6, tie_word_embeddings=True),
    "one_kv_head_wide_head_dim": LLAMA | dict(num_key_value_heads=1, head_dim=20),
    "biases": LLAMA | dict(attention_bias=True, mlp_bias=True),
    "kv_heads_absent_theta": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | dict(rope_theta=500.0),
    "linear_older": LLAMA | dict(rope_theta=10000.0, rope_scaling=dict(type="linear", factor=2.5)),
    "linear_newer": LLAMA | dict(rope_parameters=dict(rope_type="linear", factor=2.5, rope_theta=777.0)),
    "dynamic_within": LLAMA | dict(rope_scaling=dict(rope_type="dynamic", factor=3.0), max_position_embeddings=256),
    "dynamic_beyond": LLAMA | dict(rope_scaling=dict(rope_type="dynamic", factor=3.0), max_position_embeddings=24),
    "llama3_older": LLAMA | dict(rope_theta=500000.0, rope_scaling=dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32)),
    "llama3_newer": LLAMA | dict(rope_parameters=dict(
        rope_type="llama3", rope_theta=1000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0,
        original_max_position_embeddings=16)),
    "yarn_plain": LLAMA | dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "yarn_mscale": LLAMA | dict(head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=16, mscale=0.9,
        mscale_all_dim=0.4, beta_fast=16.0, beta_slow=2.0)),
    "yarn_attention_factor_untruncated": LLAMA | dict(head_dim=16, rope_parameters=dict(
        rope_type="yarn", rope_theta=5000.0, factor=4.0, original_max_position_embeddings=16,
        attention_factor=1.3, truncate=False)),
    "mistral_window": MISTRAL | dict(sliding_window=7, head_dim=12),
    "mistral_no_window": MISTRAL | dict(sliding_window=None),
    "mistral_window_of_one": MISTRAL | dict(sliding_window=1),
    "qwen2": QWEN2 | dict(tie_word_embeddings=True),
    "qwen2_window_in_upper_layers": QWEN2 | dict(use_sliding_window=True, sliding_window=5, max_window_layers=1),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Makes a random model of a configuration, with weights and biases large enough to matter."""
    made = {}

    def make(name):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            (directory / "config.json").write_text(json.dumps(CONFIGS[name]))
            torch.manual_seed(len(made))
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory), dtype=torch.float32)
            for parameter_name, parameter in model.named_parameters():
                if "norm" in parameter_name:
                    torch.nn.init.normal_(parameter, 1, 0.2)
                else:
                    torch.nn.init.normal_(parameter, 0, 0.2)
            model.save_pretrained(directory)
            # What this configuration says must be read, in the spelling it has here.
            (directory / "config.json").write_text(json.dumps(CONFIGS[name]))
            made[name] = directory
        return made[name]

    return make


def rows_of(vocabulary):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in (1, 2, 40, 17)]


@pytest.mark.parametrize("name", CONFIGS)
def test_tiny_logits_equal_transformers(weft, tmp_path, tiny, name):
    directory = tiny(name)
    rows = rows_of(CONFIGS[name]["vocab_size"])
    # A fresh model each row: dynamic scaling remembers the longest length it has seen.
    wanted = [reference_logits(reference(directory), [row])[0] for row in rows]
    assert_close(weft_logits(weft, tmp_path, directory, rows), wanted, name)


def test_the_tolerance_sees_each_feature(tiny):
    """The configurations differ from their plain versions by far more than the tolerance."""
    rows = rows_of(199)[2:3]
    for name, plain in [("linear_older", dict(rope_scaling=None)), ("yarn_mscale", dict(rope_parameters=None)),
                        ("mistral_window", dict(sliding_window=None)), ("dynamic_beyond", dict(rope_scaling=None)),
                        ("llama3_newer", dict(rope_parameters=None))]:
        directory = tiny(name)
        feature = reference_logits(reference(directory), rows)[0]
        config = AutoConfig.from_pretrained(directory)
        changed = {k: v for k, v in CONFIGS[name].items() if k not in plain}
        plain_config = type(config)(**changed, **{k: v for k, v in plain.items() if k == "sliding_window"})
        without = reference_logits(reference(directory, config=plain_config), rows)[0]
        assert (feature - without).abs().max() > 1e-2 * (feature.max() - feature.min()), name


@pytest.mark.parametrize("name", ["biases", "mistral_window", "qwen2"])
def test_tiny_logits_with_adapter_equal_peft(weft, tmp_path, tiny, name):
    directory = tiny(name)
    config = LoraConfig(r=5, lora_alpha=7, target_modules=["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"],
                        task_type="CAUSAL_LM", use_rslora=name == "qwen2")
    model = get_peft_model(reference(directory), config)
    torch.manual_seed(3)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    model.save_pretrained(tmp_path / "adapter")
    rows = rows_of(CONFIGS[name]["vocab_size"])
    with_adapter = reference_logits(model, rows)
    got = weft_logits(weft, tmp_path, directory, rows, "--adapter", tmp_path / "adapter")
    assert_close(got, with_adapter, name)
    base = reference_logits(reference(directory), rows)
    assert (with_adapter[2] - base[2]).abs().max() > 0.1
    # Half the weight, twice: the sum is the whole.
    halves = ["--adapter", f"{tmp_path}/adapter:0.5"] * 2
    assert_close(weft_logits(weft, tmp_path, directory, rows, *halves), with_adapter, name)


# ---- the real model ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def real_rows(smollm2_dir):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    rows = [tokenizer(text).input_ids for text in TEXTS]
    return rows + [[token for row in rows for token in row] * 3]


@pytest.fixture(scope="module")
def real_model(smollm2_dir):
    return reference(smollm2_dir)


@pytest.fixture(scope="module")
def real_reference(real_model, real_rows):
    return reference_logits(real_model, real_rows)


def test_real_logits_equal_transformers(weft, tmp_path, smollm2_dir, real_rows, real_reference):
    assert_close(weft_logits(weft, tmp_path, smollm2_dir, real_rows), real_reference)


def test_gguf_gives_the_logits_of_its_conversion(weft, tmp_path, smollm2_gguf, smollm2_dir, real_rows):
    from_gguf = weft_logits(weft, tmp_path, smollm2_gguf, real_rows)
    for a, b in zip(from_gguf, weft_logits(weft, tmp_path, smollm2_dir, real_rows), strict=True):
        assert torch.equal(a, b)


def divergence(p_logits, q_logits):
    """Mean over tokens of KL(p || q)."""
    total = tokens = 0
    for p, q in zip(p_logits, q_logits, strict=True):
        log_p, log_q = torch.log_softmax(p.double(), 1), torch.log_softmax(q.double(), 1)
        total += (log_p.exp() * (log_p - log_q)).sum().item()
        tokens += p.shape[0]
    return total / tokens


def test_bf16_is_as_near_to_transformers_as_its_rounding(weft, tmp_path, smollm2_dir, real_rows, real_reference):
    rounded = reference_logits(reference(smollm2_dir, torch.bfloat16), real_rows)
    ours = weft_logits(weft, tmp_path, smollm2_dir, real_rows, "--dtype", "bf16")
    allowed = divergence(real_reference, rounded)
    to_rounded, to_exact = divergence(rounded, ours), divergence(real_reference, ours)
    print(f"KL per token: transformers bf16 to fp32 {allowed:.3e}, weft bf16 to transformers bf16 {to_rounded:.3e}, "
          f"weft bf16 to transformers fp32 {to_exact:.3e}")
    assert to_rounded <= allowed
    assert to_exact <= 1.2 * allowed


@pytest.mark.parametrize("index", range(5))
def test_greedy_generation_equals_transformers(weft, smollm2_dir, real_model, real_rows, index):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    prompt = real_rows[index]
    out = weft.json("generate", "--model", smollm2_dir, "--raw", "--prompt", TEXTS[index], "--max-tokens", 200,
                    "--dtype", "f32")
    assert out["prompt_ids"] == prompt
    assert out["text"] == tokenizer.decode(out["ids"], skip_special_tokens=True)
    # Each token is transformers' choice after those before it, and so is ending where it ended.
    answer = out["ids"] + ([tokenizer.eos_token_id] if out["finish"] == "stop" else [])
    assert len(answer) == 200 or out["finish"] == "stop"
    choices = reference_logits(real_model, [prompt + answer])[0].argmax(1).tolist()
    assert choices[len(prompt) - 1:-1] == answer
    if index == 0:  # the same by transformers' own generate()
        ids = real_model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                                  max_new_tokens=len(answer), do_sample=False, pad_token_id=0)
        assert ids[0, len(prompt):].tolist() == answer


def test_real_logits_with_adapter_equal_peft(weft, tmp_path, smollm2_dir, real_rows):
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(reference(smollm2_dir), config)  # its own: the adapter changes the model
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.02)
    model.save_pretrained(tmp_path / "adapter")
    wanted = reference_logits(model, real_rows[:3])
    got = weft_logits(weft, tmp_path, smollm2_dir, real_rows[:3], "--adapter", tmp_path / "adapter")
    assert_close(got, wanted)


# ---- the commands --------------------------------------------------------------------------------

def test_chat_template_stop_strings_and_seeds(weft, smollm2_dir):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    messages = [{"role": "system", "content": "You answer briefly."}, {"role": "user", "content": "Name three colours."}]
    options = ["--model", smollm2_dir, "--prompt", "Name three colours.", "--system", "You answer briefly.",
               "--dtype", "f32"]
    whole = weft.json("generate", *options, "--max-tokens", 40)
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert whole["prompt_ids"] == tokenizer(rendered, add_special_tokens=False).input_ids
    stop = whole["text"][8:12]
    cut = weft.json("generate", *options, "--max-tokens", 40, "--stop", stop)
    assert cut["finish"] == "stop_string"
    assert cut["text"] == whole["text"][:whole["text"].index(stop)]
    sampled = [weft.json("generate", *options, "--max-tokens", 20, "--temperature", 1.5, "--seed", seed)["ids"]
               for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_chat_remembers_its_turns(weft, smollm2_dir, real_model):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    turns = ["My name is Citlali.", "What is my name?"]
    out = weft.run("generate", "--model", smollm2_dir, "--chat", "--json", "--max-tokens", 24, "--dtype", "f32",
                   input="\n".join(turns) + "\n").stdout
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == 2
    # The second answer is that to the whole conversation, read at once.
    messages = [{"role": "user", "content": turns[0]}, {"role": "assistant", "content": answers[0]["text"]},
                {"role": "user", "content": turns[1]}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(rendered, add_special_tokens=False).input_ids
    whole = real_model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                max_new_tokens=24, do_sample=False, pad_token_id=0)[0, len(ids):].tolist()
    assert answers[1]["ids"] == [token for token in whole if token != tokenizer.eos_token_id]


@pytest.mark.parametrize("arguments, words", [
    (["--ids", "{ids}", "--out", "{out}", "--model", "{model}", "--adapter", "{missing}"], "missing"),
    (["--ids", "{bad}", "--out", "{out}", "--model", "{model}"], "bad.jsonl:2: expected a JSON array"),
    (["--ids", "{large}", "--out", "{out}", "--model", "{model}"], "token id 199 at position 1"),
])
def test_bad_input_is_one_line_and_status_2(weft, tmp_path, tiny, arguments, words):
    paths = dict(ids=tmp_path / "ids.jsonl", out=tmp_path / "out.safetensors", model=tiny("grouped_queries"),
                 missing=tmp_path / "missing", bad=tmp_path / "bad.jsonl", large=tmp_path / "large.jsonl")
    paths["ids"].write_text("[1, 2]\n")
    paths["bad"].write_text("[1, 2]\n[1, -2]\n")
    paths["large"].write_text("[1, 199]")
    done = weft.run("logits", *[a.format(**paths) for a in arguments], check=False)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert not paths["out"].exists()
