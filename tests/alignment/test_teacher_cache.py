"""Cached teacher columns: the teacher's own numbers, computed once and never half."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import TAGS, VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForTokenClassification, PreTrainedModel

from alad_hf import AlAdForTokenClassification
from alad_hf.alignment import teacher_cache
from alad_hf.alignment.teacher_cache import cache_teacher_states
from alad_hf.data.collators import DataCollatorForAlignment

COLUMNS = ("teacher_states", "teacher_logits")


def dataset(rows: int = 10, **changes: list) -> Dataset:
    """Rows of different lengths, in no order of length, with two segments, a label and an id."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (rows,), generator=generator).tolist()
    ids = [torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]
    columns = {
        "example": [f"row {row}" for row in range(rows)],
        "input_ids": ids,
        "token_type_ids": [[0] * (length - 2) + [1, 1] for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
        "labels": [[1] * length for length in lengths],
    }
    return Dataset.from_dict({**columns, **changes})


def cache(rows: Dataset, teacher: PreTrainedModel, folder: Path, **arguments: object) -> Dataset:
    tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
    return cache_teacher_states(rows, teacher, cache_dir=folder, **{"dtype": "float32", **tokenizers, **arguments})


def teacher_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(1)
    if kind == "tagger":
        return tiny_teacher()
    if kind == "tagger without token types":
        return AutoModelForTokenClassification.from_config(tiny_config("distilbert")).eval()
    if kind == "question answering":
        return AutoModelForQuestionAnswering.from_config(tiny_config()).eval()
    return AutoModel.from_config(tiny_config()).eval()


KINDS = ["tagger", "tagger without token types", "question answering", "encoder"]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_cache, "ROWS_PER_SHARD", 4)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows in every forward pass of a cached teacher."""
    counts: list[int] = []
    original = teacher_cache.teacher_signal

    def counted(teacher: PreTrainedModel, **inputs: torch.Tensor) -> object:
        counts.append(len(inputs["input_ids"]))
        return original(teacher, **inputs)

    monkeypatch.setattr(teacher_cache, "teacher_signal", counted)
    return counts


class TestColumns:
    @pytest.mark.parametrize("tokens_per_batch", [1, 30, 4096])
    @pytest.mark.parametrize("kind", KINDS)
    def test_equal_the_teacher_row_by_row(
        self, kind: str, tokens_per_batch: int, tmp_path: Path, small_shards: None
    ) -> None:
        teacher, rows = teacher_of(kind), dataset()
        cached = cache(rows, teacher, tmp_path, tokens_per_batch=tokens_per_batch)
        assert set(cached.column_names) == {*rows.column_names, *(COLUMNS if kind != "encoder" else COLUMNS[:1])}
        for row, before in zip(cached, rows, strict=True):
            assert row["example"] == before["example"]
            assert row["input_ids"].tolist() == before["input_ids"]
            names = ["input_ids", "attention_mask", "token_type_ids"]
            if kind == "tagger without token types":
                names.pop()
            with torch.no_grad():
                expected = teacher(**{name: torch.tensor([before[name]]) for name in names}, output_hidden_states=True)
            states = expected.hidden_states[-1][0]
            assert row["teacher_states"].dtype == torch.float32
            torch.testing.assert_close(row["teacher_states"], states, atol=1e-6, rtol=0)
            if kind == "question answering":
                logits = torch.stack([expected.start_logits[0], expected.end_logits[0]], dim=-1)
                torch.testing.assert_close(row["teacher_logits"], logits, atol=1e-6, rtol=0)
            elif kind != "encoder":
                torch.testing.assert_close(row["teacher_logits"], expected.logits[0], atol=1e-6, rtol=0)

    def test_float16_is_the_rounded_state(self, tmp_path: Path) -> None:
        teacher = tiny_teacher()
        exact = cache(dataset(), teacher, tmp_path)
        rounded = cache(dataset(), teacher, tmp_path, dtype="float16")
        assert {rounded.features[name].dtype for name in COLUMNS} == {"float16"}
        for row, half in zip(exact, rounded, strict=True):
            for name in COLUMNS:
                step = 2.0 ** torch.floor(torch.log2(row[name].abs().clamp(min=2**-14))) * 2**-10
                assert ((half[name] - row[name]).abs() <= 0.51 * step + 1e-6).all()
                assert not torch.equal(half[name], row[name])

    def test_padding_inside_the_rows_is_masked(self, tmp_path: Path) -> None:
        """Question-answering rows often come padded to one length."""
        plain = dataset(4)
        width = max(len(ids) for ids in plain["input_ids"]) + 3
        names = ("input_ids", "token_type_ids", "attention_mask")
        padded = dataset(4, **{name: [row + [0] * (width - len(row)) for row in plain[name]] for name in names})
        teacher = tiny_teacher()
        cached = cache(plain, teacher, tmp_path)
        for row, wide in zip(cached, cache(padded, teacher, tmp_path), strict=True):
            assert wide["teacher_states"].shape == (width, 32)
            real = wide["teacher_states"][: len(row["input_ids"])]
            torch.testing.assert_close(real, row["teacher_states"], atol=1e-6, rtol=0)

    def test_shuffled_and_formatted_datasets_keep_their_order(self, tmp_path: Path, small_shards: None) -> None:
        teacher = tiny_teacher()
        expected = {row["example"]: row["teacher_states"] for row in cache(dataset(), teacher, tmp_path / "plain")}
        shuffled = dataset().shuffle(seed=3).with_format("numpy", columns=["input_ids"])
        cached = cache(shuffled, teacher, tmp_path / "shuffled")
        assert cached["example"][:] == shuffled.with_format(None)["example"][:] != dataset()["example"][:]
        for row in cached:
            torch.testing.assert_close(row["teacher_states"], expected[row["example"]], atol=1e-6, rtol=0)

    def test_equal_shards_share_one_file(self, tmp_path: Path, small_shards: None) -> None:
        twice = dataset(8).select([0, 1, 2, 3, 0, 1, 2, 3])
        cached = cache(twice, tiny_teacher(), tmp_path)
        assert len(list(tmp_path.glob("*.arrow"))) == 1
        assert torch.equal(cached[1]["teacher_states"], cached[5]["teacher_states"])
        assert cached["example"][:] == twice["example"][:]

    @pytest.mark.parametrize("saved", [False, True])
    def test_training_loss_equals_the_attached_teachers(self, saved: bool, tmp_path: Path) -> None:
        teacher = tiny_teacher()
        if saved:
            teacher.save_pretrained(tmp_path / "teacher")
        torch.manual_seed(0)
        student = tiny_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = AlAdForTokenClassification.from_student_pretrained(
            AutoModel.from_config(student),
            teacher=teacher,
            tokenizer=tiny_tokenizer(),
            teacher_tokenizer=tiny_tokenizer(),
            classifier_dropout=0.0,
            alignment_cosine_weight=0.5,
            copy_teacher_head=False,
        ).train()
        cached = cache(dataset(), str(tmp_path / "teacher") if saved else teacher, tmp_path / "cache")
        batch = DataCollatorForAlignment(tiny_tokenizer())(list(cached.remove_columns("example")))
        signal = {name: batch.pop(name) for name in COLUMNS}
        attached = model(**batch)
        model.detach_teacher()
        columns = model(**batch, **signal)
        assert attached.loss_terms.keys() == {"task", "alignment_mse", "alignment_cosine", "distillation"}
        torch.testing.assert_close(columns.loss, attached.loss, atol=1e-6, rtol=1e-6)
        assert columns.loss != model(**batch).loss


class TestReuse:
    def test_a_second_call_does_not_run_the_teacher(
        self, tmp_path: Path, small_shards: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher = tiny_teacher()
        first = cache(dataset(), teacher, tmp_path)
        files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        monkeypatch.setattr(teacher, "forward", lambda **inputs: pytest.fail("the teacher ran"))
        second = cache(dataset(), teacher, tmp_path)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
        assert len(files) == 3
        for row, again in zip(first, second, strict=True):
            assert all(torch.equal(row[name], again[name]) for name in COLUMNS)

    def test_the_same_teacher_from_disk_finds_the_files(self, tmp_path: Path, runs: list[int]) -> None:
        tiny_teacher().save_pretrained(tmp_path / "teacher")
        cache(dataset(), str(tmp_path / "teacher"), tmp_path / "cache")
        assert runs
        runs.clear()
        cache(dataset(), str(tmp_path / "teacher"), tmp_path / "cache")
        assert runs == []

    def test_changed_labels_change_nothing(self, tmp_path: Path, runs: list[int]) -> None:
        teacher, rows = tiny_teacher(), dataset()
        cache(rows, teacher, tmp_path)
        runs.clear()
        relabelled = dataset(labels=[[0] * len(ids) for ids in rows["input_ids"]])
        cached = cache(relabelled.rename_column("example", "name"), teacher, tmp_path)
        assert runs == []
        assert cached[0]["labels"].tolist() == relabelled[0]["labels"]

    @pytest.mark.parametrize("change", ["weight", "ids", "token types", "length", "precision"])
    def test_whatever_changes_the_states_is_noticed(self, change: str, tmp_path: Path, runs: list[int]) -> None:
        teacher, rows, dtype = tiny_teacher(), dataset(), "float32"
        before = cache(rows, teacher, tmp_path)
        runs.clear()
        ids, types = rows["input_ids"][:], rows["token_type_ids"][:]
        if change == "weight":
            with torch.no_grad():
                teacher.bert.encoder.layer[1].output.dense.bias[3] += 1e-3
        elif change == "ids":
            ids[7][2] = 5 + (ids[7][2] - 4) % 40
            rows = dataset(input_ids=ids)
        elif change == "token types":
            types[7][0] = 1
            rows = dataset(token_type_ids=types)
        elif change == "length":  # the same ids and masks when all rows are laid end to end
            ids[0], ids[1] = [*ids[0], ids[1][0]], ids[1][1:]
            types[0], types[1] = [*types[0], types[1][0]], types[1][1:]
            rows = dataset(
                input_ids=ids, token_type_ids=types, attention_mask=[[1] * len(row) for row in ids], labels=types
            )
        else:
            dtype = "float16"
        after = cache(rows, teacher, tmp_path, dtype=dtype)
        assert sum(runs) >= len(rows)
        assert any(
            row["teacher_states"].shape != other["teacher_states"].shape
            or not torch.equal(row["teacher_states"].float(), other["teacher_states"].float())
            for row, other in zip(before, after, strict=True)
        )

    def test_more_rows_compute_only_the_new_shards(self, tmp_path: Path, small_shards: None, runs: list[int]) -> None:
        teacher = tiny_teacher()
        ten = dataset(10)
        cache(ten.select(range(8)), teacher, tmp_path)
        runs.clear()
        cached = cache(ten, teacher, tmp_path)
        assert sum(runs) == 1 + 2, "one row tells the widths, two are new"
        assert len(cached) == 10


class TestInterruption:
    def test_only_the_missing_shards_are_computed(
        self, tmp_path: Path, small_shards: None, runs: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher = tiny_teacher()
        counted = teacher_cache.teacher_signal

        def stops(teacher: PreTrainedModel, **inputs: torch.Tensor) -> object:
            if sum(runs) >= 1 + 4:
                raise KeyboardInterrupt
            return counted(teacher, **inputs)

        with monkeypatch.context() as patch:
            patch.setattr(teacher_cache, "teacher_signal", stops)
            with pytest.raises(KeyboardInterrupt):
                cache(dataset(), teacher, tmp_path)
        assert len(list(tmp_path.glob("*.arrow"))) == 1
        runs.clear()
        cached = cache(dataset(), teacher, tmp_path)
        assert sum(runs) == 1 + 6
        for row, expected in zip(cached, cache(dataset(), teacher, tmp_path / "whole"), strict=True):
            torch.testing.assert_close(row["teacher_states"], expected["teacher_states"], atol=1e-6, rtol=0)

    def test_a_killed_process_leaves_whole_shards_only(
        self, tmp_path: Path, small_shards: None, runs: list[int]
    ) -> None:
        script = """
            import os, sys
            from pathlib import Path
            import test_teacher_cache as here
            from alad_hf.alignment import teacher_cache
            from datasets.arrow_writer import ArrowWriter

            teacher_cache.ROWS_PER_SHARD = 4
            folder = Path(sys.argv[1])
            write = ArrowWriter.write_batch

            def dies(self, *args, **kwargs):
                written = write(self, *args, **kwargs)
                if list(folder.glob("*.arrow")):
                    self.write_examples_on_file()
                    self.stream.flush()
                    os._exit(9)  # with the second shard on disk but not finished
                return written

            ArrowWriter.write_batch = dies
            here.cache(here.dataset(), here.tiny_teacher(), folder)
        """
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path.cwd())])
        killed = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert killed.returncode == 9, killed.stderr
        finished = list(tmp_path.glob("*.arrow"))
        unfinished = [path for path in tmp_path.iterdir() if path not in finished]
        assert len(finished) == 1
        assert unfinished and unfinished[0].stat().st_size > 0
        cached = cache(dataset(), tiny_teacher(), tmp_path)
        assert sum(runs) == 1 + 6
        assert len(list(tmp_path.glob("*.arrow"))) == 3
        for row, expected in zip(cached, cache(dataset(), tiny_teacher(), tmp_path / "whole"), strict=True):
            torch.testing.assert_close(row["teacher_states"], expected["teacher_states"], atol=1e-6, rtol=0)


class TestErrors:
    def test_another_tokenizer(self, tmp_path: Path) -> None:
        vocabulary = {**VOCABULARY, "york": VOCABULARY["new"], "new": VOCABULARY["york"]}
        with pytest.raises(ValueError, match=r"another vocabulary.*'new'.*share one tokenizer"):
            cache(dataset(), tiny_teacher(), tmp_path, teacher_tokenizer=tiny_tokenizer(vocabulary=vocabulary))

    def test_rows_that_do_not_fit(self, tmp_path: Path) -> None:
        text = Dataset.from_dict({"text": ["new york"]})
        with pytest.raises(ValueError, match=r"has the columns \['text'\], but no input_ids: tokenize it first"):
            cache(text, tiny_teacher(), tmp_path)
        cached = cache(dataset(2, labels=[[0], [0]]), tiny_teacher(tags=TAGS[:3]), tmp_path)
        with pytest.raises(ValueError, match=r"already has \['teacher_logits', 'teacher_states'\]; remove_columns"):
            cache(cached, tiny_teacher(), tmp_path)
        with pytest.raises(ValueError, match="has no rows"):
            cache(dataset(2).select([]), tiny_teacher(), tmp_path)
