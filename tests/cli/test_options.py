"""Options out of dataclasses and files, and what all verbs share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
import typer
from typer.testing import CliRunner

from alad_hf.cli import application, options
from alad_hf.cli.options import FieldsOf, field_options, read_lines
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("wdth: 3\nheight: 4\n", "['height', 'wdth'] are not options of show"),
        ("config: other.yaml\n", "['config'] are not options"),
        ("width: many\n", "'--width'"),
        ("kind: c\n", "'c'"),
        ("width: {a: 1}\n", "width is {'a': 1}, expected a value or a list"),
        ("- width\n", "must hold option names"),
        ("3: 4\n", "must hold option names"),
        ("width: [\n", "is not YAML"),
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


def test_lines_of_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffone \r\n\r\n two\u2028three\n".encode())
    (tmp_path / "b.txt").write_text("four")
    assert read_lines([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["one", "two\u2028three", "four"]
    assert read_lines(None) is None and read_lines([]) is None
