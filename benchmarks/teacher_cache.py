"""Caching a teacher's states: throughput against the bare teacher, bytes on disk, reading, and the digest's cost.

    OMP_NUM_THREADS=2 python benchmarks/teacher_cache.py LINES.txt

The limit of the throughput is the teacher's forward on the same batches, input tensors ready made (ratio 1.0). The
rows are cut into parts, and for each part both sides take turns, so that a disturbance of the machine hits both.
Processor time is given beside wall time, since it is less moved by what else runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from alad_hf.alignment.teacher_cache import _batches_by_length, _Reader, cache_teacher_states
from alad_hf.data.text_lines import read_lines
from alad_hf.hub.pretrained_weights import resolve_pretrained

PARTS = 3
TOKENS_PER_BATCH = 4096


class Stopwatch:
    """Wall and processor seconds of a `with` block."""

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = np.array([time.perf_counter() - self._start[0], time.process_time() - self._start[1]])


def bare_forward(teacher: PreTrainedModel, rows: Dataset) -> np.ndarray:
    """Seconds of the teacher alone."""
    ids = rows["input_ids"][:]
    lengths = np.array([len(row) for row in ids])
    batches = []
    for batch in _batches_by_length(lengths, TOKENS_PER_BATCH):
        padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[row]) for row in batch], batch_first=True)
        mask = torch.arange(padded.shape[1]) < torch.tensor(lengths[batch]).unsqueeze(1)
        batches.append(
            {"input_ids": padded, "attention_mask": mask.long(), "token_type_ids": torch.zeros_like(padded)}
        )
    with Stopwatch() as watch, torch.no_grad():
        for inputs in batches:
            teacher(**{name: value.to(teacher.device) for name, value in inputs.items()})
    return watch.seconds


def throughput(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, repeats: int
) -> dict[str, object]:
    """Tokens in a second of the bare teacher and of a cold cache."""
    tokens = sum(map(len, rows["input_ids"]))
    bare, cached, disk = [], [], 0
    bare_forward(teacher, rows.shard(PARTS, 0, contiguous=True))  # warms up
    for _ in range(repeats):
        seconds = np.zeros((2, 2))
        disk = 0
        for part in range(PARTS):
            part_rows = rows.shard(PARTS, part, contiguous=True)
            with tempfile.TemporaryDirectory() as folder:

                def cache(part_rows: Dataset = part_rows, folder: str = folder) -> np.ndarray:
                    with Stopwatch() as watch:
                        cache_teacher_states(
                            part_rows,
                            teacher,
                            tokenizer=tokenizer,
                            teacher_tokenizer=tokenizer,
                            cache_dir=folder,
                            tokens_per_batch=TOKENS_PER_BATCH,
                        )
                    return watch.seconds

                turns = [lambda rows=part_rows: bare_forward(teacher, rows), cache]
                for side in (0, 1) if part % 2 else (1, 0):
                    seconds[side] += turns[side]()
                disk += sum(file.stat().st_size for file in Path(folder).iterdir())
        bare.append(seconds[0])
        cached.append(seconds[1])
        print("bare and cached, wall and processor seconds:", seconds.round(2).tolist(), flush=True)
    (bare_wall, bare_cpu), (cached_wall, cached_cpu) = np.median(bare, axis=0), np.median(cached, axis=0)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "bare_tokens_per_second": round(tokens / bare_wall),
        "cached_tokens_per_second": round(tokens / cached_wall),
        "ratio": round(bare_wall / cached_wall, 3),
        "ratio_processor_time": round(bare_cpu / cached_cpu, 3),
        "disk_bytes_per_token": round(disk / tokens, 1),
        "of_which_states": teacher.config.hidden_size * 2,
    }


def reading(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, repeats: int) -> dict[str, float]:
    """Milliseconds of a shuffled batch of 32 rows of 32 tokens, with the cached columns and without."""
    ids = torch.randint(1000, 20_000, (1024, 32)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 32] * len(ids)})
    with tempfile.TemporaryDirectory() as folder:
        cached = cache_teacher_states(
            rows, teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer, cache_dir=folder
        )
        times: dict[str, list[float]] = {"plain": [], "cached": []}
        for _ in range(repeats):
            for indices in torch.randperm(len(ids)).view(-1, 32).tolist():
                for name, dataset in (("plain", rows.with_format("torch")), ("cached", cached)):
                    with Stopwatch() as watch:
                        dataset.__getitems__(indices)
                    times[name].append(1000 * watch.seconds[0])
    return {f"{name}_ms": round(statistics.median(values), 2) for name, values in times.items()}


def digest(teacher: PreTrainedModel, repeats: int) -> dict[str, float]:
    """Seconds of hashing the teacher, which each call does once."""
    times = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            assert _Reader(teacher, [], None, "float16", TOKENS_PER_BATCH).digest_of_settings
        times.append(watch.seconds[0])
    size = sum(tensor.nbytes for tensor in teacher.state_dict().values())
    return {"megabytes": round(size / 1e6, 1), "seconds": round(statistics.median(times), 3)}


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", help="a text file, one sentence a line")
    parser.add_argument("--teacher", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="benchmarks/results/teacher_cache.json")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    source = resolve_pretrained(options.teacher)
    tokenizer = AutoTokenizer.from_pretrained(source)
    teacher = AutoModel.from_pretrained(source).eval()
    if torch.cuda.is_available():
        teacher = teacher.cuda()
    lines = [line for _, line in read_lines(options.lines) if line.strip()][: options.rows]
    rows = Dataset.from_dict(dict(tokenizer(lines, truncation=True, max_length=128)))
    results = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU",
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {library.__name__: library.__version__ for library in (torch, transformers, datasets, pyarrow)},
        "teacher": options.teacher,
        "reading_32_rows_of_32_tokens": reading(teacher, tokenizer, options.repeats),
        "digest": digest(teacher, options.repeats),
        "throughput": throughput(teacher, tokenizer, rows, options.repeats),
    }
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
