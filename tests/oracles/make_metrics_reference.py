"""Writes chrf.json and word_metrics.json into tests/eval/data: chrF, chrF++, BLEU and TER by
sacrebleu on hard strings. Segment n of the second file is that of the first.

Run with the oracles' Python (script/setup --tests): python tests/oracles/make_metrics_reference.py
"""

import json
import pathlib
import random
from importlib.metadata import version

from sacrebleu.metrics import BLEU, CHRF, TER

SENTENCES = [
    "Auh in ye yuhqui in on tlenamacac niman ye ic teixpan on motlalia.",
    "¿In chalchihuitl, teocuitlatl, mach ah ca on yaz?",
    "Yn oyuh in yoca hualmotlalli tonatiuh ylhuicatitech; tlacoçahuia.",
    "Nä bätsi bi ñäni ko rä mbo̱ho̱ — 'bu̱i nuya.",
    "Tá nì káchí rà: «kòó ña̱ ndixa kúú ña̱ yóꞌó».",
    "ខ្ញុំចូលចិត្តអានសៀវភៅ។ តើអ្នកសុខសប្បាយទេ?",
    "सब मनुष्य जन्म से स्वतन्त्र हैं। उन्हें बुद्धि प्राप्त है॥",
    "ሰው ሁሉ ነጻ ሆኖ ይወለዳል። ክብርና መብት፣ እኩል ነው።",
    "كل الناس أحرار، متساوون في الكرامة والحقوق.",
    "人人生而自由，在尊严和权利上一律平等。",
    "👩‍👩‍👧‍👦 ran 🇲🇽 to 👍🏽👍🏿 (twice!)",
    "e\u0301 is not é; a\u030a\u0323 neither \u1ea1\u030a",
    "a\u00a0b\u2003c\u3000d\u1680e\u202ff\u2028g\u205fh\x1ci\x85j",
    "\u200bzero\u200bwidth\u200b stays \ufeffglued\u2060.",
    "'quoted' (hi) \"both\" ... -- a, b; c:d e/f @g #h $5 100% x_y ~z^ [k] {l} <m> `n` |o| \\p",
    "(", ")", ".", "..", "", " ", "\t\n", "a", "ab", "abcdefg", "\U00010330\U0001033f 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]


def mutate(text, rng):
    """A hypothesis that resembles `text`: characters dropped, doubled, swapped, words moved."""
    characters = list(text)
    for _ in range(rng.randrange(1 + len(characters) // 3)):
        if not characters:
            break
        at = rng.randrange(len(characters))
        action = rng.randrange(4)
        if action == 0:
            del characters[at]
        elif action == 1:
            characters.insert(at, characters[at])
        elif action == 2:
            characters[at] = rng.choice(rng.choice(SENTENCES) or " ")
        else:
            characters.insert(at, rng.choice(" .,;!?()'\"-"))
    words = "".join(characters).split(" ")
    if rng.random() < 0.3:
        rng.shuffle(words)
    return " ".join(words)


def random_text(rng):
    return "".join(rng.choice("ab .,\u00e9\u0301\u17d2\u1780\u093f\U0001f600\u3000\t")
                   for _ in range(rng.randrange(12)))


rng = random.Random(20260101)
variants = [
    {"char_order": 6, "word_order": 0, "beta": 2},
    {"char_order": 6, "word_order": 2, "beta": 2},
    {"char_order": 6, "word_order": 2, "beta": 2, "eps_smoothing": True},
    {"char_order": 4, "word_order": 1, "beta": 3, "whitespace": True},
]
segments = []
for number in range(150):
    references = [rng.choice(SENTENCES) for _ in range(rng.choice([1, 1, 2, 3]))]
    hypothesis = rng.choice([references[0], mutate(references[-1], rng), mutate(references[0], rng),
                             rng.choice(SENTENCES), random_text(rng), ""])
    if number % 10 == 9:
        hypothesis, references = random_text(rng), [random_text(rng) for _ in range(2)]
    segments.append({"hypothesis": hypothesis, "references": references})

for segment in segments:
    segment["scores"] = [CHRF(**v).sentence_score(segment["hypothesis"], segment["references"]).score
                         for v in variants]

most = max(len(s["references"]) for s in segments)
streams = [[s["references"][i] if i < len(s["references"]) else None for s in segments]
           for i in range(most)]
corpus = [CHRF(**v).corpus_score([s["hypothesis"] for s in segments], streams).score
          for v in variants]



def write(name, **parts):
    """One line a segment, so that a change of the strings can be read."""
    parts["made_by"] = f"tests/oracles/make_metrics_reference.py, sacrebleu {version('sacrebleu')}"
    lines = ",\n".join(json.dumps(s, ensure_ascii=False) for s in parts.pop("segments"))
    head = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in sorted(parts.items()))
    folder = pathlib.Path(__file__).parent.parent / "eval" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("{" + head + '"segments": [\n' + lines + "\n]}\n", encoding="utf-8")


def of_words(hypotheses, streams):
    """Statistics as eval/metrics/bleu.h and eval/metrics/ter.h define them, then the score."""
    found = {"bleu": [], "ter": []}
    for options in bleu_variants:
        score = BLEU(**options).corpus_score(hypotheses, streams)
        found["bleu"].append([score.sys_len, score.ref_len, *score.counts, *score.totals, score.score])
    for options in ter_variants:
        score = TER(**options).corpus_score(hypotheses, streams)
        found["ter"].append([score.num_edits, score.ref_length, score.score])
    return found


bleu_variants = [{"tokenize": name} for name in ("13a", "none", "char", "intl", "zh")]
bleu_variants.append({"tokenize": "13a", "lowercase": True})
ter_variants = [{}, {"normalized": True}, {"no_punct": True}, {"case_sensitive": True},
                {"normalized": True, "asian_support": True},
                {"normalized": True, "no_punct": True, "asian_support": True}]

write("chrf.json", variants=variants, corpus=corpus, segments=segments)
write("word_metrics.json", bleu=bleu_variants, ter=ter_variants,
      corpus=of_words([s["hypothesis"] for s in segments], streams),
      segments=[of_words([s["hypothesis"]], [[r] for r in s["references"]]) for s in segments])
print(len(segments), "segments", corpus)
