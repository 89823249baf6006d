"""Readers of corpora with one token per line: CoNLL columns and CoNLL-U."""

from __future__ import annotations

import re
from itertools import dropwhile, takewhile
from pathlib import Path

from datasets import Dataset

from alad_hf.data.conllu_lines import BLANK, is_conllu, word_columns
from alad_hf.data.tagged_sentences import TaggedSentence, to_dataset
from alad_hf.data.text_lines import read_lines

CONLLU_TAG_COLUMNS = {"upos": 3, "xpos": 4}

_BLANKS = re.compile(r"[ \t]+")


def read_conll(
    path: str | Path,
    *,
    token_column: int = 0,
    tag_column: int = -1,
    separator: str | None = None,
    tag_scheme: str = "auto",
    document_marker: str = "-DOCSTART-",
    comment_prefix: str | None = None,
) -> Dataset:
    r"""Read a corpus with one token per line, columns, and a blank line between sentences.

    Byte order marks, Windows line ends, blank lines with spaces or tabs and a missing last line end are accepted.
    Every line must have the same number of columns, since a stray separator would otherwise shift the tag.

    Args:
        path: A UTF-8 file.
        token_column: Index of the column with the token; negative indices count from the last column.
        tag_column: Index of the column with the tag.
        separator: Text between columns. If absent, any run of spaces and tabs; but tabs alone where these set apart
            as many columns in every line, and spaces do not.
        tag_scheme: `auto` to detect it over the file, or one of `alad_hf.data.tag_schemes.TAG_SCHEMES`.
        document_marker: Lines that start with it are not read; they end a sentence.
        comment_prefix: Lines before the first token of a sentence that start with it are not read. Absent by
            default because `#` starts real tokens, hashtags among them.

    Returns:
        A dataset with the columns `tokens` (strings) and `tags` (`ClassLabel` ids), the tags in IOB2 unless the
        scheme is `none`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, the file has no sentence or is CoNLL-U, or the tags do not fit the scheme.

    Example:
        >>> corpus = read_conll("train.conll")  # doctest: +SKIP
        >>> corpus.features["tags"].feature.names  # doctest: +SKIP
        ['O', 'B-PER', 'I-PER']
    """
    sentences = parse_conll(
        path,
        token_column=token_column,
        tag_column=tag_column,
        separator=separator,
        document_marker=document_marker,
        comment_prefix=comment_prefix,
    )
    return to_dataset(sentences, tag_scheme)


def read_conllu(path: str | Path, *, column: str = "upos") -> Dataset:
    """Read the words and parts of speech of a CoNLL-U file.

    The words are the syntactic words, which are those that carry tags: lines of multiword tokens (id `1-2`) and of
    empty nodes (id `1.1`) have none and are left out, as are comments.

    Args:
        path: A UTF-8 file in CoNLL-U.
        column: `upos` for universal tags, `xpos` for those of the treebank's language.

    Returns:
        A dataset with the columns `tokens` (strings) and `tags` (`ClassLabel` ids, names in alphabetical order).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, a word has no tag, or the file has no sentence.
    """
    return to_dataset(parse_conllu(path, column=column), "none")


def parse_conll(
    path: str | Path,
    *,
    token_column: int = 0,
    tag_column: int = -1,
    separator: str | None = None,
    document_marker: str = "-DOCSTART-",
    comment_prefix: str | None = None,
) -> list[TaggedSentence]:
    """Read the sentences of a column file with their tags as written; see `read_conll`.

    Args:
        path: A UTF-8 file.
        token_column: Index of the column with the token.
        tag_column: Index of the column with the tag.
        separator: Text between columns.
        document_marker: Lines that start with it are not read; they end a sentence.
        comment_prefix: Lines before the first token of a sentence that start with it are not read.

    Returns:
        At least one sentence.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, or the file has no sentence or is CoNLL-U.
    """
    sentences: list[TaggedSentence] = []
    current: TaggedSentence | None = None
    width, first_line = 0, ""
    lines = list(read_lines(path))
    if token_column == 0:
        _refuse_conllu(path, [line for _, line in lines])
    filled = [line for _, line in lines if line.strip(BLANK) and not line.startswith(document_marker)]
    if separator is None and _only_tabs_separate(filled):
        separator = "\t"
    for line_number, line in lines:
        if not line.strip(BLANK) or line.startswith(document_marker):
            current = None
            continue
        if current is None and comment_prefix is not None and line.startswith(comment_prefix):
            continue
        fields = _split_columns(line, separator)
        if not width:
            width, first_line = len(fields), line
        fault = _find_column_fault(fields, width, token_column, tag_column)
        if fault is not None:
            hint = ""
            if "#" in (line[0], first_line[0]):
                hint = " If the file has comments, take them out, or pass comment_prefix='#' in Python."
            raise ValueError(f"{path}, line {line_number}: {fault}; the line is {line!r}.{hint}")
        if current is None:
            current = TaggedSentence([], [], f"{path}, sentence at line {line_number}")
            sentences.append(current)
        current.tokens.append(fields[token_column])
        current.tags.append(fields[tag_column])
    return _require_sentences(sentences, path, "lines of a token and a tag")


def parse_conllu(path: str | Path, *, column: str = "upos") -> list[TaggedSentence]:
    """Read the sentences of a CoNLL-U file; see `read_conllu`.

    Args:
        path: A UTF-8 file in CoNLL-U.
        column: `upos` or `xpos`.

    Returns:
        At least one sentence.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is malformed, a word has no tag, or the file has no sentence.
    """
    if column not in CONLLU_TAG_COLUMNS:
        raise ValueError(f"Unknown CoNLL-U column {column!r}: expected one of {tuple(CONLLU_TAG_COLUMNS)}.")
    sentences: list[TaggedSentence] = []
    current: TaggedSentence | None = None
    for line_number, line in read_lines(path):
        if not line.strip(BLANK):
            current = None
            continue
        if current is None and line.startswith("#"):
            continue
        try:
            fields = word_columns(line, expected_id=len(current.tokens) + 1 if current else 1)
            if fields is None:
                continue
            tag = _conllu_tag(fields, column)
        except ValueError as error:
            raise ValueError(f"{path}, line {line_number}: {error}; the line is {line!r}.") from None
        if current is None:
            current = TaggedSentence([], [], f"{path}, sentence at line {line_number}")
            sentences.append(current)
        current.tokens.append(fields[1])
        current.tags.append(tag)
    return _require_sentences(sentences, path, "CoNLL-U words")


def _refuse_conllu(path: str | Path, lines: list[str]) -> None:
    """Refuse a file whose first sentence is of CoNLL-U, lest its ids be taken for words."""
    filled = dropwhile(lambda line: not line.strip(BLANK), lines)
    if is_conllu(takewhile(lambda line: line.strip(BLANK), filled)):
        raise ValueError(
            f"{path} is CoNLL-U (or CoNLL-X), whose words are not in the first column. Name it .conllu, or call "
            "read_conllu; else say which columns to read, such as token_column=1, tag_column=3."
        )


def _only_tabs_separate(lines: list[str]) -> bool:
    """Whether lines have as many tabs each, at least one, but not as many columns between blanks."""
    tabs = {line.strip(BLANK).count("\t") for line in lines}
    return len(tabs) == 1 and tabs != {0} and len({len(_split_columns(line, None)) for line in lines}) > 1


def _split_columns(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return _BLANKS.split(line.strip(BLANK))
    return [field.strip(BLANK) for field in line.split(separator)]


def _find_column_fault(fields: list[str], width: int, token_column: int, tag_column: int) -> str | None:
    found = f"found {len(fields)} column{'s' if len(fields) != 1 else ''}"
    if len(fields) != width:
        return (
            f"{found}, expected {width} as in the lines before (where tokens contain spaces, set tabs between columns)"
        )
    for name, column in (("token_column", token_column), ("tag_column", tag_column)):
        if not -width <= column < width:
            return f"{found}, expected enough for {name}={column}"
    if token_column % width == tag_column % width:
        return f"{found}, expected a token and a tag in different columns (set separator=, token_column=, tag_column=)"
    for name, column in (("token", token_column), ("tag", tag_column)):
        if not fields[column]:
            return f"found an empty {name} in column {column}, expected text"
    return None


def _conllu_tag(fields: list[str], column: str) -> str:
    tag = fields[CONLLU_TAG_COLUMNS[column]]
    if tag in ("", "_"):
        raise ValueError(f"found no tag ({tag!r}) in column {column.upper()}, expected one for every word")
    return tag


def _require_sentences(sentences: list[TaggedSentence], path: str | Path, expected: str) -> list[TaggedSentence]:
    if not sentences:
        raise ValueError(f"{path}: found no sentence, expected {expected} with a blank line between sentences.")
    return sentences
