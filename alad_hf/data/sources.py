"""Where a corpus comes from: files of splits, one file, or a dataset of the Hub."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

SPLIT_NAMES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "devel": "validation",
    "dev": "validation",
    "test": "test",
}

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def find_source(
    source: str | Path | Mapping[str, str | Path], suffixes: Collection[str]
) -> dict[str, Path] | Path | str:
    """Find out what a source is.

    Args:
        source: A mapping from split names to files, a folder with files of the splits, one file, or the name of a
            dataset on the Hub.
        suffixes: File name extensions that are looked for in a folder, such as `.conll`.

    Returns:
        The file of each split, under the names `train`, `validation` and `test`; or the path of the one file; or what
        `datasets.load_dataset` is to be given: a Hub name or a folder with Parquet files.

    Raises:
        FileNotFoundError: If the source is a path that does not exist, or a folder without known files.
        ValueError: If a split has an unknown name or several files.
        TypeError: If the source, or the file of a split, is no path.
    """
    if isinstance(source, Mapping):
        return _files_of_mapping(source)
    _check_path(source)
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        files = _files_of_folder(path, suffixes)
        if not files and next(path.rglob("*.parquet"), None) is not None:
            return str(path)
        if not files:
            raise FileNotFoundError(
                f"The folder {str(source)!r} holds no file of a split. {_describe_forms(suffixes)}"
            )
        return files
    is_path = isinstance(source, Path) or path.suffix in suffixes or not _HUB_NAME.fullmatch(str(source))
    if is_path:
        raise FileNotFoundError(f"There is no file or folder {str(source)!r}. {_describe_forms(suffixes)}")
    return str(source)


def _check_path(source: object) -> None:
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"A corpus is a name, a path, a mapping from splits to files, or a DatasetDict; got a "
            f"{type(source).__name__}. Rows are passed as datasets.DatasetDict(train=..., test=...)."
        )


def check_one_split(dataset: object) -> None:
    """Raise TypeError for several splits by name, where the rows of one are wanted."""
    if isinstance(dataset, Mapping):
        raise TypeError(f"Expected the rows of one split, got the splits {list(dataset)}: pass one, as data['test'].")


def load_from_hub(name: str, suffixes: Collection[str]) -> DatasetDict:
    """Load all splits of a dataset of the Hub, or of a folder with Parquet files.

    Args:
        name: Name on the Hub or path of a folder.
        suffixes: File name extensions accepted for local sources, for the error message.

    Returns:
        The splits, `train`, `validation` and `test` under these names and others under their own.

    Raises:
        FileNotFoundError: If there is no such dataset or the Hub cannot be reached.
        ValueError: If two splits have the same meaning, such as `dev` and `validation`.
    """
    try:
        splits = load_dataset(name)
    # Not found or out of reach, without data, a script, or splits of which the columns differ.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ else error
        raise FileNotFoundError(
            f"datasets.load_dataset({name!r}) failed, which is tried for what is no known local file: {reason} "
            + _describe_forms(suffixes)
        ) from error
    return rename_splits(splits)


def rename_splits(splits: DatasetDict) -> DatasetDict:
    """Give the splits of a dataset the names `train`, `validation` and `test`; others keep theirs.

    Args:
        splits: Datasets by split name.

    Returns:
        The same datasets by new names.

    Raises:
        ValueError: If two splits have the same meaning, such as `dev` and `validation`.
    """
    renamed = DatasetDict()
    for name, dataset in splits.items():
        split = SPLIT_NAMES.get(name, name)
        if split in renamed:
            raise ValueError(f"The dataset has two splits for {split!r}, among {list(splits)}; pass only one of them.")
        renamed[split] = dataset
    return renamed


def split_at_random(count: int, seed: int) -> dict[str, list[int]]:
    """Divide items into training, validation and test items in the ratio 80/10/10.

    The validation and test splits get `count // 10` items each and the training split the rest. The same count and
    seed always give the same splits, in each of which the items keep their order.

    Args:
        count: Number of items, at least 10.
        seed: Seed of the shuffle.

    Returns:
        Indices of the items of each split.

    Raises:
        ValueError: If there are fewer than 10 items.
    """
    if count < 10:
        raise ValueError(
            f"found {count} items, expected at least 10 to split one file into train, validation and test; "
            "to use files whole, pass a mapping such as {'train': file, 'test': other_file}, or a folder of files "
            "with these names"
        )
    order = list(range(count))
    random.Random(seed).shuffle(order)
    tenth = count // 10
    parts = {"train": order[2 * tenth :], "validation": order[:tenth], "test": order[tenth : 2 * tenth]}
    return {split: sorted(indices) for split, indices in parts.items()}


def _files_of_mapping(source: Mapping[str, str | Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name, file in source.items():
        split = SPLIT_NAMES.get(name)
        if split is None:
            raise ValueError(f"Unknown split {name!r}: expected one of {tuple(SPLIT_NAMES)}.")
        if split in files:
            raise ValueError(f"Two files for the split {split!r}: {str(files[split])!r} and {str(file)!r}; pass one.")
        _check_path(file)
        files[split] = Path(file).expanduser()
        if not files[split].is_file():
            raise FileNotFoundError(f"There is no file {str(file)!r}, which was given for the split {name!r}.")
    if not files:
        raise ValueError("The mapping is empty: expected a file for at least one of 'train', 'validation' and 'test'.")
    return _in_usual_order(files)


def _files_of_folder(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        name = file.name.lower()
        split = next((split for prefix, split in SPLIT_NAMES.items() if name.startswith(prefix)), None)
        if split is None or file.suffix.lower() not in suffixes or not file.is_file():
            continue
        if split in files:
            raise ValueError(
                f"The folder {str(folder)!r} holds two files for the split {split!r}: {files[split].name!r} and "
                f"{file.name!r}. Pass a mapping such as {{{split!r}: {str(file)!r}}} to choose."
            )
        files[split] = file
    return _in_usual_order(files)


def _in_usual_order(files: Mapping[str, Path]) -> dict[str, Path]:
    return {split: files[split] for split in ("train", "validation", "test") if split in files}


def _describe_forms(suffixes: Collection[str]) -> str:
    return (
        f"Expected one of: a folder with files named train*, dev* (or valid*, val*) and test* that end in "
        f"{', '.join(sorted(suffixes))}; a folder with Parquet files; one such file, which is split 80/10/10; "
        "a mapping such as {'train': file, 'validation': file, 'test': file}; a datasets.DatasetDict; "
        "or the name of a dataset on the Hugging Face Hub."
    )
