"""Loaders of whole corpora, with train, validation and test splits, from any supported source."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from datasets import Dataset, DatasetDict, Features, List, Value

from alad_hf.data.columns import parse_conll, parse_conllu
from alad_hf.data.json_lines import parse_json_lines
from alad_hf.data.sources import find_source, load_from_hub, rename_splits, split_at_random
from alad_hf.data.squad import read_squad
from alad_hf.data.tag_schemes import split_tag
from alad_hf.data.tagged_datasets import dataset_to_sentences, declared_tag_names
from alad_hf.data.tagged_sentences import TaggedSentence, build_dataset, order_tags, sentences_to_iob2

logger = logging.getLogger(__name__)

COLUMN_SUFFIXES = (".conll", ".tsv", ".txt", ".bio", ".iob")
JSON_SUFFIXES = (".jsonl", ".json")
TOKEN_CLASSIFICATION_SUFFIXES = (*COLUMN_SUFFIXES, *JSON_SUFFIXES, ".conllu")
QUESTION_ANSWERING_SUFFIXES = (".json",)

Source: TypeAlias = str | Path | Mapping[str, str | Path] | DatasetDict


def load_token_classification(
    source: Source,
    *,
    tag_scheme: str = "auto",
    token_column: int | str | None = None,
    tag_column: int | str | None = None,
    separator: str | None = None,
    comment_prefix: str | None = None,
    seed: int = 42,
) -> DatasetDict:
    r"""Load a corpus of tagged sentences.

    All splits get the same tag classes: those of the training split (`O` first, then by entity type with `B-` before
    `I-`; plain classes alphabetically), then those that only other splits have, of which one warning tells. A Hub
    dataset whose tags need no conversion keeps its own class ids, so that they agree with models trained on it.

    Args:
        source: One of

            - `"builtin"`, the small corpus inside the package;
            - a folder with files named `train*`, `dev*` (or `valid*`, `val*`) and `test*`, in CoNLL columns (`.conll`,
              `.tsv`, `.txt`, `.bio`, `.iob`), CoNLL-U (`.conllu`) or JSON lines (`.jsonl`, `.json`);
            - one such file, whose sentences are split at random into 80 % training, 10 % validation and 10 % test;
            - a mapping from split names to files, where other file names than the above are read as CoNLL columns;
            - the name of a dataset on the Hugging Face Hub, a folder with Parquet files, or a `DatasetDict`.
        tag_scheme: `auto` to detect it over all splits, or one of `alad_hf.data.tag_schemes.TAG_SCHEMES`.
        token_column: Column of the tokens: an index for column files (first by default); a name for Hub datasets
            (`tokens` or `words` by default).
        tag_column: Column of the tags: an index for column files (last by default); `"upos"` (default) or `"xpos"`
            for CoNLL-U; a name for Hub datasets (`tags`, `ner_tags`, `pos_tags` or `upos` by default).
        separator: Text between the columns of column files, such as `"\t"`; any run of spaces and tabs if absent.
        comment_prefix: Start of comment lines of column files; there are none if absent.
        seed: Seed of the random split of one file.

    Returns:
        The splits `train`, `validation` and `test`, as far as the source has them, each with the columns `tokens`
        (strings) and `tags` (`ClassLabel` ids), the tags in IOB2 unless the scheme is `none`.

    Raises:
        FileNotFoundError: If the source is not found.
        ValueError: If a file is malformed or the tags do not fit the scheme.
        TypeError: If a column is given by index where a name is needed, or the reverse.

    Example:
        >>> corpus = load_token_classification("en_ewt", tag_column=1)  # doctest: +SKIP
        >>> corpus["train"][0]["tokens"][:3]  # doctest: +SKIP
        ['Al', '-', 'Zaman']
    """
    if source == "builtin":
        from alad_hf.data.builtin import load_builtin_corpus

        return load_builtin_corpus()
    if isinstance(source, DatasetDict):
        return _convert_datasets(rename_splits(source), "the dataset", tag_scheme, token_column, tag_column)
    found = find_source(source, TOKEN_CLASSIFICATION_SUFFIXES)
    if isinstance(found, str):
        datasets = load_from_hub(found, TOKEN_CLASSIFICATION_SUFFIXES)
        return _convert_datasets(datasets, found, tag_scheme, token_column, tag_column)

    def read(path: Path) -> list[TaggedSentence]:
        return _parse_file(path, token_column, tag_column, separator, comment_prefix)

    if isinstance(found, Path):
        sentences = read(found)
        splits = {
            split: [sentences[index] for index in indices]
            for split, indices in _split_file(found, len(sentences), "sentences", seed).items()
        }
        files = [found]
    else:
        splits = {split: read(file) for split, file in found.items()}
        files = list(found.values())
    if tag_scheme == "auto" and all(file.suffix.lower() == ".conllu" for file in files):
        tag_scheme = "none"
    return _build_splits(splits, tag_scheme)


def load_question_answering(source: Source, *, seed: int = 42) -> DatasetDict:
    """Load a corpus of extractive question answering.

    Args:
        source: A folder with SQuAD files named `train*.json`, `dev*.json` and `test*.json`; one such file, whose
            contexts are split at random into 80 % training, 10 % validation and 10 % test; a mapping from split names
            to files, such as `{"test": "xquad.en.json"}`; the name of a dataset on the Hugging Face Hub, a folder
            with Parquet files, or a `DatasetDict`.
        seed: Seed of the random split of one file.

    Returns:
        The splits `train`, `validation` and `test`, as far as the source has them, with the columns of `read_squad`.

    Raises:
        FileNotFoundError: If the source is not found.
        ValueError: If a file is malformed, or a dataset lacks a column or has answers of another form.
    """
    if isinstance(source, DatasetDict):
        return _require_question_columns(rename_splits(source))
    found = find_source(source, QUESTION_ANSWERING_SUFFIXES)
    if isinstance(found, str):
        return _require_question_columns(load_from_hub(found, QUESTION_ANSWERING_SUFFIXES))
    if isinstance(found, Path):
        return _split_by_context(read_squad(found), found, seed)
    return DatasetDict({split: read_squad(file) for split, file in found.items()})


def _parse_file(
    path: Path,
    token_column: int | str | None,
    tag_column: int | str | None,
    separator: str | None,
    comment_prefix: str | None,
) -> list[TaggedSentence]:
    suffix = path.suffix.lower()
    if suffix in JSON_SUFFIXES:
        if token_column is not None or tag_column is not None:
            raise TypeError(f"{path}: JSON lines have fixed keys; leave out token_column= and tag_column=.")
        return parse_json_lines(path)
    if suffix == ".conllu":
        if token_column is not None or isinstance(tag_column, int):
            raise TypeError(f"{path}: for CoNLL-U leave out token_column= and pass tag_column='upos' or 'xpos'.")
        return parse_conllu(path, column=tag_column or "upos")
    if isinstance(token_column, str) or isinstance(tag_column, str):
        raise TypeError(
            f"{path}: columns of a CoNLL file are given by index, such as token_column=0 and tag_column=-1; "
            f"found token_column={token_column!r} and tag_column={tag_column!r}."
        )
    return parse_conll(
        path,
        token_column=0 if token_column is None else token_column,
        tag_column=-1 if tag_column is None else tag_column,
        separator=separator,
        comment_prefix=comment_prefix,
    )


def _convert_datasets(
    datasets: DatasetDict,
    origin: str,
    tag_scheme: str,
    token_column: int | str | None,
    tag_column: int | str | None,
) -> DatasetDict:
    if isinstance(token_column, int) or isinstance(tag_column, int):
        raise TypeError(
            f"{origin}: columns of a Hub dataset are given by name; "
            f"found token_column={token_column!r} and tag_column={tag_column!r}."
        )
    splits = {
        split: dataset_to_sentences(dataset, f"{origin}, split {split!r}", token_column, tag_column)
        for split, dataset in datasets.items()
    }
    return _build_splits(splits, tag_scheme, declared_tag_names(datasets.values(), tag_column))


def _build_splits(
    splits: Mapping[str, Sequence[TaggedSentence]], tag_scheme: str, declared_names: Sequence[str] | None = None
) -> DatasetDict:
    """Convert all splits together and give them the same classes, the declared ones where they still hold."""
    flat = sentences_to_iob2([sentence for sentences in splits.values() for sentence in sentences], tag_scheme)
    converted: dict[str, list[TaggedSentence]] = {}
    offset = 0
    for split, sentences in splits.items():
        converted[split] = flat[offset : offset + len(sentences)]
        offset += len(sentences)
    counts = {
        split: Counter(tag for sentence in sentences for tag in sentence.tags)
        for split, sentences in converted.items()
    }
    _warn_of_unseen_tags(counts)
    names = order_tags(counts.get("train", ()))
    names += order_tags({tag for counter in counts.values() for tag in counter} - set(names))
    is_unchanged = all(converted[split][i].tags == s.tags for split in splits for i, s in enumerate(splits[split]))
    if tag_scheme == "auto" and "O" in names and {split_tag(name)[0] for name in names} <= {"O", ""}:
        logger.warning("The tags %s have no prefix such as B-: taken as plain classes, not as entities.", names)
    if declared_names is not None and is_unchanged:
        names = list(declared_names)
    return DatasetDict({split: build_dataset(sentences, names) for split, sentences in converted.items()})


def _warn_of_unseen_tags(counts: Mapping[str, Counter[str]]) -> None:
    if "train" not in counts:
        return
    unseen = [
        f"{tag} ({counter[tag]} in {split})"
        for split, counter in counts.items()
        for tag in order_tags(counter)
        if tag not in counts["train"]
    ]
    if unseen:
        logger.warning("Tags unseen in training, which the model cannot predict: %s.", ", ".join(unseen))


def _split_file(path: Path, count: int, unit: str, seed: int) -> dict[str, list[int]]:
    try:
        indices = split_at_random(count, seed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}.") from error
    sizes = ", ".join(f"{len(part)} {split}" for split, part in indices.items())
    logger.warning("%s: one file, split at random (seed %d) by %s: %s.", path, seed, unit, sizes)
    return indices


def _split_by_context(dataset: Dataset, path: Path, seed: int) -> DatasetDict:
    # By context and not by question: a model must not be tested on a text that it was trained on.
    rows_of_context: dict[str, list[int]] = {}
    for row, context in enumerate(dataset["context"]):
        rows_of_context.setdefault(context, []).append(row)
    groups = list(rows_of_context.values())
    indices = _split_file(path, len(groups), "contexts", seed)
    return DatasetDict(
        {
            split: dataset.select(sorted(row for index in part for row in groups[index]))
            for split, part in indices.items()
        }
    )


def _require_question_columns(datasets: DatasetDict) -> DatasetDict:
    for split, dataset in datasets.items():
        missing = {"id", "context", "question", "answers"} - set(dataset.column_names)
        if missing:
            raise ValueError(
                f"The split {split!r} lacks the columns {sorted(missing)} of SQuAD; it has {dataset.column_names}. "
                "Rename them with dataset.rename_columns and pass the DatasetDict."
            )
    return DatasetDict({split: _with_answer_columns(dataset, split) for split, dataset in datasets.items()})


def _with_answer_columns(dataset: Dataset, split: str) -> Dataset:
    """Answers as SQuAD's dataset has them, also where they come as its files have them: one object each."""
    kind: Any = dataset.features["answers"]
    fields = {"text", "answer_start"}
    if isinstance(kind, List) and isinstance(kind.feature, dict) and fields <= kind.feature.keys():
        columns = {"text": List(Value("string")), "answer_start": List(Value("int64"))}
        return dataset.map(
            lambda row: {"answers": {name: [answer[name] for answer in row["answers"]] for name in columns}},
            features=Features({**dataset.features, "answers": columns}),
            desc="Answers",
        )
    if not (isinstance(kind, dict) and fields <= kind.keys()):
        raise ValueError(
            f"The answers of the split {split!r} are {kind}, expected {{'text': [...], 'answer_start': [...]}} or a "
            "list of such objects with one answer each, as in SQuAD."
        )
    return dataset
