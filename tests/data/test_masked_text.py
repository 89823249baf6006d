"""The stream of masked rows: what it reads, hides and repeats, and that it never holds the whole text."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from datasets import Dataset
from tiny import VOCABULARY, tiny_tokenizer
from tiny_distillation import tiny_texts
from torch.utils.data import DataLoader

from alad_hf.data.masked_text import MaskedTextStream

TOKENIZER = tiny_tokenizer()
MASK = VOCABULARY["[MASK]"]


def restored(row: dict[str, list[int]]) -> list[int]:
    return [label if label >= 0 else token for token, label in zip(row["input_ids"], row["labels"], strict=True)]


def stream(texts: object, **settings: object) -> MaskedTextStream:
    return MaskedTextStream(texts, TOKENIZER, **{"max_tokens": 32, "rows_per_batch": 4, "passes": 1, **settings})


def as_text(rows: list[dict[str, list[int]]]) -> Counter[str]:
    return Counter(TOKENIZER.decode(restored(row), skip_special_tokens=True) for row in rows)


class TestRows:
    @pytest.mark.parametrize("form", ["strings", "dataset", "file", "files"])
    def test_every_line_once_a_pass(self, form: str, tmp_path: Path) -> None:
        texts = tiny_texts(30)
        (tmp_path / "all.txt").write_text("\ufeff" + "\n\n".join(texts), encoding="utf-8")
        (tmp_path / "a.txt").write_text("\n".join(texts[:20]) + "\n", encoding="utf-8")
        (tmp_path / "b.txt").write_bytes("\r\n".join(texts[20:]).encode())
        source = {
            "strings": [*texts, " "],
            "dataset": Dataset.from_dict({"text": texts}),
            "file": tmp_path / "all.txt",
            "files": [tmp_path / "a.txt", tmp_path / "b.txt"],
        }[form]
        expected = Counter(TOKENIZER.decode(TOKENIZER(text)["input_ids"], skip_special_tokens=True) for text in texts)
        assert as_text(list(stream(source))) == expected
        twice = as_text(list(stream(source, passes=2)))
        assert twice == Counter({text: 2 * count for text, count in expected.items()})

    def test_long_lines_become_several_rows(self) -> None:
        text = " ".join(tiny_texts(20))
        ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
        rows = sorted((restored(row) for row in stream([text], max_tokens=10)), key=lambda row: -len(row))
        assert {len(row) for row in rows[:-1]} == {10} and sum(len(row) - 2 for row in rows) == len(ids)
        chunks = {tuple(ids[start : start + 8]) for start in range(0, len(ids), 8)}
        assert {tuple(row[1:-1]) for row in rows} == chunks

    def test_what_is_hidden(self) -> None:
        """15 % of each row, special tokens never; 80 % of it masked, 10 % another token, 10 % the same."""
        fates: Counter[str] = Counter()
        hidden_places: Counter[int] = Counter()
        for row in stream(["visited london for acme works in paris"], passes=2000):
            ids, labels = row["input_ids"], row["labels"]
            places = [place for place, label in enumerate(labels) if label != -1]
            assert len(places) == max(1, round(0.15 * (len(ids) - 2)))
            assert 0 not in places and len(ids) - 1 not in places
            hidden_places.update(places)
            for place in places:
                same = ids[place] == labels[place]
                fates["mask" if ids[place] == MASK else "same" if same else "other"] += 1
                assert ids[place] == MASK or ids[place] >= 5
        total = fates.total()
        assert fates["mask"] / total == pytest.approx(0.8, abs=0.03)
        assert fates["same"] / total == pytest.approx(0.1, abs=0.03)
        assert fates["other"] / total == pytest.approx(0.1, abs=0.03)
        assert min(hidden_places.values()) > 0.8 * max(hidden_places.values())

    def test_rows_of_like_length_share_a_batch(self) -> None:
        rows = list(stream(tiny_texts(400), rows_per_batch=8))
        lengths = [len(row["input_ids"]) for row in rows]
        in_batches = [lengths[start : start + 8] for start in range(0, 400, 8)]
        padded = sum(len(batch) * max(batch) for batch in in_batches)
        assert padded < 1.05 * sum(lengths)
        assert [max(batch) for batch in in_batches] != sorted(max(batch) for batch in in_batches)

    def test_files_are_read_side_by_side(self, tmp_path: Path) -> None:
        for name, count in (("london", 600), ("berlin", 200)):
            (tmp_path / name).write_text(f"visited {name}\n" * count, encoding="utf-8")
        rows = stream([tmp_path / "london", tmp_path / "berlin"], rows_per_batch=1)
        first = [text for row in itertools.islice(rows, 200) for text in [TOKENIZER.decode(restored(row))]]
        assert 20 < sum("berlin" in text for text in first) < 90


class TestStream:
    def test_it_is_a_function_of_its_arguments(self) -> None:
        first, again = (list(stream(tiny_texts(), passes=2)) for _ in range(2))
        assert first == again
        assert list(stream(tiny_texts(), passes=2, seed=1)) != first
        by_text = Counter((tuple(restored(row)), tuple(row["labels"])) for row in first)
        regrouped = stream(tiny_texts(), passes=2, rows_per_batch=1)
        assert Counter((tuple(restored(row)), tuple(row["labels"])) for row in regrouped) == by_text
        assert len(by_text) > 70  # of 80: the second pass hides other tokens, but for short texts

    def test_endless(self) -> None:
        rows = list(itertools.islice(stream(tiny_texts(10), passes=None), 95))
        assert len(rows) == 95 and len(as_text(rows)) == len(as_text(list(stream(tiny_texts(10)))))

    def test_no_more_is_read_than_needed(self) -> None:
        class Endless:
            read = 0

            def __iter__(self) -> Iterator[str]:
                for text in itertools.cycle(tiny_texts()):
                    self.read += 1
                    yield text

        texts = Endless()
        assert len(list(itertools.islice(stream(texts), 100))) == 100
        assert texts.read < 1000

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "large.txt"
        with file.open("w", encoding="utf-8") as lines:
            for _ in range(20):
                lines.write("visited london\n" * 50_000)
        tracemalloc.start()
        rows = sum(1 for _ in itertools.islice(stream(file), 1500))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == 1500
        assert peak < 3e6 < file.stat().st_size / 4

    def test_one_worker_reads_what_none_does(self) -> None:
        texts = tiny_texts()
        rows = [row[0] for row in DataLoader(stream(texts), num_workers=1, collate_fn=list)]
        assert rows == list(stream(texts))
        with pytest.raises(ValueError, match="2 workers would each read"):
            next(iter(DataLoader(stream(texts), num_workers=2, collate_fn=list)))


class TestErrors:
    @pytest.mark.parametrize(
        ("texts", "settings", "error", "message"),
        [
            ("visited london", {}, TypeError, "got the string 'visited london'"),
            (iter(["visited"]), {}, TypeError, r"only once.*list\(texts\)"),
            ([Path(__file__), "visited"], {}, TypeError, "not both in one list"),
            (Path("nowhere.txt"), {}, FileNotFoundError, r"no text file nowhere\.txt"),
            (["visited"], {"masked_share": 0}, ValueError, "masked_share must be between 0 and 1, got 0"),
            (["visited"], {"max_tokens": 2}, ValueError, "its 2 special tokens.*max_tokens=2"),
            (["visited"], {"rows_per_batch": 0}, ValueError, "rows_per_batch=0"),
            ([" ", ""], {"passes": None}, ValueError, "no text: all lines are blank"),
        ],
    )
    def test_arguments(self, texts: object, settings: dict, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            next(iter(stream(texts, **settings)))

    def test_no_mask_token(self) -> None:
        tokenizer = tiny_tokenizer()
        tokenizer.mask_token = None
        with pytest.raises(ValueError, match="no mask token"):
            MaskedTextStream(["visited"], tokenizer)

    def test_not_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "latin.txt").write_bytes(b"visited\ncaf\xe9\n")
        with pytest.raises(ValueError, match=r"latin\.txt: byte 0xe9 at offset 11 is not valid UTF-8.*iconv"):
            list(stream(tmp_path / "latin.txt"))
