"""`--config file.yaml`: values of options from a file, under those of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer


def read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Let the options of a verb that are not on the command line have their values from a YAML file.

    Args:
        context: That of the verb; its options are looked up in `context.default_map` before they take their defaults.
        path: A mapping of option names (`batch-size` or `batch_size`) or argument names to values, or None.

    Raises:
        typer.BadParameter: The file is no such mapping, or a key is no option of this verb or one that is there
            already.
    """
    if path is None:
        return None
    import yaml  # type: ignore[import-untyped]

    try:
        written = path.read_text(encoding="utf-8")
        values = yaml.safe_load(written)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise typer.BadParameter(f"{path} must hold option names and their values, such as `batch-size: 32`.")
    names = _names_of_options(context)
    unknown = sorted(key for key in values if _spelled(key) not in names)
    if unknown:
        known = sorted({name.replace("_", "-") for name in names})
        raise typer.BadParameter(f"{path}: {unknown} are not options of {context.info_name}; it has {known}.")
    _check_each_once(yaml.compose(written, yaml.SafeLoader), names, path)
    context.default_map = {
        names[_spelled(key)].name: _value(value, names[_spelled(key)], f"{path}: {key}")
        for key, value in values.items()
        if value is not None
    }
    return path


def _check_each_once(mapping: Any, names: dict[str, Any], path: Path) -> None:  # noqa: ANN401 - a node of YAML
    """Raise where two keys are one option: of two that are equal, a dictionary would have the last alone."""
    earlier: dict[str, str] = {}
    for node, _ in mapping.value:
        option, key = names.get(_spelled(node.value)), node.value
        if option is None:  # <<, which stands for the keys of another mapping
            continue
        if option.name in earlier:
            raise typer.BadParameter(
                f"{path} sets one option twice, as {earlier[option.name]!r} and {key!r}: leave one of them out."
            )
        earlier[option.name] = key


def _names_of_options(context: typer.Context) -> dict[str, Any]:
    """Parameters of the verb by what they may be called: as in Python, or as their flag without the dashes."""
    names = {}
    for parameter in context.command.params:
        if parameter.name not in ("config", "help"):
            for name in (parameter.name, *parameter.opts):
                names[_spelled(name)] = parameter
    return names


def _spelled(name: str | None) -> str:
    return (name or "").lstrip("-").replace("-", "_")


def _value(value: object, parameter: Any, place: str) -> object:  # noqa: ANN401 - click's, which typer bundles
    is_switch = getattr(parameter, "is_flag", False)
    if not is_switch and any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
        raise typer.BadParameter(f"{place} is {value!r} in YAML: put it in quotes if the word itself is meant.")
    several = parameter.nargs != 1 or getattr(parameter, "multiple", False)
    if isinstance(value, list) and all(isinstance(item, (str, int, float)) for item in value):
        return [str(item) for item in value] if several else ",".join(map(str, value))
    if not isinstance(value, (str, int, float)):
        raise typer.BadParameter(f"{place} is {value!r}, expected a value or a list of values.")
    return [str(value)] if several else value
