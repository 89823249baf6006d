"""Files of a cache: written at once or not at all, by one process at a time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Array2D, Dataset, List, Value
from filelock import FileLock

from alad_hf.alignment.shard_files import fill_shards, is_whole, open_shard, write_shard

LENGTHS = np.array([2, 0, 3])


def columns(dtype: str = "float16") -> dict[str, np.ndarray]:
    states = np.random.default_rng(0).normal(size=(5, 4)).astype(dtype)
    return {"states": states, "mask": np.array([1, 0, 1, 1, 0], "int8")}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_come_back_as_they_were(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "shard.arrow"
    write_shard(path, columns(dtype), LENGTHS)
    assert [file.name for file in tmp_path.iterdir()] == ["shard.arrow"]
    for rows in (open_shard(path), Dataset.from_file(str(path))):
        assert rows.features == {"states": Array2D((None, 4), dtype), "mask": List(Value("int8"))}
        assert [file["filename"] for file in rows.cache_files] == [str(path)], "not memory-mapped"
        for row, (start, stop) in zip(rows.with_format("numpy"), [(0, 2), (2, 2), (2, 5)], strict=True):
            np.testing.assert_array_equal(row["states"], columns(dtype)["states"][start:stop])
            np.testing.assert_array_equal(row["mask"], columns()["mask"][start:stop])
    assert open_shard(path)._fingerprint == open_shard(path)._fingerprint == "shard"


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shard.arrow"
    assert not is_whole(path)
    write_shard(path, columns(), LENGTHS)
    assert is_whole(path)
    content = path.read_bytes()
    for place in range(0, len(content), 29):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        assert not is_whole(path)
    for length in range(0, len(content), 29):
        path.write_bytes(content[:length])
        assert not is_whole(path)


def test_shards_that_another_process_computes_are_waited_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.arrow" for name in "abc"]
    locked = threading.Event()

    def elsewhere() -> None:
        with FileLock(tmp_path / "a.lock"):
            locked.set()
            time.sleep(0.3)
            write_shard(paths[0], columns(), LENGTHS)

    other = threading.Thread(target=elsewhere)
    other.start()
    locked.wait()
    computed = []

    def compute(path: Path) -> None:
        computed.append(path)
        write_shard(path, columns(), LENGTHS)

    assert list(fill_shards(paths, compute)) == [paths[1], paths[2], paths[0]]
    other.join()
    assert computed == paths[1:]


def test_shards_of_a_process_that_died_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    released = threading.Event()

    def dies() -> None:
        with FileLock(tmp_path / "a.lock"):
            released.set()
            time.sleep(0.2)

    other = threading.Thread(target=dies)
    other.start()
    released.wait()
    assert list(fill_shards([path], lambda path: write_shard(path, columns(), LENGTHS))) == [path]
    other.join()
    assert is_whole(path)
