"""From a fine-tuned tagger to one with fewer layers: grafting, and three ways to recover what it cost."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import (
    AutoModelForTokenClassification,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ..alignment.find_teacher import FoundTeacher
from ..alignment.weights_digest import weights_digest
from ..compression.calibration import CALIBRATION_TOKENS, CalibrationText
from ..compression.encoder_layouts import encoder_layers
from ..compression.grafting import PairChoice, graft_groups, graft_layers
from ..compression.layer_lists import find_layers
from ..data.loading import Source
from ..data.mixing import mix_rows
from ..data.token_labels import encode_tagged_words, longest_input
from ..models.alad_construction import load_tokenizer
from ..models.compressed_embeddings import make_trainable
from ..models.modeling_alad import AlAdForTokenClassification
from ..models.teacher import load_teacher
from .budget import EXCHANGED_COPIES, Budget
from .exchanged_mentions import exchange_mentions
from .same_run import CHECKPOINTS, check_same_run
from .stages import check_one_process, fit, score_and_describe
from .tagged_splits import tagged_splits
from .tagging import TrainedTagger, tagging_task

Rows = tuple[Dataset, int]
"""Training rows and the passes over them."""
Schedule = Literal["at_once", "one_by_one", "progressive"]

FIRST_SHARE = 0.5
"""How often a grafted layer takes its group's place at first; it rises to 1 in equal steps."""
PROGRESSIVE_PART = 0.5
"""The part of the steps in which both take turns; in the rest the grafted layers are alone."""


def graft_tagger(
    tagger: str | PreTrainedModel,
    data: Source,
    output_dir: str | os.PathLike,
    *,
    num_hidden_layers: int | None = None,
    groups: Sequence[Sequence[int]] | None = None,
    schedule: Schedule = "at_once",
    strategy: PairChoice = "upper",
    distil: bool = True,
    adapter: bool = False,
    texts: Iterable[str] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    budget: Budget | None = None,
    dataset_name: str = "tagged words",
    resume: bool = False,
    callbacks: list[TrainerCallback] | None = None,
    **graft_arguments: Any,
) -> TrainedTagger:
    """Merge layers of a fine-tuned tagger and train what comes out, by the stock Trainer.

    All schedules take the same number of steps. "at_once" grafts all groups and then trains. "one_by_one" grafts one
    pair of neighbours, the top one first, and trains, until all groups are one layer each.
    "progressive" grafts all, lets each grafted layer take its group's place with a chance that rises to 1 (as in Xu et
    al. 2020, arXiv 2002.02925; the head learns on, the rest is frozen), and then trains the result alone.

    Args:
        tagger: Folder, Hub id or model; also the teacher.
        data: As for `train_tagger`, with the tagger's tags.
        output_dir: Where the model goes; stages and checkpoints below it.
        num_hidden_layers: Layers that are left.
        groups: The layers that become one, instead: all layers, in order, such as `[[0], [1, 2]]`.
        schedule: "at_once", "one_by_one" or "progressive".
        strategy: How layers are grouped; see `graft_layers`.
        distil: Learn the tagger's states and logits beside the labels, on `texts` too; else the labels alone.
        adapter: Put an alignment adapter on top for the last stage: an AlAd model under the tagger as its teacher.
        texts: Unlabelled text for `distil`; by default the training sentences with their entities exchanged.
        tokenizer: By default loaded from the tagger's name.
        budget: By default "distilled" in `DEFAULTS`, or "plain" without `distil`.
        dataset_name: What a card calls the data.
        resume: Go on from the stages and checkpoints of an interrupted call with the same arguments.
        callbacks: More callbacks for the Trainer.
        **graft_arguments: For `graft_layers`, such as `extra_heads`.

    Returns:
        The trained model, in eval mode, and its scores.

    Raises:
        ValueError: The schedule is unknown, `adapter` without `distil`, a split is empty, untagged or of other
            columns, the tagger does not know the tags, its layers cannot be grafted, or `output_dir` holds another
            run's stages and `resume` is False.
    """
    if schedule not in ("at_once", "one_by_one", "progressive"):
        raise ValueError(f"schedule must be 'at_once', 'one_by_one' or 'progressive', got {schedule!r}.")
    check_one_process()
    if adapter and not distil:
        raise ValueError("An adapter learns from the tagger: adapter=True needs distil=True.")
    teacher = load_teacher(tagger) if isinstance(tagger, str) else tagger
    budget = (budget or Budget()).completed(
        "distilled" if distil else "plain",
        width=teacher.config.get_text_config().hidden_size,
        exchanged=texts is None,
    )
    set_seed(budget.seed)
    tokenizer = tokenizer or load_tokenizer(teacher.name_or_path, "tokenizer")
    data = tagged_splits(data, teacher)
    run = _Run(teacher, tokenizer, data, Path(output_dir), budget, distil, resume, list(callbacks or []))
    # One seed for all, so that a stage that is repeated after an interruption comes out the same.
    graft_arguments = {"texts": run.encode("train"), "tokenizer": tokenizer, "seed": budget.seed, **graft_arguments}
    max_tokens = graft_arguments.get("max_tokens", CALIBRATION_TOKENS)
    text = CalibrationText(teacher, graft_arguments["texts"], tokenizer, max_tokens=max_tokens)
    chosen = graft_groups(teacher, num_hidden_layers, strategy, groups, text)
    arguments = {name: value for name, value in graft_arguments.items() if name not in ("texts", "tokenizer")}
    arguments |= {"num_hidden_layers": len(chosen), "groups": None if groups is None else chosen}
    rows = run.rows(texts)
    run.begin(schedule=schedule, strategy=strategy, distil=distil, **arguments)

    if schedule == "one_by_one":
        student, last_part = _graft_one_by_one(run, chosen, rows, graft_arguments)
    else:
        student = run.stage("grafted", lambda: graft_layers(teacher, groups=chosen, **graft_arguments))
        last_part = 1.0
        if schedule == "progressive":
            grafted = student
            student = run.stage("progressive", lambda: _take_turns(run, grafted, chosen, rows))
            last_part = 1 - PROGRESSIVE_PART
    if adapter:
        set_seed(budget.seed)  # or what was drawn would depend on the stages that this call ran
        student = AlAdForTokenClassification.from_student_pretrained(
            student, teacher=teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer, **run.task.labels
        )
        student.detach_teacher()
    model = run.train(student, rows, last_part, run.folder, final=True)
    scores, split = score_and_describe(run.task, model, tokenizer, data, dataset_name=dataset_name, budget=budget)
    return TrainedTagger(model, tokenizer, scores, split, budget)


@dataclass
class _Run:
    """What all stages share."""

    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    data: DatasetDict
    folder: Path
    budget: Budget
    distil: bool
    resume: bool
    callbacks: list[TrainerCallback]

    def __post_init__(self) -> None:
        self.task = tagging_task(self.data["train"].features["tags"].feature.names)

    def begin(self, **arguments: Any) -> None:
        """Check that stages, where there are some, are of the same tagger and arguments."""
        folder = self.folder / "stages"
        begun = folder.exists() and any(one.is_dir() for one in folder.iterdir())
        tagger = weights_digest(self.teacher)
        check_same_run(folder, {"teacher": tagger, **arguments}, self.resume, begun=begun)

    def encode(self, split: str) -> Dataset:
        """Labelled rows of a split."""
        length = longest_input(self.teacher.config, self.tokenizer)
        return encode_tagged_words(self.data[split], self.tokenizer, max_length=length).remove_columns("sentence")

    def rows(self, texts: Iterable[str] | Dataset | None) -> tuple[Dataset, int]:
        """Training rows, and how many passes over them the budget has."""
        labelled, epochs = self.encode("train"), self.budget.epochs
        if not self.distil:
            return labelled, epochs
        found = FoundTeacher(self.teacher, self.tokenizer)
        labelled = found.with_signal(labelled, self.tokenizer, None)
        if not self.budget.alignment_epochs:
            return labelled, epochs
        if texts is None:
            texts = exchange_mentions(self.data["train"], copies=EXCHANGED_COPIES, seed=self.budget.seed)
        text = found.encode(texts, self.teacher.config, self.tokenizer)
        text = found.with_signal(text, self.tokenizer, None)
        return mix_rows(labelled, text, epochs=epochs, unlabelled_epochs=self.budget.alignment_epochs), 1

    def stage(self, name: str, make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
        """What `make` returns, kept on disk; a resumed run takes it from there."""
        folder = self.folder / "stages" / name
        if folder.exists():
            if not self.resume:
                raise ValueError(f"{folder} is of an earlier run. Pass resume=True, or name another output_dir.")
            return AutoModelForTokenClassification.from_pretrained(folder)
        model = make()
        unfinished = folder.with_name(f"{name}.unfinished")
        model.save_pretrained(unfinished)
        unfinished.rename(folder)
        return model

    def train(
        self, model: PreTrainedModel, rows: Rows, part: float, folder: Path, *, final: bool = False
    ) -> PreTrainedModel:
        """Train in place for a part of all steps; of the last stage the best evaluation is kept and saved."""
        dataset, passes = rows
        trainer = fit(
            model,
            dataset,
            folder / CHECKPOINTS,
            teacher=self.teacher if self.distil else None,
            steps=max(1, round(part * passes * math.ceil(len(dataset) / self.budget.batch_size))),
            distilled=self.distil and not isinstance(model, AlAdForTokenClassification),
            validation=self.encode("validation") if final else None,
            task=self.task,
            tokenizer=self.tokenizer,
            budget=self.budget,
            resume=self.resume,
            # Nothing is evaluated before the last stage, by which a run could be stopped.
            callbacks=[one for one in self.callbacks if final or not isinstance(one, EarlyStoppingCallback)],
        )
        if final:
            trainer.save_model(str(folder))
            model.name_or_path = str(folder)
        return model.eval()


def _graft_one_by_one(
    run: _Run, groups: Sequence[Sequence[int]], rows: Rows, graft_arguments: dict[str, Any]
) -> tuple[PreTrainedModel, float]:
    """The tagger with all pairs grafted, trained behind each but the last, and the part of the steps that is left."""
    merges = pairwise_merges(groups)
    part = 1 / max(1, len(merges))
    # The upper layer of a pair is the one that is widened, once: in the next merge it is that layer again.
    once_more = graft_arguments | {"extra_heads": 0, "extra_neurons": 0}
    first_merges = {sum(len(group) - 1 for group in groups[place + 1 :]) for place in range(len(groups))}
    student = copy.deepcopy(run.teacher)  # which stays as it is, even if nothing is merged
    make_trainable(student)
    for number, now in enumerate(merges, start=1):
        arguments = graft_arguments if number - 1 in first_merges else once_more
        student = run.stage(f"grafted-{number}", partial(graft_layers, student, groups=now, **arguments))
        if number < len(merges):
            folder = run.folder / "stages" / f"training-{number}"
            student = run.stage(f"recovered-{number}", partial(run.train, student, rows, part, folder))
    return student, part


def pairwise_merges(groups: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """The groups that `graft_layers` is to merge, call after call, so that each merges one pair, the top one first.

    Example:
        >>> pairwise_merges([[0], [1, 2, 3]])
        [[[0], [1], [2, 3]], [[0], [1, 2]]]
    """
    merges = []
    depth = sum(len(group) for group in groups)
    for group in reversed(groups):
        for lower in reversed(range(group[0], group[-1])):
            singles = [[index] for index in range(depth)]
            merges.append([*singles[:lower], [lower, lower + 1], *singles[lower + 2 :]])
            depth -= 1
    return merges


def _take_turns(run: _Run, student: PreTrainedModel, groups: Sequence[Sequence[int]], rows: Rows) -> PreTrainedModel:
    """Train the grafted layers while they and the layers that they replace take turns."""
    owner, name = find_layers(student)
    layers = getattr(owner, name)
    originals = [part.layer for part in encoder_layers(run.teacher)]
    # The head learns on, so that a step without grafted layers has a gradient.
    student.base_model.requires_grad_(False)
    for place, group in enumerate(groups):
        if len(group) > 1:
            layers[place].requires_grad_(True)
            layers[place] = TakingTurns([copy.deepcopy(originals[index]) for index in group], layers[place])
    turns = [layer for layer in layers if isinstance(layer, TakingTurns)]
    run.callbacks.append(_RisingShare(turns))
    try:
        run.train(student, rows, PROGRESSIVE_PART, run.folder / "stages" / "training")
    finally:
        run.callbacks.pop()
    for place, layer in enumerate(layers):
        if isinstance(layer, TakingTurns):
            layers[place] = layer.grafted
    make_trainable(student)
    return student


class TakingTurns(nn.Module):
    """A grafted layer and the frozen layers that it replaces: in training one or the other runs, else the grafted one.

    Args:
        originals: Run one after the other.
        grafted: The new layer.
    """

    def __init__(self, originals: Sequence[nn.Module], grafted: nn.Module) -> None:
        super().__init__()
        self.originals, self.grafted = nn.ModuleList(originals).requires_grad_(False), grafted
        self.share = 1.0
        """The chance that the grafted layer runs, once for a whole batch."""

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As of a layer: states in, states (or a tuple with them first) out."""
        if not self.training or torch.rand(()).item() < self.share:
            return self.grafted(hidden_states, *args, **kwargs)
        output: Any = hidden_states
        for layer in self.originals:
            output = layer(output[0] if isinstance(output, tuple) else output, *args, **kwargs)
        return output


class _RisingShare(TrainerCallback):
    """Set the chance of the grafted layers before each step, from `FIRST_SHARE` to 1 at the last one."""

    def __init__(self, turns: Sequence[TakingTurns]) -> None:
        self.turns = turns

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """By the number of the step, so that a resumed training goes on where it was."""
        for layer in self.turns:
            layer.share = rising_share(state.global_step, state.max_steps)


def rising_share(step: int, steps: int) -> float:
    """How often a grafted layer takes its group's place at a step, counted from 0."""
    return FIRST_SHARE + (1 - FIRST_SHARE) * min(1.0, step / max(1, steps - 1))
