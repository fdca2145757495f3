"""Makes seeds/safetensors and seeds/gguf: small valid files of several kinds.

    python tests/fuzz/make_model_seeds.py    (safetensors 0.8.0, gguf 0.19.0, numpy)
"""

from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from safetensors.numpy import save_file

SEEDS = Path(__file__).parent / "seeds"


def safetensors_seeds() -> None:
    folder = SEEDS / "safetensors"
    save_file({}, folder / "empty")
    save_file({"w": np.ones((2, 3), np.float32), "s": np.array(1, np.float32),
               "e": np.zeros((0, 4), np.float16), "i": np.arange(3)},
              folder / "mixed", metadata={"format": "pt", "ñ": "á"})
    header = b'{"f4":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},' \
             b'"bf16":{"dtype":"BF16","shape":[2,1],"data_offsets":[2,6]}} '
    (folder / "padded").write_bytes(len(header).to_bytes(8, "little") + header + b"123456")


def write(name: str, fill, architecture: str = "llama") -> None:
    writer = gguf.GGUFWriter(SEEDS / "gguf" / name, architecture)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama(writer: gguf.GGUFWriter, width: int = 8, heads: int = 2, inner: int = 4) -> None:
    writer.add_context_length(16)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(4e6)
    writer.add_rope_dimension_count(width // heads)
    writer.add_bos_token_id(1)
    writer.add_token_list(["a", "b", "c"])
    key = width // heads
    shapes = {"token_embd": (3, width), "output_norm": (width,), "output": (3, width),
              "blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,),
              "blk.0.attn_q": (width, width), "blk.0.attn_k": (key, width),
              "blk.0.attn_v": (key, width), "blk.0.attn_output": (width, width),
              "blk.0.ffn_gate": (inner, width), "blk.0.ffn_up": (inner, width),
              "blk.0.ffn_down": (width, inner)}
    for name, shape in shapes.items():
        kind = np.float16 if len(shape) == 2 else np.float32
        writer.add_tensor(name + ".weight", np.ones(shape, kind))
    writer.add_tensor("blk.0.attn_q.bias", np.arange(width, dtype=np.float32))
    writer.add_tensor("rope_freqs.weight", np.array([1, 8], np.float32))


def vocabulary(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<s>", "á", "b"])
    writer.add_token_scores([0.0, -1.0, -2.0])
    writer.add_token_types([3, 1, 1])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_chat_template("{{ messages }}")


def blocks(writer: gguf.GGUFWriter) -> None:
    for kind in (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K, Type.Q5_K,
                 Type.Q6_K, Type.BF16):
        elements, size = GGML_QUANT_SIZES[kind]
        row = np.arange(elements and 256 // elements * size, dtype=np.uint32).astype(np.uint8)
        writer.add_tensor(kind.name, row.reshape(1, -1), raw_dtype=kind)


def main() -> None:
    safetensors_seeds()
    write("llama", llama)
    write("vocabulary", vocabulary, "gpt2")
    write("blocks", blocks, "none")


if __name__ == "__main__":
    main()
