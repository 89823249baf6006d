"""The question-answering recipe on tiny models: from data to a saved model, interruptions, and exchanged questions."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from tiny import VOCABULARY, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    TrainerCallback,
)

from alad_hf import AlAdForQuestionAnswering
from alad_hf.question_answering import QuestionAnswerer, evaluate_question_answerer
from alad_hf.recipes import Budget, TrainedQuestionAnswerer, exchange_questions, train_question_answerer
from alad_hf.recipes.validation_split import with_validation
from alad_hf.training.distillation import distilling

NAMES, PLACES = ("smith", "jones", "acme"), ("london", "berlin", "new york")


def questions(endings: tuple[str, ...] = ("", " in the works")) -> Dataset:
    """Three articles of paragraphs of different lengths, with two questions on each, one answer a question."""
    rows = []
    for name in NAMES:
        for place in PLACES:
            for number, ending in enumerate(endings):
                context = f"the {name} visited {place} and works for a" + ending * (1 + 4 * PLACES.index(place))
                for text in (place, name):
                    rows.append(
                        {
                            "id": f"{name}-{place}-{number}-{text}",
                            "title": name,
                            "context": context,
                            "question": "visited" if text == place else "a",
                            "answers": {"text": [text], "answer_start": [context.index(text)]},
                        }
                    )
    return Dataset.from_list(rows)


def save(model: PreTrainedModel, folder: Path, vocabulary: dict[str, int] | None = None) -> str:
    model.save_pretrained(folder)
    tiny_tokenizer(vocabulary=vocabulary).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def student(tmp_path: Path) -> str:
    return save(AutoModel.from_config(tiny_config(num_hidden_layers=3)), tmp_path / "student")


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    torch.manual_seed(1)
    config = tiny_config(hidden_size=32, num_hidden_layers=3)
    return save(AutoModelForQuestionAnswering.from_config(config), tmp_path / "teacher")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))


class Logs(TrainerCallback):
    """What the Trainer logs; dies at a step if told to."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.lines: list[dict] = []
        self.first_step, self.last_step, self.dies_at = 0, 0, dies_at

    def on_train_begin(self, args, state, control, **kwargs):
        self.first_step = state.global_step

    def on_log(self, args, state, control, logs, **kwargs):
        self.lines.append(logs)

    def on_step_end(self, args, state, control, **kwargs):
        self.last_step = state.global_step
        if state.global_step == self.dies_at:
            raise KeyboardInterrupt

    def values(self, name: str) -> list[float]:
        return [line[name] for line in self.lines if name in line]


@pytest.mark.parametrize("frozen", [True, False], ids=["plug-and-play", "joint"])
def test_with_a_teacher(frozen: bool, student: str, teacher: str, tmp_path: Path) -> None:
    logs = Logs()
    data = DatasetDict(train=questions(), validation=questions(("",)), test=questions((" of york",)))
    budget = Budget(epochs=2, batch_size=6)
    arguments = {"teacher": teacher, "freeze_student": frozen, "keep_layers": [0, 2], "budget": budget}
    trained = train_question_answerer(student, data, tmp_path / "out", window_size=3, callbacks=[logs], **arguments)
    model = trained.model
    assert isinstance(trained, TrainedQuestionAnswerer) and isinstance(model, AlAdForQuestionAnswering)
    assert model.teacher is None and not model.training and model.config.window_size == 3
    assert trained.budget == budget.completed("plug-and-play" if frozen else "joint", width=384, exchanged=True)
    assert trained.budget.alignment_epochs == 3
    before = AutoModel.from_pretrained(student, add_pooling_layer=False).encoder.layer
    after = model.model.encoder.encoder.layer
    assert len(after) == 2
    unchanged = [
        torch.equal(own, original)
        for kept, layer in zip(after, (before[0], before[2]), strict=True)
        for own, original in zip(kept.parameters(), layer.parameters(), strict=True)
    ]
    assert all(unchanged) if frozen else not any(unchanged)

    # 36 questions, twice with their answers, and three times beside three paragraphs each without them.
    assert logs.last_step == (2 * 36 + 3 * 36 * 3) // 6
    assert all(logs.values(f"{term}_loss") for term in ("task", "distillation", "alignment_mse"))

    loaded = QuestionAnswerer.from_pretrained(str(tmp_path / "out"))
    here = QuestionAnswerer(model, trained.tokenizer)
    row = data["test"][0]
    assert loaded(row["question"], row["context"]) == here(row["question"], row["context"])
    assert trained.split == "test"
    assert trained.scores == evaluate_question_answerer(model, trained.tokenizer, data["test"])
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "question-answering" in card and "exact_match" in card and str(tmp_path) not in card
    with pytest.raises(ValueError, match="already holds checkpoint-.*resume=True"):
        train_question_answerer(student, data, tmp_path / "out", **arguments)


def test_without_an_adapter_a_stock_model_is_distilled(student: str, teacher: str, tmp_path: Path) -> None:
    data = DatasetDict(train=questions(), validation=questions(("",)))
    trained = train_question_answerer(
        student, data, tmp_path / "out", teacher=teacher, adapter=False, budget=Budget(epochs=1, batch_size=6)
    )
    assert type(trained.model).__module__.startswith("transformers.")
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    before = AutoModel.from_pretrained(student).get_input_embeddings().weight
    assert torch.equal(trained.model.get_input_embeddings().weight, before)
    loaded = QuestionAnswerer.from_pretrained(str(tmp_path / "out"))
    here = QuestionAnswerer(trained.model, trained.tokenizer)
    row = data["validation"][0]
    assert loaded(row["question"], row["context"]) == here(row["question"], row["context"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_student_with_a_head_of_another_task_gets_one_of_start_and_end(count: int, tmp_path: Path) -> None:
    classifier = AutoModelForSequenceClassification.from_config(tiny_config(id2label=dict(enumerate("abc"[:count]))))
    teacher = AutoModelForQuestionAnswering.from_config(tiny_config())
    folders = [save(model, tmp_path / type(model).__name__) for model in (classifier, teacher)]
    data = DatasetDict(train=questions(), validation=questions(("",)))
    budget = Budget(epochs=1, batch_size=12, learning_rate=1e-12)
    alone = train_question_answerer(folders[0], data, tmp_path / "alone", budget=budget).model
    assert alone.qa_outputs.out_features == alone.config.num_labels == 2
    again = train_question_answerer(str(tmp_path / "alone"), data, tmp_path / "again", budget=budget).model
    torch.testing.assert_close(again.qa_outputs.weight, alone.qa_outputs.weight)
    named_otherwise = train_question_answerer(folders[1], data, tmp_path / "otherwise", budget=budget).model
    torch.testing.assert_close(named_otherwise.qa_outputs.weight, teacher.qa_outputs.weight)
    options = {"teacher": folders[1], "adapter": False, "budget": budget}
    distilled = train_question_answerer(folders[0], data, tmp_path / "distilled", **options).model
    torch.testing.assert_close(distilled.qa_outputs.weight, teacher.qa_outputs.weight)


@pytest.mark.parametrize("masked", [False, True], ids=["one tokenizer", "another tokenizer"])
def test_the_distilled_loss_is_that_of_alad_without_its_adapter(masked: bool) -> None:
    """An adapter that passes the states on leaves the student's own head, states and loss."""
    torch.manual_seed(0)
    stock = AutoModelForQuestionAnswering.from_config(tiny_config()).eval()
    alad = AlAdForQuestionAnswering.from_student_pretrained(stock, alignment_mse_weight=1.0)
    alad.qa_outputs.load_state_dict(stock.qa_outputs.state_dict())
    batch = {name: value for name, value in random_batch().items() if name != "labels"}
    rows, tokens = batch["input_ids"].shape
    batch |= {"start_positions": torch.tensor([1, -1, 2]), "end_positions": torch.tensor([2, -1, 2])}
    batch |= {"teacher_states": torch.randn(rows, tokens, 16), "teacher_logits": torch.randn(rows, tokens, 2)}
    if masked:
        batch["teacher_mask"] = (torch.rand(rows, tokens) > 0.3).float()
    with torch.no_grad(), distilling(stock):
        distilled = stock(**batch)
    expected = alad(**batch)
    torch.testing.assert_close(distilled.loss, expected.loss)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(distilled.start_logits[real], expected.start_logits[real])


def test_without_a_teacher_a_small_set_is_learned_by_heart(tmp_path: Path) -> None:
    logs = Logs()
    data = questions()
    config = tiny_config(num_hidden_layers=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    student = save(AutoModel.from_config(config), tmp_path / "student")
    trained = train_question_answerer(
        student,
        DatasetDict(train=data, validation=data),
        tmp_path / "out",
        budget=Budget(epochs=30, batch_size=3, learning_rate=5e-3),
        max_length=24,  # the longer paragraphs take several windows
        overlap=8,
        callbacks=[logs],
    )
    assert type(trained.model).__name__ == "BertForQuestionAnswering"
    assert trained.scores["exact_match"] > 80 and trained.scores["total"] == len(data)
    # Scored in another way, without the Trainer and its order of rows, the best evaluation is the model that was kept.
    scores = logs.values("eval_f1")
    assert len(scores) == 5 and trained.split == "validation"
    assert trained.scores["f1"] == pytest.approx(max(scores))


def test_an_interrupted_run_goes_on_to_the_same_model(student: str, teacher: str, tmp_path: Path) -> None:
    data = DatasetDict(train=questions(), validation=questions(("",)))
    budget = Budget(epochs=2, alignment_epochs=2, batch_size=6)

    def run(folder: str, **arguments: object) -> dict[str, torch.Tensor]:
        pairs = [("a", context) for context in data["train"]["context"]]
        arguments = {"teacher": teacher, "pairs": pairs, "budget": budget, **arguments}
        return train_question_answerer(student, data, tmp_path / folder, **arguments).model.state_dict()

    uninterrupted = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", callbacks=[Logs(dies_at=20)])
    logs = Logs()
    resumed = run("broken", resume=True, callbacks=[logs])
    assert 0 < logs.first_step < 20  # what was done before the last checkpoint is not done again
    assert all(torch.equal(resumed[name], value) for name, value in uninterrupted.items())


def test_a_teacher_with_another_tokenizer(student: str, teacher: str, tmp_path: Path) -> None:
    logs = Logs()
    data = DatasetDict(train=questions(("",)), validation=questions(("",)))

    def run(folder: str, teacher: str, **arguments: object) -> torch.Tensor:
        """The distribution over the start of the answer; logits alone may differ by a constant."""
        budget = Budget(epochs=3, batch_size=4)
        trained = train_question_answerer(
            student, data, tmp_path / folder, teacher=teacher, budget=budget, **arguments
        )
        inputs = tiny_tokenizer()("visited", data["train"]["context"][0], return_tensors="pt")
        with torch.no_grad():
            return trained.model(**inputs).start_logits.softmax(-1)

    kept = [token for token in VOCABULARY if token not in ("london", "works", "visited")]
    vocabulary = {token: index for index, token in enumerate(kept)}
    config = tiny_config(hidden_size=32, vocab_size=len(vocabulary))
    other = save(AutoModelForQuestionAnswering.from_config(config), tmp_path / "other", vocabulary)
    different = run("other-out", other, callbacks=[logs])
    for loss in ("alignment_mse_loss", "distillation_loss"):
        values = logs.values(loss)
        assert values and all(0 < value < float("inf") for value in values)

    # The same teacher with two ids exchanged, in its tokenizer and its embeddings, says the same.
    swapped = {**VOCABULARY, "york": VOCABULARY["new"], "new": VOCABULARY["york"]}
    model = AutoModelForQuestionAnswering.from_pretrained(teacher)
    table = model.get_input_embeddings().weight.data
    table[[VOCABULARY["york"], VOCABULARY["new"]]] = table[[VOCABULARY["new"], VOCABULARY["york"]]]
    same, again = run("same", teacher), run("again", save(model, tmp_path / "swapped", swapped))
    torch.testing.assert_close(again, same, atol=1e-5, rtol=1e-3)
    assert (different - same).abs().max() > 1e-3


def test_no_paragraph_is_in_training_and_validation() -> None:
    data = questions()
    split = with_validation(DatasetDict(train=data, test=data), "context")
    train, validation = set(split["train"]["context"]), set(split["validation"]["context"])
    assert not train & validation and train | validation == set(data["context"])
    assert sorted(split["train"]["id"][:] + split["validation"]["id"][:]) == sorted(data["id"])
    assert len(validation) == 2 and split["test"]["id"] == data["id"]
    assert with_validation(DatasetDict(train=data), "context")["validation"]["id"] == split["validation"]["id"]
    with pytest.raises(ValueError, match="1 different context to hold some out"):
        with_validation(DatasetDict(train=data.select(range(2))), "context")


def test_paragraphs_are_held_out_where_there_is_no_validation_split(
    student: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = questions()
    with caplog.at_level(logging.WARNING, logger="alad_hf"):
        trained = train_question_answerer(student, DatasetDict(train=data), tmp_path / "out", budget=Budget(epochs=1))
    # A tenth of 18 paragraphs, each with both of its questions.
    assert "no validation split: 4 of 36 training rows are held out for it, by the column context" in caplog.text
    assert trained.split == "validation" and trained.scores["total"] == 4


@pytest.mark.parametrize(
    ("data", "arguments", "error", "message"),
    [
        ({"train": ["answers"]}, {}, ValueError, r"'train' lacks the columns \['answers'\]"),
        ({"test": []}, {}, ValueError, r"splits \['test'\], but none to train on"),
        ({"train": []}, {"freeze_student": True}, ValueError, "nothing that freeze_student could do: pass teacher"),
        ({"train": []}, {"pairs": [("a", "b")], "window_size": 3}, ValueError, "nothing that pairs, window_size"),
        ({"train": []}, {"teacher": "tagger"}, TypeError, "BertForTokenClassification, which has no question-ans"),
        ({"train": []}, {"teacher": "answers", "pairs": ["a b"]}, ValueError, "tuples or a dataset .* got 'a b'"),
        ({"train": []}, {"teacher": "answers", "pairs": []}, ValueError, "pairs is empty"),
        ({"train": []}, {"teacher": "answers", "max_length": 65}, ValueError, "than the 64 tokens that the teacher"),
        ({"train": []}, {"teacher": "answers", "window_sise": 3}, TypeError, "window_sise.* not fields of AlAdConfig"),
    ],
)
def test_mistakes_are_named(
    data: dict, arguments: dict, error: type, message: str, student: str, teacher: str, tmp_path: Path
) -> None:
    models = {"answers": teacher, "tagger": tiny_teacher()}
    if "teacher" in arguments:
        name = arguments["teacher"]
        arguments = {**arguments, "teacher": models[name], "teacher_tokenizer": tiny_tokenizer()}
    splits = DatasetDict({split: questions().remove_columns(columns) for split, columns in data.items()})
    with pytest.raises(error, match=message):
        train_question_answerer(student, splits, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_pairs_needs_its_columns(student: str, teacher: str, tmp_path: Path) -> None:
    data, pairs = DatasetDict(train=questions()), questions().remove_columns("context")
    with pytest.raises(ValueError, match=r"\['context'\] are missing"):
        train_question_answerer(student, data, tmp_path / "out", teacher=teacher, pairs=pairs)


class TestExchangeQuestions:
    def test_each_question_meets_other_paragraphs_of_its_article_first(self) -> None:
        data = questions()
        pairs = exchange_questions(data, copies=2, seed=3)
        assert len(pairs) == 3 * len(data)
        assert pairs.select(range(len(data))).to_dict() == data.select_columns(["id", "question", "context"]).to_dict()
        exchanged = pairs.select(range(len(data), len(pairs)))
        for number, row in enumerate(exchanged):
            source = data[number // 2]
            assert row["question"] == source["question"]
            assert row["context"] != source["context"]
            assert source["title"] in row["context"]  # the article's name is in all its paragraphs and no other
        for first, second in zip(exchanged["context"][::2], exchanged["context"][1::2], strict=True):
            assert first != second

    def test_no_answer_position_is_left(self) -> None:
        assert exchange_questions(questions(), copies=1).column_names == ["id", "question", "context"]

    def test_other_articles_where_the_own_one_has_too_few_paragraphs(self) -> None:
        data = questions(("",))  # three paragraphs an article, nine in all
        pairs = exchange_questions(data, copies=5)
        for number in range(len(data)):
            source = data[number]
            contexts = pairs["context"][len(data) + 5 * number : len(data) + 5 * (number + 1)]
            assert len({*contexts, source["context"]}) == 6
            assert [source["title"] in context for context in contexts] == [True, True, False, False, False]
        everything = exchange_questions(data, copies=100)
        assert len(everything) == len(data) * 9
        untitled = exchange_questions(data.remove_columns("title"), copies=1)["context"][len(data) :]
        titles = data["title"]
        assert any(title not in context for title, context in zip(titles, untitled, strict=True))
        alone = data.select(range(2))  # two questions on one paragraph
        assert len(exchange_questions(alone, copies=3)) == 2

    def test_the_seed_decides(self) -> None:
        data = questions()
        first, again, other = (exchange_questions(data, copies=2, seed=seed).to_dict() for seed in (0, 0, 1))
        assert first == again != other
        ids = first["id"]
        assert len(set(ids)) == len(ids)
        with pytest.raises(ValueError, match="copies=-1"):
            exchange_questions(data, copies=-1)
