"""What all verbs share: registration, `--config`, `--quiet`, `--verbose`, `--json`, errors and exit codes."""

from __future__ import annotations

import inspect
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError, StrictDataclassError
from huggingface_hub.utils import enable_progress_bars
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.text import Text
from safetensors import SafetensorError

from .config_file import read_config
from .options import FieldsOf, field_options

app = typer.Typer(
    help="Alignment adapters for compressed encoders: train, evaluate and use them.",
    epilog="Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
# Paths, labels and data are shown as they are: in them [v2] is no markup, and :100: no emoji.
_plain_console = partial(Console, markup=False, emoji=False)
console = _plain_console(stderr=True)
"""For what is said on the way; silent with `--quiet`. Results go to standard output, errors and warnings past it."""
_warnings = _plain_console(stderr=True)
_USER_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    ImportError,
    RuntimeError,
    SafetensorError,
    HTTPError,  # that of the client which huggingface_hub uses, and no OSError where nobody answered
    StrictDataclassError,  # a value in config.json is of a wrong type, or does not go with another
)


class Report(NamedTuple):
    """What a verb found out."""

    data: Any
    """What `--json` prints."""
    shown: RenderableType
    """What a person sees."""


def verb(*, reports: bool = True, **groups: FieldsOf) -> Callable[[Callable[..., Report | None]], Callable]:
    """Make a function a verb of the command line.

    Its parameters are arguments and options, annotated as typer expects. Besides these it has the common ones.

    Args:
        reports: Whether it returns a `Report`, so that `--json` has something to print.
        **groups: Parameters of the function that are given as options of their own: it gets a dictionary of those
            fields that were set.
    """

    def register(function: Callable[..., Report | None]) -> Callable:
        app.command(function.__name__)(_with_common_options(function, reports, groups))
        return function

    return register


def _with_common_options(
    function: Callable[..., Report | None], reports: bool, groups: dict[str, FieldsOf]
) -> Callable[..., None]:
    def run(config: Path | None, quiet: bool, verbose: bool, as_json: bool = False, **values: Any) -> None:
        with _errors_for_people(verbose):
            _write_utf8()
            _set_up_messages(quiet, verbose)
            for name, group in groups.items():
                given = {field: values.pop(field) for field in group.names}
                values[name] = {field: value for field, value in given.items() if value is not None}
            report = function(**{name: _at_home(value) for name, value in values.items()})
            if report is None:
                return
            if as_json:
                typer.echo(json.dumps(report.data, indent=1, ensure_ascii=False))
            else:
                _plain_console().print(report.shown, crop=False)  # what is wider than a pipe is there to be copied

    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if parameter.name in groups:
            parameters += field_options(groups[parameter.name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    parameters += [option for option in _COMMON_OPTIONS if reports or option.name != "as_json"]
    run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
    # typer reads the options from these.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _at_home(value: Any) -> Any:  # noqa: ANN401 - of an option
    """A path with the home folder in place of a `~`, which no shell sees behind `=` or in a file of options."""
    if isinstance(value, list):
        return [_at_home(item) for item in value]
    is_path = isinstance(value, Path) or (isinstance(value, str) and value.startswith("~/"))
    return type(value)(os.path.expanduser(value)) if is_path else value


def _common_option(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_COMMON_OPTIONS = [
    _common_option(
        "config",
        Annotated[
            Path | None,
            typer.Option(
                help="YAML file with values for these options, by their names; what is on the command line wins.",
                callback=read_config,
                is_eager=True,
                exists=True,
                dir_okay=False,
            ),
        ],
        None,
    ),
    _common_option("quiet", Annotated[bool, typer.Option("--quiet", help="Say nothing on the way.")], False),
    _common_option(
        "verbose",
        Annotated[bool, typer.Option("--verbose", help="Also show what the libraries say, and tracebacks.")],
        False,
    ),
    _common_option("as_json", Annotated[bool, typer.Option("--json", help="Print the result as JSON.")], False),
]


def _write_utf8() -> None:
    """Results in a file or pipe are UTF-8 with line feeds on every system; a terminal shows what it can."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")


def _set_up_messages(quiet: bool, verbose: bool) -> None:
    import datasets
    from transformers.utils import logging as transformers_logging

    if quiet and verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other.")
    console.quiet = quiet
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=_warnings, show_path=False, show_time=False)],
    )
    logging.getLogger("alad_hf").setLevel(logging.WARNING if quiet else logging.INFO)
    if not verbose:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()
    if not quiet and not constants.HF_HUB_DISABLE_PROGRESS_BARS:
        enable_progress_bars("alad_hf")  # which the line for transformers has disabled with all others


@contextmanager
def _errors_for_people(verbose: bool) -> Iterator[None]:
    """Show errors that a user can mend without a traceback, and exit with 1; any other error is a bug, and shown."""
    try:
        yield
    except BrokenPipeError:  # `alad-hf predict ... | head`: typer ends the process in silence
        raise
    except _USER_ERRORS as error:
        if verbose:
            raise
        _warnings.print(Text("Error:", style="bold red"), _message(error), soft_wrap=True)
        raise typer.Exit(1) from error


def _message(error: Exception) -> str:
    message = str(error) or type(error).__name__
    if isinstance(error, HTTPError) and not isinstance(error, OSError):
        return (
            f"No answer from the Hugging Face Hub at {constants.ENDPOINT} ({message}). Check the network, and "
            "HF_ENDPOINT where it is set; then call again."
        )
    return message
