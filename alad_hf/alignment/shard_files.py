"""Shards of a cache on disk: Arrow files that are whole or not there, and that one process at a time computes."""

from __future__ import annotations

import logging
import mmap
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
from datasets import Array2D, Dataset, Features, List, Value
from datasets.table import MemoryMappedTable
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_CHECKSUM_BYTES = 4


def write_shard(path: Path, columns: dict[str, np.ndarray], lengths: np.ndarray) -> None:
    """Write rows of different lengths under `path`, all of them or none.

    The file is an Arrow stream that `Dataset.from_file` reads, and behind it a checksum. Arrays are handed to Arrow as
    they lie: going through `Dataset.map` would cut them into rows and put them together again.

    Args:
        path: The file, replaced if it is there.
        columns: For each column the items of all rows end to end: (tokens, width) or (tokens,).
        lengths: (rows,), the tokens of each row.

    Raises:
        OSError: The disk is full or not writable; nothing is left behind.
    """
    features = Features(
        {
            name: Array2D((None, values.shape[1]), str(values.dtype))
            if values.ndim == 2
            else List(Value(values.dtype.name))
            for name, values in columns.items()
        }
    )
    schema = features.arrow_schema
    arrays = [_arrow_rows(values, lengths, schema.field(name).type) for name, values in columns.items()]
    partial = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        with open(partial, "x+b") as file:
            with pa.ipc.new_stream(file, schema) as stream:
                stream.write_batch(pa.record_batch(arrays, schema=schema))
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                checksum = _checksum(path, content)
            file.write(checksum)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def open_shard(path: Path) -> Dataset:
    """The rows of a shard that `is_whole` has found whole, memory-mapped.

    The file's name, which tells its content, is the fingerprint: what is derived of the rows is found again too.
    """
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=path.stem)


def is_whole(path: Path) -> bool:
    """Whether a shard is there with every byte as it was written; one that is not is reported in the log.

    The whole file is read, at some gigabytes in a second: far less than the training that follows reads.
    """
    if not path.exists():
        return False
    if path.stat().st_size > _CHECKSUM_BYTES:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            with memoryview(content) as view, view[:-_CHECKSUM_BYTES] as rows, view[-_CHECKSUM_BYTES:] as expected:
                if _checksum(path, rows) == expected:
                    return True
    logger.warning("The cache file %s is damaged (its checksum is wrong) and is computed again.", path)
    return False


def fill_shards(paths: Iterable[Path], compute: Callable[[Path], None]) -> Iterator[Path]:
    """Call `compute` for each path, in as many processes as run this with the same paths, and wait for all of them.

    A process takes the next path that no other one has locked, and at the end waits for those that others have. The
    operating system drops the lock of a process that dies, and the next one takes over. This needs no process group:
    it holds for `accelerate launch`, for one process of a launch alone and for runs that know nothing of each other.

    Args:
        paths: Files that are missing or damaged.
        compute: Writes the file with `write_shard`.

    Yields:
        Each path as soon as it is there, whoever computed it.
    """
    elsewhere = []
    for path in paths:
        try:
            _fill(path, compute, blocking=False)
        except Timeout:
            elsewhere.append(path)
        else:
            yield path
    for path in elsewhere:
        _fill(path, compute, blocking=True)
        yield path


def _fill(path: Path, compute: Callable[[Path], None], blocking: bool) -> None:
    lock = path.with_suffix(".lock")
    with FileLock(lock, blocking=blocking):
        if not is_whole(path):
            for leftover in path.parent.glob(f"{path.name}.*.tmp"):  # of a process that died while it held the lock
                leftover.unlink(missing_ok=True)
            compute(path)
        lock.unlink(missing_ok=True)  # whoever waits for it finds the file


def _checksum(path: Path, content: mmap.mmap | memoryview) -> bytes:
    # Beginning with the name finds a file that was renamed too.
    return zlib.crc32(content, zlib.crc32(path.name.encode())).to_bytes(_CHECKSUM_BYTES, "little")


def _arrow_rows(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.Array:
    rows = pa.array(values.reshape(-1))
    if values.ndim == 2:
        rows = pa.ListArray.from_arrays(_offsets(np.full(len(values), values.shape[1])), rows)
    rows = pa.ListArray.from_arrays(_offsets(lengths), rows)
    return pa.ExtensionArray.from_storage(kind, rows) if isinstance(kind, pa.BaseExtensionType) else rows


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), pa.int32())
