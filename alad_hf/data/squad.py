"""Reader of extractive question answering in the JSON of SQuAD v1.1 and v2.0."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from alad_hf.data.text_lines import check_characters, read_text

logger = logging.getLogger(__name__)

SQUAD_FEATURES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)


def read_squad(path: str | Path) -> Dataset:
    """Read a SQuAD file, of v1.1 or of v2.0 with questions that have no answer.

    Every answer must stand in its context at its offset. An answer that differs from that place only in the kind of
    white space, such as a space for a no-break space, is replaced by the text of the context; one warning counts such
    answers. The `plausible_answers` of v2.0 are not read.

    Args:
        path: A UTF-8 JSON file.

    Returns:
        A dataset with one row per question and the columns of `squad_v2` on the Hub: `id`, `title` (empty if absent),
        `context`, `question` and `answers` with the lists `text` and `answer_start` (in characters), both empty for
        a question that is marked `is_impossible`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not SQuAD JSON, an answer is not found at its offset, a question has no answer and
            is not marked `is_impossible`, two questions share an id, or there is no question.

    Example:
        >>> read_squad("dev-v2.0.json")[0]["answers"]  # doctest: +SKIP
        {'text': ['in the 10th century'], 'answer_start': [94]}
    """
    content = _load_json(path)
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    respelled = 0
    for title, context, question in _iterate_questions(content, str(path)):
        identifier = _get(question, "id", str, str(path))
        place = f"{path}, question id {identifier!r}"
        if identifier in seen:
            raise ValueError(f"{place}: found the id twice, expected one id per question.")
        seen.add(identifier)
        texts, starts, respelled_here = _parse_answers(question, context, place)
        respelled += respelled_here
        rows.append(
            {
                "id": identifier,
                "title": title,
                "context": context,
                "question": _get(question, "question", str, place),
                "answers": {"text": texts, "answer_start": starts},
            }
        )
    if not rows:
        raise ValueError(f"{path}: found no question, expected at least one under data[].paragraphs[].qas[].")
    if respelled:
        logger.warning("%s: took %d answers from the context, whose white space differs.", path, respelled)
    return Dataset.from_list(rows, features=SQUAD_FEATURES)


def _load_json(path: str | Path) -> object:
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}: found invalid JSON ({error.msg} at column {error.colno}), "
            "expected one SQuAD object. JSON lines are not SQuAD."
        ) from error
    except RecursionError:
        raise ValueError(f"{path}: found JSON that is nested too deeply to be read, expected SQuAD.") from None


def _iterate_questions(content: object, place: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield title, context and question object of each question."""
    for article_number, article in enumerate(_get(content, "data", list, place), start=1):
        article_place = f"{place}, article {article_number}"
        paragraphs = _get(article, "paragraphs", list, article_place)
        title = _get(article, "title", str, article_place) if "title" in article else ""
        for paragraph_number, paragraph in enumerate(paragraphs, start=1):
            paragraph_place = f"{article_place}, paragraph {paragraph_number}"
            context = _get(paragraph, "context", str, paragraph_place)
            for question in _get(paragraph, "qas", list, paragraph_place):
                yield title, context, question


def _parse_answers(question: dict[str, Any], context: str, place: str) -> tuple[list[str], list[int], int]:
    """Return the answers' texts and offsets, and how many texts differ from the context in white space."""
    answers = _get(question, "answers", list, place)
    is_impossible = question.get("is_impossible", False)
    if is_impossible is not bool(answers == []):
        raise ValueError(
            f"{place}: found {len(answers)} answers and is_impossible={is_impossible!r}, expected answers, "
            "or no answers and is_impossible=true."
        )
    texts, starts = [], []
    respelled = 0
    for answer in answers:
        text, start = _get(answer, "text", str, place), _get(answer, "answer_start", int, place)
        found = context[start : start + len(text)] if start >= 0 else ""
        if not text.strip() or [*map(_unify_space, text)] != [*map(_unify_space, found)]:
            raise ValueError(
                f"{place}: found {found!r} in the context at answer_start={start}, expected the answer {text!r}. "
                "Offsets count characters (Unicode code points), not bytes."
            )
        respelled += text != found
        texts.append(found)
        starts.append(start)
    return texts, starts, respelled


def _unify_space(character: str) -> str:
    return " " if character.isspace() else character


def _get(holder: object, key: str, kind: type, place: str) -> Any:  # noqa: ANN401 - a value of the type `kind`
    # type() rather than isinstance: JSON true and false are ints in Python.
    if not isinstance(holder, dict) or type(holder.get(key)) is not kind:
        found = f"{type(holder.get(key)).__name__}" if isinstance(holder, dict) and key in holder else "nothing"
        raise ValueError(
            f"{place}: found {found} at {key!r}, expected a {kind.__name__}. SQuAD is "
            '{"data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., '
            '"answers": [{"text": ..., "answer_start": ...}]}]}]}]}.'
        )
    if kind is str:
        try:
            check_characters(holder[key])
        except ValueError as error:
            raise ValueError(f"{place}: {error}.") from error
    return holder[key]
