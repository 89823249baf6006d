"""The four tasks of `recovery.py`: their data as encoded rows, and how a model is scored on them."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
)

from alad_hf import AlAdForQuestionAnswering, AlAdForTokenClassification
from alad_hf.data import DataCollatorForAlignment, encode_questions, encode_tagged_words, encode_text
from alad_hf.data.loading import load_question_answering, load_token_classification
from alad_hf.evaluation import entity_metrics, squad_scores, tagging_metrics
from alad_hf.question_answering import QuestionAnswerer
from alad_hf.recipes import exchange_questions
from alad_hf.training.stages import published_arguments

MAX_LENGTH = 512


@dataclass(frozen=True)
class TaskSettings:
    """Where a task's data lies below the data folder, and the budget of every student on it."""

    folder: str
    text: tuple[str, ...]
    """Files of `distill_text` with in-domain text; for question answering the pairs are made of the training set."""
    text_rows: int
    epochs: int
    """Passes over the labels of an arm that also reads text; the others take the same steps in more passes."""
    batch_size: int
    labelled_rows: int | None = None
    """Questions, or sentences, to train on; all of them by default."""
    teacher_learning_rate: float | None = None
    """That of the pair by default."""

    def select(self, data: Dataset) -> Dataset:
        """The labelled rows that are to be used."""
        if self.labelled_rows is None:
            return data
        return data.shuffle(seed=0).select(range(min(self.labelled_rows, len(data)))).flatten_indices()


TASKS = {
    "wnut17": TaskSettings("wnut17", ("wnut17_train", "ewt_train"), text_rows=8_000, epochs=3, batch_size=32),
    "ncbi_disease": TaskSettings("ncbi_disease", ("biomed_train",), text_rows=8_000, epochs=2, batch_size=32),
    "ewt_pos": TaskSettings("ud_ewt_pos", ("ewt_train", "wnut17_train"), text_rows=8_000, epochs=1, batch_size=32),
    "qa": TaskSettings("squadshifts_new_wiki/new_wiki_v1.0.json", (), text_rows=2_000, epochs=1, batch_size=16),
}


def make_task(name: str, settings: TaskSettings, data: Path) -> TaggingTask | AnsweringTask:
    """The task called `name`, read from the data folder."""
    return (AnsweringTask if name == "qa" else TaggingTask)(settings, data)


class TaggingTask:
    """Entities or parts of speech."""

    stock_class, alad_class = AutoModelForTokenClassification, AlAdForTokenClassification

    def __init__(self, settings: TaskSettings, data: Path) -> None:
        self.settings = settings
        self.data = load_token_classification(data / settings.folder)
        self.data["train"] = settings.select(self.data["train"])
        self.tags = self.data["train"].features["tags"].feature.names
        entities = any(tag.startswith("B-") for tag in self.tags)
        self.metric = "f1" if entities else "accuracy"
        self.compute_metrics = (entity_metrics if entities else tagging_metrics)(self.tags)
        files = [data / "distill_text" / f"{name}.txt" for name in settings.text]
        lines = {line.strip() for file in files for line in file.read_text(encoding="utf-8").splitlines()} - {""}
        self._evaluation_rows: dict[tuple[str, str], Dataset] = {}
        self.lines = random.Random(0).sample(sorted(lines), min(settings.text_rows, len(lines)))

    def labels(self) -> dict[str, Any]:
        """The label maps of a model for this task."""
        return {
            "id2label": dict(enumerate(self.tags)),
            "label2id": {tag: index for index, tag in enumerate(self.tags)},
        }

    def training_rows(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Dataset:
        """Labelled rows."""
        rows = encode_tagged_words(
            self.data["train"], tokenizer, max_length=MAX_LENGTH, teacher_tokenizer=teacher_tokenizer
        )
        return rows.remove_columns("sentence")

    def text_rows(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Dataset:
        """Rows of unlabelled text."""
        return encode_text(self.lines, tokenizer, max_length=MAX_LENGTH, teacher_tokenizer=teacher_tokenizer)

    def score(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: str) -> dict[str, float]:
        """Scores from 0 to 100 on "validation" or "test"."""
        key = (tokenizer.name_or_path, split)
        if key not in self._evaluation_rows:
            rows = encode_tagged_words(self.data[split], tokenizer, max_length=MAX_LENGTH)
            # Rows of like length share a batch; scores do not depend on the order.
            order = sorted(range(len(rows)), key=list(map(len, rows["input_ids"])).__getitem__)
            self._evaluation_rows[key] = rows.select(order).flatten_indices()
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                model=model,
                args=published_arguments("joint", folder, disable_tqdm=True, use_cpu=True),
                data_collator=DataCollatorForAlignment(tokenizer),
                compute_metrics=self.compute_metrics,
            )
            prediction = trainer.predict(self._evaluation_rows[key], metric_key_prefix="")
        names = {"precision", "recall", "f1", "accuracy", "macro_f1"}
        scores = {name.lstrip("_"): value for name, value in prediction.metrics.items()}
        return {name: 100 * value for name, value in scores.items() if name in names}


class AnsweringTask:
    """Extractive question answering: trained on new Wikipedia (SQuADShifts), tested on XQuAD; no paragraph in both."""

    stock_class, alad_class = AutoModelForQuestionAnswering, AlAdForQuestionAnswering
    metric = "f1"

    def __init__(self, settings: TaskSettings, data: Path) -> None:
        self.settings = settings
        splits = load_question_answering(data / settings.folder)
        # The test split of the training corpus is not needed: XQuAD is the test.
        train = settings.select(concatenate_datasets([splits["train"], splits["test"]]))
        test = load_question_answering({"test": data / "xquad_en" / "xquad.en.json"})["test"]
        self.data = DatasetDict(train=train, validation=splits["validation"], test=test)
        self.lines = sorted(set(train["context"]))
        pairs = exchange_questions(train, copies=1, seed=0)
        self.pairs = pairs.shuffle(seed=0).select(range(min(settings.text_rows, len(pairs)))).flatten_indices()

    def labels(self) -> dict[str, Any]:
        """Question answering has no label names."""
        return {}

    def training_rows(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Dataset:
        """Windows of contexts with the positions of their answers."""
        return self._encode(self.data["train"], tokenizer, teacher_tokenizer)

    def text_rows(
        self, tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase | None = None
    ) -> Dataset:
        """Questions beside other paragraphs, without answers."""
        rows = self._encode(self.pairs, tokenizer, teacher_tokenizer, for_training=False)
        return encode_text(rows, tokenizer, max_length=MAX_LENGTH, teacher_tokenizer=teacher_tokenizer)

    def _encode(
        self,
        data: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        for_training: bool = True,
    ) -> Dataset:
        return encode_questions(data, tokenizer, for_training=for_training, teacher_tokenizer=teacher_tokenizer)

    def score(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, split: str) -> dict[str, float]:
        """Scores from 0 to 100 on "validation" or "test"."""
        data = self.data[split]
        answerer = QuestionAnswerer(model, tokenizer)
        answers = answerer(list(data["question"]), list(data["context"]), batch_size=32)
        predictions = [
            {"id": row["id"], "prediction_text": answer["answer"]} for row, answer in zip(data, answers, strict=True)
        ]
        references = [{"id": row["id"], "answers": row["answers"]} for row in data]
        return {name: float(value) for name, value in squad_scores(predictions, references).items()}
