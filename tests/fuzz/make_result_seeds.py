"""Makes seeds/results: the CBOR of packed results (eval/ledger/pack.cpp), not compressed.

    python tests/fuzz/make_result_seeds.py
"""

import struct
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds" / "results"


def head(kind: int, count: int) -> bytes:
    if count < 24:
        return bytes([kind << 5 | count])
    return bytes([kind << 5 | 24, count]) if count < 256 else bytes([kind << 5 | 25]) + struct.pack(">H", count)


def cbor(value) -> bytes:
    if value is True or value is False:
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in value.items())


def column(kind: str, *numbers) -> bytes:
    return struct.pack(f"<{len(numbers)}{kind}", *numbers)


def suite(kind: int, unit: int, **more) -> dict:
    return {"format": 1, "name": "nahuatl", "kind": kind, "unit": unit,
            "items": {"tokens": column("q", 3, 5), "bytes": column("q", 7, 11), "loss": column("d", 1.5, 2.25)},
            "generations": [], "choices": [], "other_tokenizer": False, "digest": "d", "asked_digest": "",
            "labels": {"language": "nah", "must_keep": True, "sources": column("I", 0, 1),
                       "source_names": ["a.txt", "b.txt"], "metrics": [], "references": 1},
            "distances": {"item": b"", "kl": b"", "loss": b"", "reference_loss": b"", "same_top": b""}} | more


def question(answer: int, **more) -> dict:
    return {"answer": answer, "log_p": column("d", -1, -2), "log_p_alone": column("d", -3, -4),
            "characters": column("q", 2, 3), "bytes": column("q", 2, 4)} | more


SEEDS.mkdir(exist_ok=True)
(SEEDS / "text").write_bytes(cbor(suite(0, 0, distances={
    "item": column("I", 0, 1), "kl": column("f", 0.5, 0.25), "loss": column("f", 1, 2),
    "reference_loss": column("f", 1, 1), "same_top": b"\x01\x00"})))
(SEEDS / "instruction").write_bytes(cbor(suite(1, 2, generations=[
    ["¿cómo?", "quen", "quenin"], ["b", "c d", "c e", ["c f", ""]]])))
(SEEDS / "choice").write_bytes(cbor(suite(2, 3, choices=[question(0), question(1, flipped=True)])))
