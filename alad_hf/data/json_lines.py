"""Reader of corpora with one JSON object per line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from alad_hf.data.tagged_sentences import TaggedSentence, to_dataset
from alad_hf.data.text_lines import check_characters, read_lines
from alad_hf.data.word_boundaries import split_words

logger = logging.getLogger(__name__)

_EXPECTED_RECORD = (
    'expected {"tokens": ["Ann", ...], "tags": ["B-PER", ...]} or '
    '{"text": "Ann ...", "spans": [{"start": 0, "end": 3, "label": "PER"}]}'
)


class CharacterSpan(NamedTuple):
    """An entity in a text: characters `start` to `end - 1`, counted in Unicode code points."""

    start: int
    end: int
    label: str


def read_json_lines(path: str | Path, *, tag_scheme: str = "auto") -> Dataset:
    """Read a corpus with one JSON object per line, of words with tags or of text with entity spans.

    Each object is either `{"tokens": [...], "tags": [...]}` with tags as strings, or `{"text": "...", "spans":
    [{"start": 0, "end": 5, "label": "PER"}]}` with character offsets, `end` exclusive; `entities` is accepted for
    `spans`. Texts are split into words by `split_words` and tagged in IOB2. Other keys are not read. Objects without
    any word are left out and counted in one warning, and so are borders of spans inside a word, which is cut there.

    Args:
        path: A UTF-8 file.
        tag_scheme: `auto` to detect it over the file, or one of `alad_hf.data.tag_schemes.TAG_SCHEMES`.

    Returns:
        A dataset with the columns `tokens` (strings) and `tags` (`ClassLabel` ids), the tags in IOB2 unless the
        scheme is `none`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, spans overlap or leave the text, the file has no sentence, or the tags do
            not fit the scheme.
    """
    return to_dataset(parse_json_lines(path), tag_scheme)


def parse_json_lines(path: str | Path) -> list[TaggedSentence]:
    """Read the sentences of a JSON lines file with their tags as written; see `read_json_lines`.

    Args:
        path: A UTF-8 file.

    Returns:
        At least one sentence.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, spans overlap or leave the text, or the file has no sentence.
    """
    sentences = []
    skipped, cut, example = 0, 0, ""
    for line_number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path}, line {line_number}"
        try:
            record = load_object(line, _EXPECTED_RECORD)
            tokens, tags = _parse_record(record)
            check_characters("".join((*tokens, *tags)))
            if "tokens" not in record and (inside := len(tokens) - len(split_words(record["text"]))):
                cut, example = cut + inside, example or place
        except ValueError as error:
            raise ValueError(f"{place}: {error}.") from error
        if tokens:
            sentences.append(TaggedSentence(tokens, tags, place))
        else:
            skipped += 1
    if not sentences:
        raise ValueError(f"{path}: found no sentence, {_EXPECTED_RECORD}.")
    if skipped:
        logger.warning("%s: left out %d objects without any word; %d sentences remain.", path, skipped, len(sentences))
    if cut:
        logger.warning(
            "%s: %d borders of spans lie inside a word, the first in %s. The word is cut there; in prediction, where "
            "no span is known, it stays whole. Mend the spans, or scores on this file will be too good.",
            path,
            cut,
            example,
        )
    return sentences


def load_object(line: str, expected: str) -> dict[str, Any]:
    """Read a line that holds one JSON object.

    Args:
        line: The line.
        expected: What the error says of the objects that are read, such as `expected {"text": ...}`.

    Returns:
        The object.

    Raises:
        ValueError: The line holds something else; the message does not say where it stands.
    """
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        hint = "; put one object on each line, without an outer list" if line.lstrip()[:1] == "[" else ""
        raise ValueError(
            f"found invalid JSON {line[:60]!r} ({error.msg} at column {error.colno}), {expected}{hint}"
        ) from None
    except RecursionError:
        raise ValueError(f"found JSON that is nested too deeply to be read, {expected}") from None
    if not isinstance(record, dict):
        raise ValueError(f"found a JSON {type(record).__name__}, {expected}")
    return record


def tag_spans(text: str, spans: list[CharacterSpan]) -> tuple[list[str], list[str]]:
    """Split a text into words, also at the borders of spans, and tag the words of each span in IOB2.

    Args:
        text: Any text.
        spans: Spans inside the text that do not overlap, in any order.

    Returns:
        Words and tags.

    Raises:
        ValueError: If a span is empty, leaves the text, overlaps another or holds no word.
    """
    ordered = sorted(spans)
    previous_end = 0
    for span in ordered:
        if not 0 <= span.start < span.end <= len(text):
            raise ValueError(f"found {span}, expected 0 <= start < end <= {len(text)}, the length of the text")
        if span.start < previous_end:
            raise ValueError(f"found {span}, which overlaps another span, expected spans that do not overlap")
        previous_end = span.end
    words = split_words(text, {offset for span in ordered for offset in (span.start, span.end)})
    tags = ["O"] * len(words)
    for span in ordered:
        inside = [index for index, (start, end) in enumerate(words) if span.start <= start and end <= span.end]
        if not inside:
            raise ValueError(f"found {span}, which covers only white space, expected a word in it")
        for index in inside:
            tags[index] = ("B-" if index == inside[0] else "I-") + span.label
    return [text[start:end] for start, end in words], tags


def _parse_record(record: dict[str, Any]) -> tuple[list[str], list[str]]:
    if "tokens" in record and "tags" in record:
        return _parse_tokens(record["tokens"], record["tags"])
    span_keys = [key for key in ("spans", "entities") if key in record]
    if "text" in record and len(span_keys) == 1 and "tokens" not in record:
        return _parse_text(record["text"], record[span_keys[0]])
    raise ValueError(f"found the keys {sorted(record)}, {_EXPECTED_RECORD}")


def _parse_tokens(tokens: object, tags: object) -> tuple[list[str], list[str]]:
    words, names = _parse_strings(tokens, "tokens"), _parse_strings(tags, "tags")
    if len(words) != len(names):
        raise ValueError(f"found {len(words)} tokens and {len(names)} tags, expected as many tags as tokens")
    return words, names


def _parse_strings(values: object, key: str) -> list[str]:
    if not isinstance(values, list):
        raise ValueError(f"found {values!r} as {key!r}, expected a list of strings")
    for value in values:
        if not isinstance(value, str) or not value:
            raise ValueError(f"found {value!r} in {key!r}, expected strings that are not empty")
    return values


def _parse_text(text: object, spans: object) -> tuple[list[str], list[str]]:
    if not isinstance(text, str):
        raise ValueError(f"found {text!r} as 'text', expected a string")
    if not isinstance(spans, list):
        raise ValueError(f"found {spans!r} as spans, expected a list of objects with 'start', 'end' and 'label'")
    return tag_spans(text, [_parse_span(span) for span in spans])


def _parse_span(span: object) -> CharacterSpan:
    if isinstance(span, dict):
        start, end, label = (span.get(key) for key in CharacterSpan._fields)
        # type() rather than isinstance: JSON true and false are ints in Python.
        if type(start) is int and type(end) is int and isinstance(label, str) and label:
            return CharacterSpan(start, end, label)
    raise ValueError(f"found the span {span!r}, expected {{'start': integer, 'end': integer, 'label': string}}")
