"""Plain text as an endless stream of masked rows, read line by line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from ..models.modeling_alad import UNLABELLED
from .token_labels import check_fast

_POOL_BATCHES = 64
"""Batches whose rows are held at a time, to put rows of like length together."""
_LINES_AT_A_TIME = 256
_RANDOM_TOKEN, _SAME_TOKEN = 0.1, 0.1
"""Shares of the masked tokens that do not become the mask token (BERT, arXiv 1810.04805, section 3.1)."""


class MaskedTextStream(IterableDataset):
    """Rows for masked-language modelling from files or texts of any size, with constant memory.

    A line is a row; a longer one becomes several rows of `max_tokens`. Rows of like length come one after another, as
    many as a batch takes. The stream is a function of its arguments alone: whoever skips the rows that were read, as
    the Trainer does when it resumes, goes on as if there had been no interruption. Every row hides the same share of
    its tokens, at least one, chosen anew in every pass.

    Args:
        texts: A text file, several of them (`pathlib.Path`; lines are drawn from all at once, in proportion to what
            is left of each), or texts: strings, or rows with a column `text`. Blank lines are left out.
        tokenizer: A fast tokenizer with a mask token.
        max_tokens: Tokens of the longest row, special ones included.
        masked_share: Share of a row's tokens that are predicted: four fifths become the mask token, a tenth another
            token, a tenth stays.
        rows_per_batch: Rows of one batch, over all processes.
        passes: How often the text is read; None for ever, which trainings bounded by `max_steps` want.
        seed: Decides what is masked, and the order.

    Yields:
        Lists `input_ids`, `attention_mask`, `labels` and what else the tokenizer gives. A label is the hidden token's
        id, or -1 where nothing is hidden, so that the Trainer counts every token; `DataCollatorForAlignment` pads.

    Raises:
        TypeError: `texts` is a string or can be read only once.
        FileNotFoundError: A file is not there.
        ValueError: The tokenizer is a slow one or has no mask token, a number is out of range, a file is not UTF-8,
            there is no text at all, or several workers of a DataLoader would each read everything.
    """

    def __init__(
        self,
        texts: Path | Iterable[Path] | Iterable[str] | Iterable[Mapping[str, Any]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_tokens: int = 128,
        masked_share: float = 0.15,
        rows_per_batch: int = 32,
        passes: int | None = None,
        seed: int = 42,
    ) -> None:
        if isinstance(texts, str):
            raise TypeError(f"texts must be files (pathlib.Path) or a list of strings, got the string {texts[:40]!r}.")
        check_fast(tokenizer)
        if tokenizer.mask_token_id is None:
            raise ValueError(
                "The tokenizer has no mask token. Take one that was made for masked-language modelling, or give one "
                "to it (tokenizer.add_special_tokens({'mask_token': '[MASK]'})) and the model a row for it."
            )
        if not 0 < masked_share < 1:
            raise ValueError(f"masked_share must be between 0 and 1, got {masked_share}.")
        special = tokenizer.num_special_tokens_to_add()
        if max_tokens <= special or rows_per_batch < 1:
            raise ValueError(
                f"A row needs more than its {special} special tokens and a batch one row or more, got "
                f"max_tokens={max_tokens}, rows_per_batch={rows_per_batch}."
            )
        self.texts = [texts] if isinstance(texts, Path) else texts
        listed = self.texts if isinstance(self.texts, list | tuple) else []
        if iter(self.texts) is self.texts:
            raise TypeError("texts can be read only once, and the stream reads them in every pass. Pass list(texts).")
        self.files = [text for text in listed if isinstance(text, Path)]
        if self.files and len(self.files) != len(listed):
            raise TypeError("texts are either files (pathlib.Path) or strings, not both in one list.")
        for file in self.files:
            if not file.is_file():
                raise FileNotFoundError(f"There is no text file {file}.")
        self.tokenizer, self.max_tokens, self.masked_share = tokenizer, max_tokens, masked_share
        self.rows_per_batch, self.passes, self.seed = rows_per_batch, passes, seed
        self._special = np.array(tokenizer.all_special_ids)
        self._ordinary = np.setdiff1d(list(tokenizer.get_vocab().values()), self._special)

    def __iter__(self) -> Iterator[dict[str, list[int]]]:
        workers = get_worker_info()
        if workers is not None and workers.num_workers > 1:
            raise ValueError(
                f"{workers.num_workers} workers would each read the whole stream. Set dataloader_num_workers=1 or 0."
            )
        generator = np.random.default_rng([self.seed, 0])
        rows = self._rows(generator)
        size = self.rows_per_batch
        while pool := list(itertools.islice(rows, _POOL_BATCHES * size)):
            pool.sort(key=lambda row: len(row["input_ids"]))
            whole = len(pool) // size
            for batch in [*generator.permutation(whole), whole]:  # what fills no batch comes last
                yield from pool[batch * size : (batch + 1) * size]

    def _rows(self, generator: np.random.Generator) -> Iterator[dict[str, list[int]]]:
        """Masked rows in the order of the text, pass by pass."""
        number = 0
        for _ in itertools.count() if self.passes is None else range(self.passes):
            before = number
            lines = self._lines(generator)
            while batch := list(itertools.islice(lines, _LINES_AT_A_TIME)):
                encoded = self.tokenizer(
                    batch,
                    truncation=True,
                    max_length=self.max_tokens,
                    return_overflowing_tokens=True,
                    return_attention_mask=True,
                )
                columns = [name for name in self.tokenizer.model_input_names if name in encoded]
                for values in zip(*(encoded[name] for name in columns), strict=True):
                    row = self._mask(dict(zip(columns, values, strict=True)), number)
                    if row is not None:
                        number += 1
                        yield row
            if number == before:
                raise ValueError("There is no text: all lines are blank, or the tokenizer knows no token in them.")

    def _mask(self, row: dict[str, list[int]], number: int) -> dict[str, list[int]] | None:
        """Hide tokens of one row; None where it has nothing but special tokens."""
        ids = np.array(row["input_ids"])
        candidates = np.flatnonzero(~np.isin(ids, self._special))
        if not len(candidates):
            return None
        # By the row's number, so that a row is masked alike whatever is read before it and in whichever process.
        generator = np.random.default_rng([self.seed, 1, number])
        count = max(1, round(self.masked_share * len(candidates)))
        hidden = generator.choice(candidates, count, replace=False)
        labels = np.full(len(ids), UNLABELLED)
        labels[hidden] = ids[hidden]
        fate = generator.random(count)
        ids[hidden[fate >= _RANDOM_TOKEN + _SAME_TOKEN]] = self.tokenizer.mask_token_id
        random_ones = hidden[fate < _RANDOM_TOKEN]
        ids[random_ones] = generator.choice(self._ordinary, len(random_ones))
        return {**row, "input_ids": ids.tolist(), "labels": labels.tolist()}

    def _lines(self, generator: np.random.Generator) -> Iterator[str]:
        if self.files:
            yield from _drawn_lines(self.files, generator)
            return
        for text in self.texts:
            line: str = text["text"] if isinstance(text, Mapping) else str(text)
            if line.strip():
                yield line


def _drawn_lines(files: list[Path], generator: np.random.Generator) -> Iterator[str]:
    """Lines that are not blank, each from a file drawn in proportion to its unread bytes."""
    handles = [file.open("rb") for file in files]
    try:
        unread = np.array([file.stat().st_size for file in files], dtype=float)
        while unread.any():
            chosen = int(generator.choice(len(files), p=unread / unread.sum()))
            start = handles[chosen].tell()
            line = handles[chosen].readline()
            unread[chosen] = max(0, unread[chosen] - len(line)) if line else 0
            try:
                text = line.decode("utf-8-sig" if start == 0 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{files[chosen]}: byte 0x{line[error.start]:02x} at offset {start + error.start} is not valid "
                    "UTF-8. Convert the file, for example with `iconv -f latin1 -t utf-8` if it is Latin-1."
                ) from error
            if text:
                yield text
    finally:
        for handle in handles:
            handle.close()


__all__ = ["MaskedTextStream"]
