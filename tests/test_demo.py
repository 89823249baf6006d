"""The demo without a browser: what is compared, how strangers' text becomes HTML, and the folder of a Space."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib import metadata
from pathlib import Path

import pytest
import torch
import yaml
from tiny import tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from alad_hf.demo import build_demo, launch, launch_demo, write_space
from alad_hf.demo.comparison import Span, find_disagreements
from alad_hf.demo.rendering import LISTED_DISAGREEMENTS, render_legend, render_readings, shown
from alad_hf.demo.shown_models import Reading, ShownModel, load_shown_models, read_and_time
from alad_hf.evaluation.efficiency import stored_bytes
from alad_hf.tagging import tag_text

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> \" ' & {{7*7}} ${7*7} `x` \x00\x1b[31m \u202eabc"


def save(folder: Path, model: PreTrainedModel) -> str:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    save(folder / "one" / "alad", tiny_teacher(16, seed=1))
    save(folder / "two" / "alad", tiny_teacher(16, seed=2))
    torch.manual_seed(0)
    save(folder / "answerer", AutoModelForQuestionAnswering.from_config(tiny_config()))
    return folder


def span(start: int, end: int, label: str = "PER") -> Span:
    return Span(start, end, label, 0.5)


def summary(*readings: list[Span]) -> list[tuple[int, int, str]]:
    return [(one.start, one.end, one.kind) for one in find_disagreements(readings)]


def test_kinds_of_disagreement() -> None:
    assert summary([span(0, 3)], [span(0, 3)._replace(score=0.1)]) == []
    assert summary([span(0, 3)], []) == [(0, 3, "missing")]
    assert summary([span(0, 3)], [span(0, 3, "LOC")]) == [(0, 3, "label")]
    assert summary([span(0, 8)], [span(4, 8)]) == [(0, 8, "borders")]
    assert summary([span(0, 8)], [span(0, 3), span(4, 8)]) == [(0, 8, "borders")]
    # Neighbours that touch are no group; what only two of three found is missing with the third.
    assert summary([span(0, 3), span(3, 6)], [span(0, 3)]) == [(3, 6, "missing")]
    assert summary([span(0, 3)], [span(0, 3, "LOC")], []) == [(0, 3, "missing")]
    assert summary([span(0, 3)]) == summary() == summary([], []) == []


def test_disagreements_are_what_is_not_in_every_reading() -> None:
    generator = torch.Generator().manual_seed(0)

    def some_spans() -> list[Span]:
        borders = torch.randint(0, 200, (24,), generator=generator).unique().tolist()
        labels = torch.randint(0, 2, (24,), generator=generator).tolist()
        return [span(a, b, "AB"[label]) for a, b, label in zip(borders[::2], borders[1::2], labels, strict=False)]

    common = [span(start, start + 5) for start in range(300, 400, 10)]
    for _ in range(50):
        readings = [sorted(some_spans() + common) for _ in range(3)]
        found = find_disagreements(readings)
        for model, spans in enumerate(readings):
            listed = [one for group in found for one in group.found[model]]
            assert listed == sorted(set(listed) & set(spans))  # each once, in order
            for one in set(spans) - set(listed):
                assert all(one in other for other in readings)
        assert not any(set(common) & set(spans) for group in found for spans in group.found)
        assert all(left.end <= right.start for left, right in zip(found, found[1:], strict=False))


class Elements(HTMLParser):
    """Names and attributes of all elements, and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["small"]:
            self.text += data


def made_up(name: str, labels: list[str], *, is_teacher: bool = False) -> ShownModel:
    model = tiny_teacher(16, tags=["O", *(f"B-{label}" for label in labels)])
    return ShownModel(name, "tagger", model, tiny_tokenizer(), 1.5, 10, is_teacher)


def test_nothing_of_strangers_becomes_markup() -> None:
    label = f"X{HOSTILE}"
    models = [made_up(f"a{HOSTILE}", [label]), made_up("b", ["Y"], is_teacher=True)]
    text = HOSTILE * 2
    for one, other in (
        ([span(0, len(text), label)], []),
        ([], [span(3, 9, "Y")]),
        ([span(8, 20, label)], [span(0, 9, "Y")]),
    ):
        html = render_readings(text, [Reading(models[0], one, 2.0, 5), Reading(models[1], other, 3.0, 5)])
        page = Elements(html + render_legend(models))
        expected = set("div section header b h3 table thead tbody tr th td mark small span".split())
        assert page.names <= expected
        assert page.attributes <= {"class", "style", "title", "role", "dir", "tabindex"}
        assert not re.search(r"[{}$`\x00\x1b\u202e]", html)
        visible = text.replace("\x00", "⟨U+0000⟩").replace("\x1b", "⟨U+001B⟩").replace("\u202e", "⟨U+202E⟩")
        assert page.text.count(visible) >= 2  # whole and unchanged in both panels
    failed = render_readings(text, [Reading(models[0], [], 0.0, 0, HOSTILE), Reading(models[1], [], 1.0, 1)])
    assert "script" not in Elements(failed).names and "could not read" in failed
    assert shown("a\r\nb\rc") == "a\nb⟨U+000D⟩c"


def test_panels_say_what_differs_and_how_fast() -> None:
    student, teacher = made_up("small", ["PER", "LOC"]), made_up("large", ["PER", "LOC"], is_teacher=True)
    text = "Ada met Bob in London"
    html = render_readings(
        text,
        [
            Reading(student, [span(0, 3), span(15, 21, "LOC")], 2.0, 5),
            Reading(teacher, [span(0, 3), span(8, 11), span(15, 21)], 3000.0, 1),
        ],
    )
    left, right, table = re.split(r"</section>", html)
    assert "2.0 ms" in left and "median of 5 runs" in left and "1500.0 x as fast as the teacher" in left
    assert "3.0 s" in right and "one run" in right and "x as fast" not in right
    assert '<span class="alad-gap" title="found by large">Bob</span>' in left
    differing = re.findall(r'class="alad-span alad-differs"[^>]*>(\w+)<small>(\w+)', left + right)
    assert differing == [("London", "LOC"), ("Bob", "PER"), ("London", "PER")]
    assert "2 disagreements" in table and table.count("<tr>") == 3
    assert "not found by all" in table and "labels differ" in table
    agreed = render_readings(text, [Reading(student, [span(0, 3)], 2.0, 5), Reading(teacher, [span(0, 3)], 3.0, 5)])
    assert "agree" in agreed and "alad-differs" not in agreed
    many = [span(start, start + 1) for start in range(0, 4 * LISTED_DISAGREEMENTS, 2)]
    html = render_readings("x" * 800, [Reading(student, many, 2.0, 5), Reading(teacher, [], 3.0, 5)])
    assert html.count("<tr>") == 1 + LISTED_DISAGREEMENTS and "200 disagreements, the first 100 of them listed" in html


def test_models_are_loaded_and_read_whole_texts(folder: Path) -> None:
    one, two = str(folder / "one" / "alad"), str(folder / "two" / "alad")
    models = load_shown_models([one], two)
    assert [model.name for model in models] == ["one/alad", "two/alad"]
    assert [model.is_teacher for model in models] == [False, True]
    assert models[0].labels == ["PER", "LOC"]
    classes = ["S----3MS2-", "VIIA-3MS--", "B-x", "I-x", "NOUN"]
    models[0].model.config.id2label = dict(enumerate(classes))
    assert models[0].labels == classes
    assert models[0].stored_megabytes == stored_bytes(models[0].model) / 1e6
    text = "Smith visited New York. " * 100  # many times the 64 tokens that the model takes
    reading = read_and_time(models[0], text)
    expected = next(tag_text(models[0].model, tiny_tokenizer(), [text]))
    assert [(s.start, s.end, s.label) for s in reading.spans] == [(e["start"], e["end"], e["label"]) for e in expected]
    assert reading.spans[-1].end > len(text) - 30
    assert reading.milliseconds > 0 and 1 <= reading.runs <= 5
    answerer = load_shown_models([str(folder / "answerer")])[0]
    (answer,) = read_and_time(answerer, "Ada wrote it. " * 50, "who wrote it?").spans
    assert answer.label == "answer" and answerer.labels == ["answer"]


def test_models_that_do_not_fit_the_page(folder: Path, tmp_path: Path) -> None:
    tagger = str(folder / "one" / "alad")
    with pytest.raises(ValueError, match="one kind"):
        load_shown_models([tagger], str(folder / "answerer"))
    with pytest.raises(ValueError, match="models is empty"):
        load_shown_models([])
    encoder = save(tmp_path / "encoder", tiny_teacher(16).bert)
    with pytest.raises(ValueError, match="without a head"):
        load_shown_models([encoder])
    broken = tiny_teacher(16)
    broken.classifier.bias.data.fill_(float("nan"))
    reading = read_and_time(ShownModel("broken", "tagger", broken, tiny_tokenizer(), 1.0, 1), "smith")
    assert "NaN" in reading.problem and reading.spans == []


def test_nonsense_gets_a_message(folder: Path) -> None:
    pytest.importorskip("gradio", reason='the extra "demo" is not installed')
    from alad_hf.demo.page import LONGEST_TEXT, reader

    read = reader(load_shown_models([str(folder / "one" / "alad")]))
    for text, message in (
        ("", "no text yet"),
        (None, "no text yet"),
        (" \n\t\u2003", "only white space"),
        ("x" * (LONGEST_TEXT + 1), "Nothing was read"),
        ("\ud800 x", "half of a character"),
    ):
        assert message in read(text, "")
    for text in ("🙂🙂", "\x00\x01", "\u202e", "x" * LONGEST_TEXT, "e\u0301" * 1000):
        assert "alad-ms" in read(text, "")
    read = reader(load_shown_models([str(folder / "answerer")]))
    assert "no question yet" in read("Ada wrote it.", " ")
    assert "answer, score" in read("Ada wrote it.", "who?")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pip had installed this package, with gradio."""
    pytest.importorskip("gradio", reason='the extra "demo" is not installed')
    declared = [
        "torch>=2.6",
        'gradio>=6.0; extra == "demo"',
        'onnx>=1; extra == "export"',
        'x>=1; python_version < "3"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: declared if name == "alad_hf" else None)


def test_a_space_stands_alone(folder: Path, tmp_path: Path, installed: None) -> None:
    one, two = str(folder / "one" / "alad"), str(folder / "two" / "alad")
    space = write_space(tmp_path / "space", [one, "org/other"], teacher=two, trust_remote_code=True)
    assert (space / "requirements.txt").read_text().split() == ["gradio>=6.0", "torch>=2.6"]
    call = ast.parse((space / "app.py").read_text()).body[1].value
    assert ast.literal_eval(call.args[0]) == ["models/alad", "org/other"]
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert arguments == {"teacher": "models/alad-2", "trust_remote_code": True}
    readme = (space / "README.md").read_text()
    assert f"sdk_version: {metadata.version('gradio')}" in readme and "app_file: app.py" in readme

    space = write_space(tmp_path / "other", [one], teacher=two)
    script = (
        "import app, alad_hf, pathlib;"
        "assert pathlib.Path(alad_hf.__file__).parent == pathlib.Path('alad_hf').resolve();"
        "print(type(app.demo).__mro__[1].__name__, app.demo.analytics_enabled)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=space, capture_output=True, text=True, check=False, env=None
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["Blocks", "False"]

    with pytest.raises(FileExistsError, match=r"not empty \(.*app.py"):
        write_space(space, [one])
    with pytest.raises(ValueError, match="neither a folder here nor a Hub id"):
        write_space(tmp_path / "new", ["../x/../y"])
    with pytest.raises(ValueError, match="within the model"):
        write_space(Path(one) / "space", [one])
    assert not (tmp_path / "new").exists()


def test_a_space_holds_of_a_model_what_would_be_published(
    folder: Path, tmp_path: Path, installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    model = Path(shutil.copytree(folder / "one" / "alad", tmp_path / "model"))
    kept = {path.name for path in model.iterdir()}
    for name in ("training_args.bin", "notes.txt", "people.conll", "helper.py"):
        (model / name).write_text("private")
    (model / "checkpoint-5").mkdir()
    exported = tmp_path / "exported"
    shutil.copytree(folder / "one" / "alad", exported, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((exported / "config.json").read_text())
    auto_map = {"AutoConfig": "configuration_own.Own", "AutoModel": "modeling_own.Own"}  # the latter is not exported
    (exported / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
    for name in ("model.onnx", "onnx_export.json", "configuration_own.py", "calibration.npy"):
        (exported / name).write_text("")

    space = write_space(tmp_path / "space", [str(model), str(exported)])
    assert {path.name for path in (space / "models" / "model").iterdir()} == kept
    copied = {path.name for path in (space / "models" / "exported").iterdir()}
    assert copied == (kept - {"model.safetensors"}) | {"model.onnx", "onnx_export.json", "configuration_own.py"}
    assert "checkpoint-5, helper.py, notes.txt, people.conll, training_args.bin" in caplog.text
    assert "calibration.npy" in caplog.text

    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ValueError, match="lacks the weights model.safetensors"):
        write_space(tmp_path / "new", [str(model)])
    assert not (tmp_path / "new").exists()


def test_a_space_is_pushed_from_its_clone(folder: Path, tmp_path: Path, installed: None) -> None:
    model = str(folder / "one" / "alad")
    clone = tmp_path / "clone"
    subprocess.run(["git", "init", "--quiet", clone], check=True)
    text = "\nA text of somebody, with a --- in it.\n"
    front = "---\ntitle: Mine\nemoji: 🐨\nsdk: docker\nlicense: mit\n---\n"
    (clone / "README.md").write_text(front + text, encoding="utf-8")
    (clone / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text")
    assert write_space(clone, [model]) == clone

    _, settings, rest = (clone / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert rest == text
    assert yaml.safe_load(settings) == {
        "title": "Mine",
        "emoji": "🐨",
        "license": "mit",
        "sdk": "gradio",
        "sdk_version": metadata.version("gradio"),
        "python_version": "3.11",
        "app_file": "app.py",
    }
    large = ["a.bin", "models/alad/model.safetensors", "models/x/model.onnx", "models/x/tokenizer.json"]
    shown = subprocess.run(
        ["git", "check-attr", "filter", "--", *large, "app.py"], cwd=clone, capture_output=True, text=True, check=True
    )
    filters = [line.rpartition(": ")[2] for line in shown.stdout.splitlines()]
    assert filters == ["lfs"] * len(large) + ["unspecified"]

    (tmp_path / "used" / ".git").mkdir(parents=True)
    (tmp_path / "used" / "data.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="data.txt"):
        write_space(tmp_path / "used", [model])
    assert sorted(path.name for path in (tmp_path / "used").iterdir()) == [".git", "data.txt"]


def test_without_gradio_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "alad_hf.demo.page", raising=False)
    with pytest.raises(ImportError, match=r'pip install "alad_hf\[demo\]"'):
        build_demo(["anything"])


def test_an_address_that_cannot_be_served_is_a_matter_of_host_or_port(monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        def launch(self, **options) -> None:
            raise OSError("Cannot find empty port")

    monkeypatch.setattr(launch, "build_demo", lambda models, **options: Page())
    with pytest.raises(OSError, match=r"at 300\.1\.1\.1, port 7860.* Name another port, such as 7861, or host"):
        launch_demo(["any"], host="300.1.1.1", block=False)
