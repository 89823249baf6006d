from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from torch import nn
from transformers import AutoModel, BertForMaskedLM, DistilBertModel

from alad_hf import AlAdForTokenClassification
from alad_hf.evaluation import (
    count_parameters,
    efficiency,
    efficiency_report,
    latency,
    sentences_per_second,
    stored_bytes,
)


def alad_model() -> AlAdForTokenClassification:
    tokenizer = tiny_tokenizer()
    return AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config()), teacher=tiny_teacher(), tokenizer=tokenizer, teacher_tokenizer=tokenizer
    )


def tensor_bytes(file: Path) -> int:
    """Bytes behind the header of a safetensors file, whose length its first 8 bytes give."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize(
    "build",
    [
        alad_model,
        lambda: alad_model().to(torch.bfloat16),
        lambda: BertForMaskedLM(tiny_config(tie_word_embeddings=True)),
        lambda: BertForMaskedLM(tiny_config(tie_word_embeddings=False)),
        lambda: AutoModel.from_config(tiny_config("albert")),
    ],
    ids=["alad", "bfloat16", "tied", "untied", "shared layers"],
)
def test_stored_bytes_are_those_of_the_saved_file(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    assert stored_bytes(model) == tensor_bytes(tmp_path / "model.safetensors")


def test_attached_teacher_and_tied_weights_are_not_counted_twice():
    model = alad_model()
    assert model.teacher is not None
    size = stored_bytes(model)
    model.detach_teacher()
    assert stored_bytes(model) == size == 4 * count_parameters(model)
    tied, untied = (BertForMaskedLM(tiny_config(tie_word_embeddings=tie)) for tie in (True, False))
    assert count_parameters(untied) - count_parameters(tied) == len(VOCABULARY) * (16 + 1)
    assert stored_bytes(untied) - stored_bytes(tied) == 4 * len(VOCABULARY) * (16 + 1)


def test_sizes_need_no_memory():
    with torch.device("meta"):
        model = BertForMaskedLM(tiny_config(tie_word_embeddings=True))
    model.tie_weights()
    real = BertForMaskedLM(tiny_config(tie_word_embeddings=True))
    assert (count_parameters(model), stored_bytes(model)) == (count_parameters(real), stored_bytes(real))


def test_parts_of_one_storage_are_stored_each():
    module = nn.Module()
    both = torch.zeros(6, 4)
    module.register_buffer("upper", both[:3])
    module.register_buffer("lower", both[3:])
    module.register_buffer("again", both[:3])
    module.register_buffer("not_saved", torch.zeros(9), persistent=False)
    assert stored_bytes(module) == 2 * 3 * 4 * 4


def test_state_that_is_no_tensor_is_named():
    class WithState(nn.Module):
        def get_extra_state(self):
            return {"scale": 2}

    with pytest.raises(TypeError, match=r"_extra_state in the state dict of WithState is no tensor"):
        stored_bytes(WithState())


def test_count_parameters_by_trainability():
    model = alad_model()
    parts = model.num_parameters_by_part()
    fixed = model.get_input_embeddings().weight.numel()
    assert count_parameters(model) == sum(parts.values()) == count_parameters(model, trainable_only=True) + fixed
    model.freeze_student()
    assert count_parameters(model) == sum(parts.values())
    assert count_parameters(model, trainable_only=True) == parts["adapter"] + parts["head"]


class Clock:
    """Stands still unless a model moves it."""

    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(efficiency, "time", clock)
    return clock


class Recorder(nn.Module):
    """Records what a model is called with, and lets a chosen time pass on the clock in each call."""

    def __init__(self, clock: Clock | None = None, seconds: list[float] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.config = tiny_config()
        self.clock, self.seconds = clock, iter(seconds or [])
        self.calls = []

    @property
    def device(self):
        return self.weight.device

    def forward(self, input_ids, attention_mask):
        self.calls.append((input_ids, attention_mask, self.training, torch.is_grad_enabled()))
        if self.clock is not None:
            self.clock.now += next(self.seconds)


SENTENCES = ["smith works for acme .", "london", "jones visited new york and berlin .", "the", "a smith in london"]


@pytest.mark.parametrize("in_words", [False, True])
def test_every_pass_runs_all_sentences_longest_first(in_words):
    model, tokenizer = Recorder(), tiny_tokenizer()
    sentences = [sentence.split() for sentence in SENTENCES] if in_words else SENTENCES
    sentences_per_second(model, tokenizer, sentences, batch_size=2, repeats=2)
    assert len(model.calls) == 3 * 3  # a warm-up and two timed passes of three batches
    for first in (0, 3, 6):
        rows = [
            ids[mask.bool()].tolist()
            for input_ids, attention_mask, _, _ in model.calls[first : first + 3]
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        assert sorted(rows) == sorted(tokenizer(SENTENCES)["input_ids"])
        assert [len(row) for row in rows] == sorted((len(row) for row in rows), reverse=True)
    assert [tuple(ids.shape) for ids, *_ in model.calls[:3]] == [(2, 9), (2, 6), (1, 3)]
    assert not any(training or gradient for *_, training, gradient in model.calls)


def test_throughput_is_the_median_of_the_passes_after_the_warm_up(clock):
    # Two batches a pass: 10 seconds of warm-up, then 6, 10 and 2.
    model = Recorder(clock, seconds=[9, 1, 4, 2, 7, 3, 1, 1])
    assert sentences_per_second(model, tiny_tokenizer(), ["london"] * 12, batch_size=6, repeats=3) == 12 / 6


def test_modes_are_put_back():
    model = alad_model()
    model.freeze_student()
    model.train()
    before = {name: module.training for name, module in model.named_modules()}
    assert set(before.values()) == {True, False}
    sentences_per_second(model, tiny_tokenizer(), ["london"], repeats=1)
    latency(model, tiny_tokenizer(), batch_size=1, tokens=3, repeats=1)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_sentences_that_are_too_long_are_reported(caplog):
    model = Recorder()
    with caplog.at_level(logging.WARNING):
        sentences_per_second(model, tiny_tokenizer(), ["london " * 100, "london"], repeats=1)
    assert "1 of 2 sentences are cut to 64 tokens" in caplog.text
    assert len(caplog.records) == 1
    assert model.calls[0][0].shape == (2, 64)


def test_inputs_that_a_model_does_not_take_are_left_out():
    tokenizer = tiny_tokenizer()
    assert "token_type_ids" in tokenizer.model_input_names
    assert sentences_per_second(DistilBertModel(tiny_config("distilbert")), tokenizer, SENTENCES, repeats=1) > 0


def test_latency_runs_the_shape_asked_for(clock):
    model, tokenizer = Recorder(clock, seconds=[9, 9, 9, 0.01, 0.02, 0.03, 0.07]), tiny_tokenizer()
    result = latency(model, tokenizer, batch_size=3, tokens=7, repeats=4)
    assert len(model.calls) == efficiency.WARM_UP_CALLS + 4
    # The 90th percentile of four values lies 0.7 of the way from the third to the fourth.
    assert result == {"median_ms": pytest.approx(25), "p90_ms": pytest.approx(30 + 0.7 * 40)}
    for input_ids, attention_mask, training, gradient in model.calls:
        assert input_ids.shape == attention_mask.shape == (3, 7)
        assert attention_mask.all() and not training and not gradient
        assert not set(input_ids.flatten().tolist()) & set(tokenizer.all_special_ids)
        assert torch.equal(input_ids, model.calls[0][0])
    other = Recorder()
    latency(other, tokenizer, batch_size=3, tokens=7, repeats=1)
    assert torch.equal(other.calls[0][0], model.calls[0][0])


def test_report_has_it_all(tmp_path):
    model, tokenizer = alad_model(), tiny_tokenizer()
    model.save_pretrained(tmp_path)
    report = efficiency_report(model, tokenizer, SENTENCES)
    header = 8 + int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    names = json.loads((tmp_path / "model.safetensors").read_bytes()[8:header])
    assert report.parameters == sum(
        torch.Size(tensor["shape"]).numel() for name, tensor in names.items() if name != "__metadata__"
    )
    assert report.stored_megabytes == pytest.approx(((tmp_path / "model.safetensors").stat().st_size - header) / 1e6)
    assert report.sentences_per_second > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, tokenizer: sentences_per_second(model, tokenizer, []), "sentences must be 1 or more, got 0"),
        (lambda model, tokenizer: sentences_per_second(model, tokenizer, ["a"], batch_size=0), "batch_size must be 1"),
        (lambda model, tokenizer: sentences_per_second(model, tokenizer, ["a"], repeats=0), "repeats must be 1"),
        (lambda model, tokenizer: latency(model, tokenizer, batch_size=1, tokens=0), "tokens must be 1"),
        (lambda model, tokenizer: latency(model, tokenizer, batch_size=1, tokens=65), "tokens=65 .* takes 64 at most"),
    ],
)
def test_bad_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(Recorder(), tiny_tokenizer())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_waited_for():
    class Heavy(Recorder):
        def forward(self, input_ids, attention_mask):
            square = torch.ones(4096, 4096, device=self.device)
            for _ in range(20):
                square = square @ square

    model = Heavy().cuda()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    latency(model, tiny_tokenizer(), batch_size=1, tokens=3)
    start.record()
    model(None, None)
    end.record()
    torch.cuda.synchronize()
    result = latency(model, tiny_tokenizer(), batch_size=1, tokens=3)
    assert result["median_ms"] > 0.7 * start.elapsed_time(end)
