r"""Figures of the tests by model family: the table in docs/families.md is made of them.

    WEFT_FAMILY_FIGURES=figures.json pytest tests/oracles/test_decoders.py tests/oracles/test_variations.py \
        tests/oracles/test_families.py tests/oracles/test_merge_families.py
    python tests/oracles/family_figures.py figures.json docs/families.md
"""
import json
import os
import sys
from pathlib import Path

COLUMNS = {
    "logits": "logits, fp32: largest difference to transformers, as a share of their range",
    "bf16": "bf16: divergence from fp32, as a share of that of transformers' bf16",
    "adapters": "logits with an adapter beside PEFT's",
    "generation": "greedy tokens equal to transformers' choices",
    "training": "10 updates beside PEFT: largest relative difference of a loss",
    "merge": "logits of the merged model beside PEFT's, as a share of their range",
    "gguf_out": "GGUF written: divergence of llama.cpp's logits on it from transformers'",
    "gguf_in": "GGUF read: divergence of weft's logits on it from transformers'",
    "gguf_lora": "adapter in GGUF: divergence of llama.cpp's logits with it from PEFT's",
}
_figures: dict[str, dict[str, float]] = {}


def record(architecture: str, column: str, figure: float, best=max) -> None:
    """Keeps the worst figure of a family's configurations."""
    assert column in COLUMNS, column
    figure = float(figure)
    of_family = _figures.setdefault(architecture, {})
    of_family[column] = best(figure, of_family.get(column, figure))


def save() -> None:
    path = os.environ.get("WEFT_FAMILY_FIGURES")
    if not path or not _figures:
        return
    path = Path(path)
    known = json.loads(path.read_text()) if path.exists() else {}
    for architecture, figures in _figures.items():
        known.setdefault(architecture, {}).update(figures)
    path.write_text(json.dumps(known, indent=1, sort_keys=True))


def table(figures: dict) -> str:
    columns = [column for column in COLUMNS if any(column in row for row in figures.values())]
    lines = ["| architecture | " + " | ".join(column.replace("_", " ") for column in columns) + " |",
             "|---" * (len(columns) + 1) + "|"]
    for architecture in sorted(figures):
        cells = []
        for column in columns:
            figure = figures[architecture].get(column)
            cells.append("-" if figure is None else f"{figure:.0f}" if column == "generation" else f"{figure:.2g}")
        lines.append(f"| `{architecture}` | " + " | ".join(cells) + " |")
    lines += ["", *(f"- **{column.replace('_', ' ')}**: {COLUMNS[column]}." for column in columns)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    page = Path(sys.argv[2])
    begin, end = "<!-- figures of the tests -->\n", "<!-- end of figures -->\n"
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + table(json.loads(Path(sys.argv[1]).read_text())) + end + rest.split(end)[1])
