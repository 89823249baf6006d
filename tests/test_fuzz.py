"""Bad input of every kind: a result that is right, or a clear error, and never a crash from inside this package."""

from __future__ import annotations

import io
import json
import re
import shutil
import string
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load, save
from tiny import TAGS, tiny_config, tiny_tokenizer
from transformers import BertForQuestionAnswering

from alad_hf import AlAdConfig, AlAdForTokenClassification
from alad_hf.data.columns import parse_conll, parse_conllu
from alad_hf.data.json_lines import parse_json_lines
from alad_hf.data.squad import read_squad
from alad_hf.data.token_alignment import teacher_columns
from alad_hf.data.word_boundaries import split_words
from alad_hf.prediction_records import InputFormat, read_records
from alad_hf.question_answering import QuestionAnswerer
from alad_hf.tagging import tag_text, tag_words

settings.register_profile(
    "alad_hf",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("alad_hf")

CLEAR = (ValueError, OSError)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


# Readers

tokens = st.text(st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"]), min_size=1, max_size=5)
column_lines = st.lists(
    st.one_of(
        st.tuples(tokens, st.sampled_from([*TAGS, "", "X"])).map("\t".join),
        st.sampled_from(["", " ", "# text", "-DOCSTART- O", "1-2\ta", "\ufeff"]),
        st.lists(tokens, max_size=11).map("\t".join),
        st.text(max_size=9),
    ),
    max_size=8,
)


@pytest.mark.parametrize("parse", [parse_conll, parse_conllu])
@given(lines=column_lines, end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_columns(place, parse, lines, end):
    place.write_bytes(end.join(lines).encode("utf-8", "surrogatepass"))
    try:
        sentences = parse(place)
    except CLEAR:
        return
    assert sentences
    for sentence in sentences:
        assert len(sentence.tokens) == len(sentence.tags) > 0
        assert all(sentence.tokens) and all(sentence.tags)


@pytest.mark.parametrize("parse", [parse_conll, parse_conllu, parse_json_lines, read_squad])
@given(content=st.binary(max_size=60))
def test_bytes_that_are_no_text(place, parse, content):
    place.write_bytes(content)
    try:
        parse(place)
    except CLEAR:
        return


spans = st.fixed_dictionaries({"start": st.integers(-1, 12), "end": st.integers(-1, 14), "label": st.text(max_size=3)})
records = st.one_of(
    json_values,
    st.fixed_dictionaries({"tokens": st.lists(st.text(max_size=3)) | json_values, "tags": json_values}),
    st.fixed_dictionaries({"text": st.text(max_size=12), "spans": st.lists(spans, max_size=3)}),
)


@given(rows=st.lists(records, max_size=3))
def test_json_lines(place, rows):
    place.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    try:
        sentences = parse_json_lines(place)
    except CLEAR:
        return
    assert all(len(sentence.tokens) == len(sentence.tags) > 0 for sentence in sentences)


answers = st.fixed_dictionaries({"text": st.text(max_size=4), "answer_start": st.integers(-1, 2**40) | json_values})
questions = st.fixed_dictionaries(
    {"id": st.text(max_size=2), "question": st.text(max_size=4), "answers": st.lists(answers, max_size=2)},
    optional={"is_impossible": st.booleans() | json_values},
)
paragraphs = st.fixed_dictionaries({"context": st.text(max_size=9), "qas": st.lists(questions, max_size=2)})


@given(
    content=json_values
    | st.fixed_dictionaries(
        {"data": st.lists(st.fixed_dictionaries({"paragraphs": st.lists(paragraphs)}) | json_values)}
    )
)
def test_squad(place, content):
    place.write_text(json.dumps(content), encoding="utf-8")
    try:
        rows = read_squad(place)
    except CLEAR:
        return
    for row in rows:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text


@pytest.mark.parametrize("parse", [parse_json_lines, read_squad])
@pytest.mark.parametrize("opening", ["[", '{"data":'])
def test_json_nested_without_end(place, parse, opening):
    place.write_text(opening * 100_000)
    with pytest.raises(ValueError, match="nested|invalid JSON"):
        parse(place)


@pytest.mark.parametrize("parse", [parse_json_lines, read_squad])
def test_half_a_character_is_refused(place, parse):
    """A lone surrogate, which JSON can write and no tokenizer or file can take."""
    if parse is read_squad:
        content = {
            "data": [
                {
                    "paragraphs": [
                        {
                            "context": "a\ud800",
                            "qas": [{"id": "1", "question": "b", "answers": [{"text": "a", "answer_start": 0}]}],
                        }
                    ]
                }
            ]
        }
    else:
        content = {"tokens": ["a\ud800"], "tags": ["O"]}
    place.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="surrogate"):
        parse(place)


# Configurations

values = (
    st.none() | st.booleans() | st.integers(-9, 9**20) | st.floats() | st.text(max_size=5) | st.lists(st.integers())
)


@given(
    fields=st.dictionaries(
        st.sampled_from(
            [name for name in AlAdConfig.__annotations__ if name not in ("text_config", "auto_map")]
            + ["id2label", "num_labels"]
        ),
        values | st.dictionaries(st.integers(0, 3) | st.text(max_size=2), values, max_size=3),
        max_size=3,
    ),
    student=st.dictionaries(st.sampled_from(list(tiny_config().to_dict())), values, max_size=2),
)
def test_configurations(fields, student):
    plain = {
        name: value
        for name, value in tiny_config().to_dict().items()
        if name
        in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "model_type")
    }
    try:
        config = AlAdConfig(text_config={**plain, **student}, **fields)
    except (*CLEAR, StrictDataclassError):
        return
    except (TypeError, AttributeError, KeyError) as error:
        # Of transformers' own fields, which it reads before anybody else can: dtype, label2id and the like.
        assert "alad_hf" not in str(error.__traceback__.tb_next and _innermost(error)), error
        return
    assert 1 <= config.window_size <= 129 and config.hidden_size >= 1
    again = AlAdConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.window_size == config.window_size and again.id2label == config.id2label


def _innermost(error: BaseException) -> str:
    """The file that raised."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = AlAdConfig(text_config=tiny_config(), hidden_size=16, adapter_size=4, id2label=dict(enumerate(TAGS)))
    AlAdForTokenClassification(config).save_pretrained(folder / "sound")
    shutil.copytree(folder / "sound", folder / "bad")
    return folder


def load_bad(checkpoint: Path, content: bytes):
    (checkpoint / "bad" / "model.safetensors").write_bytes(content)
    model = AlAdForTokenClassification.from_pretrained(checkpoint / "bad")
    return list(tag_words(model, tiny_tokenizer(), [["smith", "works"]]))


@settings(max_examples=8)
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_weights(checkpoint, share):
    content = (checkpoint / "sound" / "model.safetensors").read_bytes()
    with pytest.raises((SafetensorError, *CLEAR)):
        load_bad(checkpoint, content[: int(share * len(content))])


@settings(max_examples=15)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header(checkpoint, share, bit):
    """Names, types, shapes and places of tensors; of the numbers themselves, every pattern of bits is one."""
    content = bytearray((checkpoint / "sound" / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[int(share * header)] ^= 1 << bit
    try:
        result = load_bad(checkpoint, bytes(content))
    except (SafetensorError, RuntimeError, *CLEAR):  # transformers raises RuntimeError for shapes that do not fit
        return
    assert result == load_bad(checkpoint, (checkpoint / "sound" / "model.safetensors").read_bytes())


TENSORS = ["model.adapter.linear.weight", "model.encoder.embeddings.LayerNorm.bias", "model.adapter.up.weight"]


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("damage", ["missing", "wrong shape", "not a number", "extra"])
def test_damaged_tensors(checkpoint, name, damage):
    tensors = load((checkpoint / "sound" / "model.safetensors").read_bytes())
    expected = load_bad(checkpoint, save(tensors, metadata={"format": "pt"}))
    if damage == "missing":
        tensors.pop(name)
    elif damage == "wrong shape":
        tensors[name] = torch.zeros(*tensors[name].shape, 2)
    elif damage == "not a number":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    else:
        tensors[f"{name}.extra"] = torch.zeros(3)
    content = save(tensors, metadata={"format": "pt"})
    if damage == "extra":
        assert load_bad(checkpoint, content) == expected
    else:
        message = {"missing": "lacks 1 tensors", "wrong shape": "mismatch|shape", "not a number": "NaN"}[damage]
        with pytest.raises((ValueError, RuntimeError), match=message):
            load_bad(checkpoint, content)


def test_a_question_answerer_whose_weights_are_no_numbers(tmp_path):
    model = BertForQuestionAnswering(tiny_config())
    model.qa_outputs.weight.data[0, 3] = float("nan")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NaN"):
        QuestionAnswerer.from_pretrained(str(tmp_path))("who", "smith works")


# Streams

hostile_text = st.text(
    st.sampled_from([*"ab#1\t .\r\n\0❤👩🏽", *"\ufe0f\u200d\u0301\u20dd\u2028\ufeff\x85\x1c"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=20,
)
conllu_lines = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3", "1-2", "1.1"]), hostile_text).map(
        lambda row: "\t".join([*row, *"________"])
    )
    | st.sampled_from(["", " ", "# text = a", "1\ta"]),
    max_size=8,
).map("\n".join)


def records_of(content: str, input_format: InputFormat) -> list | None:
    """The records of a text; None where it is refused with a number of a line of it."""
    stream = io.BytesIO(content.encode())
    try:
        return list(read_records(stream, input_format))
    except ValueError as error:
        number = int(re.match(r"Line (\d+)", str(error))[1])
        assert 1 <= number <= content.count("\n") + 1
        return None


def stream_lines(content: str) -> list[str]:
    lines = content.removeprefix("\ufeff").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


@given(content=hostile_text)
def test_no_line_of_text_is_lost(content):
    found = records_of(content, "text")
    assert [record.source["text"] for record in found] == stream_lines(content)
    assert [record.line_number for record in found] == list(range(1, len(found) + 1))
    for record in found:
        assert record.words == [record.source["text"][start:end] for start, end in record.offsets]
        assert "".join(record.words) == "".join(c for c in record.source["text"] if not c.isspace())


@given(content=hostile_text | conllu_lines)
def test_no_line_of_columns_is_lost(content):
    found = records_of(content, "conll")
    if found is None:
        assert "\r" in content or "\t" in content
        return
    assert [line for record in found for line in record.lines] == [
        line for line in stream_lines(content) if line.strip(" \t")
    ]
    for record in found:
        assert stream_lines(content)[record.line_number - 1] == record.lines[0]
        for word, line in zip(record.words, record.lines, strict=True):
            assert word and line.lstrip(" \t").startswith(word)


@given(content=hostile_text | conllu_lines)
def test_no_word_of_conllu_is_lost(content):
    found = records_of(content, "conllu")
    if found is None:
        return
    rows = [line.split("\t") for line in stream_lines(content)]
    assert [word for record in found for word in record.words] == [
        row[1].strip(" \t") for row in rows if row[0].strip(" ").isdecimal()
    ]


@given(
    rows=st.lists(
        st.fixed_dictionaries({"text": hostile_text | st.text(st.characters(), max_size=5)})
        | st.fixed_dictionaries({"tokens": st.lists(hostile_text, max_size=3)})
        | json_values,
        max_size=4,
    ),
    ascii_only=st.booleans(),
)
def test_no_object_of_json_lines_is_lost(rows, ascii_only):
    # Half a character can be written as an escape alone.
    content = "\n".join(json.dumps(row, ensure_ascii=ascii_only or has_half_a_character(row)) for row in rows)
    found = records_of(content, "jsonl")
    if found is not None:
        assert [json.dumps(record.source) for record in found] == [json.dumps(row) for row in rows]
    else:
        keys = [row.keys() if isinstance(row, dict) else None for row in rows]
        assert any(map(has_half_a_character, rows)) or any(key not in ({"text"}, {"tokens"}) for key in keys)


def has_half_a_character(row: object) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


@given(content=hostile_text)
def test_text_that_is_no_json(content):
    found = records_of(content, "jsonl")
    assert found in (None, [])


# Text

anything = st.text(st.characters(), max_size=30) | st.text("a \u00a0\u200b\u0301\ufe0f🙂é\r\n\t\0", max_size=30)


@pytest.fixture(scope="module")
def tagger() -> AlAdForTokenClassification:
    torch.manual_seed(0)
    config = AlAdConfig(text_config=tiny_config(), hidden_size=16, adapter_size=4, id2label=dict(enumerate(TAGS)))
    return AlAdForTokenClassification(config)


@given(text=anything)
def test_any_text_is_tagged(tagger, text):
    try:
        items = list(tag_text(tagger, tiny_tokenizer(), [text]))[0]
    except CLEAR as error:
        assert "surrogate" in str(error) and any("\ud800" <= character <= "\udfff" for character in text)
        return
    end = 0
    for item in items:
        assert end <= item["start"] < item["end"] <= len(text)
        assert text[item["start"] : item["end"]] == item["text"]
        end = item["end"]
    words = [text[first:last] for first, last in split_words(text)]
    assert "".join(words) == "".join(character for character in text if not character.isspace())
    assert [len(tags) for tags in tag_words(tagger, tiny_tokenizer(), [words])] == [len(words)]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_any_text_is_aligned(text):
    student = tiny_tokenizer()
    teacher = tiny_tokenizer(
        vocabulary={
            token: index
            for index, token in enumerate(
                ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, "##a", "##b", "th", "##e"]
            )
        }
    )
    encoding = student([text], return_overflowing_tokens=True, truncation=True, max_length=8)
    columns = teacher_columns(encoding, [text], student, teacher)
    for row, triples in enumerate(columns["teacher_alignment"]):
        assert (triples[:, 0] < len(encoding["input_ids"][row])).all()
        assert (triples[:, 1] < len(columns["teacher_input_ids"][row])).all()
        sums = torch.zeros(len(encoding["input_ids"][row]))
        sums.index_add_(0, torch.tensor(triples[:, 0]).long(), torch.tensor(triples[:, 2]))
        assert (((sums - 1).abs() < 1e-5) | (sums == 0)).all()
