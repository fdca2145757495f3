"""Writes tests/eval/data/windows.json: the windows of lm-eval's loglikelihood_rolling.

Run with the oracles' Python (script/setup --tests): python tests/oracles/make_windows_reference.py
Token i of a text is the number i, the prefix is -1, so a window is two ranges of numbers.
"""

import json
import pathlib
from importlib.metadata import version

from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

cases = []
for max_tokens in (1, 2, 3, 7, 8, 64, 2048):
    for tokens in sorted({0, 1, 2, 3, max_tokens - 1, max_tokens, max_tokens + 1, 2 * max_tokens - 1,
                          2 * max_tokens, 2 * max_tokens + 1, 5 * max_tokens + 3}):
        for stride in sorted({1, max_tokens // 2, max_tokens} - {0}):
            if tokens / stride > 100:
                continue
            windows = []
            for pair in get_rolling_token_windows(list(range(tokens)), -1, max_tokens,
                                                  max_tokens - stride + 1):
                context, predicted = make_disjoint_window(pair)
                assert context == list(range(context[0], context[-1] + 1))
                assert predicted == list(range(predicted[0], predicted[-1] + 1))
                assert context[-1] + 1 == predicted[0]
                windows.append([predicted[0], predicted[-1] + 1, len(context)])
            cases.append({"tokens": tokens, "max_tokens": max_tokens, "stride": stride,
                          "windows": windows})

target = pathlib.Path(__file__).parent.parent / "eval" / "data" / "windows.json"
target.parent.mkdir(parents=True, exist_ok=True)
lines = ",\n".join(json.dumps(case) for case in cases)
target.write_text(
    '{"made_by": "tests/oracles/make_windows_reference.py, lm-eval %s",\n"cases": [\n%s\n]}\n'
    % (version("lm-eval"), lines))
print(len(cases), "cases")
