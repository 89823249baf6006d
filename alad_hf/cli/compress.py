"""`alad-hf compress`: a model in, a smaller model out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
import yaml  # type: ignore[import-untyped]
from transformers import PreTrainedModel

from ..compression.embeddings import EMBEDDING_METHODS, compress_embeddings, embedding_table
from ..compression.grafting import PairChoice
from .application import Report, console, verb
from .evaluate import load_split
from .models import load_model
from .options import Output, TextFiles, check_no_model, read_lines
from .tables import facts_table
from .train import layer_indices

Method = Literal["truncate", "graft", "prune", "recursive", "svd", "autoencoder", "lighttoken", "pq", "int8", "int4"]

_OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "truncate": ("layers", "num_layers", "text", "data", "refit"),
    "graft": ("num_layers", "strategy", "text", "data", "refit", "seed", "picture"),
    "prune": ("heads", "neurons", "text", "data", "refit", "seed", "picture"),
    "recursive": ("num_layers", "embedding_size", "num_bytes", "text", "seed"),
}
_OPTIONS_OF_EMBEDDINGS = ("ratio", "num_bytes")


@verb()
def compress(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of an encoder, a tagger or a question answerer.")],
    output: Output,
    method: Annotated[
        Method,
        typer.Option(
            help="truncate: keep some layers; graft: merge neighbouring layers; prune: keep the most important heads "
            "and neurons; recursive: one layer that is called many times. The others compress the token embeddings: "
            "svd, autoencoder, lighttoken (binary codes), pq (product quantization), int8, int4; with --text, the "
            "first four serve tokens the better the more often they occur."
        ),
    ],
    layers: Annotated[
        str | None,
        typer.Option(
            help='truncate: layers to keep, such as 0,1, or "bottom", "top", "every_second", "by_similarity".'
        ),
    ] = None,
    num_layers: Annotated[int | None, typer.Option(help="Layers of the result; of truncate by a rule.")] = None,
    strategy: Annotated[
        PairChoice | None,
        typer.Option(
            help="graft: the upper layers become one, or neighbours in groups of like size, or similar ones. "
            "[default: upper]"
        ),
    ] = None,
    heads: Annotated[int | None, typer.Option(help="prune: heads of each layer to keep; all if omitted.")] = None,
    neurons: Annotated[int | None, typer.Option(help="prune: neurons of each layer to keep; all if omitted.")] = None,
    text: TextFiles = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="truncate, graft, prune: labelled data as of train, in place of --text; its labels say what matters, "
            "and a question answerer reads questions."
        ),
    ] = None,
    refit: Annotated[
        bool | None,
        typer.Option(help="truncate, graft, prune: fit what is left to the original on the text, in closed form."),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Embeddings: how many times smaller than in float32.")] = None,
    embedding_size: Annotated[
        int | None, typer.Option(help="recursive: width of the embedding tables. [default: 128]")
    ] = None,
    metric: Annotated[
        bool | None,
        typer.Option(
            help="svd, autoencoder, lighttoken, pq with --text: err in those directions of which the encoder makes "
            "least. [default: metric; no-metric for pq, which stores a matrix with it]"
        ),
    ] = None,
    num_bytes: Annotated[
        int | None,
        typer.Option("--bytes", help="Bytes that the embeddings, or the recursive encoder, may take, not a ratio."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="graft, prune: draw which heads and neurons came from where, as png, svg or pdf."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Any other argument of the Python call, such as rank=64; repeat for more."),
    ] = None,
) -> Report:
    """Make a smaller model, saved with its tokenizer; a task head is kept, but for recursive."""
    from ..evaluation.efficiency import count_parameters, stored_bytes
    from ..evaluation.graft_picture import draw_graft
    from ..evaluation.matplotlib_figure import check_picture
    from ..long_documents import state_length

    given = {
        "layers": layers,
        "num_layers": num_layers,
        "strategy": strategy,
        "heads": heads,
        "neurons": neurons,
        "text": text or None,
        "data": data,
        "refit": refit,
        "ratio": ratio,
        "embedding_size": embedding_size,
        "num_bytes": num_bytes,
        "metric": metric,
        "seed": seed,
        "picture": picture,
    }
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    known = _options_of(method)
    useless = sorted(set(options) - set(known))
    if useless:
        raise ValueError(
            f"With --method {method} there is nothing that {_flags(useless)} could do: leave it out. It reads "
            f"{_flags(known)}."
        )
    if "text" in options and "data" in options:
        raise ValueError("--text and --data say both what is read: leave one of them out.")
    check_no_model(output)
    if picture is not None:  # drawn below, when the model is saved
        check_picture(options.pop("picture"), coming=output)
    kind, original, tokenizer = load_model(model, backend="torch")
    if "text" in options:
        options |= {"texts": read_lines(options.pop("text")), "tokenizer": tokenizer}
    if "data" in options:
        if kind == "encoder":
            raise ValueError("--data is for a tagger or a question answerer; for a model without a head pass --text.")
        options |= {"texts": load_split(kind, options.pop("data"), "train"), "tokenizer": tokenizer}
    if "metric" in options and "texts" not in options:
        raise ValueError("--metric and --no-metric say what is read of --text, which is missing.")
    own = {"bytes" if name == "num_bytes" else name for name, value in given.items() if value is not None}
    smaller = _MAKERS.get(method, _embeddings(method))(original, options | _parsed(option or [], own))
    state_length(tokenizer, smaller.config)
    smaller.save_pretrained(output)
    tokenizer.save_pretrained(output)
    if picture is not None:
        draw_graft(smaller.config, picture)
    facts = {
        "output": str(output),
        "parameters": count_parameters(smaller),
        "parameters_before": count_parameters(original),
        "stored_megabytes": stored_bytes(smaller) / 1e6,
        "stored_megabytes_before": stored_bytes(original) / 1e6,
    }
    console.print(f"Saved in {output}.")
    record = getattr(smaller.config, "compression", None)
    return Report({"method": method, **facts, "compression": record}, facts_table(facts))


def _options_of(method: str) -> tuple[str, ...]:
    if method in _OPTIONS_OF:
        return _OPTIONS_OF[method]
    known = EMBEDDING_METHODS[method]
    further = {"seed": known.draws, "text": known.reads_weights, "metric": known.reads_metric}
    return (*_OPTIONS_OF_EMBEDDINGS, *(name for name, reads in further.items() if reads))


def _parsed(listed: list[str], own: Collection[str] = ()) -> dict[str, Any]:
    """Arguments from `name=value`, the value as YAML reads it.

    Args:
        listed: What `--option` was given.
        own: Arguments that were given by options of their own.

    Raises:
        ValueError: One of them has no name or is given twice, or a value is not YAML.
    """
    arguments: dict[str, Any] = {}
    for one in listed:
        name, sign, value = one.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise ValueError(f"--option takes name=value, such as rank=64, got {one!r}.")
        if name in own or name in arguments:
            raise ValueError(f"--option {one!r}: {name} is given twice, so leave one of them out.")
        try:
            arguments[name] = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"--option {one!r}: the value is not YAML. {error}") from error
    return arguments


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, which is text by YAML 1.1, since it has no point."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _flags(names: Sequence[str]) -> str:
    return ", ".join("--bytes" if name == "num_bytes" else "--" + name.replace("_", "-") for name in names)


def _truncate(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    from ..compression.truncation import LayerMap, truncate_layers

    listed = options.pop("layers", None)
    if listed is None:
        raise ValueError(
            f"--method truncate needs --layers: indices such as 0,1, or one of {list(get_args(LayerMap))}."
        )
    if listed not in get_args(LayerMap):
        listed = layer_indices(listed)
    return truncate_layers(model, listed, options.pop("num_layers", None), **options)


def _graft(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    from ..compression.grafting import graft_layers

    if "num_layers" not in options:
        raise ValueError("--method graft needs --num-layers, how many layers are left.")
    return graft_layers(model, options.pop("num_layers"), **_with_text("graft", options))


def _prune(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    from ..compression.width_pruning import prune_width

    return prune_width(model, **_with_text("prune", options))


def _recursive(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
    from ..compression.recursive import make_recursive_student

    names = {"num_layers": "num_hidden_layers", "num_bytes": "max_bytes"}
    return make_recursive_student(model, **{names.get(name, name): value for name, value in options.items()})


def _with_text(method: str, options: dict[str, Any]) -> dict[str, Any]:
    if "texts" not in options:
        raise ValueError(
            f"--method {method} reads text, some thousand sentences without labels: pass --text. Or labelled data of "
            "the model's task: pass --data."
        )
    return options


def _embeddings(method: str) -> Callable[[PreTrainedModel, dict[str, Any]], PreTrainedModel]:
    def compress_them(model: PreTrainedModel, options: dict[str, Any]) -> PreTrainedModel:
        from ..compression.embedding_metric import embedding_metric
        from ..compression.row_weights import token_weights

        if "texts" in options:
            lines, tokenizer = options.pop("texts"), options.pop("tokenizer")
            options["row_weights"] = token_weights(lines, tokenizer, len(embedding_table(model)))
            known = EMBEDDING_METHODS[method]
            if options.pop("metric", known.reads_metric and not known.stores_metric):
                options["metric"] = embedding_metric(model, lines, tokenizer)
        if "num_bytes" in options:
            options["bytes"] = options.pop("num_bytes")
        shown = console.is_terminal and not console.quiet
        return compress_embeddings(model, method, **{"progress": shown, **options})

    return compress_them


_MAKERS: dict[str, Callable[[PreTrainedModel, dict[str, Any]], PreTrainedModel]] = {
    "truncate": _truncate,
    "graft": _graft,
    "prune": _prune,
    "recursive": _recursive,
}
