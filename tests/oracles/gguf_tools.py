"""What the tests of GGUF files share: reading them as they lie there, and what llama.cpp makes of them."""
import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES
from safetensors.torch import load_file

FILE_TYPES = {"f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q4_k_s": 14,
              "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class Stored:
    """A tensor of a GGUF file as it lies there."""

    def __init__(self, type_id, shape, data):
        self.tensor_type, self.shape, self.data = type_id, shape, data

    def numbers(self, dtype=np.float32):
        return self.data.view(dtype).reshape(self.shape)


def tensors(path):
    """gguf's own reader makes an object of every token, which takes seconds."""
    data = np.memmap(path, np.uint8, "r")
    at = 24

    def number(format):
        nonlocal at
        value, = struct.unpack_from("<" + format, data, at)
        at += struct.calcsize(format)
        return value

    def skip(kind):
        nonlocal at
        if kind == 8:
            at = number("Q") + at  # in this order
        elif kind == 9:
            element, count = number("I"), number("Q")
            if element == 8:
                for _ in range(count):
                    at = number("Q") + at  # in this order
            else:
                at += WIDTHS[element] * count
        else:
            at += WIDTHS[kind]

    count, keys = struct.unpack_from("<QQ", data, 8)
    for _ in range(keys):
        at = number("Q") + at  # in this order
        skip(number("I"))
    found = []
    for _ in range(count):
        length = number("Q")
        name = bytes(data[at:at + length]).decode()
        at += length
        shape = [number("Q") for _ in range(number("I"))][::-1]
        found.append((name, shape, number("I"), number("Q")))
    start = -(-at // 32) * 32
    return {name: Stored(kind, shape, data[start + offset:start + offset + size_of(kind, shape)])
            for name, shape, kind, offset in found}


def size_of(kind, shape):
    elements, size = GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // elements * size


def differing(a, b):
    """Names of tensors that differ in type or in any byte."""
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    return [n for n in a if a[n].tensor_type != b[n].tensor_type or a[n].data.tobytes() != b[n].data.tobytes()]


def ids_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def weft_logits(weft, model, rows, folder, adapter=None):
    out = folder / "logits.safetensors"
    out.unlink(missing_ok=True)
    extra = [] if adapter is None else ["--adapter", adapter]
    weft("logits", "--model", model, *extra, "--ids", ids_file(folder / "ids", rows), "--out", out, "--dtype", "f32")
    values = load_file(out)
    return np.concatenate([values[str(i)].numpy() for i in range(len(rows))])


def llama_logits(probe, model, rows, folder, lora=None):
    out = folder / "logits.f32"
    probe("logits", model, out, *([lora] if lora else []), input="".join(" ".join(map(str, r)) + "\n" for r in rows))
    return np.fromfile(out, np.float32).reshape(sum(map(len, rows)), -1)


def divergence(p, q):
    """Mean Kullback-Leibler divergence of the next token's distributions, in nats."""
    p, q = torch.log_softmax(torch.tensor(p).double(), -1), torch.log_softmax(torch.tensor(q).double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def convert(cache, model, out, kind="f32", pre=None):
    """By llama.cpp's own converter. `pre`: taken as recognised, for a model whose tokenizer it does not know."""
    source = cache / "llama.cpp-0.3.36" / "source"
    if not source.exists():
        pytest.skip("llama.cpp's source is not there (script/setup --tests)")
    known = f"base.TextModel.get_vocab_base_pre = lambda *_: {pre!r}\n" if pre else ""
    code = (f"import runpy, sys\nsys.path.insert(0, {str(source)!r})\nimport conversion.base as base\n{known}"
            f"runpy.run_path({str(source / 'convert_hf_to_gguf.py')!r}, run_name='__main__')")
    subprocess.run([sys.executable, "-c", code, model, "--outfile", out, "--outtype", kind], check=True,
                   capture_output=True, env={"PYTHONPATH": str(source / "gguf-py"), "HF_HUB_OFFLINE": "1"})


def convert_all(cache, jobs):
    """The same for many models in one process, which takes its seconds to start. JOBS: model, out, kind, pre. Returns what went wrong,
    by model."""
    source = cache / "llama.cpp-0.3.36" / "source"
    if not source.exists():
        pytest.skip("llama.cpp's source is not there (script/setup --tests)")
    code = f"""
import json, runpy, sys
sys.path.insert(0, {str(source)!r})
import conversion.base as base
original = base.TextModel.get_vocab_base_pre
load = base.ModelBase.load_hparams
def load_hparams(folder, *rest, **named):  # transformers 5 drops keys of published files that the converter asks for (rotary_pct)
    return {{**json.loads((folder / "config.json").read_text()), **load(folder, *rest, **named)}}
base.ModelBase.load_hparams = staticmethod(load_hparams)
from conversion.baichuan import BaichuanModel
fused = BaichuanModel.modify_tensors
def modify_tensors(self, data, name, bid):  # its own calls itself without end
    here = fused if "W_pack" in name else base.TextModel.modify_tensors
    yield from here(self, data, name, bid)
BaichuanModel.modify_tensors = modify_tensors
faults = {{}}
for model, out, kind, pre in json.load(sys.stdin):
    base.TextModel.get_vocab_base_pre = (lambda *_, pre=pre: pre) if pre else original
    sys.argv = ["convert", model, "--outfile", out, "--outtype", kind]
    try:
        runpy.run_path({str(source / 'convert_hf_to_gguf.py')!r}, run_name="__main__")
    except BaseException as error:
        faults[model] = repr(error)
print("faults", json.dumps(faults))
"""
    jobs = [[str(model), str(out), kind, pre] for model, out, kind, pre in jobs]
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, input=json.dumps(jobs),
                          env={"PYTHONPATH": str(source / "gguf-py"), "HF_HUB_OFFLINE": "1"})
    return json.loads(done.stdout.rsplit("faults ", 1)[1])
