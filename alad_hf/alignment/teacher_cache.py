"""A teacher's states as dataset columns: computed once, kept on disk, reused as long as nothing changed."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from datasets import Array2D, Dataset, Features, concatenate_datasets, disable_progress_bars, enable_progress_bars
from datasets.config import HF_DATASETS_CACHE
from datasets.utils import are_progress_bars_disabled
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.teacher import accepted_arguments, check_same_tokenization, load_teacher, teacher_signal

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 1_000
"""Rows of one cache file; an interrupted run loses at most the file it was writing."""


def cache_teacher_states(
    dataset: Dataset,
    teacher: str | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    dtype: Literal["float16", "float32"] = "float16",
    tokens_per_batch: int = 4096,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Add the columns `teacher_states` (tokens, d_L) and, if the teacher has a task head, `teacher_logits`.

    Rows are written in shards of 1,000; a shard is found again by the sha256 of its token ids, the teacher's weights
    and the precision, so a second call, or one after an interruption, computes only what is missing.

    Args:
        dataset: Tokenized rows with `input_ids`, as `encode_tagged_words` or a tokenizer gives them.
        teacher: Folder, Hub id or model; it runs where it lies.
        tokenizer: The tokenizer that made `dataset`.
        teacher_tokenizer: The teacher's tokenizer, which must be the same.
        dtype: Precision on disk; half a step of float16 at a state of size 1 is 0.0005.
        tokens_per_batch: Tokens, padding included, in one forward pass of the teacher.
        cache_dir: Folder of the cache files; by default `alad_teacher_states` in the cache of datasets.

    Returns:
        `dataset` with the new columns, in torch format, memory-mapped from disk.

    Raises:
        ValueError: The tokenizers differ, `dataset` has no rows or is not tokenized, or it has the columns already.
    """
    _check_columns(dataset)
    check_same_tokenization(tokenizer, teacher_tokenizer)
    if isinstance(teacher, str):
        teacher = load_teacher(teacher)
    cache_dir = Path(cache_dir) if cache_dir is not None else Path(HF_DATASETS_CACHE) / "alad_teacher_states"
    cache_dir.mkdir(parents=True, exist_ok=True)

    accepted = accepted_arguments(teacher)
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names and name in accepted]
    inputs = dataset.select_columns(names).with_format("numpy")
    teacher_digest = _digest_teacher(teacher)

    def compute(batch: dict[str, list]) -> dict[str, list[np.ndarray]]:
        signals: dict[str, list] = {name: [None] * len(batch["input_ids"]) for name in features}
        for rows in _batches_by_length([len(ids) for ids in batch["input_ids"]], tokens_per_batch):
            part = _signal_rows(teacher, {name: [batch[name][row] for row in rows] for name in names}, dtype)
            for name, values in part.items():
                for row, value in zip(rows, values, strict=True):
                    signals[name][row] = value
        return signals

    paths = []
    for start in range(0, len(inputs), ROWS_PER_SHARD):
        shard = inputs.select(range(start, min(start + ROWS_PER_SHARD, len(inputs))))
        digest = _digest_rows(shard, names, teacher_digest, dtype)
        paths.append((shard, digest, cache_dir / f"{digest}.arrow"))
    missing = [path for _, _, path in paths if not path.exists()]
    features = Features()
    if missing:
        probe = _signal_rows(teacher, {name: [inputs[0][name]] for name in names}, dtype)
        features = Features({name: Array2D((None, rows[0].shape[1]), dtype) for name, rows in probe.items()})
        _announce(inputs, features, dtype, len(missing) / len(paths), cache_dir)
    shards = []
    for shard, digest, path in tqdm(paths, desc="Teacher states", disable=not missing):
        if path.exists():
            shards.append(Dataset.from_file(str(path)))
            continue
        with _quiet_progress():
            shards.append(
                shard.map(
                    compute,
                    batched=True,
                    batch_size=ROWS_PER_SHARD,
                    remove_columns=names,
                    features=features,
                    cache_file_name=str(path),
                    load_from_cache_file=False,
                    new_fingerprint=digest,
                )
            )
    signals = concatenate_datasets(shards).with_format(None)
    # Of a shuffled or filtered dataset, the small side is put in order here; datasets would copy the signals too.
    rows = dataset.with_format(None).flatten_indices()
    return concatenate_datasets([rows, signals], axis=1).with_format("torch")


def _check_columns(dataset: Dataset) -> None:
    if "input_ids" not in dataset.column_names:
        raise ValueError(f"The dataset has the columns {dataset.column_names}, but no input_ids: tokenize it first.")
    present = {"teacher_states", "teacher_logits"} & set(dataset.column_names)
    if present:
        raise ValueError(f"The dataset already has {sorted(present)}; remove_columns({sorted(present)}) first.")
    if not len(dataset):
        raise ValueError("The dataset has no rows; there is nothing to compute the teacher's states of.")


def _signal_rows(teacher: PreTrainedModel, inputs: dict[str, list], dtype: str) -> dict[str, list[np.ndarray]]:
    lengths = [len(ids) for ids in inputs["input_ids"]]
    padded = {name: torch.zeros(len(lengths), max(lengths), dtype=torch.long) for name in inputs}
    for name, rows in inputs.items():
        for row, values in enumerate(rows):
            padded[name][row, : len(values)] = torch.as_tensor(np.asarray(values))
    if "attention_mask" not in padded:
        padded["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)).long()
    signal = teacher_signal(teacher, **padded)
    result = {}
    for name, values in (("teacher_states", signal.states), ("teacher_logits", signal.logits)):
        if values is not None:
            array = values.to(getattr(torch, dtype)).cpu().numpy()
            result[name] = [array[row, :length] for row, length in enumerate(lengths)]
    return result


def _batches_by_length(lengths: list[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Rows of similar length together, so that little of a batch is padding."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[row] * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _digest_teacher(teacher: PreTrainedModel) -> str:
    digest = hashlib.sha256(type(teacher).__name__.encode())
    digest.update(teacher.config.to_json_string(use_diff=False).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest_rows(shard: Dataset, names: list[str], teacher_digest: str, dtype: str) -> str:
    digest = hashlib.sha256(f"{teacher_digest} {dtype} {names}".encode())
    rows = shard.with_format("numpy")[:]
    for name in names:
        for values in rows[name]:
            values = np.asarray(values, dtype=np.int64)
            digest.update(len(values).to_bytes(8, "little"))
            digest.update(values.data)
    return digest.hexdigest()


def _announce(inputs: Dataset, features: Features, dtype: str, share: float, cache_dir: Path) -> None:
    tokens = sum(len(ids) for ids in inputs.with_format(None)["input_ids"])
    width = sum(feature.shape[1] for feature in features.values())
    size = tokens * width * np.dtype(dtype).itemsize * share
    logger.info("Teacher states of %d tokens take %.0f MB in %s.", int(tokens * share), size / 1e6, cache_dir)


class _quiet_progress:
    """One bar for all shards in place of one for each."""

    def __enter__(self) -> None:
        self.disabled = are_progress_bars_disabled()
        disable_progress_bars()

    def __exit__(self, *_: object) -> None:
        if not self.disabled:
            enable_progress_bars()
