"""Fixtures of the oracle tests: the program under test and the real files it works on."""
import json
import os
import subprocess
from pathlib import Path

import pytest

import family_figures


def _cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "weft"
    return Path(os.environ.get("WEFT_CACHE", default))


class Weft:
    """Runs the program. A call returns standard output; a failure raises with standard error."""

    def __init__(self, path: Path):
        self.path = path

    def run(self, *args, input=None, check=True, **options):
        done = subprocess.run([str(self.path), *map(str, args)], input=input, capture_output=True,
                              text=isinstance(input, str) or input is None, **options)
        if check and done.returncode != 0:
            raise AssertionError(f"weft {' '.join(map(str, args))} exited {done.returncode}: {done.stderr}")
        return done

    def __call__(self, *args, **options) -> str:
        return self.run(*args, **options).stdout

    def json(self, *args, **options):
        return json.loads(self(*args, "--json", **options))


@pytest.fixture(scope="session")
def cache() -> Path:
    return _cache()


@pytest.fixture(scope="session")
def weft() -> Weft:
    path = Path(os.environ.get("WEFT_BIN", Path(__file__).parents[2] / "build/release/bin/weft"))
    if not path.exists():
        pytest.exit(f"no program at {path}; build it or set WEFT_BIN", returncode=2)
    return Weft(path)


@pytest.fixture(scope="session")
def test_bin(weft) -> Path:
    """Folder of the helper programs that the build makes for tests."""
    return Path(os.environ.get("WEFT_TEST_BIN", weft.path.parent))


@pytest.fixture(scope="session")
def smollm2_gguf(cache) -> Path:
    return cache / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def fixtures(tmp_path_factory) -> Path:
    """A folder that outlives one test file, so that large conversions are made once."""
    folder = os.environ.get("WEFT_FIXTURES")
    if not folder:
        return tmp_path_factory.mktemp("fixtures")
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2_dir(weft, smollm2_gguf, fixtures) -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face directory in F32, converted by the program."""
    target = fixtures / "smollm2-f32"
    newer = target.exists() and target.stat().st_mtime > weft.path.stat().st_mtime
    if not newer:
        weft("merge", "--model", smollm2_gguf, "--out", target, "--dtype", "f32", "--force")
    return target


@pytest.fixture(scope="session")
def probe(cache):
    path = cache / "llama.cpp-0.3.36" / "probe" / "llama_probe"
    if not path.exists():
        pytest.skip("llama.cpp is not built (script/setup --tests)")

    def run(*args, input=None):
        done = subprocess.run([str(path), *map(str, args)], capture_output=True, text=True, input=input)
        assert done.returncode == 0, done.stderr
        return done.stdout
    return run


def pytest_sessionfinish():
    family_figures.save()
