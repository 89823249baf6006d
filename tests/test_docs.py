"""What the documents say is so: their code runs, their links lead somewhere, the tests that they name exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from doc_blocks import read_blocks, run_page
from doc_world import make_world
from hub_server import HubServer
from transformers.utils import logging as transformers_logging

import alad_hf
from alad_hf.alignment import teacher_cache
from alad_hf.cli.application import console

# peft 0.21 itself still asks transformers under a name that 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
COMBINATIONS = (ROOT / "docs" / "combinations.md").read_text(encoding="utf-8")
ON_THE_HUB = "publish_to_the_hub.md"
EXTRAS = {
    "combinations": ["torchao", "peft"],
    "command_line": ["onnx", "onnxruntime"],
    "compress_a_model": ["matplotlib"],
    "deploy_on_onnx": ["onnx", "onnxruntime"],
    "publish_to_the_hub": ["matplotlib"],
}
"""What a page needs besides the package; `make test-lowest` does without."""


def test_what_pages_need_is_in_an_extra() -> None:
    """A module that no extra brings would let its page be skipped everywhere."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{module}>=' in declared for modules in EXTRAS.values() for module in modules)


def names_in(source: str) -> set[str]:
    """`test` and `Class::test` for every test of a file."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("test", sorted(set(re.findall(r"`(tests/[^`]*)`", COMBINATIONS))))
def test_every_test_that_is_named_exists(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in names_in((ROOT / path).read_text(encoding="utf-8"))


def test_the_table_of_combinations_is_what_is_tested() -> None:
    path = ROOT / "tests" / "models" / "test_combinations.py"
    spec = importlib.util.spec_from_file_location("combinations", path)
    tested = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tested)
    lines = [line.strip("|").split("|") for line in COMBINATIONS.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line] for line in lines if len(line) > 2]
    assert rows[0] == ["student", "mode", *tested.TEACHERS]
    expected = {
        (student, mode): ["refused" if (student, mode) == ("int8", "joint") else "tested"] * len(tested.TEACHERS)
        for student in tested.STUDENTS
        for mode in ("plug-and-play", "joint")
    }
    assert {(student, mode): cells for student, mode, *cells in rows[1:]} == expected


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    make_world(folder)
    return folder


@pytest.fixture
def folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world for one page, which is the working folder, and nothing outside it is written."""
    folder = tmp_path / "page"
    shutil.copytree(world, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(teacher_cache, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line changes for its process stays within a test."""
    verbosity = transformers_logging.get_verbosity()
    monkeypatch.setattr(transformers_logging, "_tqdm_active", transformers_logging._tqdm_active)
    yield
    transformers_logging.set_verbosity(verbosity)
    console.quiet = False


def need_extras(page: Path) -> None:
    """Skip the test where a page's extras are not installed."""
    for module in EXTRAS.get(page.stem, []):
        pytest.importorskip(module)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != ON_THE_HUB], ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page: Path, folder: Path, messages: None) -> None:
    need_extras(page)
    run_page(page, folder)


def test_the_code_about_the_hub_runs_against_one(folder: Path) -> None:
    """In a process of its own: the client of the Hub reads its address and the user's token once."""
    page = ROOT / "docs" / ON_THE_HUB
    need_extras(page)
    with HubServer({"hf_docs": "your-name"}) as hub:
        done = subprocess.run(
            [sys.executable, "-c", "import sys; from doc_blocks import main; main(*sys.argv[1:])", page, folder],
            cwd=folder,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))},
                "HF_ENDPOINT": hub.endpoint,
                "HF_HOME": str(folder / "home"),
                "HF_TOKEN": "hf_docs",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "127.0.0.1,localhost",
                "no_proxy": "127.0.0.1,localhost",
                "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
            },
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert set(hub.model("your-name/my-tagger").branches) == {"main", "try-out"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_understood(page: Path) -> None:
    read_blocks(page)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\n1\n```\n  ```python\n1\n  ```\n", "a fence is indented"),
        ("<!-- not run: later -->\n```python\n1\n```\n", "needs a reason"),
        ("<!-- not run: it needs a GPU -->\n\nText\n\n```python\n1\n```\n", "does not stand in front of a block"),
        ("```py\n1\n```\n", "say what the block holds"),
    ],
)
def test_blocks_that_would_be_passed_over_are_errors(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_blocks(tmp_path / "page.md")


@pytest.mark.parametrize(
    "text",
    [
        "```python\nimport alad_hf\n\nalad_hf.no_such_thing\n```\n",
        "<!-- not run: it needs two GPUs -->\n```python\nfrom alad_hf.hub import no_such_thing\n```\n",
        "<!-- not run: it needs the Hub -->\n```bash\nalad-hf push folder name --no-such-option\n```\n",
        "```bash\necho Ada | alad-hf predict no-such-model\n```\n",
    ],
)
def test_wrong_code_is_found(text: str, tmp_path: Path, messages: None) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(Exception, match="(?i)no.such"):
        run_page(tmp_path / "page.md", tmp_path)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if not re.match(r"https?:", target)]
    for target in targets:
        path, _, heading = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if heading:
            lines = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}, target


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.md)\)", index)) == {page.name for page in DOCS} - {"README.md"}


def test_version_and_papers_are_cited() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)[1]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["cff-version"], citation["version"], citation["license"]) == ("1.2.0", version, "Apache-2.0")
    assert len(citation["references"]) == 5
    assert all({"type", "title", "authors", "year"} <= reference.keys() for reference in citation["references"])
    assert alad_hf.__version__ == version
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
