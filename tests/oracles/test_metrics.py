"""weft score against sacrebleu and SQuAD's rule (as lm-eval has it), on random and real text."""
import hashlib
import json
import random
from collections import Counter

import pytest
from lm_eval.tasks.super_glue.record.t5_utils import normalize_squad
import sentencepiece
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.tokenizers import tokenizer_spm

SENTENCES = [
    "Auh in ye yuhqui in on tlenamacac niman ye ic teixpan on motlalia.",
    "¿In chalchihuitl, teocuitlatl, mach ah ca on yaz?",
    "Yn oyuh in yoca hualmotlalli tonatiuh ylhuicatitech, niman yc peuh yn huel ye tlacoçahuia.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "ខ្ញុំចូលចិត្តអានសៀវភៅ។ ខ្ញុំក៏ចូលចិត្តសរសេរដែរ៕",
    "ሁሉም ሰዎች ነጻ ሆነው የተወለዱ ናቸው፤ በክብርና በመብትም እኩል ናቸው።",
    "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "The U.S. president's 1,234.56-dollar dinner isn't (that) cheap: $5 &amp; up, \"he\" said -- 3-4 times!",
    "C'est l'été à Paris : 25 °C, 3,5 % de moins qu'hier… « voilà » — dit-il.",
    "İstanbul'da ΟΔΥΣΣΕΥΣ ΣΑΣ ŒUVRE straße ẞ",
    "<skipped> a-\nb line\nbreaks\tand\u00a0spaces\u2003here &quot;x&quot; &lt;tag&gt;",
    "e\u0301 a\u0301 o\u0302\u0323 é á ộ", "👩‍👩‍👧‍👦 🇲🇽 ½ ² Ⅳ ٣٤", "", " ", ".", "a", "the", "x" * 300,
    "\u200b\ufeff odd \x1c separators \x85 end", "日本 ひらがな カタカナ ㇰ ｶﾀｶﾅ 、。「」", "'s it's John's",
]


def corrupted(text, rng):
    """Words dropped, doubled, moved and replaced, so that TER has shifts to find."""
    words = text.split(" ")
    for _ in range(rng.randrange(5)):
        if len(words) < 2:
            break
        i, j = sorted(rng.sample(range(len(words) + 1), 2))
        act = rng.randrange(5)
        if act == 0:
            del words[i]
        elif act == 1:
            part = words[i:j]
            del words[i:j]
            at = rng.randrange(len(words) + 1)
            words[at:at] = part
        elif act == 2:
            words.insert(i, rng.choice(rng.choice(SENTENCES).split(" ")))
        elif act == 3:
            words[i:j] = [word.upper() for word in words[i:j]]
        else:
            words[i:i] = words[i:j]
    text = " ".join(words)
    if text and rng.random() < 0.3:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice("abñ.,!۔。५\u0301 \n-'") + text[at + 1:]
    return text


def random_text(rng):
    alphabet = rng.choice(["ab ", "the a an ", "aé\u0301ñ¿.,;-$ 0123456789'", "漢字かなカナ。、ab ",
                           "अआइ\u093e\u094d।॥ ", "".join(map(chr, range(32, 127)))])
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(80)))


@pytest.fixture(scope="module")
def pairs():
    rng = random.Random(6)
    pairs = [(text, text) for text in SENTENCES]
    pairs += [(corrupted(text, rng), text) for text in SENTENCES for _ in range(12)]
    pairs += [(random_text(rng), random_text(rng)) for _ in range(150)]
    pairs += [("", SENTENCES[0]), (SENTENCES[0], ""), ("", "")]
    words = [rng.choice("abcdefghij") for _ in range(260)]
    moved = words[130:] + words[:130]
    pairs += [(" ".join(words), " ".join(words)), (" ".join(words), " ".join(moved)),
              (" ".join(words[:4]), " ".join(words)), (" ".join(words), " ".join(words[:4]))]
    return pairs


def scores(weft, folder, answers, references, specs):
    def write(name, texts):
        path = folder / name
        path.write_text("".join(json.dumps(text) + "\n" for text in texts))
        return path
    files = [write(f"ref{i}.jsonl", texts) for i, texts in enumerate(references)]
    result = weft.json("score", write("answers.jsonl", answers),
                       *[x for file in files for x in ("--reference", file)],
                       *[x for spec in specs for x in ("--metric", spec)])
    return {score["metric"]: score for score in result["scores"]}


def option(spec):
    """The oracle of a spec."""
    name, _, variant = spec.partition(":")
    variants = variant.split(",") if variant else []
    if name == "bleu":
        tokens = [v for v in variants if v != "lc"]
        return BLEU(tokenize=tokens[0] if tokens else "13a", lowercase="lc" in variants)
    if name == "ter":
        return TER(normalized="normalized" in variants, no_punct="no_punct" in variants,
                   asian_support="asian" in variants, case_sensitive="case_sensitive" in variants)
    return CHRF(word_order=2 if name == "chrf++" else 0)


SPECS = ["chrf", "chrf++", "bleu", "bleu:none", "bleu:char", "bleu:intl", "bleu:zh", "bleu:lc",
         "bleu:intl,lc", "ter", "ter:no_punct", "ter:case_sensitive"]


def check(found, oracle, answers, references, spec):
    expected = oracle.corpus_score(answers, references)
    assert found["value"] == pytest.approx(expected.score, rel=1e-9, abs=1e-9), spec
    assert found["signature"] == str(oracle.get_signature())


def test_corpus_equals_sacrebleu_with_its_signature(weft, pairs, tmp_path):
    answers, references = map(list, zip(*pairs))
    found = scores(weft, tmp_path, answers, [references], SPECS)
    for spec in SPECS:
        check(found[spec], option(spec), answers, [references], spec)


def test_each_segment_equals_sacrebleu(weft, pairs, tmp_path):
    # Sums of a corpus may hide mistakes that cancel out; parts of it hide fewer.
    for at in range(0, len(pairs), 40):
        answers, references = map(list, zip(*pairs[at:at + 40]))
        found = scores(weft, tmp_path, answers, [references], SPECS)
        for spec in SPECS:
            check(found[spec], option(spec), answers, [references], spec)


def test_several_references_equal_sacrebleu(weft, pairs, tmp_path):
    answers, first = map(list, zip(*pairs))
    rng = random.Random(8)
    references = [first, [corrupted(text, rng) for text in first], first[1:] + first[:1]]
    specs = ["chrf", "chrf++", "bleu", "bleu:intl", "ter"]
    found = scores(weft, tmp_path, answers, references, specs)
    for spec in specs:
        check(found[spec], option(spec), answers, references, spec)


@pytest.fixture(scope="module")
def piece_models(tmp_path_factory):
    """Two small SentencePiece models where sacrebleu keeps its own."""
    folder = tmp_path_factory.mktemp("sacrebleu")
    (folder / "models").mkdir()
    for name, kind, size in [("flores200sacrebleuspm", "unigram", 600), ("sacrebleu_tokenizer_spm.model", "bpe", 700)]:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([text for text in SENTENCES if text.strip()] * 3), model_prefix=str(folder / "trained"),
            vocab_size=size, model_type=kind, hard_vocab_limit=False, character_coverage=0.99)
        (folder / "trained.model").rename(folder / "models" / name)
    return folder


def test_bleu_on_pieces_equals_sacrebleu(weft, pairs, piece_models, tmp_path, monkeypatch):
    monkeypatch.setenv("SACREBLEU", str(piece_models))
    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(piece_models))
    # A run of one letter has many cuts of the same probability, and SentencePiece 0.1 takes another than 0.2.
    pairs = [(answer, reference) for answer, reference in pairs if "xxx" not in (answer + reference).lower()]
    assert len(pairs) > 400
    answers, references = map(list, zip(*pairs))
    specs = ["bleu:flores200", "bleu:flores101", "bleu:spm", "bleu:flores200,lc"]
    found = scores(weft, tmp_path, answers, [references], specs)
    for spec in specs:
        check(found[spec], option(spec), answers, [references], spec)
    assert found["bleu:flores200"]["value"] != found["bleu:flores101"]["value"]
    # The same model under another name has its digest for a name, and not sacrebleu's.
    own = tmp_path / "own.model"
    own.write_bytes((piece_models / "models/flores200sacrebleuspm").read_bytes())
    digest = hashlib.sha256(own.read_bytes()).hexdigest()[:12]
    spec = f"bleu:spm={own}"
    one = scores(weft, tmp_path, answers, [references], [spec])[spec]
    assert one["value"] == found["bleu:flores200"]["value"] and f"|tok:spm-{digest}|" in one["signature"]


def test_bleu_on_pieces_without_the_model_says_where_it_is_looked_for(weft, tmp_path, monkeypatch):
    monkeypatch.setenv("SACREBLEU", str(tmp_path))
    (tmp_path / "a.txt").write_text("x\n")
    score = ["score", tmp_path / "a.txt", "--reference", tmp_path / "a.txt", "--metric"]
    own = tmp_path / "own.model"
    own.write_text("no model")
    for spec, words in [("bleu:flores200", [str(tmp_path / "models/flores200sacrebleuspm"), "sacrebleu -tok flores200"]),
                        (f"bleu:spm={tmp_path / 'none.model'}", ["none.model"]),
                        (f"bleu:spm={own}", ["own.model", "SentencePiece"]),
                        (f"bleu:spm={own}@0123456789ab", ["own.model", "another file"]),
                        ("bleu:ja-mecab", ["MeCab", "bleu:none", "bleu:char"])]:
        done = weft.run(*score, spec, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert all(word in done.stderr for word in words), done.stderr


def test_f1_and_exact_match_follow_squads_rule(weft, pairs, tmp_path):
    answers, references = map(list, zip(*pairs))

    def f1(answer, reference):
        ours, theirs = normalize_squad(answer).split(), normalize_squad(reference).split()
        if not ours or not theirs:  # SQuAD 2's addition
            return float(ours == theirs)
        same = sum((Counter(ours) & Counter(theirs)).values())
        return 2 * same / (len(ours) + len(theirs))

    found = scores(weft, tmp_path, answers, [references], ["f1", "exact_match"])
    mean = sum(f1(a, r) for a, r in pairs) / len(pairs)
    assert found["f1"]["value"] == pytest.approx(mean, rel=1e-9)
    strict = sum(a.strip() == r.strip() for a, r in pairs) / len(pairs)
    assert found["exact_match"]["value"] == pytest.approx(strict, rel=1e-9)
    squad = scores(weft, tmp_path, answers, [references], ["exact_match:squad"])
    mean = sum(normalize_squad(a) == normalize_squad(r) for a, r in pairs) / len(pairs)
    assert squad["exact_match:squad"]["value"] == pytest.approx(mean, rel=1e-9)


def test_unicode_chrf_equals_sacrebleu_on_prepared_text(weft, pairs, tmp_path):
    """Composed, and with punctuation set apart by category beforehand, sacrebleu must agree: its
    own rule then only meets single signs."""
    import unicodedata

    def prepared(text):
        words = []
        for word in unicodedata.normalize("NFC", text).split():
            is_sign = [unicodedata.category(c).startswith("P") for c in word]
            begin = next((i for i, sign in enumerate(is_sign) if not sign), len(word))
            end = max((i + 1 for i, sign in enumerate(is_sign) if not sign), default=begin)
            words += [*word[:begin]] + ([word[begin:end]] if end > begin else []) + [*word[end:]]
        return " ".join(words)

    def untouched(text):  # where ASCII signs that are symbols ($, +, ...) are at no word's end
        return not any(len(w) > 1 and (w[0] in "$+<=>^`|~" or w[-1] in "$+<=>^`|~")
                       for w in prepared(text).split())

    kept = [(a, r) for a, r in pairs if untouched(a) and untouched(r)]
    assert len(kept) > 200
    answers, references = map(list, zip(*kept))
    found = scores(weft, tmp_path, answers, [references], ["chrf++_unicode"])["chrf++_unicode"]
    expected = CHRF(word_order=2).corpus_score([prepared(a) for a in answers],
                                               [[prepared(r) for r in references]])
    assert found["value"] == pytest.approx(expected.score, rel=1e-9)
    assert "punct:unicode" in found["signature"] and "weft" in found["signature"]


@pytest.mark.parametrize("arguments, message", [
    (["--metric", "blue"], "there is no metric 'blue'"),
    (["--metric", "bleu:14a"], "no variant '14a', only 13a, none, char, intl, zh, flores200, flores101, spBLEU-1K, spm, spm=FILE, lc"),
    (["--metric", "bleu:char,intl"], "give one tokenizer"),
    (["--metric", "f1:x"], "it has no variant 'x'"),
])
def test_wrong_metrics_are_named(weft, tmp_path, arguments, message):
    (tmp_path / "a.txt").write_text("x\n")
    done = weft.run("score", tmp_path / "a.txt", "--reference", tmp_path / "a.txt", *arguments,
                    check=False)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_a_missing_reference_is_an_error(weft, tmp_path):
    (tmp_path / "a.txt").write_text("x\ny\n")
    (tmp_path / "r.txt").write_text("x\n")
    done = weft.run("score", tmp_path / "a.txt", "--reference", tmp_path / "r.txt", check=False)
    assert done.returncode == 2
    assert "r.txt has 1 lines" in done.stderr and "has 2" in done.stderr
