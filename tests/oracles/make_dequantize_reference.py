"""Makes tests/checkpoint/data/blocks.gguf: random blocks of every format that weft reads, each beside
the floats that the gguf package makes of them ("<TYPE>" and "<TYPE>.floats").

    python tests/oracles/make_dequantize_reference.py    (gguf 0.19.0, numpy)
"""

from pathlib import Path

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

TYPES = [Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q4_K,
         Type.Q5_K, Type.Q6_K]
# Byte offsets of the f16 scales inside a block; they are drawn from numbers that scales can be.
SCALES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2],
          Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}
ROWS, COLUMNS = 2, 512


def random_blocks(kind: Type, rng: np.random.Generator, rows: int = ROWS,
                  columns: int = COLUMNS) -> np.ndarray:
    """Rows of bytes. Every bit pattern occurs in the codes; scales are finite, some subnormal."""
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
    if kind == Type.F16:
        values = rng.normal(0, 1, blocks.shape[0]) * 10.0 ** rng.integers(-8, 5, blocks.shape[0])
        blocks = values.astype(np.float16).view(np.uint8)
    elif kind == Type.BF16:
        values = rng.normal(0, 1, blocks.shape[0]).astype(np.float32)
        blocks = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    for offset in SCALES.get(kind, []):
        count = blocks.shape[0]
        scales = (rng.normal(0, 1, count) * 10.0 ** rng.integers(-7, 2, count)).astype(np.float16)
        blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(count, 2)
    return blocks.reshape(rows, -1)


def main() -> None:
    rng = np.random.default_rng(20)
    path = Path(__file__).parent.parent / "checkpoint" / "data" / "blocks.gguf"
    writer = gguf.GGUFWriter(path, "none")
    for kind in TYPES:
        blocks = random_blocks(kind, rng)
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        floats = gguf.quants.dequantize(blocks, kind).reshape(ROWS, COLUMNS)
        writer.add_tensor(f"{kind.name}.floats", floats.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
