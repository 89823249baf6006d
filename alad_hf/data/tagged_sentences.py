"""Tagged sentences as the readers produce them, and datasets made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from datasets import ClassLabel, Dataset, Features, List, Value

from alad_hf.data.tag_schemes import corpus_to_iob2, split_tag


class TaggedSentence(NamedTuple):
    """One sentence of a corpus.

    Attributes:
        tokens: The words.
        tags: One tag per word, as a string.
        place: Where the sentence stands (file and line), for error messages.
    """

    tokens: list[str]
    tags: list[str]
    place: str


def order_tags(tags: Iterable[str]) -> list[str]:
    """Sort tag names: `O` first, then by entity type with `B-` before `I-`; plain classes alphabetically.

    Args:
        tags: Tag names; repetitions are dropped.

    Returns:
        The distinct names, in an order that depends on nothing but the names.
    """

    def sort_key(tag: str) -> tuple[bool, str, str]:
        prefix, entity_type = split_tag(tag)
        return tag != "O", entity_type, prefix

    return sorted(set(tags), key=sort_key)


def sentences_to_iob2(sentences: Sequence[TaggedSentence], tag_scheme: str) -> list[TaggedSentence]:
    """Convert the tags of sentences to IOB2, detecting the scheme over all of them if it is `auto`.

    Args:
        sentences: Sentences with tags in one scheme.
        tag_scheme: `auto` or one of `alad_hf.data.tag_schemes.TAG_SCHEMES`.

    Returns:
        The sentences with tags in IOB2, or unchanged tags where the scheme is `none`.

    Raises:
        ValueError: If the scheme is unknown, cannot be detected, or does not fit a sentence.
    """
    places = [sentence.place for sentence in sentences]
    converted = corpus_to_iob2([sentence.tags for sentence in sentences], tag_scheme, places=places)
    return [sentence._replace(tags=tags) for sentence, tags in zip(sentences, converted, strict=True)]


def build_dataset(sentences: Sequence[TaggedSentence], tag_names: Sequence[str]) -> Dataset:
    """Make a dataset with the columns `tokens` and `tags`.

    Args:
        sentences: Sentences whose tags all occur in `tag_names`.
        tag_names: Names of the classes, in the order of their ids.

    Returns:
        A dataset with `tokens` as strings and `tags` as `ClassLabel` ids.
    """
    class_ids = {name: class_id for class_id, name in enumerate(tag_names)}
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=list(tag_names)))})
    columns = {
        "tokens": [sentence.tokens for sentence in sentences],
        "tags": [[class_ids[tag] for tag in sentence.tags] for sentence in sentences],
    }
    return Dataset.from_dict(columns, features=features)


def to_dataset(sentences: Sequence[TaggedSentence], tag_scheme: str) -> Dataset:
    """Convert the sentences of one file to IOB2 and make a dataset of them.

    Args:
        sentences: Sentences with tags in one scheme.
        tag_scheme: `auto` or one of `alad_hf.data.tag_schemes.TAG_SCHEMES`.

    Returns:
        A dataset as of `build_dataset`, with the tags in the order of `order_tags`.

    Raises:
        ValueError: If the scheme is unknown, cannot be detected, or does not fit a sentence.
    """
    converted = sentences_to_iob2(sentences, tag_scheme)
    return build_dataset(converted, order_tags(tag for sentence in converted for tag in sentence.tags))
