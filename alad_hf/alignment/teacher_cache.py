"""A teacher's states as dataset columns: computed once, kept on disk, reused as long as nothing changed."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, concatenate_datasets
from datasets.config import HF_DATASETS_CACHE
from huggingface_hub.utils import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.row_order import in_order
from ..data.token_alignment import TEACHER_COLUMNS
from ..models.teacher import accepted_arguments, load_teacher, teacher_signal, tokenizes_alike
from .ragged_rows import RaggedRows, list_lengths
from .shard_files import fill_shards, is_whole, open_shard, write_shard
from .weights_digest import weights_digest

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 4_000
"""Rows of one cache file at most: enough of one length to fill batches with little padding."""

TOKENS_PER_SHARD = 2**17
"""Tokens of one cache file at most: 200 MB of float16 states of width 768, which are in memory at once."""

_SIGNAL_COLUMNS = ("teacher_states", "teacher_logits", "teacher_mask")
_MUCH = 100_000_000  # bytes; of more than these those are told, too, who see warnings alone
_OFFSET_BYTES = 4  # of Arrow, for each token of a column of vectors
_REMEDY = 'Take another folder (cache_dir=...), fewer rows, dtype="float16", or an attached teacher (no cache).'


def cache_teacher_states(
    dataset: Dataset,
    teacher: str | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    layers: Sequence[int] | None = None,
    states: bool = True,
    dtype: Literal["float16", "float32"] = "float16",
    tokens_per_batch: int = 4096,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Add the columns `teacher_states` (tokens, d_L) and, if the teacher has a task head, `teacher_logits`.

    If the teacher's tokenizer is another one, the teacher reads `teacher_input_ids`, its signal is moved to the
    student's tokens along `teacher_alignment`, and `teacher_mask` (tokens,) tells the tokens that have a counterpart.

    Rows are written in shards of at most 4,000; a shard is found again by the sha256 of its token ids, the teacher's
    weights, the layers and the precision. A second call, or one after an interruption, computes only what is missing
    or damaged. Several processes that call this at once, such as those of `accelerate launch`, share the work over
    the common `cache_dir` and return the same rows.

    Args:
        dataset: Tokenized rows with `input_ids`, as `encode_tagged_words` or a tokenizer gives them.
        teacher: Folder or Hub id, loaded to the CPU, or a model, which runs where it lies.
        tokenizer: The tokenizer that made `dataset`.
        teacher_tokenizer: The teacher's tokenizer.
        layers: Indices into the teacher's hidden states (0 = embeddings, negative from the end) whose mean is the
            state; by default the last one.
        states: Without them, keep the logits only: what plain distillation from a teacher of another width reads.
        dtype: Precision on disk; half a step of float16 at a state of size 1 is 0.0005.
        tokens_per_batch: Tokens, padding included, in one forward pass of the teacher.
        cache_dir: Folder of the cache files; by default `alad_teacher_states` in the cache of datasets.

    Returns:
        `dataset` with the new columns and without those that only the teacher read, in torch format, memory-mapped
        from disk.

    Raises:
        ValueError: `dataset` has no tokens or is not tokenized, or has the new columns already; the tokenizers differ
            and `dataset` has no `teacher_input_ids` and `teacher_alignment`; a state is too large for float16; the
            teacher has no task head, and its states are not wanted.
        OSError: The folder has not enough space, which is checked before anything is computed, or fills up.
    """
    columns = set(dataset.column_names)
    pairs = bool(columns & {"start_positions", "example_id"})
    aligned = "teacher_alignment" in columns or not tokenizes_alike(tokenizer, teacher_tokenizer, pairs=pairs)
    _check_columns(dataset, aligned)
    if isinstance(teacher, str):
        teacher = load_teacher(teacher)
    cache_dir = Path(cache_dir) if cache_dir is not None else Path(HF_DATASETS_CACHE) / "alad_teacher_states"
    cache_dir.mkdir(parents=True, exist_ok=True)

    rows = in_order(dataset.with_format(None))  # before it gets the large columns
    known = TEACHER_COLUMNS if aligned else tokenizer.model_input_names
    known = [name for name in known if name in rows.column_names]
    reader = _Reader(teacher, known, layers, states, dtype, tokens_per_batch)
    inputs = rows.select_columns(list(dict.fromkeys(["input_ids", *known]))).with_format("arrow")
    lengths = np.concatenate([list_lengths(table["input_ids"]) for table in inputs.iter(batch_size=100_000)])
    ranges = list(_shards(lengths))
    paths = [cache_dir / f"{reader.digest(inputs[part])}.arrow" for part in ranges]
    _compute_missing(dict(zip(paths, ranges, strict=True)), reader, inputs, lengths, cache_dir)
    signals = concatenate_datasets([open_shard(path) for path in paths])
    if aligned:
        rows = rows.remove_columns(known)
    return concatenate_datasets([rows, signals], axis=1).with_format("torch")


def _check_columns(dataset: Dataset, aligned: bool) -> None:
    if "input_ids" not in dataset.column_names:
        raise ValueError(f"The dataset has the columns {dataset.column_names}, but no input_ids: tokenize it first.")
    present = sorted({*_SIGNAL_COLUMNS} & {*dataset.column_names})
    if present:
        raise ValueError(f"The dataset already has {present}; remove_columns({present}) first.")
    if not len(dataset):
        raise ValueError("The dataset has no rows; there is nothing to compute the teacher's states of.")
    absent = [name for name in ("teacher_input_ids", "teacher_alignment") if name not in dataset.column_names]
    if aligned and absent:
        raise ValueError(
            f"The teacher's tokenizer reads text in another way than the student's, and the dataset has no {absent}. "
            "Make its rows with encode_text(..., teacher_tokenizer=teacher_tokenizer), or with the same argument of "
            "encode_tagged_words or encode_questions."
        )


@dataclass(frozen=True)
class _Reader:
    """A teacher and how it is read.

    Args:
        teacher: The model.
        known: Columns that tokenizers give; with `teacher_alignment` among them, they are the teacher's own tokens.
        layers: The hidden states that are averaged.
        states: Whether they are kept.
        dtype: Precision of the result.
        tokens_per_batch: Tokens, padding included, in one forward pass.
    """

    teacher: PreTrainedModel
    known: Sequence[str]
    layers: Sequence[int] | None
    states: bool
    dtype: str
    tokens_per_batch: int

    def sample(self, rows: Dataset) -> dict[str, np.ndarray]:
        """The signal of the first row that has tokens; it tells the new columns, their widths and precision."""
        for table in rows.iter(batch_size=1_000):
            tokens, inputs, alignment = self._columns(table)
            first = np.flatnonzero(inputs["input_ids"].lengths)[:1]
            if len(first):
                signal = self._signal(tokens, inputs, alignment, first)
                if not {"teacher_states", "teacher_logits"} & signal.keys():
                    raise ValueError(
                        f"A {type(self.teacher).__name__} has no head that scores tokens, so without its states "
                        "(states=False) nothing is left to cache."
                    )
                return signal
        raise ValueError("All rows are empty; there is nothing to compute the teacher's states of.")

    def read(self, table: pa.Table, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The signal of all rows, for the student's tokens end to end.

        Args:
            table: Some rows.
            sample: What `sample` gave. Zeros of its kind remain for rows without a token of the teacher.

        Returns:
            The new columns: (tokens, width), and (tokens,) for `teacher_mask`.
        """
        tokens, inputs, alignment = self._columns(table)
        signals = {name: np.zeros((len(tokens.values), *one.shape[1:]), one.dtype) for name, one in sample.items()}
        for batch in _batches_by_length(inputs["input_ids"].lengths, self.tokens_per_batch):
            places = tokens.indices(batch)
            for name, values in self._signal(tokens, inputs, alignment, batch).items():
                signals[name][places] = values
        return signals

    @cached_property
    def digest_of_settings(self) -> str:
        """Of all but the rows: the teacher's class, configuration and weights, the layers and the precision."""
        layers = None if self.layers is None else list(self.layers)
        kept = self.dtype if self.states else f"{self.dtype} logits"
        digest = hashlib.sha256(f"{type(self.teacher).__name__} {layers} {kept}".encode())
        digest.update(self.teacher.config.to_json_string(use_diff=False).encode())
        digest.update(weights_digest(self.teacher).encode())
        return digest.hexdigest()

    def digest(self, table: pa.Table) -> str:
        """A name for the signal of some rows, which changes with whatever changes the signal."""
        tokens, inputs, alignment = self._columns(table)
        digest = hashlib.sha256(self.digest_of_settings.encode())
        digest.update(tokens.lengths.data)
        for name, column in inputs.items():
            digest.update(name.encode())
            digest.update(column.lengths.data)
            digest.update(column.values.data)
        if alignment is not None:
            digest.update(alignment.lengths.data)
            digest.update(alignment.values.data)
        return digest.hexdigest()

    def _columns(self, table: pa.Table) -> tuple[RaggedRows, dict[str, RaggedRows], RaggedRows | None]:
        """The student's tokens, the teacher's inputs by the names of its `forward`, and the triples between them."""
        accepted = accepted_arguments(self.teacher)
        names = {name.removeprefix("teacher_"): name for name in self.known}
        triples = names.pop("alignment", None)
        inputs = {name: RaggedRows.from_ids(table[column]) for name, column in names.items() if name in accepted}
        alignment = RaggedRows.from_triples(table[triples]) if triples is not None else None
        return RaggedRows.from_ids(table["input_ids"]), inputs, alignment

    def _signal(
        self, tokens: RaggedRows, inputs: dict[str, RaggedRows], alignment: RaggedRows | None, rows: np.ndarray
    ) -> dict[str, np.ndarray]:
        batch = {name: column.padded(rows) for name, column in inputs.items()}
        batch.setdefault("attention_mask", inputs["input_ids"].mask(rows).long())
        if alignment is not None:
            batch["alignment"] = alignment.dense(rows, (int(tokens.lengths[rows].max()), batch["input_ids"].shape[1]))
        signal = teacher_signal(self.teacher, layers=self.layers, **batch)
        real = tokens.mask(rows).to(signal.states.device)
        result = {"teacher_states": self._stored(signal.states[real])} if self.states else {}
        if signal.logits is not None:
            result["teacher_logits"] = self._stored(signal.logits[real])
        if signal.mask is not None:
            result["teacher_mask"] = signal.mask[real].to(torch.int8).cpu().numpy()
        return result

    def _stored(self, values: torch.Tensor) -> np.ndarray:
        stored = values.to(getattr(torch, self.dtype))
        if not torch.equal(stored.isfinite(), values.isfinite()):
            largest = values[values.isfinite()].abs().max().item()
            raise ValueError(
                f'The teacher gives values up to {largest:,.0f}, too large for {self.dtype}: pass dtype="float32".'
            )
        return stored.cpu().numpy()


def _compute_missing(
    ranges: dict[Path, slice], reader: _Reader, inputs: Dataset, lengths: np.ndarray, cache_dir: Path
) -> None:
    free = shutil.disk_usage(cache_dir).free  # before the files are counted, since others may be writing them
    missing = {path: int(lengths[part].sum()) for path, part in ranges.items() if not is_whole(path)}
    if not missing:
        return
    sample = reader.sample(inputs)
    _announce(sum(missing.values()), sample, free, cache_dir)

    def compute(path: Path) -> None:
        part = ranges[path]
        signals = reader.read(inputs[part], sample)
        try:
            write_shard(path, signals, lengths[part])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = f"{cache_dir} is full; the files finished before are kept, and a next call goes on. {_REMEDY}"
            raise OSError(error.errno, message) from error

    with tqdm(
        total=sum(missing.values()),
        desc="Teacher states",
        unit=" tokens",
        unit_scale=True,
        disable=None,  # in a pipe or a log
        name="alad_hf.alignment",
    ) as progress:
        for path in fill_shards(missing, compute):
            progress.update(missing[path])


def _shards(lengths: np.ndarray) -> Iterator[slice]:
    """Cut the rows, whose lengths are given, into shards."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = ends[start] - lengths[start]
        fitting = int(np.searchsorted(ends, before + TOKENS_PER_SHARD, side="right"))
        stop = min(start + ROWS_PER_SHARD, max(start + 1, fitting))
        yield slice(start, stop)
        start = stop


def _batches_by_length(lengths: np.ndarray, tokens_per_batch: int) -> Iterator[np.ndarray]:
    """Rows of similar length together, so that little of a batch is padding; empty rows are in none."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or lengths[order[stop]] * (stop + 1 - start) > tokens_per_batch:
            yield order[start:stop]
            start = stop


def _announce(tokens: int, sample: dict[str, np.ndarray], free: int, cache_dir: Path) -> None:
    """Say what the files will take, as a warning where that is much.

    Raises:
        OSError: There is less space.
    """
    needed = tokens * sum(values[0].nbytes + _OFFSET_BYTES * (values.ndim - 1) for values in sample.values())
    if needed > free:
        message = (
            f"Teacher states of {tokens:,} tokens take {needed:,} bytes ({_size(needed)}), but {cache_dir} has only "
            f"{free:,} bytes ({_size(free)}) free. {_REMEDY}"
        )
        raise OSError(errno.ENOSPC, message)
    if os.environ.get("RANK", "0") == "0":
        logger.log(
            logging.WARNING if needed > min(_MUCH, free / 2) else logging.INFO,
            "Teacher states of %s tokens will take %s in %s, which has %s free.",
            f"{tokens:,}",
            _size(needed),
            cache_dir,
            _size(free),
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
