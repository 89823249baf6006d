"""How long and how fast the recipes train: the one place with their defaults."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

Mode = Literal["plain", "joint", "plug-and-play", "distilled"]
"""Without a teacher; with one: student and adapter trained; adapter and head over a frozen student; no adapter, or one
over a student that knows the task already, such as a smaller form of the teacher."""


@dataclass(frozen=True)
class Budget:
    """How long and how fast a model learns. What is left out comes from `DEFAULTS`, by the mode of the training.

    Args:
        epochs: Passes over the labels.
        alignment_epochs: Passes over the unlabelled text, which is mixed among the labels; by default more where it is
            made from the labelled data. 0 leaves it out.
        batch_size: Rows of one optimiser step: sentences, or windows of a question and its context.
        learning_rate: Peak of the linear schedule; by default lower for an encoder that is wider than MiniLM.
        seed: Of everything random.

    Raises:
        ValueError: A number is out of range.
    """

    epochs: int | None = None
    alignment_epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"epochs": 1, "alignment_epochs": 0, "batch_size": 1, "seed": 0}
        for name, value in asdict(self).items():
            if value is None:
                continue
            if name in lowest and value < lowest[name]:
                raise ValueError(f"Budget({name}={value}) must be {lowest[name]} or more.")
            if name not in lowest and value <= 0:
                raise ValueError(f"Budget({name}={value}) must be above 0.")

    def completed(self, mode: Mode, *, width: int, exchanged: bool) -> Budget:
        """Fill in what was left out.

        Args:
            mode: How the model is trained.
            width: Hidden size of the encoder.
            exchanged: Whether the unlabelled text is made from the labelled data, since none was given.

        Raises:
            ValueError: Text was given, or passes over it, and nothing will be read.
        """
        if mode == "plain" and (self.alignment_epochs or not exchanged):
            raise ValueError(
                f"Unlabelled text (alignment_epochs={self.alignment_epochs}) is read for what a teacher says of it: "
                "train with one, or leave text and alignment_epochs (--text, --alignment-epochs) out."
            )
        if self.alignment_epochs == 0 and not exchanged:
            raise ValueError(
                "alignment_epochs=0 (--alignment-epochs 0) would leave the given text unread: give it 1 or more "
                "passes, or leave the text out."
            )
        defaults = asdict(DEFAULTS[mode])
        if exchanged and mode != "plain":
            defaults["alignment_epochs"] = EXCHANGED_EPOCHS
        if mode != "plug-and-play":  # which leaves the encoder as it is
            defaults["learning_rate"] *= min(1.0, (WIDTH_OF_DEFAULTS / width) ** 2)
        return replace(self, **{name: value for name, value in defaults.items() if getattr(self, name) is None})


# Found with `benchmarks/recovery.py` and `benchmarks/grafting.py`.
DEFAULTS: dict[Mode, Budget] = {
    "plain": Budget(epochs=5, learning_rate=2e-4),
    "joint": Budget(epochs=5, alignment_epochs=1, learning_rate=1e-3),
    "plug-and-play": Budget(epochs=5, alignment_epochs=1, learning_rate=2e-3),
    "distilled": Budget(epochs=5, alignment_epochs=1, learning_rate=5e-4),  # more would undo what it knows already
}
WIDTH_OF_DEFAULTS = 384
"""The hidden size, MiniLM's, that the learning rates are for. They fall with the square of a greater one: without a
teacher to 5e-5 at 768 and 3e-5 at 1024, in the range that Devlin et al. 2019 (arXiv 1810.04805, A.3) fine-tune BERT
with."""
EXCHANGED_COPIES = 8
"""Where there is no unlabelled text: variants made of each labelled sentence, see `exchange_mentions`."""
EXCHANGED_PARAGRAPHS = 2
"""Where there are no unlabelled pairs: other paragraphs for each question, see `exchange_questions`. Few, since the
teacher's states of a pair take a hundred times the space of a sentence's."""
EXCHANGED_EPOCHS = 3
"""Passes over what was made so."""
MOST_EVALUATIONS = 5
"""Evaluations, and checkpoints, of one fine-tuning."""
