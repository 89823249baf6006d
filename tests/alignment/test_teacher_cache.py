"""Cached teacher columns: the teacher's own numbers, computed once and never half."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import ClassLabel, Dataset, List, Value
from tiny import TAGS, VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    TorchAoConfig,
)

from alad_hf import AlAdForQuestionAnswering, AlAdForTokenClassification
from alad_hf.alignment import shard_files, teacher_cache
from alad_hf.alignment.teacher_cache import cache_teacher_states
from alad_hf.data import encode_questions, encode_text
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


def run_python(script: str | list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a script, or what a list names, in another process; the folder is its argument."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path.cwd())])
    command = ["-c", textwrap.dedent(script)] if isinstance(script, str) else script
    return subprocess.run(
        [sys.executable, *command, str(folder)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def assert_only_whole_files(folder: Path, count: int) -> None:
    """Nothing unfinished and no lock is left."""
    files = [path for path in folder.iterdir() if path.is_file()]
    assert [path.suffix for path in files] == [".arrow"] * count
    assert all(map(shard_files.is_whole, files))


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

    @pytest.mark.parametrize("kind", KINDS[:3])
    def test_logits_alone(self, kind: str, tmp_path: Path) -> None:
        """Beside a cache with states, and without a byte of them."""
        teacher, rows = teacher_of(kind), dataset()
        whole = cache(rows, teacher, tmp_path)
        before = {path: path.stat().st_size for path in tmp_path.glob("*.arrow")}
        cached = cache(rows, teacher, tmp_path, states=False)
        (written,) = set(tmp_path.glob("*.arrow")) - set(before)
        assert set(cached.column_names) == {*rows.column_names, "teacher_logits"}
        for row, expected in zip(cached, whole, strict=True):
            assert torch.equal(row["teacher_logits"], expected["teacher_logits"])
        states = sum(row["teacher_states"].nbytes for row in whole)
        assert written.stat().st_size <= sum(before.values()) - states

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
        coarse = dataset().add_column("kind", [0, 1] * 5).cast_column("kind", ClassLabel(names=["even", "odd"]))
        shuffled = coarse.shuffle(seed=3).with_format("numpy", columns=["input_ids"])
        cached = cache(shuffled, teacher, tmp_path / "shuffled")
        assert cached.features["kind"] == ClassLabel(names=["even", "odd"])
        assert cached["example"][:] == shuffled.with_format(None)["example"][:] != dataset()["example"][:]
        for row in cached:
            torch.testing.assert_close(row["teacher_states"], expected[row["example"]], atol=1e-6, rtol=0)

    def test_shards_hold_a_limited_number_of_tokens(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lengths = [len(ids) for ids in dataset()["input_ids"]]
        whole = cache(dataset(), tiny_teacher(), tmp_path / "whole")
        monkeypatch.setattr(teacher_cache, "TOKENS_PER_SHARD", max(lengths) - 1)
        cached = cache(dataset(), tiny_teacher(), tmp_path / "cut")
        sizes = [len(Dataset.from_file(str(path))) for path in (tmp_path / "cut").glob("*.arrow")]
        assert sum(sizes) == 10
        assert len(sizes) >= sum(lengths) / max(lengths)
        for row, expected in zip(cached, whole, strict=True):
            torch.testing.assert_close(row["teacher_states"], expected["teacher_states"], atol=1e-6, rtol=0)

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


def test_a_teacher_in_int8_is_read_and_known_by_its_weights(tmp_path: Path, runs: list[int]) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    rows, setting = dataset(), TorchAoConfig(quantization.Int8WeightOnlyConfig())
    for seed in (1, 2):
        tiny_teacher(seed=seed).save_pretrained(tmp_path / str(seed))
    arguments = {"folder": tmp_path / "cache", "dtype": "float32"}
    for name, passes in (("1", True), ("1", False), ("2", True)):
        teacher = AutoModelForTokenClassification.from_pretrained(tmp_path / name, quantization_config=setting)
        cached = cache(rows, teacher, **arguments)
        assert bool(runs) is passes, name
        runs.clear()
    with torch.no_grad():
        names = ("input_ids", "attention_mask", "token_type_ids")
        one = teacher(**{name: torch.tensor([rows[0][name]]) for name in names})
    torch.testing.assert_close(cached[0]["teacher_logits"], one.logits[0], atol=1e-5, rtol=0)


# peft 0.21 itself still asks transformers under a name that 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_teacher_with_several_adapters_is_known_by_those_that_act(tmp_path: Path, runs: list[int]) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alad_hf[lora]'")
    rows = dataset()
    lora = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False, task_type="TOKEN_CLS")
    teacher = peft.get_peft_model(tiny_teacher(), lora, adapter_name="one")
    teacher.add_adapter("other", lora)
    found = []
    for name in ("one", "other", "one"):
        teacher.set_adapter(name)
        found.append(cache(rows, teacher.eval(), tmp_path / "cache"))
        assert bool(runs) is (len(found) < 3)
        runs.clear()
    one, other, again = (cached[0]["teacher_logits"] for cached in found)
    assert torch.equal(one, again) and not torch.equal(one, other)
    with teacher.disable_adapter():
        none = cache(rows, teacher, tmp_path / "cache")
    assert runs and not torch.equal(none[0]["teacher_logits"], one)


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
            import os, signal, sys
            from pathlib import Path
            import test_teacher_cache as here
            from alad_hf.alignment import shard_files, teacher_cache

            teacher_cache.ROWS_PER_SHARD = 4
            folder = Path(sys.argv[1])
            replace = os.replace

            def dies(*arguments):
                if list(folder.glob("*.arrow")):
                    os.kill(os.getpid(), signal.SIGKILL)  # with the second shard on disk but not finished
                replace(*arguments)

            shard_files.os.replace = dies
            here.cache(here.dataset(), here.tiny_teacher(), folder)
        """
        killed = run_python(script, tmp_path)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert len(list(tmp_path.glob("*.arrow"))) == 1
        (unfinished,) = tmp_path.glob("*.tmp")
        assert unfinished.stat().st_size > 0
        cached = cache(dataset(), tiny_teacher(), tmp_path)
        assert sum(runs) == 1 + 6
        assert_only_whole_files(tmp_path, 3)
        for row, expected in zip(cached, cache(dataset(), tiny_teacher(), tmp_path / "whole"), strict=True):
            torch.testing.assert_close(row["teacher_states"], expected["teacher_states"], atol=1e-6, rtol=0)

    def test_a_disk_that_fills_up(
        self, tmp_path: Path, small_shards: None, runs: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        teacher, flush = tiny_teacher(), os.fsync

        def full(file: int) -> None:
            if list(tmp_path.glob("*.arrow")):
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(file)

        with monkeypatch.context() as patch:
            patch.setattr(shard_files.os, "fsync", full)
            with pytest.raises(OSError, match=rf"{tmp_path} is full.*are kept.*cache_dir=") as caught:
                cache(dataset(), teacher, tmp_path)
        assert caught.value.errno == errno.ENOSPC
        assert [path.suffix for path in tmp_path.iterdir() if path.suffix != ".lock"] == [".arrow"]
        runs.clear()
        cache(dataset(), teacher, tmp_path)
        assert sum(runs) == 1 + 6
        assert_only_whole_files(tmp_path, 3)

    @pytest.mark.parametrize("damage", ["cut", "cut after the data", "empty", "flipped bit", "another shard's file"])
    def test_a_damaged_shard_is_computed_again(
        self, damage: str, tmp_path: Path, small_shards: None, runs: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        teacher = tiny_teacher()
        cache(dataset(8), teacher, tmp_path)
        first, second = tmp_path.glob("*.arrow")
        content = first.read_bytes()
        if damage == "cut":
            first.write_bytes(content[: len(content) // 2])
        elif damage == "cut after the data":
            first.write_bytes(content[:-4])
        elif damage == "empty":
            first.write_bytes(b"")
        elif damage == "flipped bit":
            middle = len(content) // 2
            first.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        else:
            first.write_bytes(second.read_bytes())
        runs.clear()
        caplog.clear()
        cache(dataset(8), teacher, tmp_path)
        assert sum(runs) == 1 + 4
        assert f"{first} is damaged" in caplog.text
        assert str(second) not in caplog.text
        assert first.read_bytes() == content


class TestSpace:
    BYTES_PER_TOKEN = (32 * 4 + 4) + (len(TAGS) * 4 + 4)

    def test_is_announced(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", logger="alad_hf")
        rows = dataset(400)
        cache(rows, tiny_teacher(), tmp_path)
        tokens = sum(map(len, rows["input_ids"]))
        (file,) = tmp_path.glob("*.arrow")
        assert file.stat().st_size == pytest.approx(tokens * self.BYTES_PER_TOKEN, rel=0.02)
        (record,) = caplog.records
        assert record.levelname == "INFO"
        size = f"{tokens * self.BYTES_PER_TOKEN / 1e6:.1f} MB"
        assert f"{tokens:,} tokens will take {size} in {tmp_path}, which has" in record.getMessage()
        cache(rows, tiny_teacher(), tmp_path)
        assert len(caplog.records) == 1, "nothing is computed, nothing announced"

    @pytest.mark.parametrize("spare", [0, -1])
    def test_is_checked_first(
        self,
        spare: int,
        tmp_path: Path,
        small_shards: None,
        runs: list[int],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        teacher, rows = tiny_teacher(), dataset()
        cache(rows.select(range(4)), teacher, tmp_path)
        runs.clear()
        caplog.clear()
        needed = sum(map(len, rows["input_ids"][4:])) * self.BYTES_PER_TOKEN
        monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed + spare))
        if spare >= 0:
            cache(rows, teacher, tmp_path)
            assert sum(runs) == 1 + 6
            assert [record.levelname for record in caplog.records] == ["WARNING"]  # it will take nearly all of it
        else:
            message = (
                rf"take {needed:,} bytes .*{tmp_path} has only {needed - 1:,} bytes .*cache_dir=.*fewer rows.*float16"
            )
            with pytest.raises(OSError, match=message):
                cache(rows, teacher, tmp_path)
            assert runs == [1]


class TestProcesses:
    def test_of_one_launch_share_the_work(self, tmp_path: Path, small_shards: None) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent("""
            import logging, os, sys, time
            from pathlib import Path
            import torch
            from accelerate import PartialState
            import test_teacher_cache as here
            from alad_hf.alignment import teacher_cache

            logging.basicConfig(level=logging.INFO)
            teacher_cache.ROWS_PER_SHARD = 4
            folder, state, written, write = Path(sys.argv[1]), PartialState(cpu=True), [], teacher_cache.write_shard

            def slowly(path, *arguments):
                written.append(path.name)
                time.sleep(0.2)
                write(path, *arguments)

            teacher_cache.write_shard = slowly
            teacher = here.tiny_teacher()
            state.wait_for_everyone()
            rows = here.cache(here.dataset(32), teacher, folder / "shared")
            signals = [{name: row[name] for name in here.COLUMNS} for row in rows]
            torch.save((written, signals), folder / f"process-{state.process_index}.pt")
            """)
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
        settings = ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={port}"]
        environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        done = run_python([*launcher, *settings, str(script)], tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("tokens will take") == 1
        (first, signals), (second, others) = (torch.load(tmp_path / f"process-{rank}.pt") for rank in (0, 1))
        assert first and second
        assert len({*first, *second}) == len(first) + len(second) == 8
        assert_only_whole_files(tmp_path / "shared", 8)
        alone = cache(dataset(32), tiny_teacher(), tmp_path / "alone")
        for row, one, other in zip(alone, signals, others, strict=True):
            assert all(torch.equal(row[name], one[name]) and torch.equal(row[name], other[name]) for name in COLUMNS)

    def test_the_first_of_a_launch_does_not_wait_for_calls_of_the_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`with state.main_process_first():` calls it in one process while the others wait elsewhere."""
        for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
            monkeypatch.setenv(name, value)
        assert len(cache(dataset(), tiny_teacher(), tmp_path)) == 10


def own_tokens(rows: int = 10) -> Dataset:
    """Rows that a teacher reads in tokens of its own, which are fewer; some tokens have no counterpart."""
    generator = torch.Generator().manual_seed(5)
    columns: dict[str, list] = {"teacher_input_ids": [], "teacher_token_type_ids": [], "teacher_alignment": []}
    for ids in dataset(rows)["input_ids"]:
        count = max(2, len(ids) - 3)
        columns["teacher_input_ids"].append(torch.randint(5, len(VOCABULARY), (count,), generator=generator).tolist())
        columns["teacher_token_type_ids"].append([0] + [1] * (count - 1))
        triples = []
        for token in range(1, len(ids)):
            share = torch.rand((), generator=generator).item()
            triples += [[token, token % count, share], [token, (token + 1) % count, 1 - share]]
        columns["teacher_alignment"].append(triples)
    return dataset(rows, **columns)


class TestAnotherTokenizer:
    @pytest.fixture
    def other(self) -> PreTrainedTokenizerFast:
        return tiny_tokenizer(vocabulary={**VOCABULARY, "york": VOCABULARY["new"], "new": VOCABULARY["york"]})

    @pytest.mark.parametrize("layers", [None, [0, -1]])
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_signal_is_moved_row_by_row(
        self, kind: str, layers: list[int] | None, other: PreTrainedTokenizerFast, tmp_path: Path, small_shards: None
    ) -> None:
        teacher, rows = teacher_of(kind), own_tokens()
        cached = cache(rows, teacher, tmp_path, teacher_tokenizer=other, layers=layers, tokens_per_batch=30)
        new = {"teacher_states", "teacher_mask", *(COLUMNS if kind != "encoder" else [])}
        assert {*cached.column_names} == {*dataset().column_names, *new}
        assert cached.features["teacher_mask"] == List(Value("int8"))
        for row, before in zip(cached, rows, strict=True):
            names = {"input_ids", "token_type_ids"} - ({"token_type_ids"} if "without" in kind else set())
            with torch.no_grad():
                read = {name: torch.tensor([before[f"teacher_{name}"]]) for name in names}
                outputs = teacher(**read, output_hidden_states=True)
            weights = torch.zeros(len(before["input_ids"]), len(before["teacher_input_ids"]))
            for token, teacher_token, weight in before["teacher_alignment"]:
                weights[int(token), int(teacher_token)] = weight
            states = torch.stack([outputs.hidden_states[layer][0] for layer in layers or [-1]]).mean(dim=0)
            torch.testing.assert_close(row["teacher_states"], weights @ states, atol=1e-5, rtol=0)
            assert row["teacher_mask"].tolist() == [0] + [1] * (len(weights) - 1)
            if kind == "question answering":
                for side, logits in enumerate((outputs.start_logits[0], outputs.end_logits[0])):
                    moved = (logits.softmax(-1) * weights / weights.sum(0).clamp(min=1e-9)).sum(-1).log()
                    torch.testing.assert_close(row["teacher_logits"][:, side], moved, atol=1e-5, rtol=0)
            elif kind != "encoder":
                torch.testing.assert_close(row["teacher_logits"], weights @ outputs.logits[0], atol=1e-5, rtol=0)

    @pytest.mark.parametrize(
        "change", ["nothing", "student ids", "student length", "weight", "pair", "teacher ids", "layers"]
    )
    def test_reuse(self, change: str, other: PreTrainedTokenizerFast, tmp_path: Path, runs: list[int]) -> None:
        teacher, rows, layers = tiny_teacher(), own_tokens(), [-2]
        cache(rows, teacher, tmp_path, teacher_tokenizer=other, layers=layers)
        runs.clear()
        columns = rows.to_dict()
        if change == "student ids":  # the teacher does not read them
            columns["input_ids"][3][1] += 1
        elif change == "student length":
            for name in ("input_ids", "token_type_ids", "attention_mask", "labels"):
                columns[name][3].append(1)
        elif change == "weight":
            columns["teacher_alignment"][3][0][2] *= 0.999
        elif change == "pair":
            columns["teacher_alignment"][3][0][1] += 1
        elif change == "teacher ids":
            columns["teacher_input_ids"][3][1] -= 1
        elif change == "layers":
            layers = [-2, -1]
        cache(Dataset.from_dict(columns), teacher, tmp_path, teacher_tokenizer=other, layers=layers)
        assert bool(runs) == (change not in ("nothing", "student ids"))

    def test_rows_that_the_teacher_sees_nothing_of(self, other: PreTrainedTokenizerFast, tmp_path: Path) -> None:
        columns = own_tokens(3).to_dict()
        for name in ("teacher_input_ids", "teacher_token_type_ids", "teacher_alignment"):
            columns[name][0] = []
        cached = cache(Dataset.from_dict(columns), tiny_teacher(), tmp_path, teacher_tokenizer=other)
        assert cached[0]["teacher_mask"].tolist() == [0] * len(columns["input_ids"][0])
        assert not cached[0]["teacher_states"].any()
        assert cached[1]["teacher_states"].any()

    def test_needs_the_columns(self, other: PreTrainedTokenizerFast, tmp_path: Path) -> None:
        with pytest.raises(
            ValueError, match=r"no \['teacher_input_ids', 'teacher_alignment'\].*encode_text\(..., teacher_t"
        ):
            cache(dataset(), tiny_teacher(), tmp_path, teacher_tokenizer=other)


class TestErrors:
    def test_states_that_float16_cannot_hold(self, tmp_path: Path) -> None:
        teacher = tiny_teacher()
        with torch.no_grad():
            teacher.bert.encoder.layer[-1].output.LayerNorm.bias[2] = 70_000
        with pytest.raises(ValueError, match=r'values up to 70,00.* too large for float16: pass dtype="float32"'):
            cache(dataset(), teacher, tmp_path, dtype="float16")
        assert cache(dataset(), teacher, tmp_path)[0]["teacher_states"].max() > 65_504

    def test_rows_that_do_not_fit(self, tmp_path: Path) -> None:
        text = Dataset.from_dict({"text": ["new york"]})
        with pytest.raises(ValueError, match=r"has the columns \['text'\], but no input_ids: tokenize it first"):
            cache(text, tiny_teacher(), tmp_path)
        cached = cache(dataset(2, labels=[[0], [0]]), tiny_teacher(tags=TAGS[:3]), tmp_path)
        with pytest.raises(ValueError, match=r"already has \['teacher_logits', 'teacher_states'\]; remove_columns"):
            cache(cached, tiny_teacher(), tmp_path)
        with pytest.raises(ValueError, match=r"A BertModel has no head .* \(states=False\) nothing is left to cache"):
            cache(dataset(2), teacher_of("encoder"), tmp_path, states=False)
        with pytest.raises(ValueError, match="has no rows"):
            cache(dataset(2).select([]), tiny_teacher(), tmp_path)
        with pytest.raises(ValueError, match="All rows are empty"):
            empty = {name: [[], []] for name in ("input_ids", "token_type_ids", "attention_mask", "labels")}
            cache(dataset(2, **empty).cast_column("input_ids", List(Value("int64"))), tiny_teacher(), tmp_path)


def test_a_student_without_token_types_leaves_the_teacher_its_own(tmp_path: Path) -> None:
    """DistilBERT under BERT: the same vocabulary and ids, but only the teacher is told question and context apart."""
    teacher = AutoModelForQuestionAnswering.from_config(tiny_config(initializer_range=0.5)).eval()
    tokenizer, own = tiny_tokenizer(), tiny_tokenizer()
    own.model_input_names = ["input_ids", "attention_mask"]
    examples = Dataset.from_dict(
        {
            "id": ["1"],
            "question": ["who visited"],
            "context": ["smith visited new york"],
            "answers": [{"text": ["smith"], "answer_start": [0]}],
        }
    )
    sizes = {"max_length": 32, "overlap": 4, "for_training": True}
    rows = encode_questions(examples, own, teacher_tokenizer=tokenizer, **sizes)
    tokenizers = {"tokenizer": own, "teacher_tokenizer": tokenizer}
    cached = cache(rows, teacher, tmp_path, **tokenizers)[0]
    with torch.no_grad():
        inputs = tokenizer("who visited", "smith visited new york", return_tensors="pt")
        expected = teacher(**inputs, output_hidden_states=True)
    assert inputs["token_type_ids"].any()
    torch.testing.assert_close(cached["teacher_states"], expected.hidden_states[-1][0])
    logits = torch.stack([expected.start_logits, expected.end_logits], dim=-1)
    # Through an alignment logits pass as logarithms of probabilities, which differ from them by a constant.
    torch.testing.assert_close(cached["teacher_logits"], logits[0].log_softmax(dim=0))

    with pytest.raises(ValueError, match=r"the dataset has no \['teacher_input_ids', 'teacher_alignment'\]"):
        cache(encode_questions(examples, own, **sizes), teacher, tmp_path, **tokenizers)
    student = AutoModel.from_config(tiny_config("distilbert"))
    model = AlAdForQuestionAnswering.from_student_pretrained(student, teacher=teacher, **tokenizers)
    inputs.pop("token_type_ids")
    with pytest.raises(ValueError, match="the batch lacks teacher_input_ids or teacher_alignment"):
        model(**inputs, start_positions=torch.tensor([1]), end_positions=torch.tensor([1]))

    # A single text has no second segment: it takes the fast path.
    rows = encode_text(["smith visited new york"], own, max_length=32, teacher_tokenizer=tokenizer)
    assert rows.column_names == own.model_input_names
    assert cache(rows, tiny_teacher(), tmp_path, **tokenizers)[0]["teacher_states"].shape == (6, 32)
