"""Intervals and p of weft eval, computed again by numpy and scipy from the items it has measured."""
import json

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

RESAMPLES, PERMUTATIONS, SEED = 2000, 10000, 12345
WORDS = "in atl tepetl xochitl cuicatl tlaxcalli calli tonatiuh niltze".split()


def stream_of(name: str) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = (value ^ byte) * 0x100000001B3 % 2 ** 64
    return value


def words(suite, number, purpose, count):
    """numpy's own Philox4x64-10; its counter is advanced before the first block."""
    generator = np.random.Philox(key=np.array([SEED, stream_of(suite)], dtype=np.uint64),
                                 counter=np.array([0, number, purpose, 0], dtype=np.uint64))
    return generator.random_raw(count)


def resamples(suite, units):
    """How often each unit occurs in each resample."""
    times = np.zeros((RESAMPLES, units))
    for number in range(RESAMPLES):
        for word in words(suite, number, 0, units):
            times[number, int(word) * units >> 64] += 1
    return times


def interval(values, units):
    """The percentiles, expanded as Hesterberg (2015) does."""
    tail = stats.norm.cdf(-np.sqrt(units / (units - 1)) * stats.t.isf(0.025, units - 1))
    return np.percentile(values, [100 * tail, 100 * (1 - tail)])


@pytest.fixture(scope="module")
def measured(weft, smollm2_dir, tmp_path_factory):
    """Two random models on suites of 9, 40 and 4 documents."""
    folder = tmp_path_factory.mktemp("statistics")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=128,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(6 if parameter.dim() > 1 else 1)
        model.save_pretrained(folder / f"model{seed}")
        tokenizer.save_pretrained(folder / f"model{seed}")
    random = np.random.default_rng(7)
    suites = []
    for name, documents in (("few", 9), ("many", 40), ("four", 4)):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(
            json.dumps({"text": " ".join(random.choice(WORDS, random.integers(3, 12)))}) + "\n"
            for _ in range(documents)))
        suites.append({"name": name, "text": [str(file)]})
    config = {"base_model": str(folder / "model1"), "suites": suites, "record": False,
              "stages": [{"name": "one"}, {"name": "two", "model": str(folder / "model2")}]}
    (folder / "eval.yaml").write_text(json.dumps(config))
    out = folder / "result.json"
    weft("eval", folder / "eval.yaml", "--out", out)
    result = json.loads(out.read_text())
    return {suite["name"]: (first, suite) for first, suite in
            zip(result["stages"][0]["suites"], result["stages"][1]["suites"])}, result


def sums(suite):
    items = suite["items"]
    return np.array([items["tokens"], items["bytes"], items["loss"]], dtype=float).T


FIGURES = {"loss": lambda s: s[..., 2] / s[..., 0],
           "perplexity": lambda s: np.exp(s[..., 2] / s[..., 0]),
           "bits_per_byte": lambda s: s[..., 2] / (s[..., 1] * np.log(2))}


@pytest.mark.parametrize("name", ["few", "many"])
def test_intervals_are_those_of_numpys_philox_and_scipys_quantiles(measured, name):
    first, second = measured[0][name]
    times = resamples(name, first["units"])
    a, b = times @ sums(first), times @ sums(second)
    for figure, of in FIGURES.items():
        units = first["units"]
        assert first["intervals"][figure] == pytest.approx(interval(of(a), units), rel=1e-7)
        difference = second["differences"][figure]
        assert difference["interval"] == pytest.approx(interval(of(b) - of(a), units), rel=1e-6)
        assert difference["relative_interval"] == pytest.approx(
            interval(of(b) / of(a) - 1, units), rel=1e-6)


def test_p_is_scipys_where_all_exchanges_are_counted_and_numpys_draws_elsewhere(measured):
    first, second = measured[0]["few"]
    for figure, of in FIGURES.items():
        a, b = sums(second), sums(first)
        def difference(x, y):  # of the places of a's units and b's
            both = np.concatenate([a, b])
            return of(both[x.astype(int)].sum(0)) - of(both[y.astype(int)].sum(0))

        places = (np.arange(9), np.arange(9) + 9)
        p = stats.permutation_test(places, difference, permutation_type="samples",
                                   n_resamples=np.inf, vectorized=False).pvalue
        assert second["differences"][figure]["p"] == pytest.approx(p, abs=1e-12)
    first, second = measured[0]["many"]
    a, b = sums(second), sums(first)
    exchanged = np.array([[int(words("many", i, 1, 1)[0]) >> unit & 1 for unit in range(40)]
                          for i in range(PERMUTATIONS)], dtype=float)
    moved = exchanged @ (b - a)
    for figure, of in FIGURES.items():
        found = abs(of(a.sum(0)) - of(b.sum(0)))
        large = np.sum(abs(of(a.sum(0) + moved) - of(b.sum(0) - moved)) >= found * (1 - 1e-12))
        assert second["differences"][figure]["p"] == pytest.approx(
            (large + 1) / (PERMUTATIONS + 1), abs=1e-12)


def test_too_few_documents_show_no_interval_and_few_are_told(measured):
    first, _ = measured[0]["four"]
    assert first["intervals"]["loss"] is None
    notes = " ".join(measured[1]["notes"])
    assert "four: 4 windows are too few for an interval" in notes
    assert "few: 9 windows are few" in notes
    assert "many" not in notes
