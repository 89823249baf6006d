"""Options out of dataclasses and files, and what all verbs share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
import typer
from rich.console import Group
from typer.testing import CliRunner

from alad_hf.cli import application, options
from alad_hf.cli.compress import _parsed
from alad_hf.cli.options import FieldsOf, field_options, read_lines
from alad_hf.cli.tables import facts_table, score_table, wide_table
from alad_hf.models.configuration_alad import AlAdConfig
from alad_hf.recipes import Budget


@dataclass
class Sizes:
    """Some sizes.

    Args:
        width: How wide it is,
            in metres.
        kind: Which one.
        ratio: A share.
        layers: Some of them.

    Raises:
        ValueError: Never.
    """

    width: int = 3
    kind: Literal["a", "b"] = "a"
    ratio: float | int | None = None
    layers: list[int] | None = None
    loud: bool = False


def test_fields_become_options() -> None:
    names = ("width", "kind", "ratio", "layers")
    found = {option.name: option for option in field_options(FieldsOf(Sizes, names))}
    kinds = {name: get_args(get_args(option.annotation)[0])[0] for name, option in found.items()}
    assert kinds == {"width": int, "kind": Literal["a", "b"], "ratio": float, "layers": list[int]}
    texts = {name: get_args(option.annotation)[1] for name, option in found.items()}
    assert texts["width"].help == "How wide it is, in metres." and texts["width"].show_default == "3"
    assert texts["layers"].help == "Some of them." and texts["ratio"].show_default is False
    assert all(option.default is None for option in found.values())
    with pytest.raises(KeyError, match="loud"):  # nothing is offered without a word of explanation
        field_options(FieldsOf(Sizes, ("loud",)))


def test_every_option_of_ours_is_explained() -> None:
    for group in (FieldsOf(Budget, tuple(Budget.__dataclass_fields__)), FieldsOf(AlAdConfig, ("window_size",))):
        for option in field_options(group):
            assert len(get_args(option.annotation)[1].help) > 10


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """An application of two verbs that show what they are given."""
    app = typer.Typer()
    monkeypatch.setattr(application, "app", app)

    @application.verb(sizes=FieldsOf(Sizes, ("width", "kind", "ratio", "layers")))
    def show(
        name: Annotated[str, typer.Argument()],
        sizes: dict,
        frozen: Annotated[bool, typer.Option("--frozen")] = False,
        text: options.TextFiles = None,
        keep: Annotated[str | None, typer.Option("--keep-layers")] = None,
    ) -> application.Report:
        """Show them."""
        paths = [str(path) for path in text or []]
        given = {"name": name, "sizes": sizes, "frozen": frozen, "text": paths, "keep": keep}
        return application.Report(given, "shown")

    @application.verb(reports=False)
    def fail(kind: str) -> None:
        """Fail."""
        raise {"value": ValueError, "file": FileNotFoundError, "bug": KeyError, "stop": KeyboardInterrupt}[kind]("why")

    return app


def given(verbs: typer.Typer, *arguments: object) -> dict:
    done = CliRunner().invoke(verbs, ["show", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_is_not_set_is_not_given(verbs: typer.Typer) -> None:
    assert given(verbs, "x")["sizes"] == {}
    assert given(verbs, "x", "--width", 4, "--ratio", 2, "--layers", 1, "--layers", 0)["sizes"] == {
        "width": 4,
        "ratio": 2.0,
        "layers": [1, 0],
    }
    assert CliRunner().invoke(verbs, ["show", "x"]).stdout == "shown\n"


def test_flags_win_over_the_file(verbs: typer.Typer, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "name: y\nwidth: 7\nkind: b\nlayers: [2, 1]\nfrozen: true\ntext: a.txt\nkeep-layers: [0, 1]\nratio:\n"
    )
    found = given(verbs, "--config", path)
    sizes = {"width": 7, "kind": "b", "layers": [2, 1]}
    assert found == {"name": "y", "sizes": sizes, "frozen": True, "text": ["a.txt"], "keep": "0,1"}
    found = given(verbs, "x", "--width", 9, "--config", path, "--layers", 5, "--text", "b.txt")
    assert (found["name"], found["text"]) == ("x", ["b.txt"])
    assert found["sizes"] == {"width": 9, "kind": "b", "layers": [5]}


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", "+.1E-2"])
def test_numbers_with_an_exponent(verbs: typer.Typer, tmp_path: Path, written: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"name: 1e5\nratio: {written}\n")
    found = given(verbs, "--config", path)
    assert (found["name"], found["sizes"]) == ("1e5", {"ratio": 0.001})  # text stays as it is
    assert _parsed([f"learning_rate={written}", f"stages=[{written}, 2]"]) == {
        "learning_rate": 0.001,
        "stages": [0.001, 2],
    }


def test_options_of_the_python_call() -> None:
    listed = ["rank=64", "ratio=2.5", "start=mean", "dtype=1e-3f", "adapter=no", "revision=e10", "range=1-2", "x=-5e3"]
    assert _parsed(listed) == {
        "rank": 64,
        "ratio": 2.5,
        "start": "mean",
        "dtype": "1e-3f",
        "adapter": False,
        "revision": "e10",
        "range": "1-2",
        "x": -5000.0,
    }
    for given in ((["rank=1", "rank=2"],), (["rank=1"], {"rank"})):
        with pytest.raises(ValueError, match="rank is given twice"):
            _parsed(*given)
    with pytest.raises(ValueError, match=r"--option 'stages=\[1': the value is not YAML"):
        _parsed(["stages=[1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wdth: 3\nheight: 4\n", "['height', 'wdth'] are not options of show"),
        ("config: other.yaml\n", "['config'] are not options"),
        ("width: many\n", "'--width'"),
        ("kind: c\n", "'c'"),
        ("kind: no\n", "kind is False in YAML: put it in quotes"),
        ("width: [1, yes]\n", "width is [1, True] in YAML: put it in quotes"),
        ("width: {a: 1}\n", "width is {'a': 1}, expected a value or a list"),
        ("- width\n", "must hold option names"),
        ("3: 4\n", "must hold option names"),
        ("width: [\n", "is not YAML"),
        ("width: 3\nwidth: 4\n", "sets one option twice, as 'width' and 'width'"),
        ("keep-layers: 1\nkind: a\nkeep_layers: 2\n", "twice, as 'keep-layers' and 'keep_layers': leave one"),
        ("keep: 1\nkeep-layers:\n", "twice, as 'keep' and 'keep-layers'"),
        ("width: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_a_file_that_does_not_fit_is_wrong_usage(
    verbs: typer.Typer, tmp_path: Path, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    path = tmp_path / "run.yaml"
    path.write_text(content)
    done = CliRunner().invoke(verbs, ["show", "x", "--config", str(path)])
    assert done.exit_code == 2
    assert message in done.stderr


def test_exit_codes(verbs: typer.Typer) -> None:
    def failed(kind: str, *options: str) -> tuple:
        done = CliRunner().invoke(verbs, ["fail", kind, *options])
        return done.exit_code, done.stderr, type(done.exception)

    assert failed("value")[:2] == (1, "Error: why\n")
    assert failed("file")[:2] == (1, "Error: why\n")
    assert failed("stop")[0] == 130
    assert failed("bug")[2] is KeyError  # a bug shows where it is
    assert failed("value", "--verbose")[2] is ValueError
    assert failed("value", "--verbose", "--quiet")[0] == 2
    assert CliRunner().invoke(verbs, ["show"]).exit_code == 2
    assert CliRunner().invoke(verbs, ["fail", "value", "--json"]).exit_code == 2  # it has nothing to report


LOOKS_LIKE_MARKUP = ("runs/[v2]", "[/x]", "[bold]B-PER[/bold]", "a.txt:100: b", "back\\[slash]")


@pytest.mark.parametrize("text", LOOKS_LIKE_MARKUP)
def test_paths_and_labels_are_shown_as_they_are(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app = typer.Typer()
    monkeypatch.setattr(application, "app", app)

    @app.callback()  # without it, a single verb is called without its name
    def main() -> None:
        pass

    @application.verb()
    def show(table: str) -> application.Report:
        """Show a text in a table."""
        application.console.print(f"Saved in {text}.")
        tables = {
            "score": score_table({text: 0.5}),
            "facts": facts_table({text: 1, "output": text}),
            "wide": wide_table(["", text], [["row", "1"], [text, "2"]], title=text),
            "group": Group(text),
        }
        return application.Report({}, tables[table])

    @application.verb()
    def fail() -> application.Report:
        """Fail."""
        raise ValueError(f"{text} is wrong")

    for table, times in {"score": 1, "facts": 2, "wide": 3, "group": 1}.items():
        done = CliRunner().invoke(app, ["show", table])
        assert (done.exit_code, done.stderr) == (0, f"Saved in {text}.\n")
        assert done.stdout.count(text) == times, done.stdout
    assert CliRunner().invoke(app, ["fail"]).stderr == f"Error: {text} is wrong\n"


@pytest.mark.parametrize("columns", [120, 80, 60])
def test_numbers_and_what_is_to_be_copied_are_whole_in_a_pipe(
    verbs: typer.Typer, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    name = "/home/somebody/runs of last week/a model whose folder has a long name"
    header = ["", "params", "stored\nMB", "ms, 1 x\n128 tokens", "ms, 32 x\n128 tokens", "sentences\nper s", "F1"]
    numbers = ["22.70 M", "90.8", "12.1", "312.4", "1204", "88.12"]
    address = f"https://huggingface.co/organisation/model/commit/{40 * 'a'}"

    @application.verb()
    def measure() -> application.Report:
        """Measure."""
        return application.Report({}, Group(facts_table({"at": address}), wide_table(header, [[name, *numbers]])))

    lines = CliRunner().invoke(verbs, ["measure"]).stdout.splitlines()
    assert any(line.endswith(f" {address}") for line in lines)
    assert " ".join(numbers) in " ".join("\n".join(lines).split())
    row = next(number for number, line in enumerate(lines) if "22.70 M" in line)
    assert max(map(len, lines[1:])) <= max(columns, 80)
    folded = "".join(line.partition("22.70")[0] for line in lines[row:])
    assert "".join(folded.split()) == "".join(name.split())


def test_lines_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone \r\n\r\n two\u2028three\n".encode())
    (tmp_path / "b.txt").write_text("four")
    assert read_lines([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["one", "two\u2028three", "four"]
    assert read_lines(None) is None and read_lines([]) is None
