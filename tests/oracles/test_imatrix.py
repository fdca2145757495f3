"""Importance matrices against llama.cpp: what is summed, both file formats, and the blocks made with them."""
import numpy as np
import pytest
from gguf import GGUFReader
from transformers import AutoTokenizer

from gguf_tools import FILE_TYPES, differing, tensors
from test_export import adapter, odd_model  # noqa: F401  fixtures

TEXT = "\n".join(["¿Cómo se dice «agua» en náhuatl? Atl.", "Nehuatl nicnequi nimitzittas moztla, tlazohcamati.",
                  "The quick brown fox: 12345 jumps!\tOver  two spaces…"]) + "\n"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 12)
    return path


@pytest.fixture(scope="module")
def f32(weft, smollm2_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("f32") / "model.gguf"
    weft("export", "--model", smollm2_dir, "--to", "gguf", "--type", "f32", "--out", path)
    return path


@pytest.fixture(scope="module")
def ours(weft, smollm2_dir, text, tmp_path_factory):
    path = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    weft("imatrix", "--model", smollm2_dir, "--text", text, "--out", path, "--chunk", "256")
    return path


@pytest.fixture(scope="module")
def theirs(probe, smollm2_dir, text, f32, tmp_path_factory):
    """The same chunks through llama.cpp's graph, summed as llama-imatrix does, in its older format."""
    path = tmp_path_factory.mktemp("theirs") / "imatrix.dat"
    ids = AutoTokenizer.from_pretrained(smollm2_dir)(text.read_text()).input_ids
    chunks = [ids[i:i + 256] for i in range(0, len(ids) - 255, 256)]
    assert len(chunks) >= 2
    probe("imatrix", f32, path, input="".join(" ".join(map(str, chunk)) + "\n" for chunk in chunks))
    return path


def means(path):
    """NAME: sums / tokens, of the GGUF form."""
    reader = {tensor.name: tensor.data for tensor in GGUFReader(path).tensors}
    return {name.removesuffix(".in_sum2"): np.array(data).reshape(-1) / reader[name.replace("in_sum2", "counts")].item()
            for name, data in reader.items() if name.endswith(".in_sum2")}


def means_of_binary(path):
    data, at, found = path.read_bytes(), 0, {}

    def number():
        nonlocal at
        at += 4
        return int.from_bytes(data[at - 4:at], "little", signed=True)
    for _ in range(number()):
        length = number()
        name = data[at:at + length].decode()
        at += length
        calls, count = number(), number()
        found[name] = np.frombuffer(data, np.float32, count, at) / calls
        at += 4 * count
    return found


def test_sums_equal_those_of_llama_cpp(ours, theirs):
    found, expected = means(ours), means_of_binary(theirs)
    assert found.keys() == expected.keys() and len(found) == 7 * 30
    for name in expected:
        assert np.allclose(found[name], expected[name], rtol=2e-3, atol=1e-5 * expected[name].max()), name
    fields = GGUFReader(ours).fields
    assert fields["general.type"].contents() == "imatrix"
    assert fields["imatrix.datasets"].contents() == ["text.txt"]
    assert fields["imatrix.chunk_size"].contents() == 256


def test_sums_are_those_of_base_and_adapter(weft, smollm2_dir, adapter, text, tmp_path):
    weft("merge", "--model", smollm2_dir, "--adapter", adapter, "--out", tmp_path / "merged", "--dtype", "f32")
    options = ["--text", text, "--chunk", "256", "--chunks", "1"]
    weft("imatrix", "--model", tmp_path / "merged", *options, "--out", tmp_path / "merged.gguf")
    weft("imatrix", "--model", smollm2_dir, "--adapter", adapter, *options, "--out", tmp_path / "both.gguf")
    weft("imatrix", "--model", smollm2_dir, *options, "--out", tmp_path / "base.gguf")
    merged, both, base = (means(tmp_path / f"{name}.gguf") for name in ("merged", "both", "base"))
    last = "blk.29.ffn_down.weight"
    assert np.allclose(merged[last], both[last], rtol=1e-2, atol=1e-5 * merged[last].max())
    assert not np.allclose(base[last], both[last], rtol=1e-2, atol=1e-5 * base[last].max())


@pytest.mark.parametrize("kind", ["ours", "theirs"])
@pytest.mark.parametrize("name", [name for name in FILE_TYPES if name not in ("f16", "bf16")])
def test_blocks_equal_llama_quantize_with_importance(weft, probe, smollm2_dir, f32, request, tmp_path, name, kind):
    """Both programs read both formats: the GGUF one, and the binary one that many files on the Hub have."""
    if kind == "theirs" and name not in ("q4_0", "q4_k_m"):
        pytest.skip("one format is enough for the other types")
    imatrix = request.getfixturevalue(kind)
    report = weft.json("export", "--model", smollm2_dir, "--to", "gguf", "--type", name, "--imatrix", imatrix,
                       "--out", tmp_path / "ours.gguf")
    probe("quantize", f32, tmp_path / "theirs.gguf", FILE_TYPES[name], imatrix)
    assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []
    assert (report["weighted"] > 100) == (name not in ("q8_0", "q6_k"))  # 576 columns: Q6_K falls back to Q8_0
    fields = GGUFReader(tmp_path / "ours.gguf").fields
    assert fields["quantize.imatrix.entries_count"].contents() == 210
    assert fields["quantize.imatrix.dataset"].contents() == "text.txt"


def odd_importance(folder, path):
    """Importance that strains the fit: zeros, single columns, tiny and large numbers."""
    from gguf import GGUFWriter
    rng = np.random.default_rng(4)
    writer = GGUFWriter(path, "none")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["odd"])
    writer.add_uint32("imatrix.chunk_count", 3)
    writer.add_uint32("imatrix.chunk_size", 8)
    for name, tensor in tensors(folder).items():
        if not name.startswith("blk.") or len(tensor.shape) < 2:
            continue
        sums = rng.gamma(0.3, 1.0, tensor.shape[1]).astype(np.float32)
        kind = rng.integers(0, 6, tensor.shape[1] // 32).repeat(32)
        sums[kind == 0] = 0
        sums[kind == 1] *= 1e-20
        sums[kind == 2] *= 1e10
        sums[(kind == 3) & (np.arange(len(sums)) % 32 != 5)] = 0
        writer.add_tensor(name + ".in_sum2", sums)
        writer.add_tensor(name + ".counts", np.array([24], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q4_k_m", "q5_k_m", "q6_k"])
def test_blocks_of_strained_numbers_and_importance_equal_llama_quantize(weft, probe, odd_model, tmp_path, name):
    weft("export", "--model", odd_model, "--to", "gguf", "--type", "f32", "--out", tmp_path / "f32.gguf")
    odd_importance(tmp_path / "f32.gguf", tmp_path / "imatrix.gguf")
    weft("export", "--model", odd_model, "--to", "gguf", "--type", name, "--imatrix", tmp_path / "imatrix.gguf", "--out",
         tmp_path / "ours.gguf")
    probe("quantize", tmp_path / "f32.gguf", tmp_path / "theirs.gguf", FILE_TYPES[name], tmp_path / "imatrix.gguf")
    assert differing(tmp_path / "ours.gguf", tmp_path / "theirs.gguf") == []


def test_bad_importance_is_refused_by_name(weft, smollm2_dir, ours, text, tmp_path):
    export = ["export", "--model", smollm2_dir, "--to", "gguf", "--type", "q4_0", "--out", tmp_path / "x.gguf"]
    short = tmp_path / "short.dat"
    short.write_bytes((5).to_bytes(4, "little") + b"\x04\0\0\0blk")
    for imatrix, word in [(text, "imatrix"), (short, "short.dat"), (tmp_path / "none.gguf", "none.gguf")]:
        done = weft.run(*export, "--imatrix", imatrix, check=False)
        assert done.returncode == 2 and word in done.stderr and len(done.stderr.splitlines()) == 1
    wide = tmp_path / "wide.dat"  # Of a model with other widths.
    name = b"blk.0.attn_q.weight"
    wide.write_bytes(b"".join(n.to_bytes(4, "little") if isinstance(n, int) else n for n in
                              (1, len(name), name, 1, 2, np.ones(2, np.float32).tobytes())))
    done = weft.run(*export, "--imatrix", wide, check=False)
    assert done.returncode == 2 and "blk.0.attn_q.weight" in done.stderr and "576" in done.stderr
    done = weft.run("imatrix", "--model", smollm2_dir, "--text", short.with_name("text.txt"), "--out", tmp_path / "i", check=False)
    assert done.returncode == 2
    tiny = tmp_path / "tiny.txt"
    tiny.write_text("Atl.")
    done = weft.run("imatrix", "--model", smollm2_dir, "--text", tiny, "--out", tmp_path / "i", check=False)
    assert done.returncode == 2 and "--chunk" in done.stderr
    done = weft.run("export", "--adapter", tmp_path, "--to", "peft", "--out", tmp_path / "p", "--imatrix", ours, check=False)
    assert done.returncode == 2 and "--imatrix" in done.stderr
    assert not (tmp_path / "x.gguf").exists() and not (tmp_path / "i").exists()
