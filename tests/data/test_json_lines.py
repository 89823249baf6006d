"""Reader of JSON lines."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest
from seqeval.scheme import IOB2, Entities

from alad_hf.data.json_lines import CharacterSpan, read_json_lines, tag_spans
from alad_hf.data.word_boundaries import split_words


@pytest.fixture
def write(tmp_path: Path):
    def write_file(*records: object) -> Path:
        path = tmp_path / "corpus.jsonl"
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write_file


def rows(path: Path, **options) -> list[tuple[list[str], list[str]]]:
    dataset = read_json_lines(path, **options)
    names = dataset.features["tags"].feature.names
    return [(row["tokens"], [names[tag] for tag in row["tags"]]) for row in dataset]


def test_tokens_with_tags_in_any_scheme(write) -> None:
    path = write({"tokens": ["Ann", "Lee"], "tags": ["B-PER", "E-PER"], "id": 3}, "", {"tokens": ["a"], "tags": ["O"]})
    assert rows(path) == [(["Ann", "Lee"], ["B-PER", "I-PER"]), (["a"], ["O"])]
    assert rows(path, tag_scheme="none")[0] == (["Ann", "Lee"], ["B-PER", "E-PER"])


@pytest.mark.parametrize("key", ["spans", "entities"])
def test_text_with_spans(write, key: str) -> None:
    spans = [{"start": 9, "end": 15, "label": "LOC"}, {"start": 0, "end": 8, "label": "PER"}]
    path = write({"text": "Ann Lee, Berlin-based.", key: spans}, {"text": "Nobody.", key: []})
    assert rows(path) == [
        (["Ann", "Lee", ",", "Berlin", "-", "based", "."], ["B-PER", "I-PER", "I-PER", "B-LOC", "O", "O", "O"]),
        (["Nobody", "."], ["O", "O"]),
    ]


def test_words_do_not_depend_on_spans_at_punctuation() -> None:
    text = "In Paris, Texas (U.S.) - naïve हिन्दी \u00a0end"
    expected = ["In", "Paris", ",", "Texas", "(", "U", ".", "S", ".", ")", "-", "naïve", "हिन्दी", "end"]
    assert [text[start:end] for start, end in split_words(text)] == expected
    assert tag_spans(text, [CharacterSpan(3, 8, "LOC"), CharacterSpan(17, 20, "LOC")])[0] == expected


def test_words_of_scripts_without_blanks_are_characters() -> None:
    words = {
        "我住在北京。Ada在上海3月": [*"我住在北京。", "Ada", *"在上海3月"],
        "東京タワーへ行く": list("東京タワーへ行く"),
        "ที่นี่": ["ที่", "นี่"],  # consonants with a vowel and a tone above them
        "𠮷野 서울에서": ["𠮷", "野", "서울에서"],  # beyond the first plane; Korean has blanks
    }
    for text, expected in words.items():
        assert [text[start:end] for start, end in split_words(text)] == expected
    text = "我住在北京。"
    assert tag_spans(text, [CharacterSpan(3, 5, "LOC")]) == (list(text), ["O", "O", "O", "B-LOC", "I-LOC", "O"])


def test_borders_of_spans_inside_words_are_counted(write, caplog: pytest.LogCaptureFixture) -> None:
    inside = {"start": 0, "end": 6, "label": "LOC"}
    path = write(
        {"text": "Berlin 北京", "spans": [inside, {"start": 7, "end": 8, "label": "LOC"}]},
        {"text": "Berliner Luft", "spans": [inside]},
        {"text": "Ungarn: Berliners", "spans": [{"start": 10, "end": 14, "label": "LOC"}]},
    )
    with caplog.at_level(logging.WARNING):
        assert rows(path)[1] == (["Berlin", "er", "Luft"], ["B-LOC", "O", "O"])
    (record,) = caplog.records
    assert f"{path}: 3 borders of spans" in record.getMessage() and f"{path}, line 2" in record.getMessage()


def test_what_has_no_shape_belongs_to_the_word_before() -> None:
    words = {
        "❤\ufe0f": ["❤\ufe0f"],  # heart and variation selector
        "I❤\ufe0fyou 1\ufe0f\u20e3 #\ufe0f\u20e3": ["I", "❤\ufe0f", "you", "1\ufe0f\u20e3", "#\ufe0f\u20e3"],
        "👩\u200d👩\u200d👧🙂": ["👩\u200d👩\u200d👧", "🙂"],
        "👩🏽\u200d⚕\ufe0f 🙂\u200d↔\ufe0f": ["👩🏽\u200d⚕\ufe0f", "🙂\u200d↔\ufe0f"],
        "🏴\U000e0067\U000e0062\U000e007f!": ["🏴\U000e0067\U000e0062\U000e007f", "!"],
        "(\u200bAda\u200b)\u0301\u20dd": ["(\u200b", "Ada\u200b", ")\u0301\u20dd"],
        "co\u00adop क्\u200dष a\u200d❤": ["co\u00adop", "क्\u200dष", "a\u200d", "❤"],
        "\u200dAda \ufe0f🙂 🏽": ["\u200dAda", "\ufe0f", "🙂", "🏽"],  # nothing stands before them
    }
    for text, expected in words.items():
        offsets = split_words(text)
        assert [text[start:end] for start, end in offsets] == expected
        position = 0
        for (start, end), word in zip(offsets, expected, strict=True):
            assert (start, end) == (text.index(word, position), text.index(word, position) + len(word))
            position = end
    text = "🙂\u200d❤\ufe0f"
    assert tag_spans(text, [CharacterSpan(0, 1, "X"), CharacterSpan(3, 4, "Y")]) == (
        ["🙂", "\u200d", "❤", "\ufe0f"],
        ["B-X", "O", "O", "B-Y"],
    )


def test_spans_always_become_entities_of_the_same_characters() -> None:
    generator = random.Random(0)
    for _ in range(500):
        text = "".join(generator.choice("ab é.,'-\u3000😀\u200d\ufe0f\u0301") for _ in range(generator.randint(1, 20)))
        borders = sorted(generator.sample(range(len(text) + 1), k=min(len(text) + 1, generator.randint(0, 6))))
        spans = [
            CharacterSpan(start, end, generator.choice(["X", "Y"]))
            for start, end in zip(borders, borders[1:], strict=False)
            if text[start:end].strip() and generator.random() < 0.7
        ]
        words, tags = tag_spans(text, spans)
        assert "".join(words) == "".join(text.split())
        entities = Entities([tags], IOB2).entities[0]
        found = [("".join(words[entity.start : entity.end]), entity.tag) for entity in entities]
        assert found == [("".join(text[span.start : span.end].split()), span.label) for span in spans]


def test_objects_without_words_are_counted(write, caplog: pytest.LogCaptureFixture) -> None:
    path = write({"tokens": [], "tags": []}, {"text": " ", "spans": []}, {"tokens": ["a"], "tags": ["O"]})
    with caplog.at_level(logging.WARNING):
        assert rows(path) == [(["a"], ["O"])]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: left out 2 objects without any word; 1 sentences remain."
    ]


GOOD = {"tokens": ["a"], "tags": ["O"]}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"tokens": ', r"found invalid JSON .*column 12\), expected .*\"tokens\""),
        ("[1]", r"found a JSON list, expected"),
        ({"tokens": ["a"]}, r"found the keys \['tokens'\], expected"),
        ({"text": "a"}, r"found the keys \['text'\], expected"),
        ({"text": "a", "spans": [], "entities": []}, r"found the keys \['entities', 'spans', 'text'\]"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, r"found 2 tokens and 1 tags, expected as many"),
        ({"tokens": ["a"], "tags": [0]}, r"found 0 in 'tags', expected strings"),
        ({"tokens": [""], "tags": ["O"]}, r"found '' in 'tokens', expected strings that are not empty"),
        ({"tokens": "a", "tags": ["O"]}, r"found 'a' as 'tokens', expected a list"),
        ({"text": 3, "spans": []}, r"found 3 as 'text', expected a string"),
        ({"text": "a", "spans": {}}, r"found \{\} as spans, expected a list"),
        ({"text": "a", "spans": [{"start": 0, "label": "X"}]}, r"found the span .*expected \{'start': integer"),
        ({"text": "a", "spans": [{"start": 0, "end": True, "label": "X"}]}, r"found the span"),
        ({"text": "a", "spans": [{"start": 0, "end": 2, "label": "X"}]}, r"expected 0 <= start < end <= 1"),
        ({"text": "a", "spans": [{"start": -1, "end": 1, "label": "X"}]}, r"expected 0 <= start < end <= 1"),
        ({"text": "a", "spans": [{"start": 1, "end": 1, "label": "X"}]}, r"expected 0 <= start < end <= 1"),
        ({"text": "a  b", "spans": [{"start": 1, "end": 3, "label": "X"}]}, r"covers only white space"),
        (
            {"text": "abc", "spans": [{"start": 1, "end": 3, "label": "X"}, {"start": 0, "end": 2, "label": "Y"}]},
            r"found CharacterSpan\(start=1, end=3, label='X'\), which overlaps another",
        ),
    ],
)
def test_malformed_lines_are_named(write, record: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 2: .*" + message):
        read_json_lines(write(GOOD, record))


def test_an_empty_file_and_a_json_list_are_refused(write) -> None:
    with pytest.raises(ValueError, match=r"corpus\.jsonl: found no sentence, expected"):
        read_json_lines(write({"tokens": [], "tags": []}))
    with pytest.raises(ValueError, match=r"line 1: found invalid JSON .*without an outer list"):
        read_json_lines(write("[", json.dumps(GOOD), "]"))
