"""Tag schemes of named-entity corpora, their detection, and their conversion to IOB2.

| scheme  | entity of three tokens | entity of one token | entity after one of its own type    |
|---------|------------------------|---------------------|-------------------------------------|
| `IO`    | `I-X I-X I-X`          | `I-X`               | cannot be written: the two are one  |
| `IOB1`  | `I-X I-X I-X`          | `I-X`               | starts with `B-X`                   |
| `IOB2`  | `B-X I-X I-X`          | `B-X`               | starts with `B-X`, as all do        |
| `BIOES` | `B-X I-X E-X`          | `S-X`               | starts with `B-X` or `S-X`, as all  |
| `BILOU` | `B-X I-X L-X`          | `U-X`               | starts with `B-X` or `U-X`, as all  |

`none` stands for tags that are plain classes, such as parts of speech: they are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

TAG_SCHEMES = ("none", "IO", "IOB1", "IOB2", "BIOES", "BILOU")

_PREFIXED_TAG = re.compile(r"([BIESLU])-(.+)", re.DOTALL)
_PREFIXES_OF_SCHEME = {"IO": "I", "IOB1": "BI", "IOB2": "BI", "BIOES": "BIES", "BILOU": "BILU"}
# Every scheme that fits a corpus decodes it to the same entities, so that the order only decides the name
# given to a corpus without any B- tag, which is valid in IO and in IOB1 alike.
_DETECTION_ORDER = ("IO", "IOB2", "IOB1", "BIOES", "BILOU")


@lru_cache(maxsize=4096)
def split_tag(tag: str) -> tuple[str, str]:
    """Split a tag into its prefix and its entity type.

    Args:
        tag: A tag such as `B-PER`, `O` or `NOUN`.

    Returns:
        Prefix and type: `("B", "PER")`; `("O", "")` for the outside tag; `("", tag)` for a tag without a prefix.
    """
    if tag == "O":
        return "O", ""
    match = _PREFIXED_TAG.fullmatch(tag)
    return (match[1], match[2]) if match else ("", tag)


def detect_tag_scheme(sentences: Iterable[Sequence[str]], *, places: Sequence[str] | None = None) -> str:
    """Find the one tag scheme in which every sentence of a corpus is valid.

    Pass all splits of a corpus together: a small part of it can lack the tags that tell the schemes apart.

    - A corpus in which no tag has a prefix (`B-`, `I-`, `E-`, `S-`, `L-` or `U-`) and a type is `none`; bare `B` and
      `I` tags without a type count as plain classes.
    - A corpus with `I-` tags and no `B-` tag is valid in `IO` and in `IOB1`. It is called `IO`; both decode it to the
      same entities.
    - No other corpus is valid in two schemes: the first `B-` of a run of one type is either its first tag, which IOB1
      forbids, or comes after an `I-` that starts the run, which IOB2 forbids; and BIOES and BILOU close every entity
      with a prefix that the other schemes lack.

    Args:
        sentences: The tags of each sentence.
        places: Where each sentence stands, for error messages; `sentence 1` and so on if absent.

    Returns:
        One of `TAG_SCHEMES`.

    Raises:
        ValueError: If tags have prefixes but no scheme fits them all.

    Example:
        >>> detect_tag_scheme([["I-PER", "O", "I-LOC", "B-LOC"]])
        'IOB1'
    """
    corpus = list(sentences)
    prefixes = {split_tag(tag)[0] for tags in corpus for tag in tags} - {"O", ""}
    if not prefixes:
        return "none"
    faults: dict[str, str] = {}
    for scheme in _DETECTION_ORDER:
        fault = _first_fault_of_corpus(corpus, scheme, places)
        if fault is None:
            return scheme
        faults[scheme] = fault
    if prefixes & set("LU"):
        likely = ["BILOU"]
    elif prefixes & set("ES"):
        likely = ["BIOES"]
    else:
        likely = ["IOB2", "IOB1"] if "B" in prefixes else ["IO"]
    raise ValueError(
        "The tags follow no single tag scheme. "
        + " ".join(faults[scheme] for scheme in likely)
        + " Correct these tags, or pass tag_scheme='none' if the tags are plain classes rather than entities."
    )


def to_iob2(tags: Sequence[str], scheme: str, *, place: str = "sentence 1") -> list[str]:
    """Convert the tags of one sentence to IOB2.

    Args:
        tags: The tags of one sentence.
        scheme: One of `TAG_SCHEMES`; `none` returns the tags unchanged.
        place: Where the sentence stands, for error messages.

    Returns:
        As many tags, in IOB2.

    Raises:
        ValueError: If the scheme is unknown or the tags are not valid in it.

    Example:
        >>> to_iob2(["S-PER", "O", "B-LOC", "E-LOC"], "BIOES")
        ['B-PER', 'O', 'B-LOC', 'I-LOC']
    """
    if scheme not in TAG_SCHEMES:
        raise ValueError(f"Unknown tag scheme {scheme!r}: expected 'auto' (in readers) or one of {TAG_SCHEMES}.")
    if scheme == "none":
        return list(tags)
    fault = _first_fault(tags, scheme)
    if fault is not None:
        raise ValueError(_describe_fault(fault, tags, scheme, place))
    converted = []
    previous_type = ""
    for tag in tags:
        prefix, entity_type = split_tag(tag)
        if prefix == "O":
            converted.append("O")
        else:
            starts = prefix in "BSU" or (scheme in ("IO", "IOB1") and entity_type != previous_type)
            converted.append(("B-" if starts else "I-") + entity_type)
        previous_type = entity_type
    return converted


def corpus_to_iob2(
    sentences: Iterable[Sequence[str]], scheme: str = "auto", *, places: Sequence[str] | None = None
) -> list[list[str]]:
    """Convert the tags of a whole corpus to IOB2.

    Args:
        sentences: The tags of each sentence.
        scheme: `auto` to detect the scheme over all sentences, or one of `TAG_SCHEMES`.
        places: Where each sentence stands, for error messages; `sentence 1` and so on if absent.

    Returns:
        The tags of each sentence, in IOB2, or unchanged where the scheme is `none`.

    Raises:
        ValueError: If the scheme is unknown, cannot be detected, or does not fit a sentence.
    """
    corpus = list(sentences)
    if scheme == "auto":
        scheme = detect_tag_scheme(corpus, places=places)
    return [to_iob2(tags, scheme, place=_place(places, index)) for index, tags in enumerate(corpus)]


def _place(places: Sequence[str] | None, index: int) -> str:
    return places[index] if places is not None else f"sentence {index + 1}"


def _first_fault_of_corpus(corpus: list[Sequence[str]], scheme: str, places: Sequence[str] | None) -> str | None:
    for index, tags in enumerate(corpus):
        fault = _first_fault(tags, scheme)
        if fault is not None:
            return _describe_fault(fault, tags, scheme, _place(places, index))
    return None


def _describe_fault(fault: tuple[int, str], tags: Sequence[str], scheme: str, place: str) -> str:
    index, reason = fault
    return f"{place}, token {index + 1}: tag {tags[index]!r} is not valid in {scheme}: {reason}."


def _first_fault(tags: Sequence[str], scheme: str) -> tuple[int, str] | None:
    """Return the index of the first tag that the scheme forbids and the reason, or None."""
    allowed = _PREFIXES_OF_SCHEME[scheme]
    previous_prefix, previous_type = "O", ""
    for index, tag in enumerate(tags):
        prefix, entity_type = split_tag(tag)
        if prefix != "O" and (not prefix or prefix not in allowed):
            return index, "expected O or " + ", ".join(f"{letter}-" for letter in allowed) + " followed by a type"
        continues_type = prefix != "O" and previous_prefix != "O" and entity_type == previous_type
        if scheme == "IOB1" and prefix == "B" and not continues_type:
            return index, "B- may only follow a token of an entity of the same type"
        if scheme == "IOB2" and prefix == "I" and not continues_type:
            return index, "I- may only continue an entity of the same type"
        if scheme in ("BIOES", "BILOU"):
            is_open = previous_prefix in "BI"
            if prefix in "IEL" and not (is_open and continues_type):
                return index, f"{prefix}- may only continue an entity of the same type"
            if is_open and not (prefix in "IEL" and continues_type):
                return index - 1, f"the entity is not closed by {allowed[2]}-"
        previous_prefix, previous_type = prefix, entity_type
    if scheme in ("BIOES", "BILOU") and previous_prefix in "BI":
        return len(tags) - 1, f"the entity is not closed by {allowed[2]}-"
    return None
