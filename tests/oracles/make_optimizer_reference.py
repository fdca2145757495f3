"""Writes tests/train/data/optimizer.json: what torch.optim.AdamW, torch.nn.utils.clip_grad_norm_ and
transformers' schedules compute on a small problem, for tests/train/optimizer_test.cpp and
schedule_test.cpp.

    $ORACLES/bin/python tests/oracles/make_optimizer_reference.py
"""

import json
import pathlib

import torch
import transformers
from transformers import optimization

SHAPES = [(3, 5), (4, 2)]
UPDATES = 12


def run_adamw(case):
    torch.manual_seed(7)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    start = [p.detach().flatten().tolist() for p in parameters]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=case["rates"][0],
        betas=(case["beta1"], case["beta2"]),
        eps=case["epsilon"],
        weight_decay=case["weight_decay"],
    )
    gradients, norms = [], []
    for update in range(UPDATES):
        for p in parameters:
            p.grad = torch.randn(p.shape) * (10.0 ** (update % 4 - 2))
        gradients.append([p.grad.flatten().tolist() for p in parameters])
        norm = torch.nn.utils.clip_grad_norm_(parameters, case["max_norm"] or float("inf"))
        norms.append(norm.item())
        optimizer.param_groups[0]["lr"] = case["rates"][update]
        optimizer.step()
    end = [p.detach().flatten().tolist() for p in parameters]
    return case | {"start": start, "gradients": gradients, "norms": norms, "end": end}


def rates(make, updates):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    scheduler = make(optimizer)
    out = []
    for _ in range(updates):
        out.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return out


def schedules():
    out = []
    for warmup, total in [(0, 20), (5, 20), (1, 1), (20, 20)]:
        makers = {
            "constant": lambda o: optimization.get_constant_schedule_with_warmup(o, warmup),
            "linear": lambda o: optimization.get_linear_schedule_with_warmup(o, warmup, total),
            "cosine": lambda o: optimization.get_cosine_schedule_with_warmup(o, warmup, total),
            "inverse_sqrt": lambda o: optimization.get_inverse_sqrt_schedule(o, warmup),
        }
        for kind, make in makers.items():
            out.append({"kind": kind, "warmup": warmup, "total": total, "rates": rates(make, total)})
    return out


def main():
    flat = [1e-2] * UPDATES
    cases = [
        {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0, "max_norm": 0.0, "rates": flat},
        {"beta1": 0.8, "beta2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1, "max_norm": 1.0,
         "rates": [1e-2 * (u + 1) / UPDATES for u in range(UPDATES)]},
    ]
    document = {
        "made_by": f"make_optimizer_reference.py, torch {torch.__version__}, transformers {transformers.__version__}",
        "adamw": [run_adamw(case) for case in cases],
        "schedules": schedules(),
    }
    target = pathlib.Path(__file__).parents[1] / "train" / "data" / "optimizer.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
