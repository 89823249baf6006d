"""Predictions for a stream of any length, in constant memory, that can be stopped and gone on with."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TextIO

from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .prediction_records import InputFormat, Record, read_questions, read_records
from .question_answering import QuestionAnswerer
from .read_ahead import read_ahead
from .tagging import group_words, marks_spans
from .word_prediction import WordTag, label_names, predict_words

logger = logging.getLogger(__name__)

OutputFormat = Literal["jsonl", "conll"]

# Enough for little padding; what a stop between two writes loses stays small.
_BATCHES_AHEAD = 8
# Contexts may be whole documents: so many questions are not read ahead if those are longer than this on average.
_CONTEXT_CHARACTERS = 4_000
_PREDICTIONS = ("entities", "tags", "answer")


def tag_stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: BinaryIO,
    target: TextIO | str | os.PathLike,
    *,
    input_format: InputFormat = "text",
    output_format: OutputFormat = "jsonl",
    resume: bool = False,
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    show_progress: bool = False,
) -> int:
    r"""Tag everything that a stream holds, and write the tags in the same order.

    Texts of any length are tagged to their end, see `alad_hf.tagging.tag_words`. Inputs of like length share a batch;
    what is read ahead for that is bounded. What stands before malformed input is tagged and written.

    `jsonl` is a line for each input: what it holds and `entities`, as by `tag_text`, or `tags` for `tokens`; what it
    held by that name is replaced, of which one warning tells. `conll` is a line for each word, the line of `conll`
    that was read or else the word, with the tag behind a tab, and a blank line after each input, also after one
    without a word.

    Args:
        model: A token classifier; it runs where it is.
        tokenizer: Its fast tokenizer.
        source: Bytes of UTF-8, such as `open(path, "rb")`.
        target: An open text stream, or the path of a file, which must not exist unless `resume` is True.
        input_format: See `read_records`.
        output_format: See above.
        resume: Go on behind the last complete prediction in the file `target`, if it is there; it has to be of the
            same input, and a half-written one at its end is made anew.
        batch_size: Windows of one forward pass.
        max_length: Tokens of one window, special ones included; as many as fit the model if omitted.
        overlap: Tokens that consecutive windows of a text share; a quarter of `max_length` if omitted.
        show_progress: Whether to show a bar with the words per second.

    Returns:
        How many inputs were tagged; those that `resume` found are not counted.

    Raises:
        FileExistsError: `target` exists and `resume` is False.
        IsADirectoryError: `target` is a folder.
        ValueError: The input is malformed, a word cannot be written as a column, `target` is the input itself or is of
            another one, or what `predict_words` raises.
    """
    if output_format not in _WRITERS:
        raise ValueError(f"output_format must be one of {list(_WRITERS)}, got {output_format!r}.")
    _refuse_the_input(source, target)
    are_spans = marks_spans(label_names(model))

    def key_of(record: Record) -> str:
        return "tags" if record.offsets is None else "entities"

    def predict(records: Iterator[Record]) -> Iterator[str]:
        waiting: deque[Record] = deque()

        def sentences() -> Iterator[list[str]]:
            for record in records:
                waiting.append(record)
                yield record.words

        for words in predict_words(
            model,
            tokenizer,
            sentences(),
            batch_size=batch_size,
            max_length=max_length,
            overlap=overlap,
            show_progress=show_progress,
        ):
            yield _WRITERS[output_format](waiting.popleft(), words, are_spans)

    records = read_records(source, input_format)
    if output_format == "jsonl":
        records = _noting_replaced(records, key_of)
    return _write(records, predict, target, output_format, resume, key_of)


def answer_stream(
    answerer: QuestionAnswerer,
    source: BinaryIO,
    target: TextIO | str | os.PathLike,
    *,
    resume: bool = False,
    handle_impossible_answer: bool = False,
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    show_progress: bool = False,
) -> int:
    """Answer every question of a stream of JSON lines; each comes out with its `answer`.

    What stands before a question that is malformed or cannot be answered is answered and written.

    Args:
        answerer: See `QuestionAnswerer`.
        source: Bytes of UTF-8, one `{"question": ..., "context": ...}` a line.
        target: As for `tag_stream`.
        resume: As for `tag_stream`.
        handle_impossible_answer: Whether "no answer" (the answer "", from 0 to 0) takes part, as in SQuAD 2.0.
        batch_size: Windows of one forward pass. Up to eight times as many questions are read ahead, so that windows of
            like length share a pass.
        max_length: Tokens of one window.
        overlap: Context tokens that consecutive windows share.
        show_progress: Whether to show a bar with the questions per second.

    Returns:
        How many questions were answered.

    Raises:
        FileExistsError: `target` exists and `resume` is False.
        IsADirectoryError: `target` is a folder.
        ValueError: A line is malformed or its question cannot be answered, as when it leaves no room for the context;
            the message has the number of the line. Or `batch_size` is below 1, or `target` is of another input.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be 1 or more.")
    _refuse_the_input(source, target)

    def key_of(record: Record) -> str:
        return "answer"

    def answer(question: Any, context: Any) -> Any:  # noqa: ANN401 - an answer for strings, a list for lists
        return answerer(
            question,
            context,
            handle_impossible_answer=handle_impossible_answer,
            batch_size=batch_size,
            max_length=max_length,
            overlap=overlap,
        )

    def answer_alone(record: Record) -> Any:  # noqa: ANN401
        try:
            return answer(record.source["question"], record.source["context"])
        except ValueError as error:
            raise ValueError(f"Line {record.line_number}: {error}") from error

    def predict(records: Iterator[Record]) -> Iterator[str]:
        batches = read_ahead(
            records,
            _BATCHES_AHEAD * batch_size,
            size_of=lambda record: len(record.source["context"]),
            usual_size=_CONTEXT_CHARACTERS,
        )
        for batch in batches:
            answers: Iterable[Any]
            try:
                answers = answer(*([record.source[key] for record in batch] for key in ("question", "context")))
            except ValueError:  # of one of them, which is found and named when each is answered by itself
                answers = map(answer_alone, batch)
            for record, found in zip(batch, answers, strict=True):
                yield _json_line(record.source | {"answer": found})
                progress.update()

    with tqdm(desc="Answering", unit=" questions", disable=not show_progress) as progress:
        records = _noting_replaced(read_questions(source), key_of)
        return _write(records, predict, target, "jsonl", resume, key_of)


def _refuse_the_input(source: BinaryIO, target: TextIO | str | os.PathLike) -> None:
    name = getattr(source, "name", None)
    if not isinstance(name, str) or not isinstance(target, (str, os.PathLike)):
        return
    if os.path.exists(name) and os.path.exists(target) and os.path.samefile(name, target):
        raise ValueError(f"{target} is the input itself: name another file for the predictions.")


def _noting_replaced(records: Iterable[Record], key_of: Callable[[Record], str]) -> Iterator[Record]:
    """Warn once of an input that holds what its prediction is going to be called."""
    warned = False
    for record in records:
        key = key_of(record)
        if key in record.source and not warned:
            warned = True
            logger.warning(
                "Line %d holds %r, in whose place the prediction is written; so it may be on other lines. To keep "
                "both, give yours another name, such as %r.",
                record.line_number,
                key,
                f"gold_{key}",
            )
        yield record


def _write(
    records: Iterator[Record],
    predict: Callable[[Iterator[Record]], Iterator[str]],
    target: TextIO | str | os.PathLike,
    output_format: OutputFormat,
    resume: bool,
    key_of: Callable[[Record], str],
) -> int:
    if not isinstance(target, (str, os.PathLike)):
        if resume:
            raise ValueError("resume=True needs the file to go on with: pass its path as target.")
        return _write_all(predict(records), target)
    path = Path(target)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file for the predictions.")
    if resume and path.exists() and not path.is_file():
        raise ValueError(
            f"resume=True (--resume) goes on with a file, and {path} is a device or a pipe: leave it out."
        )
    if path.is_file():  # /dev/null and pipes hold nothing that could be overwritten
        if not resume:
            raise FileExistsError(
                f"{path} exists. Pass resume=True (--resume) to go on with it, or name another file."
            )
        records = _behind(path, records, output_format, key_of)
    # The first prediction before the file: a call that is refused leaves none behind, which the next would trip over.
    pieces = predict(records)
    first = list(islice(pieces, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", newline="\n") as file:
        return _write_all(chain(first, pieces), file)


def _write_all(pieces: Iterable[str], file: TextIO) -> int:
    count = 0
    for piece in pieces:
        file.write(piece)
        count += 1
    file.flush()
    return count


class _Written(NamedTuple):
    """What a file of predictions holds."""

    number: int
    """Complete predictions."""
    end: int
    """Bytes of these."""
    last: list[bytes]
    """Lines of the last of them."""
    rest: list[bytes]
    """Lines of a half-written one behind it, the last of which may have no end."""


def _behind(
    path: Path, records: Iterator[Record], output_format: OutputFormat, key_of: Callable[[Record], str]
) -> Iterator[Record]:
    """The inputs that a file has no prediction of yet; a half-written one is cut off its end.

    Raises:
        ValueError: The file holds something else than predictions of these inputs; it is not changed.
    """
    written = _read_written(path, output_format)
    last = next(islice(records, written.number - 1, written.number), None) if written.number else None
    following = next(records, None)
    if not (_is_of(last, written.last, output_format, key_of) and _begins(following, written.rest, output_format)):
        raise ValueError(
            f"{path} holds {written.number} predictions and {len(written.rest)} lines behind them, but not of these "
            f"inputs as {output_format}. Go on with the same input and formats, or name another file."
        )
    with path.open("rb+") as file:
        file.truncate(written.end)
    return chain([] if following is None else [following], records)


def _read_written(path: Path, output_format: OutputFormat) -> _Written:
    count, end, position = 0, 0, 0
    last: list[bytes] = []
    current: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            current.append(line)
            # A prediction ends with its line of JSON, or with the blank line behind its words.
            if line.endswith(b"\n") and (output_format == "jsonl" or line == b"\n"):
                count, end = count + 1, position
                last, current = current, []
    return _Written(count, end, last, current)


def _is_of(
    record: Record | None, lines: list[bytes], output_format: OutputFormat, key_of: Callable[[Record], str]
) -> bool:
    """Whether lines are a prediction of an input, or both are missing."""
    if record is None or not lines:
        return record is None and not lines
    if output_format == "conll":
        starts = [line.encode() for line in _before_the_tag(record)]
        return len(starts) == len(lines) - 1 and _all_start(lines, starts)
    try:
        found = json.loads(lines[-1])
    except ValueError:
        return False
    # Without the key it is no prediction but the input.
    is_prediction = isinstance(found, dict) and key_of(record) in found
    return is_prediction and _without_predictions(found) == _without_predictions(record.source)


def _begins(record: Record | None, lines: list[bytes], output_format: OutputFormat) -> bool:
    """Whether lines may be the beginning of a prediction of an input; nothing is one of any."""
    if record is None or not lines:
        return not lines
    if output_format == "conll":
        starts = [line.encode() for line in _before_the_tag(record)]
    else:
        kept = takewhile(lambda item: item[0] not in _PREDICTIONS, record.source.items())
        starts = [_json_line(dict(kept)).encode("utf-8")[: -len("}\n")]]
    return len(lines) <= len(starts) and _all_start(lines, starts)


def _all_start(lines: list[bytes], starts: list[bytes]) -> bool:
    """Whether each line starts as it should, as far as it goes."""
    return all(line.startswith(start) or start.startswith(line) for line, start in zip(lines, starts, strict=False))


def _without_predictions(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _PREDICTIONS}


def _json_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _as_json(record: Record, words: list[WordTag], are_spans: bool) -> str:
    if record.offsets is None:
        return _json_line(record.source | {"tags": [word.tag for word in words]})
    return _json_line(
        record.source | {"entities": group_words(record.source["text"], record.offsets, words, are_spans)}
    )


def _as_columns(record: Record, words: list[WordTag], are_spans: bool) -> str:
    for word in record.words if record.lines is None else ():
        if not word.strip() or any(mark in word for mark in "\t\n\r"):
            raise ValueError(
                f"Line {record.line_number}: the word {word!r} cannot stand in a column. Write JSON lines, or replace "
                "it."
            )
    columns = zip(_before_the_tag(record), words, strict=True)
    return "".join(f"{line}{word.tag}\n" for line, word in columns) + "\n"


def _before_the_tag(record: Record) -> list[str]:
    """What stands before the tag of each word: columns are set apart as they were, so that they can be read again."""
    if record.lines is None:
        return [f"{word}\t" for word in record.words]
    return [
        f"{line.rstrip(' ')} " if " " in line.strip(" ") and "\t" not in line else f"{line}\t" for line in record.lines
    ]


_WRITERS: dict[str, Callable[[Record, list[WordTag], bool], str]] = {"jsonl": _as_json, "conll": _as_columns}
