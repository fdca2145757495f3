"""weft report: its metadata read by huggingface_hub, its page rendered by Chromium."""
import json
import re
import shutil
import subprocess

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

HARD = "العربية e\u0301 👩‍👩‍👧‍👦 <script>alert(1)</script> | pipe: \"quote\" # no comment"


@pytest.fixture(scope="module")
def recorded(weft, smollm2_gguf, tmp_path_factory):
    """Two evaluations of the real model in a ledger, the first as v1, and a training run."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "text.txt").write_text("In xochitl in cuicatl. Niltze, quen tica? " * 24)
    (folder / "pairs.jsonl").write_text("".join(
        json.dumps({"instruction": f"{HARD} {i}", "output": f"atl {i}"}) + "\n" for i in range(3)))
    (folder / "quiz.jsonl").write_text(
        '{"context": "Agua is", "choices": ["atl", "tletl"], "answer": 0}\n'
        '{"context": "Fuego is", "choices": ["atl", "tletl"], "answer": 1}\n')
    config = {
        "base_model": str(smollm2_gguf), "ledger": "weft.db", "sequence_len": 128,
        "stages": [{"name": "base"}, {"name": "q8_0", "quantise": "q8_0"}],
        "suites": [{"name": "náhuatl: text", "language": "nah", "text": ["text.txt"]},
                   {"name": "quiz", "must_keep": True, "choices": {"path": "quiz.jsonl"}}],
        "data": [{"path": "pairs.jsonl", "type": "instruction"}],
        "generate": {"examples": 2, "max_tokens": 8}, "gates": ["bits_per_byte.quiz.base <= 99"],
    }
    (folder / "eval.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    weft("eval", folder / "eval.yaml", "--tag", "v1")
    weft("eval", folder / "eval.yaml")
    run = folder / "run"
    run.mkdir()
    lines = [{"update": i, "loss": 3 - 0.01 * i, "learning_rate": 1e-4} for i in range(1, 60)]
    lines += [{"update": i, "validation_loss": 3 - 0.008 * i} for i in range(10, 60, 10)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "preflight.json").write_text(json.dumps(
        {"training": {"examples": 5, "rows": 6, "duplicates": 1, "sample": HARD}, "updates": 60}))
    return folder


def report(weft, folder, *arguments):
    return weft("report", *arguments, "--ledger", folder / "weft.db")


def test_hugging_face_reads_the_model_index(weft, recorded):
    text = report(weft, recorded, "v1", "--format", "model-index", "--stage", "q8_0",
                  "--name", "me/model")
    front = re.fullmatch(r"---\n(.*)---\n", text, re.S).group(1)
    name, results = model_index_to_eval_results(yaml.safe_load(front)["model-index"])
    assert name == "me/model"
    shown = json.loads(weft("ledger", "show", "v1", "--json", "--ledger", recorded / "weft.db"))
    stage = next(stage for stage in shown["stages"] if stage["name"] == "q8_0")
    expected = {(suite["name"], figure): suite[figure] for suite in stage["suites"]
                for figure in suite["intervals"]}
    found = {(result.dataset_name, result.metric_type): result.metric_value for result in results}
    assert found == expected  # every figure, to the bit
    assert len(found) > 8
    languages = {result.dataset_name: result.dataset_config for result in results}
    assert languages["náhuatl: text"] == "nah" and languages["quiz"] is None
    assert {result.task_type for result in results} == {"text-generation", "multiple-choice"}


def test_markdown_has_every_stage_and_suite(weft, recorded):
    text = report(weft, recorded, "v1", "--format", "markdown")
    for part in ["## Evaluation", "### náhuatl: text (nah)", "### quiz: what must be kept",
                 "| base |", "| q8\\_0 |", "### Gates", "passed"]:
        assert part in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") - line.count("\\|") >= 3 for line in rows)


@pytest.fixture(scope="module")
def page(weft, recorded):
    out = recorded / "report.html"
    report(weft, recorded, recorded / "run", "v1", "latest", "--out", out, "--force")
    return out


def test_the_page_has_the_key_figures_and_no_scripts(weft, recorded, page):
    text = page.read_text()
    assert "<script" not in text and "http" not in text.replace("http://www.w3.org", "")
    shown = json.loads(weft("ledger", "show", "v1", "--json", "--ledger", recorded / "weft.db"))
    for stage in shown["stages"]:
        for suite in stage["suites"]:
            assert f"{suite['bits_per_byte']:.4f}" in text
    assert "are the same to the bit" in text and "Loss" in text and "1 duplicates" in text


@pytest.mark.parametrize("width", [360, 1280])
def test_chromium_renders_the_page_without_overflow(page, width, tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    # A frame of the given width tells how wide its contents are.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f width={width} height=800 style='border:0' src='file://{page}'></iframe>"
        "<script>f.onload = () => { const d = f.contentDocument.documentElement; "
        "document.title = 'widths ' + d.scrollWidth + ' ' + d.clientWidth; }</script>")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
         "--disable-web-security", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=5000",
         "--enable-logging=stderr", "--v=0", "--dump-dom", f"file://{frame}"],
        capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    widths = re.search(r"widths (\d+) (\d+)", done.stdout)
    assert widths, done.stdout[:300] + done.stderr[-500:]
    assert int(widths[1]) <= int(widths[2]) and int(widths[2]) > width - 20  # a scroll bar
