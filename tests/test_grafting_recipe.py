"""The ways to recover a graft, on tiny models: what each of them trains, keeps and writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from tiny import TAGS, random_batch, tiny_config, tiny_tokenizer
from torch.nn import functional
from transformers import AutoModelForTokenClassification, EarlyStoppingCallback, PreTrainedModel, TrainerCallback

from alad_hf import AlAdForTokenClassification
from alad_hf.compression import compress_embeddings
from alad_hf.recipes import Budget
from alad_hf.recipes.grafting import FIRST_SHARE, TakingTurns, graft_tagger, pairwise_merges
from alad_hf.training.distillation import distilling

FEATURES = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=TAGS))})
SENTENCES = [
    ("Smith visited New York .", "B-PER O B-LOC I-LOC O"),
    ("Jones works in Berlin", "B-PER O O B-LOC"),
    ("The works of Acme", "O O O O"),
    ("London and New York", "B-LOC O B-LOC I-LOC"),
]
BUDGET = Budget(epochs=2, alignment_epochs=0, batch_size=8, learning_rate=1e-3)
SCHEDULES = ["at_once", "one_by_one", "progressive"]


def dataset(copies: int = 1) -> Dataset:
    rows = [{"tokens": words.split(), "tags": [TAGS.index(tag) for tag in tags.split()]} for words, tags in SENTENCES]
    return Dataset.from_list(rows * copies, features=FEATURES)


def data() -> DatasetDict:
    return DatasetDict(train=dataset(12), validation=dataset(), test=dataset())


def teacher(name: str = "bert") -> PreTrainedModel:
    torch.manual_seed(1)
    config = tiny_config(name, **({"n_layers": 4} if name == "distilbert" else {"num_hidden_layers": 4}))
    config.id2label = dict(enumerate(TAGS))
    config.label2id = {tag: index for index, tag in enumerate(TAGS)}
    return AutoModelForTokenClassification.from_config(config).eval()


class Seen(TrainerCallback):
    """What was trained, step by step."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.steps, self.depths, self.shares, self.stop_after = 0, [], [], stop_after

    def on_step_end(self, args, state, control, model, **kwargs) -> None:  # noqa: ANN001
        self.steps += 1
        turns = [module for module in model.modules() if isinstance(module, TakingTurns)]
        self.depths.append(model.config.get_text_config().num_hidden_layers)
        self.shares.append(turns[0].share if turns else None)
        if turns:
            trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            assert trained and all(".grafted." in name or "classifier" in name for name in trained)
        if self.steps == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def run(folder: Path, seen: Seen | None = None, **changes: object) -> PreTrainedModel:
    arguments = {"num_hidden_layers": 2, "tokenizer": tiny_tokenizer(), "budget": BUDGET, **changes}
    callbacks = [seen] if seen else None
    arguments = {"strategy": "fixed", **arguments}
    return graft_tagger(arguments.pop("tagger", teacher()), data(), folder, callbacks=callbacks, **arguments).model


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("distil", [True, False], ids=["distilled", "labels"])
def test_every_schedule_takes_the_same_steps_and_gives_a_stock_model(
    schedule: str, distil: bool, tmp_path: Path
) -> None:
    seen = Seen()
    model = run(tmp_path, seen, schedule=schedule, distil=distil)
    assert seen.steps == 2 * 6  # passes times batches
    expected = {"at_once": {2}, "one_by_one": {3, 2}, "progressive": {2}}
    assert set(seen.depths) == expected[schedule]
    if schedule == "progressive":
        shares = [share for share in seen.shares if share is not None]
        assert len(shares) == 6 and seen.shares[6:] == [None] * 6
        assert shares == pytest.approx(torch.linspace(FIRST_SHARE, 1, 6).tolist())
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model) and type(loaded).__module__.startswith("transformers.")
    assert loaded.config.compression["layer_map"] == [[0, 1], [2, 3]]
    batch = random_batch()
    del batch["labels"]
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_alad_on_top(schedule: str, tmp_path: Path) -> None:
    model = run(tmp_path, schedule=schedule, adapter=True)
    assert isinstance(model, AlAdForTokenClassification) and model.teacher is None
    assert model.config.text_config.compression["layer_map"] == [[0, 1], [2, 3]]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "grafting" in card and "layers 0 to 1, 2 to 3" in card
    assert isinstance(AutoModelForTokenClassification.from_pretrained(tmp_path), AlAdForTokenClassification)


@pytest.mark.parametrize("schedule", ["one_by_one", "progressive"])
def test_an_interrupted_run_goes_on_and_ends_alike(schedule: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", schedule=schedule, distil=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Seen(stop_after=9), schedule=schedule, distil=False)
    with pytest.raises(ValueError, match="of an earlier run. Pass resume=True"):
        run(tmp_path / "parts", schedule=schedule, distil=False)
    seen = Seen()
    resumed = run(tmp_path / "parts", seen, schedule=schedule, distil=False, resume=True)
    assert seen.steps <= 12 - 6  # the first stage was there
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-5, rtol=1e-4)


def test_a_run_goes_on_with_its_own_tagger_and_arguments_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Seen(stop_after=1))
    other = teacher()
    with torch.no_grad():
        other.classifier.bias.add_(1)
    for change, message in (
        ({"num_hidden_layers": 1}, "num_hidden_layers=2 and not 1"),
        ({"schedule": "progressive"}, "schedule='at_once' and not 'progressive'"),
        ({"extra_neurons": 2}, "extra_neurons=None and not 2"),
        ({"tagger": other}, "another teacher"),
    ):
        with pytest.raises(ValueError, match=f"of a run with .*{message}"):
            run(tmp_path, resume=True, **change)
    assert run(tmp_path, resume=True).config.num_hidden_layers == 2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_can_be_stopped_early(schedule: str, tmp_path: Path) -> None:
    """By the evaluations of the last stage, the only one that has some."""
    patience = EarlyStoppingCallback(1)
    seen = Seen()
    arguments = {"num_hidden_layers": 2, "tokenizer": tiny_tokenizer(), "schedule": schedule}
    budget = Budget(epochs=8, alignment_epochs=0, batch_size=8, learning_rate=1e-9)
    graft_tagger(teacher(), data(), tmp_path, budget=budget, callbacks=[seen, patience], **arguments)
    assert seen.steps < 8 * 6


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_an_adapter_starts_alike_after_an_interruption(schedule: str, tmp_path: Path) -> None:
    """Though the stages before it are read, and nothing is drawn for them."""
    whole = run(tmp_path / "whole", schedule=schedule, adapter=True, extra_neurons=2)
    with pytest.raises(KeyboardInterrupt):  # in the last stage, before a checkpoint of it
        run(tmp_path / "parts", Seen(stop_after=7), schedule=schedule, adapter=True, extra_neurons=2)
    resumed = run(tmp_path / "parts", schedule=schedule, adapter=True, extra_neurons=2, resume=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_layers_are_widened_once(schedule: str, tmp_path: Path) -> None:
    model = run(tmp_path, schedule=schedule, num_hidden_layers=1, distil=False, extra_heads=1, extra_neurons=3)
    assert model.config.layer_widths == [{"heads": 3, "intermediate": 27}]


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3]], [[0], [1, 2], [3, 4, 5]], [[0, 1], [2], [3, 4]], [[0], [1]]])
def test_pairs_are_merged_one_by_one_until_the_groups_are_reached(groups: list[list[int]]) -> None:
    merged = [[index] for group in groups for index in group]
    for now in pairwise_merges(groups):
        assert sorted(len(part) for part in now) == [1] * (len(now) - 1) + [2]
        merged = [[one for part in pair for one in merged[part]] for pair in now]
    assert merged == groups


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_groups_may_be_given(schedule: str, tmp_path: Path) -> None:
    given = {"num_hidden_layers": None, "distil": False, "schedule": schedule}
    model = run(tmp_path, groups=[np.arange(1), [1, 2], [3]], **given)
    assert model.config.compression["layer_map"] == [[0], [1, 2], [3]]
    with pytest.raises(ValueError, match=r"groups=\[\[0\], \[1, 2\], \[3\]\] and not \[\[0\], \[1\], \[2, 3\]\]"):
        run(tmp_path, groups=[[0], [1], [2, 3]], resume=True, **given)


def test_an_integer_of_numpy_is_a_number_of_layers(tmp_path: Path) -> None:
    model = run(tmp_path, num_hidden_layers=np.int64(2), distil=False)
    assert model.config.compression["layer_map"] == [[0, 1], [2, 3]]


def test_upper_layers_are_merged_one_by_one(tmp_path: Path) -> None:
    seen = Seen()
    model = run(tmp_path, seen, schedule="one_by_one", strategy="upper", distil=False)
    assert seen.depths == [3] * 6 + [2] * 6
    assert model.config.compression["layer_map"] == [[0], [1, 2, 3]]


def test_distilbert_and_widened_layers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.recipes.grafting.FIRST_SHARE", 0.0)  # a step in which no grafted layer runs
    model = run(tmp_path, tagger=teacher("distilbert"), schedule="progressive", extra_neurons=3)
    assert [width["intermediate"] for width in model.config.layer_widths] == [27, 27]


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_the_distilled_loss_is_its_terms_over_the_items(name: str) -> None:
    model, batch = teacher(name), random_batch()
    states, logits = torch.randn(3, 9, 16), torch.randn(3, 9, len(TAGS))
    stock = type(model)
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        plain = model(**inputs, output_hidden_states=True)
        with distilling(model):
            loss = model(**batch, teacher_states=states, teacher_logits=logits, num_items_in_batch=7).loss
            assert type(model).__name__ == stock.__name__ and type(model) is not stock
    assert type(model) is stock
    real = batch["attention_mask"].bool()
    expected = functional.cross_entropy(plain.logits.transpose(1, 2), batch["labels"], reduction="sum")
    expected += (plain.hidden_states[-1] - states).square().mean(-1)[real].sum()
    ours, theirs = plain.logits.log_softmax(-1), logits.log_softmax(-1)
    expected += (theirs.exp() * (theirs - ours)).sum(-1)[real].sum()
    torch.testing.assert_close(loss, expected / 7)
    with torch.no_grad(), distilling(model):
        assert model(**{**batch, "labels": torch.full_like(batch["labels"], -100)}, num_items_in_batch=0).loss == 0


def test_labels_are_counted_over_accumulated_batches_whatever_the_stock_loss_does() -> None:
    for model in (teacher("bert"), compress_embeddings(teacher("bert"), "int8")):
        with distilling(model):
            assert model.accepts_loss_kwargs


def test_a_model_trained_in_mixed_precision_is_the_stock_one_again() -> None:
    model, batch = teacher("bert"), random_batch()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = model(**inputs).logits
    seen = []
    model.base_model.encoder.layer[0].intermediate.dense.register_forward_hook(
        lambda *call: seen.append(call[2].dtype)
    )
    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process, and other tests have set theirs
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    for _ in range(2):  # trained twice, as by a schedule of two stages
        with distilling(model):
            accelerator.prepare(model)(**inputs)
        model(**inputs)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert seen == [torch.bfloat16, torch.float32] * 2
    assert "forward" not in vars(model)
    torch.testing.assert_close(model(**inputs).logits, expected, atol=0, rtol=0)


def test_layers_take_turns_in_training_only() -> None:
    first, second, grafted = (torch.nn.Linear(2, 2) for _ in range(3))
    layer = TakingTurns([first, second], grafted)
    x = torch.randn(4, 2)
    assert torch.equal(layer.train()(x), grafted(x))
    layer.share = 0.0
    assert torch.equal(layer(x), second(first(x)))
    assert torch.equal(layer.eval()(x), grafted(x))
    layer.share = 0.3
    layer.train()
    taken = sum(torch.equal(layer(x), grafted(x)) for _ in range(1000))
    assert 240 < taken < 360


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"schedule": "later"}, "got 'later'"), ({"adapter": True, "distil": False}, "adapter=True needs distil=True")],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changes)
