"""Recipes on tiny models: the whole way from data to a saved tagger."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from tiny import TAGS, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer

from alad_hf import AlAdForTokenClassification
from alad_hf.recipes import Budget, exchange_mentions, train_tagger

FEATURES = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=TAGS))})
SENTENCES = [
    ("Smith visited New York .", "B-PER O B-LOC I-LOC O"),
    ("Jones works in Berlin", "B-PER O O B-LOC"),
    ("The works of Acme", "O O O O"),
    ("London and New York", "B-LOC O B-LOC I-LOC"),
]


def dataset(copies: int = 1) -> Dataset:
    rows = [{"tokens": words.split(), "tags": [TAGS.index(tag) for tag in tags.split()]} for words, tags in SENTENCES]
    return Dataset.from_list(rows * copies, features=FEATURES)


def student(folder: Path) -> str:
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config(num_hidden_layers=3)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("frozen", [True, False], ids=["plug-and-play", "joint"])
def test_train_tagger_with_a_teacher(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = student(tmp_path / "student")
    teacher = tiny_teacher()
    teacher.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    model = train_tagger(
        source,
        DatasetDict(train=dataset(8), validation=dataset(), test=dataset()),
        tmp_path / "out",
        teacher=str(tmp_path / "teacher"),
        keep_layers=[0, 2],
        freeze_student=frozen,
        budget=Budget(epochs=2, batch_size=8),
        window_size=3,
    ).model
    assert model.teacher is None and not model.training
    assert model.config.window_size == 3 and model.config.text_config.num_hidden_layers == 2
    before = AutoModel.from_pretrained(source, add_pooling_layer=False)
    layers = zip(model.model.encoder.encoder.layer, [before.encoder.layer[0], before.encoder.layer[2]], strict=True)
    unchanged = all(
        torch.equal(after, start)
        for layer, original in layers
        for after, start in zip(layer.parameters(), original.parameters(), strict=True)
    )
    assert unchanged == frozen
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, AlAdForTokenClassification)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("Smith visited Berlin", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**tokens).logits, model(**tokens).logits)
    with pytest.raises(ValueError, match="already holds checkpoint-.*resume=True"):
        train_tagger(
            source,
            DatasetDict(train=dataset(8), validation=dataset()),
            tmp_path / "out",
            teacher=str(tmp_path / "teacher"),
            freeze_student=frozen,
        )


def test_train_tagger_without_a_teacher_learns_a_small_set_by_heart(tmp_path: Path) -> None:
    model = train_tagger(
        student(tmp_path / "student"),
        DatasetDict(train=dataset(8), validation=dataset()),
        tmp_path / "out",
        budget=Budget(epochs=25, batch_size=8, learning_rate=3e-3),
    ).model
    assert type(model).__name__ == "BertForTokenClassification"
    tokenizer = tiny_tokenizer()
    for words, tags in SENTENCES:
        encoded = tokenizer(words.split(), is_split_into_words=True, return_tensors="pt")
        first = [encoded.word_ids(0).index(word) for word in range(len(words.split()))]
        with torch.no_grad():
            predicted = model(**encoded).logits[0, first].argmax(-1).tolist()
        assert [TAGS[index] for index in predicted] == tags.split()


def test_exchange_mentions_keeps_contexts_and_types() -> None:
    data = dataset()
    texts = [tuple(row) for row in exchange_mentions(data, copies=5, seed=1)["tokens"]]
    assert [" ".join(row) for row in texts[:4]] == [words for words, _ in SENTENCES]
    assert len(texts) == 4 + 3 * 5  # the sentence without entities has no variants
    contexts = Counter(row[1].lower() for row in texts[4:9])
    assert contexts == {"visited": 5}
    people, places = {("smith",), ("jones",)}, {("new", "york"), ("berlin",), ("london",)}
    for row in texts[4:9]:
        row = tuple(word.lower() for word in row)
        assert row[:1] in people and row[2:-1] in places and row[-1] == "."
    assert texts == [tuple(row) for row in exchange_mentions(data, copies=5, seed=1)["tokens"]]
    assert len(set(texts)) > 8
