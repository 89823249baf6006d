"""Predictions for streams: formats, order, memory, and going on after an interruption."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, tiny_config, tiny_tokenizer
from transformers import AutoModelForQuestionAnswering, PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from alad_hf import prediction_stream
from alad_hf.data.columns import parse_conll, parse_conllu
from alad_hf.prediction_records import input_format_of, read_questions, read_records
from alad_hf.prediction_stream import answer_stream, tag_stream
from alad_hf.question_answering import QuestionAnswerer
from alad_hf.tagging import tag_text, tag_words

TAGS = ["B-PER", "I-PER", "O"]
TEXT = "a b c\n\nc a 🙂 cafe\u0301 b\r\na. b\n"
TOKENS = [["a", "b", "c"], [], ["c", "a"]]


class Letters(PreTrainedModel):
    """a begins a person, b goes on with it, all else is O."""

    config_class = type(tiny_config())

    def __init__(self) -> None:
        config = tiny_config()
        config.id2label = dict(enumerate(TAGS))
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.zeros(len(VOCABULARY), 3))
        self.table.data[:, 2] = 1.0
        for index, letter in enumerate("ab"):
            self.table.data[VOCABULARY[letter], index] = 5.0

    def forward(self, input_ids, attention_mask):
        return TokenClassifierOutput(logits=self.table[input_ids])


def tagged(content: str | bytes, **options) -> str:
    target = io.StringIO()
    source = io.BytesIO(content.encode() if isinstance(content, str) else content)
    tag_stream(Letters(), tiny_tokenizer(), source, target, **options)
    return target.getvalue()


def test_lines_of_text_become_lines_of_json() -> None:
    rows = [json.loads(line) for line in tagged(TEXT).splitlines()]
    texts = ["a b c", "", "c a 🙂 cafe\u0301 b", "a. b"]
    assert [row["text"] for row in rows] == texts
    assert [row["entities"] for row in rows] == list(tag_text(Letters(), tiny_tokenizer(), texts))


def test_lines_of_text_become_columns() -> None:
    expected = (
        "a\tB-PER\nb\tI-PER\nc\tO\n\n\nc\tO\na\tB-PER\n🙂\tO\ncafe\u0301\tO\nb\tI-PER\n\na\tB-PER\n.\tO\nb\tI-PER\n\n"
    )
    assert tagged(TEXT, output_format="conll") == expected


def test_columns_keep_what_they_hold(tmp_path: Path) -> None:
    conll = "\ufeff-DOCSTART- -X- O\n\na  NN B-PER\r\nb NN O\n\n\n \nNew York\tNN\tO\na b\tNN\tO"
    out = tagged(conll, input_format="conll", output_format="conll")
    assert out == "-DOCSTART- -X- O O\n\na  NN B-PER B-PER\nb NN O I-PER\n\nNew York\tNN\tO\tO\na b\tNN\tO\tB-PER\n\n"
    # What one tagger writes another can read.
    again = [json.loads(line)["tokens"] for line in tagged(out, input_format="conll").splitlines()]
    assert again == [["-DOCSTART-"], ["a", "b"], ["New York", "a b"]]
    (tmp_path / "out.conll").write_text(tagged("a b\n", output_format="conll"))
    assert parse_conll(tmp_path / "out.conll")[0][:2] == (["a", "b"], ["B-PER", "I-PER"])
    rows = [json.loads(line) for line in tagged(conll, input_format="conll").splitlines()]
    assert [row["tokens"] for row in rows] == [["-DOCSTART-"], ["a", "b"], ["New York", "a b"]]
    assert rows[1]["tags"] == ["B-PER", "I-PER"]


def test_json_lines_keep_what_they_hold(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": 7, "tokens": words, "tags": ["X"]} for words in TOKENS]
    rows.append({"text": "c\r\na", "meta": {"x": [1.5, None]}, "entities": "gold"})
    content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    found = [json.loads(line) for line in tagged(content, input_format="jsonl").splitlines()]
    (record,) = caplog.records
    assert re.search("Line 1 holds 'tags', in whose place.*'gold_tags'", record.getMessage())
    tags = list(tag_words(Letters(), tiny_tokenizer(), TOKENS))
    assert found[:3] == [row | {"tags": tag} for row, tag in zip(rows, tags, strict=False)]
    (entity,) = found[3].pop("entities")
    assert (entity["start"], entity["end"], entity["text"]) == (3, 4, "a")
    assert found[3] == {"text": "c\r\na", "meta": {"x": [1.5, None]}}
    caplog.clear()
    columns = tagged(content, input_format="jsonl", output_format="conll")
    assert not caplog.records  # nothing is replaced there
    assert columns == "a\tB-PER\nb\tI-PER\nc\tO\n\n\nc\tO\na\tB-PER\n\nc\tO\na\tB-PER\n\n"


def test_a_document_is_one_text_of_any_length() -> None:
    document = "c \r\n" * 500 + "a b\r\n" + "c " * 300
    (row,) = (json.loads(line) for line in tagged(document, input_format="document").splitlines())
    assert row["text"] == document
    assert [(item["start"], item["text"]) for item in row["entities"]] == [(2000, "a b")]


def test_order_is_kept_though_batches_are_of_like_length() -> None:
    lines = [" ".join("ab"[(row + n) % 2] for n in range(row * 7 % 23 + 1)) for row in range(300)]
    rows = [json.loads(line) for line in tagged("\n".join(lines), batch_size=2).splitlines()]
    assert [row["text"] for row in rows] == lines


class Endless:
    """Lines of two kilobytes that nobody stores; the most that were read ahead of what was written."""

    def __init__(self, count: int) -> None:
        self.count, self.read, self.written, self.ahead = count, 0, 0, 0

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.count):
            self.read += 1
            self.ahead = max(self.ahead, self.read - self.written)
            yield json.dumps({"text": f"a b c {number}", "more": 2000 * "x"}).encode()

    def write(self, piece: str) -> None:
        self.written += 1

    def flush(self) -> None:
        pass


def test_memory_does_not_grow_with_the_stream() -> None:
    model, tokenizer = Letters(), tiny_tokenizer()

    def peak(count: int) -> int:
        stream = Endless(count)
        tracemalloc.start()
        assert tag_stream(model, tokenizer, stream, stream, input_format="jsonl", batch_size=2) == count
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert stream.written == count and stream.ahead <= 2 * 64
        return size

    peak(200)  # what is made once
    assert peak(1500) < 1.3 * peak(300)  # the others are two megabytes


def of_conllu(identifier: str, form: str) -> str:
    return "\t".join([identifier, form, "lemma", "X", "_", "_", "0", "root", "_", "_"]) + "\n"


CONLLU = "".join(
    [
        "# sent_id = 1\n# text = ab #\n",
        *(of_conllu(*row) for row in (("1-2", "ab"), ("1", "a"), ("2", "b"), ("2.1", "c"), ("3", "#"))),
        "\n# newdoc\n\n\n",
        *(of_conllu(*row) for row in (("0.1", "a"), ("1", "new york"), ("2", "a"))),
    ]
)


def test_conllu_is_tagged_word_by_word(tmp_path: Path) -> None:
    assert tagged(CONLLU, input_format="conllu", output_format="conll") == (
        "a\tB-PER\nb\tI-PER\n#\tO\n\nnew york\tO\na\tB-PER\n\n"
    )
    rows = [json.loads(line) for line in tagged(CONLLU, input_format="conllu").splitlines()]
    assert rows == [
        {"tokens": ["a", "b", "#"], "tags": ["B-PER", "I-PER", "O"]},
        {"tokens": ["new york", "a"], "tags": ["O", "B-PER"]},
    ]
    windows = "\ufeff" + CONLLU.replace("\n", "\r\n")
    assert tagged(windows, input_format="conllu") == tagged(CONLLU, input_format="conllu")
    (tmp_path / "corpus.conllu").write_text(CONLLU)
    assert [sentence.tokens for sentence in parse_conllu(tmp_path / "corpus.conllu")] == [
        row["tokens"] for row in rows
    ]


def test_ids_of_conllu_are_not_taken_for_words() -> None:
    target = io.StringIO()
    message = r"Line 3: '1-2\\tab\\t.* is CoNLL-U.* pass input_format='conllu' \(--input-format conllu\)"
    with pytest.raises(ValueError, match=message):
        tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(CONLLU.encode()), target, input_format="conll")
    assert target.getvalue() == ""
    numbers = "a" + 9 * "\tX" + "\n1" + 9 * "\tX" + "\n"  # ten columns, and a number is a word
    lines = tagged(numbers, input_format="conll", output_format="conll").splitlines()
    assert [line.split("\t")[0] for line in lines] == ["a", "1", ""]


CUT_INPUTS = {
    ("text", "jsonl"): TEXT,
    ("text", "conll"): TEXT,
    ("conll", "conll"): "a X\nb\tX\n\nc\n\n\na\nb\n",
    ("conllu", "conll"): CONLLU,
    ("conllu", "jsonl"): CONLLU,
    ("jsonl", "jsonl"): '{"tokens": ["a", "b"], "id": 1}\n{"tokens": []}\n{"text": "a 🙂\\n", "id": 2}\n',
}


@pytest.mark.parametrize("formats", CUT_INPUTS)
def test_resumed_from_any_byte_nothing_is_lost_or_repeated(formats: tuple[str, str], tmp_path: Path) -> None:
    content = CUT_INPUTS[formats].encode()
    path = tmp_path / "out"
    model, tokenizer = Letters(), tiny_tokenizer()
    options = {"input_format": formats[0], "output_format": formats[1]}
    total = tag_stream(model, tokenizer, io.BytesIO(content), path, **options)
    whole = path.read_bytes()
    assert total == len(list(read_records(io.BytesIO(content), formats[0])))
    counts = {0}  # of the whole file nothing is left
    for size in range(0, len(whole) + 1, 1 if formats[1] == "conll" else 3):
        path.write_bytes(whole[:size])
        counts.add(tag_stream(model, tokenizer, io.BytesIO(content), path, resume=True, **options))
        assert path.read_bytes() == whole, size
    assert counts == set(range(total + 1))


def test_resume_starts_where_there_is_nothing_yet(tmp_path: Path) -> None:
    path = tmp_path / "new" / "out.jsonl"  # a job that is always called with resume makes its folder, too
    assert tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(b"a\n"), path, resume=True) == 1
    assert tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(b"a\n"), path, resume=True) == 0


def test_an_output_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "out"
    model, tokenizer = Letters(), tiny_tokenizer()
    tag_stream(model, tokenizer, io.BytesIO(b"a\nb\n"), path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="resume=True"):
        tag_stream(model, tokenizer, io.BytesIO(b"a\nb\n"), path)
    for other in (b"a\nc\n", b"a\n", b""):
        with pytest.raises(ValueError, match="holds 2 predictions and 0 lines behind them, but not of these inputs"):
            tag_stream(model, tokenizer, io.BytesIO(other), path, resume=True)
    with pytest.raises(ValueError, match="0 predictions and 2 lines behind them, but not of these inputs as co"):
        tag_stream(model, tokenizer, io.BytesIO(b"a\nb\n"), path, resume=True, output_format="conll")
    assert path.read_bytes() == before
    for other in ("a diary", "{}", "a\nb\n\n", '{"text": "b'):
        path.write_text(other)
        for output_format in ("jsonl", "conll"):
            with pytest.raises(ValueError, match="not of these inputs"):
                tag_stream(model, tokenizer, io.BytesIO(b"a\n"), path, resume=True, output_format=output_format)
            assert path.read_text() == other
    with pytest.raises(ValueError, match="pass its path"):
        tag_stream(model, tokenizer, io.BytesIO(b"a\n"), io.StringIO(), resume=True)


def test_the_input_is_not_taken_for_its_predictions(tmp_path: Path) -> None:
    content = b'{"text": "a"}\n{"tokens": ["b"]}\n'
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    for resume in (False, True):
        with path.open("rb") as source, pytest.raises(ValueError, match="in.jsonl is the input itself"):
            tag_stream(Letters(), tiny_tokenizer(), source, path, input_format="jsonl", resume=resume)
    with pytest.raises(ValueError, match="holds 2 predictions .* but not of these inputs"):
        tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(content), path, input_format="jsonl", resume=True)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"a\n\xff\n", {}, "Line 2: byte 0xff is not valid UTF-8"),
        (b"a\nb\n\xe2\x82", {"input_format": "document"}, "Line 3: byte 0xe2"),
        (
            b'{"text": "a"}\nnot json\n',
            {"input_format": "jsonl"},
            r"Line 2: found invalid JSON 'not json' \(.* 1\), expected",
        ),
        (b'{"text": "a"}\n' + b"[" * 100_000, {"input_format": "jsonl"}, "Line 2: .* nested too deeply .*, expected"),
        (b'\n{"text": ' + b"[" * 100_000, {"input_format": "jsonl"}, "Line 2: .* nested too deeply .*, expected"),
        (b"[\n{}\n]", {"input_format": "jsonl"}, "Line 1: .* without an outer list"),
        (b"[1]\n", {"input_format": "jsonl"}, "Line 1: found a JSON list, expected"),
        (b'{"txt": "a"}\n', {"input_format": "jsonl"}, r"Line 1 has the keys \['txt'\], expected"),
        (b'{"tokens": ["a", 1]}\n', {"input_format": "jsonl"}, r"Line 1 has the keys \['tokens'\], expected"),
        (b'{"text": "a", "tokens": ["a"]}\n', {"input_format": "jsonl"}, r"Line 1 has the keys"),
        (b'{"text": "\\ud83d"}\n', {"input_format": "jsonl"}, "Line 1: found half of a surrogate pair"),
        (
            b'\n{"tokens": ["a\\tb"]}\n',
            {"input_format": "jsonl", "output_format": "conll"},
            r"Line 2: the word 'a\\tb' cannot stand in a column",
        ),
        (b"a X\rb X\r", {"input_format": "conll"}, "Line 1: found a carriage return inside"),
        (b"# x\n1\ta\n", {"input_format": "conllu"}, "Line 2: found 2 columns, expected 10 separated by tabs; the li"),
        (
            (of_conllu("1", "a") + of_conllu("1", "b")).encode(),
            {"input_format": "conllu"},
            "Line 2: found word id '1', expected 2",
        ),
        (
            b"\n" + of_conllu("1", " ").encode(),
            {"input_format": "conllu"},
            "Line 2: found an empty word in column FORM",
        ),
        (b"", {"input_format": "xml"}, "input_format must be one of .* got 'xml'"),
        (b"", {"output_format": "xml"}, "output_format must be one of .* got 'xml'"),
    ],
)
def test_malformed_input_is_named(content: bytes, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tagged(content, **options)


def test_emoji_written_as_a_surrogate_pair_are_fine() -> None:
    assert json.loads(tagged(b'{"text": "\\ud83d\\ude42 a"}', input_format="jsonl"))["text"] == "🙂 a"


def test_formats_by_suffix() -> None:
    suffixes = {"": "text", ".TXT": "text", ".jsonl": "jsonl", ".bio": "conll", ".conllu": "conllu"}
    assert {suffix: input_format_of(suffix) for suffix in suffixes} == suffixes
    with pytest.raises(ValueError, match=r"suffix '.xml' does not say .* '.conllu', .* pass --input-format, one of"):
        input_format_of(".xml")


def test_questions_are_answered_in_batches_as_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(prediction_stream, "_BATCHES_AHEAD", 2)
    answerer = QuestionAnswerer(AutoModelForQuestionAnswering.from_config(tiny_config()), tiny_tokenizer())
    rows = [{"id": n, "question": "who visited", "context": "Smith visited New York " * (n + 1)} for n in range(5)]
    content = "\n".join(map(json.dumps, rows)).encode()
    path = tmp_path / "out.jsonl"
    assert answer_stream(answerer, io.BytesIO(content), path, batch_size=2) == 5
    found = [json.loads(line) for line in path.read_text().splitlines()]
    for row, answered in zip(rows, found, strict=True):
        alone = answerer(row["question"], row["context"])
        assert answered.pop("answer") | {"score": 0} == alone | {"score": 0}
        assert answered == row
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert capsys.readouterr().err == ""
    assert answer_stream(answerer, io.BytesIO(content), path, resume=True, show_progress=True) == 3
    assert "Answering: 3 questions" in capsys.readouterr().err
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"question": "who visited " * 30, "context": "Smith"},
            r"Line 7: The question of example 'who visited .*' takes 120 tokens .*, which leaves none for the context",
        ),
        ({"question": "who", "context": "\u200b"}, r"Line 7: The context of example 'who' holds no character"),
    ],
)
def test_answers_before_a_question_without_one_are_written(
    bad: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_stream, "_BATCHES_AHEAD", 1)
    torch.manual_seed(0)
    answerer = QuestionAnswerer(AutoModelForQuestionAnswering.from_config(tiny_config()), tiny_tokenizer())
    rows = [{"id": n, "question": "who visited", "context": f"Smith visited {'abcdefgh'[n]}"} for n in range(8)]
    lines = [json.dumps(row) for row in rows]
    whole, path = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    options = {"batch_size": 4, "max_length": 40, "overlap": 4}
    answer_stream(answerer, io.BytesIO("\n".join(lines).encode()), whole, **options)
    lines.insert(2, "")  # a blank line, which counts
    lines.insert(6, json.dumps(bad))  # in the middle of the second batch
    content = "\n".join(lines).encode()
    for resume in (False, True):
        with pytest.raises(ValueError, match=message):
            answer_stream(answerer, io.BytesIO(content), path, resume=resume, **options)
        assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]
    del lines[6]
    assert answer_stream(answerer, io.BytesIO("\n".join(lines).encode()), path, resume=True, **options) == 3
    for one, two in zip(path.read_text().splitlines(), whole.read_text().splitlines(), strict=True):
        one, two = json.loads(one), json.loads(two)
        assert one["answer"].pop("score") == pytest.approx(two["answer"].pop("score"), rel=1e-4)
        assert one == two


def test_what_was_read_before_a_malformed_line_is_written() -> None:
    target = io.StringIO()
    with pytest.raises(ValueError, match=r"Line 3: byte 0xff is not valid UTF-8"):
        tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(b"a b\nb\n\xff\nc\n"), target)
    assert target.getvalue() == tagged("a b\nb\n")

    answerer = QuestionAnswerer(AutoModelForQuestionAnswering.from_config(tiny_config()), tiny_tokenizer())
    lines = [json.dumps({"id": n, "question": "who", "context": "Smith visited"}) for n in range(5)]
    target = io.StringIO()
    with pytest.raises(ValueError, match=r"Line 4: 'context' is ' '"):
        content = "\n".join([*lines[:3], '{"question": "who", "context": " "}', *lines[3:]])
        answer_stream(answerer, io.BytesIO(content.encode()), target)
    assert [json.loads(line)["id"] for line in target.getvalue().splitlines()] == [0, 1, 2]


def test_long_contexts_are_read_ahead_in_small_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = QuestionAnswerer(AutoModelForQuestionAnswering.from_config(tiny_config()), tiny_tokenizer())
    monkeypatch.setattr(prediction_stream, "_CONTEXT_CHARACTERS", 10)
    asked = []

    def answer(questions: list[str], contexts: list[str], **options: object) -> list[dict]:
        asked.append([len(context) for context in contexts])
        return [{"answer": "a"}] * len(questions)

    monkeypatch.setattr(QuestionAnswerer, "__call__", lambda self, *args, **options: answer(*args, **options))
    lengths = [3] * 8 + [70, 5, 5] + [40] * 3
    lines = [json.dumps({"question": "who", "context": "a" * length}) for length in lengths]
    assert answer_stream(answerer, io.BytesIO("\n".join(lines).encode()), io.StringIO(), batch_size=1) == 14
    assert asked == [[3] * 8, [70, 5, 5], [40, 40], [40]]  # at most 8, or 80 characters


def test_what_is_no_file_is_written_to_or_refused(tmp_path: Path) -> None:
    model, tokenizer = Letters(), tiny_tokenizer()
    for resume in (False, True):
        with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
            tag_stream(model, tokenizer, io.BytesIO(b"a\n"), tmp_path, resume=resume)
    assert tag_stream(model, tokenizer, io.BytesIO(b"a\nb\n"), os.devnull) == 2
    with pytest.raises(ValueError, match=r"\(--resume\) goes on with a file, and .* is a device"):
        tag_stream(model, tokenizer, io.BytesIO(b"a\n"), os.devnull, resume=True)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    tag_stream(model, tokenizer, io.BytesIO(b"a\n"), pipe)
    reader.join(timeout=30)
    assert json.loads(read[0])["text"] == "a"


def test_a_refused_call_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "out" / "tags.jsonl"
    for content, options in ((b"a b\n", {"overlap": 99}), (b"\xff\n", {})):
        with pytest.raises(ValueError, match=r"overlap=99|Line 1"):
            tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(content), path, **options)
        assert not path.exists()
    assert tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(b""), path) == 0
    assert path.read_bytes() == b""
    with pytest.raises(FileExistsError, match=r"Pass resume=True \(--resume\) to go on with it"):
        tag_stream(Letters(), tiny_tokenizer(), io.BytesIO(b"a\n"), path)


def test_no_answer_takes_part_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = QuestionAnswerer(AutoModelForQuestionAnswering.from_config(tiny_config()), tiny_tokenizer())
    forward = answerer.model.forward

    def sure_of_no_answer(**inputs):
        output = forward(**inputs)
        output.start_logits[:, 0] += 100
        output.end_logits[:, 0] += 100
        return output

    monkeypatch.setattr(answerer.model, "forward", sure_of_no_answer)
    line = json.dumps({"question": "who visited", "context": "Smith visited New York"}).encode()

    def answer(**options) -> str:
        target = io.StringIO()
        answer_stream(answerer, io.BytesIO(line), target, **options)
        return json.loads(target.getvalue())["answer"]["answer"]

    assert answer(handle_impossible_answer=True) == "" != answer()


def test_a_batch_of_no_question_is_refused() -> None:
    answerer = QuestionAnswerer(AutoModelForQuestionAnswering.from_config(tiny_config()), tiny_tokenizer())
    with pytest.raises(ValueError, match="batch_size=0 must be 1 or more"):
        answer_stream(answerer, io.BytesIO(b""), io.StringIO(), batch_size=0)


@pytest.mark.parametrize("line", ["Who?", '{"question": "Who?"}', '{"question": " ", "context": "a"}', "[]"])
def test_a_malformed_question_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"Line 2.*expected \{\"question\": \"Who\?\""):
        list(read_questions(io.BytesIO(b'{"question": "Who?", "context": "a"}\n' + line.encode())))
