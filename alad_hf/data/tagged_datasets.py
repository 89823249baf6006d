"""Tagged sentences out of datasets that are loaded already, such as those of the Hub."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from datasets import ClassLabel, Dataset, Value

from alad_hf.data.tagged_sentences import TaggedSentence

logger = logging.getLogger(__name__)

TOKEN_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "upos")


def dataset_to_sentences(
    dataset: Dataset, origin: str, token_column: str | None = None, tag_column: str | None = None
) -> list[TaggedSentence]:
    """Read the sentences of a dataset; rows without any token are left out and counted in one warning.

    Args:
        dataset: A dataset with a list of tokens and a list of tags in each row.
        origin: What the dataset is, for messages.
        token_column: Column with the tokens; the first of `TOKEN_COLUMNS` that exists if absent.
        tag_column: Column with the tags, as strings or `ClassLabel` ids; the first of `TAG_COLUMNS` that exists if
            absent. One warning tells of others that exist.

    Returns:
        The sentences with their tags as strings, in the dataset's own scheme.

    Raises:
        ValueError: If a column is missing or of another type, a row has not as many tags as tokens or has a tag id
            outside its `ClassLabel`, or no row has tokens.
    """
    token_column = _choose_column(dataset, origin, token_column, TOKEN_COLUMNS, "token_column")
    tag_column = _choose_column(dataset, origin, tag_column, TAG_COLUMNS, "tag_column")
    if not _is_string(_item_feature(dataset, token_column)):
        raise ValueError(
            f"{origin}: the column {token_column!r} is {dataset.features[token_column]}, expected lists of strings; "
            "choose another with token_column=."
        )
    names = _tag_names(dataset, origin, tag_column)
    sentences = []
    skipped = 0
    columns = dataset.select_columns([token_column, tag_column]).with_format(None)
    for index, row in enumerate(columns):
        tokens, tags = row[token_column] or [], row[tag_column] or []
        place = f"{origin}, row {index}"
        if len(tokens) != len(tags):
            raise ValueError(f"{place}: found {len(tokens)} tokens and {len(tags)} tags, expected as many tags.")
        if names is not None:
            tags = [_name_of(tag, names, place) for tag in tags]
        if any(not isinstance(value, str) or not value for value in (*tokens, *tags)):
            raise ValueError(f"{place}: found an empty token or tag in {row}, expected text.")
        if tokens:
            sentences.append(TaggedSentence(list(tokens), list(tags), place))
        else:
            skipped += 1
    if not sentences:
        raise ValueError(f"{origin}: found no row with tokens in the column {token_column!r}.")
    if skipped:
        logger.warning("%s: left out %d rows without tokens; %d remain.", origin, skipped, len(sentences))
    return sentences


def declared_tag_names(datasets: Iterable[Dataset], tag_column: str | None = None) -> list[str] | None:
    """Return the class names that the tag columns of all splits declare, in the order of their ids.

    Args:
        datasets: The splits of one corpus.
        tag_column: Column with the tags; the first of `TAG_COLUMNS` that exists if absent.

    Returns:
        The names, or None where a split has strings or the splits do not declare the same names.
    """
    declared: list[list[str] | None] = []
    for dataset in datasets:
        item = _item_feature(dataset, _choose_column(dataset, "", tag_column, TAG_COLUMNS, "tag_column", warn=False))
        declared.append(list(item.names) if isinstance(item, ClassLabel) else None)
    return declared[0] if declared and all(names == declared[0] for names in declared) else None


def _choose_column(
    dataset: Dataset, origin: str, column: str | None, usual: tuple[str, ...], argument: str, warn: bool = True
) -> str:
    present = [name for name in ((column,) if column is not None else usual) if name in dataset.column_names]
    if not present:
        raise ValueError(
            f"{origin}: found none of the columns {(column,) if column is not None else usual}, but "
            f"{dataset.column_names}; name the right one with {argument}=."
        )
    if len(present) > 1 and warn:
        logger.warning("%s: reads the column %r; pass %s= for one of %s.", origin, present[0], argument, present[1:])
    return present[0]


def _item_feature(dataset: Dataset, column: str) -> object:
    """Return the feature of the items of a list column, or None for another column."""
    return getattr(dataset.features[column], "feature", None)


def _is_string(feature: object) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def _tag_names(dataset: Dataset, origin: str, tag_column: str) -> list[str] | None:
    """Return the names of the tag ids, or None for tags that are strings."""
    item = _item_feature(dataset, tag_column)
    if isinstance(item, ClassLabel):
        return list(item.names)
    if _is_string(item):
        return None
    raise ValueError(
        f"{origin}: the column {tag_column!r} is {dataset.features[tag_column]}, expected lists of strings or of "
        f"ClassLabel. Numbers say nothing of the tags they stand for; name them before with "
        f"dataset.cast_column({tag_column!r}, List(ClassLabel(names=[...])))."
    )


def _name_of(tag: int | None, names: list[str], place: str) -> str:
    # Python would take -1, which marks unlabelled test sets on the Hub, for the last name.
    if tag is None or not 0 <= tag < len(names):
        raise ValueError(f"{place}: found the tag id {tag}, expected 0 to {len(names) - 1}. Is the split unlabelled?")
    return names[tag]
