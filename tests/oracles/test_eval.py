"""weft eval against lm-eval (loglikelihood_rolling), transformers, peft and sacrebleu, live."""
import json
import math
import shutil
import subprocess
from html import escape as html_escape, unescape as html_unescape
from pathlib import Path

import lm_eval
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from peft import LoraConfig, PeftModel, get_peft_model
from sacrebleu.metrics import BLEU, CHRF
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

NAHUATL = [
    "Auh in ye yuhqui in on tlenamacac niman ye ic teixpan on motlalia.",
    "¿In chalchihuitl, teocuitlatl, mach ah ca on yaz?",
    "Yn oyuh in yoca hualmotlalli tonatiuh ylhuicatitech, niman yc peuh yn huel ye tlacoçahuia.",
]
HARD = ["e\u0301 👩‍👩‍👧‍👦 ខ្ញុំចូលចិត្ត",
        " leading and trailing \n\n", "सब मनुष्य", "a", "\u200b\ufeff x"]


def rolling(model, tokenizer, documents, max_length, **options):
    """Summed log-likelihood of each document by lm-eval."""
    lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=max_length, batch_size=1,
              device="cpu", **options)
    requests = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(d,), idx=i)
                for i, d in enumerate(documents)]
    return lm.loglikelihood_rolling(requests, disable_tqdm=True), lm


def suites(result, stage=0):
    return {suite["name"]: suite for suite in result["stages"][stage]["suites"]}


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
                    encoding="utf-8")
    return path


def check_rolling(suite, documents, log_likelihoods, lm):
    tokens = sum(len(lm.tok_encode(d)) for d in documents)
    size = sum(len(d.encode()) for d in documents)
    loss = -sum(log_likelihoods) / tokens
    assert suite["tokens"] == tokens
    assert suite["bytes"] == size
    assert suite["loss"] == pytest.approx(loss, rel=1e-5)
    assert suite["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert suite["bits_per_byte"] == pytest.approx(
        -sum(log_likelihoods) / size / math.log(2), rel=1e-5)


@pytest.fixture(scope="module")
def smollm2(smollm2_dir):
    return (AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(smollm2_dir))


@pytest.fixture(scope="module")
def tiny(smollm2_dir, tmp_path_factory):
    """A random model of 64 positions with SmolLM2's tokenizer, and an adapter for it."""
    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    torch.manual_seed(7)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)).eval()
    with torch.no_grad():  # Random models are flat; sharper ones show mistakes.
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear",
                                               init_lora_weights=False, task_type="CAUSAL_LM"))
    adapted.save_pretrained(folder / "adapter")
    return folder


def test_text_file_is_one_document_in_rolling_windows(weft, smollm2, smollm2_dir, tmp_path):
    document = "\n".join(NAHUATL * 2 + HARD)
    (tmp_path / "corpus.txt").write_bytes(document.encode())
    model, tokenizer = smollm2
    expected, lm = rolling(model, tokenizer, [document], 64)
    result = weft.json("eval", "--model", smollm2_dir, "--text", tmp_path / "corpus.txt",
                       "--sequence-len", "64", "--dtype", "f32")
    assert result["stages"][0]["name"] == "base"
    check_rolling(suites(result)["corpus"], [document], expected, lm)


def test_jsonl_is_one_document_a_line_from_the_gguf_file(weft, smollm2, smollm2_gguf, tmp_path):
    documents = NAHUATL + HARD + ["<|im_start|>special tokens in the text<|im_end|>"] * 2
    corpus = jsonl(tmp_path / "corpus.jsonl",
                   [{"text": d, "id": i} for i, d in enumerate(documents)])
    model, tokenizer = smollm2
    expected, lm = rolling(model, tokenizer, documents, 2048)
    out = tmp_path / "result.json"
    result = weft.json("eval", "--model", smollm2_gguf, "--text", corpus, "--out", out)
    check_rolling(suites(result)["corpus"], documents, expected, lm)
    items = suites(json.loads(out.read_text()))["corpus"]["items"]
    assert [-x for x in items["loss"]] == pytest.approx(expected, rel=1e-5)


def test_default_window_is_the_models_limit(weft, tiny, tmp_path):
    documents = [" ".join(NAHUATL)] * 2 + NAHUATL
    assert len(AutoTokenizer.from_pretrained(tiny / "base")(documents[0])["input_ids"]) > 80
    corpus = jsonl(tmp_path / "corpus.jsonl", [{"text": d} for d in documents])
    model = AutoModelForCausalLM.from_pretrained(tiny / "base", dtype=torch.float32)
    expected, lm = rolling(model, AutoTokenizer.from_pretrained(tiny / "base"), documents, 64)
    result = weft.json("eval", "--model", tiny / "base", "--text", corpus)
    assert result["settings"]["sequence_len"] == 64
    check_rolling(suites(result)["corpus"], documents, expected, lm)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_tokenizer_that_adds_a_bos(weft, tiny, tmp_path, adds_bos):
    base = tmp_path / "base"
    shutil.copytree(tiny / "base", base)
    tokenizer_json = json.loads((base / "tokenizer.json").read_text())
    bos = AutoTokenizer.from_pretrained(base).bos_token
    tokenizer_json["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                 {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [1], "tokens": [bos]}}}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer_json))
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    documents = NAHUATL + [bos + NAHUATL[0]]
    corpus = jsonl(tmp_path / "corpus.jsonl", [{"text": d} for d in documents])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected, lm = rolling(model, tokenizer, documents, 64,
                           add_bos_token=None if adds_bos else False)
    special = ["--special"] if adds_bos else []
    result = weft.json("eval", "--model", base, "--text", corpus, *special)
    check_rolling(suites(result)["corpus"], documents, expected, lm)


def test_stages_equal_peft_and_the_merged_model(weft, tiny, tmp_path):
    corpus = jsonl(tmp_path / "corpus.jsonl", [{"text": d} for d in NAHUATL])
    merged = tmp_path / "merged"
    weft("merge", "--model", tiny / "base", "--adapter", tiny / "adapter", "--out", merged)
    result = weft.json("eval", "--model", tiny / "base", "--adapter", tiny / "adapter",
                       "--merged", merged, "--text", corpus)
    assert [s["name"] for s in result["stages"]] == ["base", "base+adapter", "merged"]
    tokenizer = AutoTokenizer.from_pretrained(tiny / "base")
    base = AutoModelForCausalLM.from_pretrained(tiny / "base", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tiny / "adapter").merge_and_unload().eval()
    expected, lm = rolling(adapted, tokenizer, NAHUATL, 64)
    check_rolling(suites(result, 1)["corpus"], NAHUATL, expected, lm)
    check_rolling(suites(result, 2)["corpus"], NAHUATL, expected, lm)
    base_loss = suites(result)["corpus"]["loss"]
    assert abs(suites(result, 1)["corpus"]["loss"] - base_loss) > 1e-3
    difference = suites(result, 2)["corpus"]["differences"]["loss"]["value"]
    assert difference == pytest.approx(suites(result, 2)["corpus"]["loss"] - base_loss, abs=1e-9)


def test_instruction_loss_and_chrf_equal_transformers_and_sacrebleu(weft, smollm2, smollm2_dir,
                                                                   tmp_path):
    pairs = [("good morning", "Buenos días"), ("I am eating bread", "Estoy comiendo pan."),
             ("Where is the house?", "¿Dónde está la casa?"), ("water", "agua")]
    data = tmp_path / "pairs.csv"
    data.write_text("en,es\n" + "".join(f'"{en}","{es}"\n' for en, es in pairs), encoding="utf-8")
    (tmp_path / "eval.yaml").write_text(f"""
base_model: {smollm2_dir}
dtype: float32
data:
  - path: pairs.csv
    type: instruction
    fields: {{instruction: "Translate to Spanish: {{en}}", output: "{{es}}"}}
generate: {{examples: 4, max_tokens: 12}}
""")
    out = tmp_path / "result.json"
    result = weft.json("eval", tmp_path / "eval.yaml", "--out", out)
    suite = suites(result)["pairs"]

    model, tokenizer = smollm2
    total, count = 0.0, 0
    outputs = []
    for en, es in pairs:
        messages = [{"role": "user", "content": f"Translate to Spanish: {en}"}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True,
                                               return_dict=False)
        text = tokenizer.apply_chat_template(messages + [{"role": "assistant", "content": es}],
                                             return_dict=False)
        # The template ends a turn with <|im_end|>\n; the line break is not the model's to write.
        text = text[:len(text) - text[::-1].index(tokenizer.eos_token_id)]
        assert text[:len(prompt)] == prompt
        with torch.no_grad():
            log_p = torch.log_softmax(model(torch.tensor([text])).logits[0].float(), -1)
            total -= sum(log_p[t - 1, text[t]].item() for t in range(len(prompt), len(text)))
            generated = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12,
                                       pad_token_id=tokenizer.eos_token_id)[0][len(prompt):]
        count += len(text) - len(prompt)
        outputs.append(tokenizer.decode(generated, skip_special_tokens=True))
    assert suite["tokens"] == count
    assert suite["bytes"] == sum(len(es.encode()) for _, es in pairs)
    assert suite["loss"] == pytest.approx(total / count, rel=1e-5)

    generations = suites(json.loads(out.read_text()))["pairs"]["generations"]
    assert [g["reference"] for g in generations] == [es for _, es in pairs]
    assert [g["output"].strip() for g in generations] == [o.strip() for o in outputs]
    hypotheses, references = ([g[key] for g in generations] for key in ("output", "reference"))
    for name, metric in (("chrf", CHRF()), ("chrf++", CHRF(word_order=2))):
        assert suite[name] == pytest.approx(
            metric.corpus_score(hypotheses, [references]).score, abs=1e-6)
        for generation in generations:
            assert generation[name] == pytest.approx(metric.sentence_score(
                generation["output"], [generation["reference"]]).score, abs=1e-6)


@pytest.mark.parametrize("arguments, message", [
    (["--text", "{tmp}/absent.txt"], "absent.txt"),
    (["--text", "{tmp}/empty.txt"], "no text"),
    (["--text", "{tmp}/rows.jsonl"], "rows.jsonl:2"),
    (["--text", "{tmp}/latin1.txt"], "UTF-8"),
    ([], "nothing to measure"),
])
def test_bad_input_is_one_line_and_exit_2(weft, tiny, tmp_path, arguments, message):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    (tmp_path / "latin1.txt").write_bytes("n\xe1huatl".encode("latin-1"))
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    done = weft.run("eval", "--model", tiny / "base", *arguments, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


# Chromium's window has a least width, a frame has none: media queries see the frame's. Inline
# elements are not looked at: spaces at the end of a line hang out of it, unseen.
PROBE = """<!DOCTYPE html><title></title><iframe width="{width}" height="900" style="border:0"
srcdoc="{page}"></iframe><script>addEventListener("load", () => {{
const page = document.querySelector("iframe").contentDocument, e = page.documentElement;
const out = [...page.querySelectorAll("body *")].filter(n => !n.closest(".wide") &&
  getComputedStyle(n).display !== "inline" &&
  n.getBoundingClientRect().right > e.clientWidth + 1).map(n => n.tagName);
document.title = JSON.stringify({{width: e.clientWidth, scroll: e.scrollWidth, out,
  text: page.body.innerText.length}}); }});</script>"""


@pytest.mark.parametrize("width", [360, 1280])
def test_report_fits_the_window_and_shows_the_figures(weft, tiny, tmp_path, width):
    """In headless Chromium, measured by a script of another page around it."""
    words = ["in xochitl", "कितना सुंदर है", "كتاب جديد", "ខ្ញុំ", "w" * 90]
    data = jsonl(tmp_path / "pairs.jsonl",
                 [{"prompt": f"{w} <b>: ", "completion": w[:30]} for w in words])
    page, out = tmp_path / "report.html", tmp_path / "out.json"
    done = weft.run("eval", "--model", tiny / "base", "--adapter", tiny / "adapter", "--data", data,
                    "--sequence-len", "512", "--generate", "5", "--report", page, "--out", out,
                    "--gate", "bits_per_byte.adapter <= 0.1 * bits_per_byte.base", check=False)
    assert done.returncode == 3, done.stderr
    assert "FAILED by" in done.stdout
    html = page.read_text(encoding="utf-8")
    assert "<script" not in html and "http" not in html
    result = json.loads(out.read_text())
    assert not result["gates"][0]["passed"]
    for stage in result["stages"]:
        assert f"{stage['suites'][0]['bits_per_byte']:.4f}" in html
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=html_escape(html)), encoding="utf-8")
    shown = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/c",
         "--enable-logging=stderr", "--window-size=1400,1000", "--dump-dom", probe.as_uri()],
        capture_output=True, text=True, timeout=120)
    found = json.loads(html_unescape(shown.stdout.split("<title>")[1].split("</title>")[0]))
    assert width - 20 <= found["width"] <= width
    assert found["scroll"] <= found["width"] and found["out"] == []
    assert found["text"] > 500
    assert "CONSOLE" not in shown.stderr


QUESTIONS = [
    ("The capital of France is", ["Paris", "London", "a very small cat"], 0),
    ("Water freezes at zero degrees ", ["Celsius", "Bananas"], 1),
    ("¿In xochitl", ["in cuicatl", "tlaxcalli", "कितना"], 2),
    ("Two plus two equals", ["five", "four", "seventy-seven"], 1),
]


@pytest.mark.parametrize("length", [2048, 12])
def test_choices_equal_lm_eval(weft, smollm2, smollm2_dir, tmp_path, length):
    """Log-probabilities by lm-eval's requests, picks by its rules (ConfigurableTask)."""
    quiz = jsonl(tmp_path / "quiz.jsonl", [{"context": c, "choices": ch, "answer": a}
                                           for c, ch, a in QUESTIONS])
    (tmp_path / "eval.yaml").write_text(f"""
base_model: {smollm2_dir}
sequence_len: {length}
suites: [{{name: quiz, choices: {{path: {quiz}}}}}]
""")
    out = tmp_path / "out.json"
    weft("eval", tmp_path / "eval.yaml", "--out", out)
    suite = suites(json.loads(out.read_text()))["quiz"]
    model, tokenizer = smollm2
    lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=length, batch_size=1, device="cpu")
    right = {"acc": 0, "acc_norm": 0, "acc_bytes": 0, "acc_mutual_info": 0}
    for (context, choices, answer), found in zip(QUESTIONS, suite["choices"]):
        requests = [Instance("loglikelihood", {}, (before, " " + choice), i)
                    for i, (before, choice) in enumerate(
                        [(context, c) for c in choices] + [("", c) for c in choices])]
        scores = [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]
        given, alone = scores[:len(choices)], scores[len(choices):]
        assert found["log_p"] == pytest.approx(given, rel=1e-4)
        assert found["log_p_alone"] == pytest.approx(alone, rel=1e-4)
        rules = {"acc": given,
                 "acc_norm": [s / len(c) for s, c in zip(given, choices)],
                 "acc_bytes": [s / len(c.encode()) for s, c in zip(given, choices)],
                 "acc_mutual_info": [s - u for s, u in zip(given, alone)]}
        for name, values in rules.items():
            right[name] += values.index(max(values)) == answer
    for name, count in right.items():
        assert suite[name] == pytest.approx(count / len(QUESTIONS))


def lm_eval_task(name, rows, folder):
    """lm-eval's own task of the name, on these rows."""
    root = Path(lm_eval.__file__).parent / "tasks"
    text = (root / name).read_text().replace("!function ", "")
    keys = ("doc_to_text", "doc_to_target", "doc_to_choice", "metric_list")
    written = {key: value for key, value in yaml.safe_load(text).items() if key in keys}
    file = jsonl(folder / "rows.jsonl", rows)
    return file, ConfigurableTask(config={
        "task": "rows", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test", "output_type": "multiple_choice", **written})


LAYOUTS = {
    "belebele/_default_template_yaml": (
        [{"flores_passage": f"{c} {ch[i % 2]}.", "question": f" {c}? ",
          **{f"mc_answer{j + 1}": choice for j, choice in enumerate([*ch, "tlaxcalli", "atl"][:4])},
          "correct_answer_num": str(a + 1)} for i, (c, ch, a) in enumerate(QUESTIONS)],
        {"context": "P: {flores_passage}\nQ: {question}\nA: {mc_answer1}\nB: {mc_answer2}\n"
                    "C: {mc_answer3}\nD: {mc_answer4}\nAnswer:",
         "choices": ["A", "B", "C", "D"], "answer": "correct_answer_num", "answer_from": 1}),
    "arc/arc_easy.yaml": (
        [{"question": c, "choices": {"text": ch, "label": list("ABC" if i % 2 else "123")[:len(ch)]},
          "answerKey": ("ABC" if i % 2 else "123")[a]} for i, (c, ch, a) in enumerate(QUESTIONS)],
        {"context": "Question: {question}\nAnswer:", "choices": "choices.text",
         "labels": "choices.label", "answer": "answerKey"}),
    # As lm-eval's process_docs leaves the rows; its label is a text.
    "hellaswag/hellaswag.yaml": (
        [{"query": c, "choices": [*ch, "atl", "in cuicatl"][:3], "label": str(a)}
         for c, ch, a in QUESTIONS],
        {"context": "{query}", "choices": "choices", "answer": "label"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_benchmarks_equal_lm_evals_own_tasks(weft, smollm2, smollm2_dir, tmp_path, layout):
    rows, section = LAYOUTS[layout]
    if "belebele" in layout:
        for row in rows:  # lm-eval strips the question; a template has no functions
            row["question"] = row["question"].strip()
    file, task = lm_eval_task(layout, rows, tmp_path)
    (tmp_path / "eval.yaml").write_text(json.dumps({
        "base_model": str(smollm2_dir), "record": False,
        "suites": [{"name": "quiz", "choices": {"path": str(file), **section}}]}))
    out = tmp_path / "out.json"
    weft("eval", tmp_path / "eval.yaml", "--out", out)
    suite = suites(json.loads(out.read_text()))["quiz"]
    model, tokenizer = smollm2
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")
    task.build_all_requests(rank=0, world_size=1)
    scores = lm.loglikelihood(task.instances, disable_tqdm=True)
    found = [score for question in suite["choices"] for score in question["log_p"]]
    assert found == pytest.approx([score for score, _ in scores], rel=1e-4)
    results, at = [], 0
    for doc in task.dataset["test"]:
        count = len(task.doc_to_choice(doc))
        results.append(task.process_results(doc, scores[at:at + count]))
        at += count
    assert suite["acc"] == pytest.approx(sum(r["acc"] for r in results) / len(results))
    assert suite["acc_norm"] == pytest.approx(sum(r["acc_norm"] for r in results) / len(results))


def test_stride_equals_lm_evals_windows_with_context(weft, smollm2, smollm2_dir, tmp_path):
    """lm-eval fixes context_len to 1; its own functions with another one are what a stride is."""
    document = "\n".join(NAHUATL * 2)
    (tmp_path / "corpus.txt").write_text(document, encoding="utf-8")
    (tmp_path / "eval.yaml").write_text(json.dumps({
        "base_model": str(smollm2_dir), "record": False, "suites": [
            {"name": "corpus", "text": [str(tmp_path / "corpus.txt")], "window_tokens": 24,
             "stride": 8}]}))
    suite = suites(weft.json("eval", tmp_path / "eval.yaml"))["corpus"]
    model, tokenizer = smollm2
    lm = HFLM(pretrained=model, tokenizer=tokenizer, max_length=24, batch_size=1, device="cpu")
    windows = map(make_disjoint_window, get_rolling_token_windows(
        lm.tok_encode(document), lm.prefix_token_id, 24, 24 - 8 + 1))
    requests = [(("", ""), context, predicted) for context, predicted in windows]
    scores = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    check_rolling(suite, [document], [sum(score for score, _ in scores)], lm)


def test_stop_texts_and_references_equal_lm_eval_and_sacrebleu(weft, smollm2, smollm2_dir, tmp_path):
    prompts = ["In the beginning", "Two plus two", "Nahuatl is"]
    rows = [{"prompt": p, "completion": " the word.", "others": [" a word, the word.", " it."]}
            for p in prompts]
    data = jsonl(tmp_path / "pairs.jsonl", rows)
    (tmp_path / "eval.yaml").write_text(json.dumps({
        "base_model": str(smollm2_dir), "record": False,
        "generate": {"examples": 3, "max_tokens": 24, "stop": [".", "\n\n"], "metrics": ["chrf", "bleu"]},
        "suites": [{"name": "pairs", "data": {"path": str(data)}, "references": "others"}]}))
    out = tmp_path / "out.json"
    weft("eval", tmp_path / "eval.yaml", "--out", out)
    suite = suites(json.loads(out.read_text()))["pairs"]
    model, tokenizer = smollm2
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, device="cpu")
    requests = [Instance("generate_until", {}, (p, {"until": [".", "\n\n"], "max_gen_toks": 24,
                                                    "do_sample": False}), i)
                for i, p in enumerate(prompts)]
    expected = lm.generate_until(requests, disable_tqdm=True)
    outputs = [generation["output"] for generation in suite["generations"]]
    assert outputs == expected
    references = [[row["completion"] for row in rows]] + [[row["others"][i] for row in rows]
                                                          for i in range(2)]
    assert suite["chrf"] == pytest.approx(CHRF().corpus_score(outputs, references).score, abs=1e-9)
    assert suite["bleu"] == pytest.approx(BLEU().corpus_score(outputs, references).score, abs=1e-9)
    assert "nrefs:3" in suite["signatures"]["chrf"]


def test_simulated_quantisation_equals_the_exported_file(weft, smollm2_gguf, tmp_path):
    corpus = jsonl(tmp_path / "corpus.jsonl", [{"text": d} for d in NAHUATL])
    exported = tmp_path / "model.gguf"
    weft("export", "--model", smollm2_gguf, "--to", "gguf", "--type", "q4_k_m", "--out", exported)
    (tmp_path / "eval.yaml").write_text(f"""
base_model: {smollm2_gguf}
stages:
  - {{name: simulated, quantise: q4_k_m}}
  - {{name: exported, model: {exported}}}
text: [{corpus}]
distribution: {{}}
""")
    out = tmp_path / "out.json"
    weft("eval", tmp_path / "eval.yaml", "--out", out)
    result = json.loads(out.read_text())
    simulated, file = (suites(result, i)["corpus"] for i in (0, 1))
    assert simulated["items"]["loss"] == file["items"]["loss"]
    assert file["distribution"]["kl"]["max"] == 0
