"""Loaders of whole corpora."""

from __future__ import annotations

import json
import logging
import sys
import types
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from alad_hf.data.loading import load_question_answering, load_token_classification


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def write_files(folder: Path, **contents: str) -> Path:
    """Write files whose names have `__` for the dot."""
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(content, encoding="utf-8")
    return folder


def rows(dataset: Dataset) -> list[tuple[list[str], list[str]]]:
    names = dataset.features["tags"].feature.names
    return [(row["tokens"], [names[tag] for tag in row["tags"]]) for row in dataset]


def tag_names(splits: DatasetDict) -> list[str]:
    """Return the classes, which must be those of all splits."""
    features = {split: dataset.features for split, dataset in splits.items()}
    assert len({str(feature) for feature in features.values()}) == 1
    return next(iter(features.values()))["tags"].feature.names


TRAIN = "Ann B-PER\nLee I-PER\nran O\n\nRome B-LOC\n"
JSON_ROW = '{"text": "Oslo", "spans": [{"start": 0, "end": 4, "label": "LOC"}]}\n'


@pytest.mark.parametrize("train", ["train.conll", "Training.tsv", "train.en.txt", "train-set.bio", "train.IOB"])
@pytest.mark.parametrize("validation", ["dev.jsonl", "devel.json", "valid.jsonl", "validation.json", "val.jsonl"])
def test_folder_finds_the_splits(tmp_path: Path, train: str, validation: str) -> None:
    (tmp_path / train).write_text(TRAIN, encoding="utf-8")
    (tmp_path / validation).write_text(JSON_ROW, encoding="utf-8")
    write_files(tmp_path, test__conll="Lee B-PER\n", README__md="#", other__conll="x y z", train__py="")
    splits = load_token_classification(str(tmp_path))
    assert list(splits) == ["train", "validation", "test"]
    assert rows(splits["train"]) == [(["Ann", "Lee", "ran"], ["B-PER", "I-PER", "O"]), (["Rome"], ["B-LOC"])]
    assert rows(splits["validation"]) == [(["Oslo"], ["B-LOC"])]
    assert rows(splits["test"]) == [(["Lee"], ["B-PER"])]
    assert tag_names(splits) == ["O", "B-LOC", "B-PER", "I-PER"]
    assert splits["train"].features["tokens"] == List(Value("string"))


def test_mapping_reads_files_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "eng.testa").write_text("Ann I-PER\n", encoding="utf-8")
    splits = load_token_classification({"dev": tmp_path / "eng.testa"})
    assert list(splits) == ["validation"]
    assert rows(splits["validation"]) == [(["Ann"], ["B-PER"])]


def test_scheme_is_detected_over_all_splits(tmp_path: Path) -> None:
    # The training file alone looks like IO; only the test file shows that the corpus is IOB1, and both convert alike.
    write_files(tmp_path, train__conll="Ann I-PER\nLee I-PER\n", test__conll="Bob I-PER\nTim B-PER\n")
    splits = load_token_classification(tmp_path)
    assert rows(splits["train"]) == [(["Ann", "Lee"], ["B-PER", "I-PER"])]
    assert rows(splits["test"]) == [(["Bob", "Tim"], ["B-PER", "B-PER"])]
    write_files(tmp_path, test__conll="he O\n\nBob B-PER\n")
    with pytest.raises(
        ValueError, match=r"train\.conll, sentence at line 1.*test\.conll, sentence at line 3, token 1"
    ):
        load_token_classification(tmp_path)


def test_tags_unseen_in_training_come_last_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(
        tmp_path,
        train__conll=TRAIN,
        dev__conll="a B-ART\nb I-ART\nc I-ART\nd O\n",
        test__conll="a B-ART\n\nb B-LOC\nc I-LOC\n",
    )
    with caplog.at_level(logging.WARNING):
        splits = load_token_classification(tmp_path)
    assert tag_names(splits) == ["O", "B-LOC", "B-PER", "I-PER", "B-ART", "I-ART", "I-LOC"]
    assert [record.getMessage() for record in caplog.records] == [
        "Tags unseen in training, which the model cannot predict: B-ART (1 in validation), I-ART (2 in validation), "
        "B-ART (1 in test), I-LOC (1 in test)."
    ]


def test_plain_classes_beside_outside_tags_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_files(tmp_path, train__conll="Ann PER\nran O\n")
    with caplog.at_level(logging.WARNING):
        assert tag_names(load_token_classification(path)) == ["O", "PER"]
    assert "have no prefix such as B-: taken as plain classes" in caplog.text
    caplog.clear()
    load_token_classification(path, tag_scheme="none")
    assert not caplog.records


def test_parts_of_speech(tmp_path: Path) -> None:
    write_files(tmp_path, train__tsv="I\tPRON\tPRP\nran\tVERB\tVBD\n", dev__tsv="he\tPRON\tPRP\n")
    assert tag_names(load_token_classification(tmp_path, tag_column=1)) == ["PRON", "VERB"]
    assert tag_names(load_token_classification(tmp_path)) == ["PRP", "VBD"]
    word = "1\tI\tI\tPRON\tI-X\t_\t0\troot\t_\t_\n"
    conllu = write_files(tmp_path / "ud", train__conllu=word)
    assert tag_names(load_token_classification(conllu)) == ["PRON"]
    assert tag_names(load_token_classification(conllu, tag_column="xpos")) == ["I-X"]


def test_one_file_is_split_once_and_for_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "all.txt"
    path.write_text("\n\n".join(f"word{number} O" for number in range(57)), encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        splits = load_token_classification(path, seed=3)
    assert "all.txt: one file, split at random (seed 3) by sentences: 47 train, 5 validation, 5 test." in caplog.text
    words = {split: [row["tokens"][0] for row in dataset] for split, dataset in splits.items()}
    assert {split: len(part) for split, part in words.items()} == {"train": 47, "validation": 5, "test": 5}
    assert sorted(sum(words.values(), [])) == sorted(f"word{number}" for number in range(57))
    for part in words.values():
        assert part == sorted(part, key=lambda word: int(word.removeprefix("word")))
    again = load_token_classification(path, seed=3)
    assert {split: [row["tokens"][0] for row in dataset] for split, dataset in again.items()} == words
    other = load_token_classification(path, seed=4)
    assert [row["tokens"][0] for row in other["test"]] != words["test"]
    path.write_text("\n\n".join(["a O"] * 9), encoding="utf-8")
    with pytest.raises(ValueError, match=r"all\.txt: found 9 items, expected at least 10 .*mapping"):
        load_token_classification(path)


NER_LABELS = ClassLabel(names=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


def hub_splits(token_column: str = "tokens", tag_column: str = "ner_tags", label: object = NER_LABELS) -> DatasetDict:
    features = Features({token_column: List(Value("string")), tag_column: List(label), "id": Value("string")})

    def split(tokens: list[list[str]], tags: list[list]) -> Dataset:
        ids = [str(number) for number in range(len(tokens))]
        return Dataset.from_dict({token_column: tokens, tag_column: tags, "id": ids}, features=features)

    tags = [[1, 2], [3]] if not isinstance(label, Value) or label.dtype != "string" else [["S-PER", "O"], ["S-LOC"]]
    return DatasetDict({"train": split([["Ann", "Lee"], ["Rome"]], tags), "dev": split([["Rome"]], tags[1:])})


@pytest.mark.parametrize("columns", [("tokens", "ner_tags"), ("words", "pos_tags"), ("tokens", "upos")])
def test_hub_dataset_keeps_its_class_ids(tmp_path: Path, columns: tuple[str, str]) -> None:
    source = hub_splits(*columns)
    folder = tmp_path / "hub_copy"
    for split, dataset in source.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        dataset.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    for splits in (load_token_classification(source), load_token_classification(str(folder))):
        assert set(splits) == {"train", "validation"}
        assert splits["train"].column_names == ["tokens", "tags"]
        assert tag_names(splits) == NER_LABELS.names
        assert splits["train"][0] == {"tokens": ["Ann", "Lee"], "tags": [1, 2]}
        assert splits["validation"][0] == {"tokens": ["Rome"], "tags": [3]}


def test_hub_dataset_in_another_scheme_is_converted() -> None:
    splits = load_token_classification(hub_splits(label=Value("string")))
    assert tag_names(splits) == ["O", "B-LOC", "B-PER"]
    io = DatasetDict(train=hub_splits(label=ClassLabel(names=["O", "I-PER", "I-LOC", "I-ORG"]))["train"].select([0]))
    assert rows(load_token_classification(io)["train"]) == [(["Ann", "Lee"], ["B-PER", "B-LOC"])]


def test_hub_columns_can_be_named(caplog: pytest.LogCaptureFixture) -> None:
    source = hub_splits("forms", "entities")
    with pytest.raises(ValueError, match=r"found none of the columns \('tokens', 'words'\), but .*token_column="):
        load_token_classification(source)
    splits = load_token_classification(source, token_column="forms", tag_column="entities")
    assert splits["train"][0] == {"tokens": ["Ann", "Lee"], "tags": [1, 2]}
    both = DatasetDict(train=hub_splits()["train"].add_column("pos_tags", [["X", "Y"], ["X"]]))
    with caplog.at_level(logging.WARNING):
        assert rows(load_token_classification(both)["train"])[1] == (["Rome"], ["B-LOC"])
    assert "reads the column 'ner_tags'; pass tag_column= for one of ['pos_tags']" in caplog.text
    assert rows(load_token_classification(both, tag_column="pos_tags")["train"])[1] == (["Rome"], ["X"])


def test_splits_with_other_columns_are_named(tmp_path: Path) -> None:
    rows = hub_splits()
    rows["train"].to_parquet(tmp_path / "train.parquet")
    rows["dev"].add_column("more", ["x"] * len(rows["dev"])).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(FileNotFoundError, match=r"(?s)load_dataset.*failed.*column names don't match"):
        load_token_classification(str(tmp_path))


def test_hub_faults_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"split 'train': the column 'ner_tags' is List.*int64.*ClassLabel\(names="):
        load_token_classification(hub_splits(label=Value("int64")))
    unlabelled = hub_splits()["dev"].map(lambda row: {"ner_tags": [-1]})
    with pytest.raises(ValueError, match=r"split 'test', row 0: found the tag id -1, expected 0 to 4.*unlabelled"):
        load_token_classification(DatasetDict(test=unlabelled))
    uneven = hub_splits()["dev"].map(lambda row: {"tokens": ["a", "b"]})
    with pytest.raises(ValueError, match=r"row 0: found 2 tokens and 1 tags"):
        load_token_classification(DatasetDict(train=uneven))
    with pytest.raises(ValueError, match=r"the column 'id' is .*expected lists of strings"):
        load_token_classification(hub_splits(), token_column="id")
    with pytest.raises(ValueError, match=r"two splits for 'validation'"):
        load_token_classification(DatasetDict(dev=uneven, validation=uneven))
    with_empty = hub_splits()["train"].map(lambda row: {"tokens": [], "ner_tags": []} if row["id"] == "0" else row)
    with caplog.at_level(logging.WARNING):
        assert len(load_token_classification(DatasetDict(train=with_empty))["train"]) == 1
    assert "left out 1 rows without tokens; 1 remain" in caplog.text


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no/such/folder", FileNotFoundError, r"no file or folder 'no/such/folder'.*Expected one of: .*train\*"),
        ("missing.conll", FileNotFoundError, r"no file or folder 'missing\.conll'.*\.jsonl"),
        ("./missing", FileNotFoundError, r"no file or folder '\./missing'"),
        (Path("missing"), FileNotFoundError, r"no file or folder 'missing'"),
        ("nobody/nothing", FileNotFoundError, r"load_dataset\('nobody/nothing'\) failed.*Expected one of"),
        ({"trian": "a.txt"}, ValueError, r"Unknown split 'trian': expected one of \('train'"),
        ({"train": "missing.txt"}, FileNotFoundError, r"no file 'missing\.txt', which was given for .*'train'"),
        ({}, ValueError, r"mapping is empty"),
    ],
)
@pytest.mark.parametrize("load", [load_token_classification, load_question_answering])
def test_unknown_sources_are_explained(tmp_path: Path, monkeypatch, load, source, error, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    if source == "missing.conll" and load is load_question_answering:
        source, message = "missing.json", r"no file or folder 'missing\.json'"
    with pytest.raises(error, match=message):
        load(source)


def test_rows_alone_are_no_corpus() -> None:
    rows = hub_splits()["train"]
    for source in (rows, {"train": rows}):
        with pytest.raises(TypeError, match=r"got a Dataset\. Rows are passed as datasets\.DatasetDict\(train="):
            load_token_classification(source)


def test_answers_may_be_objects_as_in_the_files_of_squad() -> None:
    row = {"id": "1", "question": "who?", "context": "smith did"}
    answers = [{"text": "smith", "answer_start": 0}, {"text": "smith did", "answer_start": 0}]
    expected = {"text": ["smith", "smith did"], "answer_start": [0, 0]}
    for given in (answers, expected):
        found = load_question_answering(DatasetDict(test=Dataset.from_list([{**row, "answers": given}])))["test"]
        assert found[0] == {**row, "answers": expected}
    with pytest.raises(ValueError, match="answers of the split 'test' are List.*expected"):
        load_question_answering(DatasetDict(test=Dataset.from_list([{**row, "answers": ["smith"]}])))


def test_folder_faults_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no file of a split\. Expected one of"):
        load_token_classification(write_files(tmp_path, notes__txt="a O"))
    with pytest.raises(ValueError, match=r"two files for the split 'train': 'train\.conll' and 'train\.jsonl'"):
        load_token_classification(write_files(tmp_path, train__conll=TRAIN, train__jsonl=JSON_ROW))


def test_columns_must_suit_the_source(tmp_path: Path) -> None:
    write_files(tmp_path, a__conll=TRAIN, a__jsonl=JSON_ROW, a__conllu="")
    for name, options, message in [
        ("a.conll", {"tag_column": "ner_tags"}, "given by index"),
        ("a.jsonl", {"tag_column": 1}, "fixed keys"),
        ("a.conllu", {"tag_column": 3}, "'upos' or 'xpos'"),
    ]:
        with pytest.raises(TypeError, match=message):
            load_token_classification({"train": tmp_path / name}, **options)
    with pytest.raises(TypeError, match="given by name"):
        load_token_classification(hub_splits(), tag_column=1)


def test_builtin_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = DatasetDict()
    module = types.ModuleType("alad_hf.data.builtin")
    module.load_builtin_corpus = lambda: splits
    monkeypatch.setitem(sys.modules, "alad_hf.data.builtin", module)
    assert load_token_classification("builtin") is splits


def squad_file(path: Path, contexts: int) -> Path:
    paragraphs = [
        {
            "context": f"Town {number} is old.",
            "qas": [
                {"id": f"{number}-{k}", "question": "?", "answers": [{"text": "Town", "answer_start": 0}]}
                for k in range(1 + number % 3)
            ],
        }
        for number in range(contexts)
    ]
    path.write_text(json.dumps({"data": [{"title": "Towns", "paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def test_question_answering_from_folder_mapping_and_hub(tmp_path: Path) -> None:
    squad_file(tmp_path / "train-v1.1.json", 4)
    squad_file(tmp_path / "dev-v1.1.json", 2)
    splits = load_question_answering(tmp_path)
    assert {split: len(dataset) for split, dataset in splits.items()} == {"train": 7, "validation": 3}
    mapped = load_question_answering({"test": tmp_path / "dev-v1.1.json"})
    assert mapped["test"].to_list() == splits["validation"].to_list()
    assert (
        load_question_answering(DatasetDict(dev=splits["train"]))["validation"].to_list() == splits["train"].to_list()
    )
    with pytest.raises(ValueError, match=r"split 'train' lacks the columns \['answers'\] of SQuAD"):
        load_question_answering(DatasetDict(train=splits["train"].remove_columns("answers")))


def test_one_squad_file_is_split_by_context(tmp_path: Path) -> None:
    path = squad_file(tmp_path / "all.json", 40)
    splits = load_question_answering(path)
    contexts = {split: set(dataset["context"]) for split, dataset in splits.items()}
    assert {split: len(part) for split, part in contexts.items()} == {"train": 32, "validation": 4, "test": 4}
    assert len(set.union(*contexts.values())) == 40
    identifiers = [identifier for dataset in splits.values() for identifier in dataset["id"]]
    assert len(identifiers) == len(set(identifiers)) == sum(1 + number % 3 for number in range(40))


@pytest.mark.parametrize(
    ("name", "options", "sizes", "token_count", "tag_count"),
    [
        ("wnut17", {}, [3394, 1009, 1287], [62730, 15733, 23394], 1 + 2 * 6),
        # The shared README says 5432 sentences; the file has 5424 blank lines, each after a sentence.
        ("ncbi_disease", {}, [5424, 923, 940], [135701, 23969, 24497], 1 + 2),
        ("ud_ewt_pos", {"tag_column": 1}, [12544, 2001, 2077], [204577, 25147, 25094], 17),
    ],
)
def test_real_corpora(shared_data: Path, name: str, options: dict, sizes, token_count, tag_count: int) -> None:
    splits = load_token_classification(shared_data / name, **options)
    assert [len(splits[split]) for split in ("train", "validation", "test")] == sizes
    assert [sum(map(len, splits[split]["tokens"])) for split in ("train", "validation", "test")] == token_count
    assert len(tag_names(splits)) == tag_count


def test_real_single_file(shared_data: Path) -> None:
    splits = load_token_classification(shared_data / "wikigold" / "wikigold.conll.txt")
    assert [len(dataset) for dataset in splits.values()] == [1358, 169, 169]
    assert sum(len(tokens) for dataset in splits.values() for tokens in dataset["tokens"]) == 39152 - 145
    assert tag_names(splits)[:3] == ["O", "B-LOC", "I-LOC"]
