"""Recipes on tiny models: the whole way from data to a saved tagger."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from tiny import TAGS, VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, TrainerCallback

from alad_hf import AlAdForTokenClassification
from alad_hf.recipes import DEFAULTS, Budget, exchange_mentions, graft_tagger, train_tagger, with_tags_of
from alad_hf.recipes.stages import Task, _with_stock_head, load_parts
from alad_hf.recipes.tagging import tagging_task

FEATURES = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=TAGS))})
SENTENCES = [
    ("Smith visited New York .", "B-PER O B-LOC I-LOC O"),
    ("Jones works in Berlin", "B-PER O O B-LOC"),
    ("The works of Acme", "O O O O"),
    ("London and New York", "B-LOC O B-LOC I-LOC"),
]


def dataset(copies: int = 1) -> Dataset:
    rows = [{"tokens": words.split(), "tags": [TAGS.index(tag) for tag in tags.split()]} for words, tags in SENTENCES]
    return Dataset.from_list(rows * copies, features=FEATURES)


def student(folder: Path) -> str:
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config(num_hidden_layers=3)).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("frozen", [True, False], ids=["plug-and-play", "joint"])
def test_train_tagger_with_a_teacher(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = student(tmp_path / "student")
    teacher = tiny_teacher()
    teacher.save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    model = train_tagger(
        source,
        DatasetDict(train=dataset(8), validation=dataset(), test=dataset()),
        tmp_path / "out",
        teacher=str(tmp_path / "teacher"),
        keep_layers=[0, 2],
        freeze_student=frozen,
        budget=Budget(epochs=2, batch_size=8),
        window_size=3,
    ).model
    assert model.teacher is None and not model.training
    assert model.config.window_size == 3 and model.config.text_config.num_hidden_layers == 2
    before = AutoModel.from_pretrained(source, add_pooling_layer=False)
    layers = zip(model.model.encoder.encoder.layer, [before.encoder.layer[0], before.encoder.layer[2]], strict=True)
    unchanged = all(
        torch.equal(after, start)
        for layer, original in layers
        for after, start in zip(layer.parameters(), original.parameters(), strict=True)
    )
    assert unchanged == frozen
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert isinstance(loaded, AlAdForTokenClassification)
    tokens = AutoTokenizer.from_pretrained(tmp_path / "out")("Smith visited Berlin", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded(**tokens).logits, model(**tokens).logits)
    with pytest.raises(ValueError, match="already holds checkpoint-.*resume=True"):
        train_tagger(
            source,
            DatasetDict(train=dataset(8), validation=dataset()),
            tmp_path / "out",
            teacher=str(tmp_path / "teacher"),
            freeze_student=frozen,
        )


def test_train_tagger_without_a_teacher_learns_a_small_set_by_heart(tmp_path: Path) -> None:
    model = train_tagger(
        student(tmp_path / "student"),
        DatasetDict(train=dataset(8), validation=dataset()),
        tmp_path / "out",
        budget=Budget(epochs=25, batch_size=8, learning_rate=3e-3),
    ).model
    assert type(model).__name__ == "BertForTokenClassification"
    tokenizer = tiny_tokenizer()
    for words, tags in SENTENCES:
        encoded = tokenizer(words.split(), is_split_into_words=True, return_tensors="pt")
        first = [encoded.word_ids(0).index(word) for word in range(len(words.split()))]
        with torch.no_grad():
            predicted = model(**encoded).logits[0, first].argmax(-1).tolist()
        assert [TAGS[index] for index in predicted] == tags.split()


def test_a_tagger_under_a_teacher_with_another_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    kept = [token for token in VOCABULARY if token not in ("london", "works", "visited")]
    vocabulary = {token: index for index, token in enumerate(kept)}
    torch.manual_seed(1)
    config = tiny_config(hidden_size=32, vocab_size=len(vocabulary), id2label=dict(enumerate(TAGS)))
    teacher = AutoModelForTokenClassification.from_config(config)
    lines: list[dict] = []

    class Logs(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            lines.append(logs)

    trained = train_tagger(
        student(tmp_path / "student"),
        DatasetDict(train=dataset(8), validation=dataset()),
        tmp_path / "out",
        teacher=teacher,
        teacher_tokenizer=tiny_tokenizer(vocabulary=vocabulary),
        budget=Budget(epochs=4, batch_size=8),
        callbacks=[Logs()],
    )
    assert trained.model.config.hidden_size == 32
    losses = [line["distillation_loss"] for line in lines if "distillation_loss" in line]
    assert len(losses) > 1 and all(0 < loss < float("inf") for loss in losses)


def test_data_may_be_named_as_for_their_loader(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for split in ("train", "dev", "test"):
        lines = [f"{w}\t{t}\n" for words, tags in SENTENCES for w, t in zip(words.split(), tags.split(), strict=True)]
        (tmp_path / "corpus" / f"{split}.conll").write_text("".join(lines))
    folder, budget = student(tmp_path / "student"), Budget(epochs=1)
    trained = train_tagger(folder, tmp_path / "corpus", tmp_path / "out", budget=budget)
    assert trained.split == "test" and {*trained.model.config.id2label.values()} == {*TAGS} - {"I-PER"}
    with pytest.raises(TypeError, match=r"got a Dataset. Rows are passed as datasets.DatasetDict\(train="):
        train_tagger(folder, dataset(), tmp_path / "other", budget=budget)


def test_sentences_are_held_out_where_there_is_no_validation_split(tmp_path: Path) -> None:
    # Each sentence is there twice, and goes into one part only.
    trained = train_tagger(
        student(tmp_path / "student"), DatasetDict(train=dataset(2)), tmp_path / "out", budget=Budget(epochs=1)
    )
    assert trained.split == "validation" and trained.budget == Budget(epochs=1, learning_rate=2e-4)
    with pytest.raises(ValueError, match="none to train on"):
        train_tagger(student(tmp_path / "student"), DatasetDict(test=dataset()), tmp_path / "other")


def test_what_needs_a_teacher_is_refused_without_one(tmp_path: Path) -> None:
    data = DatasetDict(train=dataset(), validation=dataset())
    for arguments in ({"freeze_student": True}, {"texts": ["a"]}, {"window_size": 3}):
        with pytest.raises(ValueError, match=f"nothing that {next(iter(arguments))} could do: pass teacher="):
            train_tagger(student(tmp_path / "student"), data, tmp_path / "out", **arguments)
    with pytest.raises(ValueError, match="nothing that adapter=False could do: pass teacher="):
        train_tagger(student(tmp_path / "student"), data, tmp_path / "out", adapter=False)
    for arguments in ({"freeze_student": True}, {"window_size": 3}, {"freeze_embeddings": False}):
        with pytest.raises(ValueError, match=f"adapter=False.*nothing that {next(iter(arguments))} could do"):
            train_tagger(
                student(tmp_path / "student"), data, tmp_path / "out", teacher="any", adapter=False, **arguments
            )


@pytest.mark.parametrize("width", [16, 32], ids=["as wide", "wider"])
def test_without_an_adapter_a_stock_model_is_distilled(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(1)
    # The teacher says "O" of every token, whatever the labels say.
    teacher = AutoModelForTokenClassification.from_config(
        tiny_config(hidden_size=width, id2label=dict(enumerate(TAGS)))
    )
    with torch.no_grad():
        teacher.classifier.weight.zero_()
        teacher.classifier.bias.copy_(20 * torch.nn.functional.one_hot(torch.tensor(TAGS.index("O")), len(TAGS)))
    read: list[set[str]] = []

    class Columns(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader, **kwargs):
            read.append(set(train_dataloader.dataset.column_names))

    source = student(tmp_path / "student")
    trained = train_tagger(
        source,
        DatasetDict(train=dataset(8), validation=dataset()),
        tmp_path / "out",
        teacher=teacher,
        teacher_tokenizer=tiny_tokenizer(),
        texts=["smith works in london .", "jones visited berlin"] * 16,
        adapter=False,
        budget=Budget(epochs=1, alignment_epochs=8, batch_size=8, learning_rate=1e-2),
        callbacks=[Columns()],
    )
    assert type(trained.model).__name__ == "BertForTokenClassification"
    assert ("teacher_states" in read[0]) == (width == 16) and "teacher_logits" in read[0]
    assert all(parameter.requires_grad for parameter in trained.model.parameters())
    tokens = tiny_tokenizer()("smith works in london .", return_tensors="pt")
    with torch.no_grad():
        assert set(trained.model(**tokens).logits[0].argmax(-1).tolist()) == {TAGS.index("O")}
    # The embeddings stay, as under an adapter.
    before = AutoModel.from_pretrained(source).get_input_embeddings().weight
    assert torch.equal(trained.model.get_input_embeddings().weight, before)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert type(loaded).__module__.startswith("transformers.")


def test_a_tagger_that_is_trained_on_keeps_its_head(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: index for index, tag in enumerate(TAGS)}}
    torch.manual_seed(7)
    tagger = AutoModelForTokenClassification.from_config(tiny_config(**labels))
    tagger.save_pretrained(tmp_path / "tagger")
    task = tagging_task(TAGS)
    given = {"tokenizer": tiny_tokenizer(), "teacher": None, "teacher_tokenizer": None, "seed": 0}
    for source, layers in ((str(tmp_path / "tagger"), None), (tagger, None), (str(tmp_path / "tagger"), [0])):
        model = _with_stock_head(task, load_parts(source, keep_layers=layers, **given))
        for name, value in tagger.classifier.state_dict().items():
            assert torch.equal(model.classifier.state_dict()[name], value)
    assert not caplog.records
    others = tagging_task(list(reversed(TAGS)))
    model = _with_stock_head(others, load_parts(str(tmp_path / "tagger"), keep_layers=None, **given))
    assert not torch.equal(model.classifier.weight, tagger.classifier.weight)
    assert "is left behind: it has the labels" in caplog.text


@pytest.mark.parametrize("knows_the_task", [False, True])
def test_a_new_head_is_fitted_before_the_encoder_moves_and_an_old_one_kept(
    knows_the_task: bool, tmp_path: Path
) -> None:
    tagger = tiny_teacher()
    head = tagger.classifier.weight.detach().clone()
    stands_still = Budget(epochs=1, learning_rate=1e-12)
    trained = train_tagger(
        tagger if knows_the_task else tagger.base_model,
        DatasetDict(train=dataset(8), validation=dataset(), test=dataset()),
        tmp_path / "out",
        tokenizer=tiny_tokenizer(),
        budget=stands_still,
    )
    assert torch.allclose(trained.model.classifier.weight, head, atol=1e-6) == knows_the_task
    # Random states of four sentences are enough to tell their words apart.
    assert (trained.scores["f1"] > 0.9) != knows_the_task


def test_a_model_given_in_memory_stays_as_it_is(tmp_path: Path) -> None:
    encoder = AutoModel.from_config(tiny_config())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    config = encoder.config.to_dict()
    data = DatasetDict(train=dataset(), validation=dataset())
    train_tagger(encoder, data, tmp_path / "out", tokenizer=tiny_tokenizer(), budget=Budget(epochs=1))
    assert encoder.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_budget_is_completed_by_its_mode() -> None:
    given = Budget(learning_rate=1e-3, seed=4)
    plain = given.completed("plain", width=384, exchanged=True)
    assert plain == Budget(DEFAULTS["plain"].epochs, learning_rate=1e-3, seed=4)
    for mode in ("joint", "plug-and-play", "distilled"):
        few, many = (given.completed(mode, width=384, exchanged=exchanged) for exchanged in (False, True))
        assert (few.learning_rate, few.seed, few.epochs) == (1e-3, 4, DEFAULTS[mode].epochs)
        assert (few.alignment_epochs, many.alignment_epochs) == (1, 3)
        assert Budget(alignment_epochs=0).completed(mode, width=384, exchanged=True).alignment_epochs == 0
    for budget, mode, exchanged in (
        (Budget(alignment_epochs=2), "plain", True),
        (Budget(), "plain", False),
        (Budget(alignment_epochs=0), "joint", False),
    ):
        with pytest.raises(ValueError, match="unread|read for what a teacher says"):
            budget.completed(mode, width=384, exchanged=exchanged)
    for wrong in ({"epochs": 0}, {"alignment_epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=rf"Budget\({next(iter(wrong))}="):
            Budget(**wrong)


def test_a_student_that_is_a_tagger_already_is_trained_at_the_rate_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: index for index, tag in enumerate(TAGS)}}
    for name in ("tagger", "teacher"):
        AutoModelForTokenClassification.from_config(tiny_config(**labels)).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    data = DatasetDict(train=dataset(2), validation=dataset())
    modes = {
        "distilled": (str(tmp_path / "tagger"), False),
        "joint": (student(tmp_path / "student"), False),
        "plug-and-play": (str(tmp_path / "tagger"), True),
    }
    for mode, (encoder, frozen) in modes.items():
        trained = train_tagger(
            encoder,
            data,
            tmp_path / mode,
            teacher=str(tmp_path / "teacher"),
            freeze_student=frozen,
            budget=Budget(epochs=1),
        )
        assert trained.budget.learning_rate == DEFAULTS[mode].learning_rate


def test_wide_encoders_learn_at_lower_rates() -> None:
    def rate(mode: str, width: int) -> float:
        return Budget().completed(mode, width=width, exchanged=True).learning_rate

    for mode in ("plain", "joint", "distilled"):
        assert rate(mode, 16) == rate(mode, 384) == DEFAULTS[mode].learning_rate
        assert rate(mode, 768) == pytest.approx(rate(mode, 384) / 4)
        assert Budget(learning_rate=0.5).completed(mode, width=768, exchanged=True).learning_rate == 0.5
    assert rate("plain", 768) == pytest.approx(5e-5)
    assert rate("plug-and-play", 768) == rate("plug-and-play", 384)  # the encoder is left alone


def test_exchange_mentions_keeps_contexts_and_types() -> None:
    data = dataset()
    texts = [tuple(row) for row in exchange_mentions(data, copies=5, seed=1)["tokens"]]
    assert [" ".join(row) for row in texts[:4]] == [words for words, _ in SENTENCES]
    assert len(texts) == 4 + 3 * 5  # the sentence without entities has no variants
    contexts = Counter(row[1].lower() for row in texts[4:9])
    assert contexts == {"visited": 5}
    people, places = {("smith",), ("jones",)}, {("new", "york"), ("berlin",), ("london",)}
    for row in texts[4:9]:
        row = tuple(word.lower() for word in row)
        assert row[:1] in people and row[2:-1] in places and row[-1] == "."
    assert texts == [tuple(row) for row in exchange_mentions(data, copies=5, seed=1)["tokens"]]
    assert len(set(texts)) > 8


def test_exchange_mentions_takes_a_tag_below_0_for_none() -> None:
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=["O", "B-PER", "I-PER"]))})
    data = Dataset.from_dict({"tokens": [["a", "b", "c"]] * 2, "tags": [[1, -1, -100]] * 2}, features=features)
    assert {tuple(map(str.lower, row)) for row in exchange_mentions(data, copies=3)["tokens"]} == {("a", "b", "c")}


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE=2: a recipe .* in one process.*docs/train_on_several_gpus"):
        train_tagger("student", None, tmp_path)
    with pytest.raises(ValueError, match="WORLD_SIZE=2: a recipe"):
        graft_tagger("tagger", None, tmp_path, num_hidden_layers=1)


def test_several_gpus_in_one_process_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="sees 2 GPUs.*accelerate launch.*CUDA_VISIBLE_DEVICES=0"):
        train_tagger("student", None, tmp_path)


def test_every_split_has_its_own_tag_ids() -> None:
    """Splits of one data set may number their tags in other orders."""
    teacher = tiny_teacher()
    names = [teacher.config.id2label[index] for index in range(len(TAGS))]
    other = list(reversed(names))
    data = dataset()
    tags = [[names[tag] for tag in row] for row in data["tags"]]
    turned = data.remove_columns("tags").add_column("tags", [[other.index(name) for name in row] for row in tags])
    turned = turned.cast_column("tags", List(ClassLabel(names=other)))
    given = with_tags_of(teacher, DatasetDict(train=data, test=turned))
    assert given["test"]["tags"][:] == given["train"]["tags"][:]
    assert given["test"].features["tags"].feature.names == names


def test_splits_that_number_their_tags_each_for_itself_are_read_by_name(tmp_path: Path) -> None:
    names = ["O", "B-LOC", "B-PER"]  # without I-LOC, and in another order
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    rows = [{"tokens": ["Jones", "works", "in", "Berlin"], "tags": [2, 0, 0, 1]}, {"tokens": ["Acme"], "tags": [0]}]
    scores = []

    class Scores(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **kwargs) -> None:
            scores.append(metrics["eval_f1"])

    trained = train_tagger(
        student(tmp_path / "student"),
        DatasetDict(train=dataset(8), validation=Dataset.from_list(rows, features=features)),
        tmp_path / "out",
        budget=Budget(epochs=25, batch_size=8, learning_rate=3e-3),
        callbacks=[Scores()],
    )
    assert trained.scores["f1"] == max(scores) == 1.0
    assert list(trained.model.config.id2label.values()) == TAGS


def test_the_head_of_a_tagger_is_kept_where_the_data_number_its_tags_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = list(reversed(TAGS))
    labels = {"id2label": dict(enumerate(names)), "label2id": {tag: index for index, tag in enumerate(names)}}
    AutoModelForTokenClassification.from_config(tiny_config(**labels)).save_pretrained(tmp_path / "tagger")
    tiny_tokenizer().save_pretrained(tmp_path / "tagger")
    data = DatasetDict(train=dataset(8), validation=dataset())
    budget = Budget(epochs=25, batch_size=8, learning_rate=3e-3)
    trained = train_tagger(str(tmp_path / "tagger"), data, tmp_path / "out", budget=budget)
    assert list(trained.model.config.id2label.values()) == names
    assert trained.scores["f1"] == 1.0
    assert "left behind" not in caplog.text


def test_words_without_a_tag_are_not_learned(tmp_path: Path) -> None:
    untagged = dataset(8).map(lambda row: {"tags": [-1, *row["tags"][1:]]})
    data = DatasetDict(train=untagged, validation=untagged, test=dataset())
    trained = train_tagger(
        student(tmp_path / "student"), data, tmp_path / "out", budget=Budget(epochs=1, batch_size=8)
    )
    assert trained.split == "test"


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": dataset().select([])}, "The split 'test' has no rows"),
        ({"validation": dataset().select([])}, "The split 'validation' has no rows"),
        (
            {"train": dataset().rename_column("tags", "ner_tags")},
            r"The split 'train' has .*'ner_tags'.*expected",
        ),
        ({"test": dataset().cast_column("tags", List(Value("string")))}, r"The split 'test' has .*expected 'tokens'"),
        (
            {"test": dataset().map(lambda row: {"tags": [-1] * len(row["tags"])})},
            r"The split 'test', row 0: found the tag id -1, expected 0 to 4. Is the split unlabelled\?",
        ),
    ],
)
def test_splits_that_nothing_can_be_learned_or_scored_from_are_refused_at_once(
    splits: dict, message: str, tmp_path: Path
) -> None:
    data = DatasetDict({"train": dataset(), "validation": dataset(), **splits})
    with pytest.raises(ValueError, match=message):
        train_tagger(student(tmp_path / "student"), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# peft 0.21 itself still asks transformers under a name that 5.23 deprecates.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_of_peft_are_merged_before_an_encoder_is_trained_alone(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alad_hf[lora]'")
    encoder = AutoModel.from_config(tiny_config())
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    wrapped = peft.get_peft_model(encoder, lora).eval()
    parts = load_parts(
        wrapped, tokenizer=tiny_tokenizer(), teacher=None, teacher_tokenizer=None, keep_layers=None, seed=0
    )
    task = Task("ner", AutoModelForTokenClassification, AlAdForTokenClassification, dict, "f1", dict, labels={})
    tagger = _with_stock_head(task, parts).eval()
    inputs = tiny_tokenizer()("smith works in london .", return_tensors="pt")
    with torch.no_grad():
        states = tagger.base_model(**inputs).last_hidden_state
        torch.testing.assert_close(states, wrapped(**inputs).last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_head_that_was_trained_through_peft_is_kept(with_teacher: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alad_hf[lora]'")
    lora = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False, task_type="TOKEN_CLS")
    wrapped = peft.get_peft_model(tiny_teacher(hidden_size=16), lora).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_()
    teacher = tiny_teacher(seed=2) if with_teacher else None
    teacher_tokenizer = tiny_tokenizer() if with_teacher else None
    given = {"teacher": teacher, "teacher_tokenizer": teacher_tokenizer, "keep_layers": None, "seed": 0}
    parts = load_parts(wrapped, tokenizer=tiny_tokenizer(), **given)
    assert parts.knows(AutoModelForTokenClassification)
    tagger = _with_stock_head(tagging_task(TAGS), parts).eval()
    inputs = tiny_tokenizer()("smith works in london .", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(tagger(**inputs).logits, wrapped(**inputs).logits, atol=1e-5, rtol=1e-4)
    assert isinstance(wrapped, peft.PeftModel) and any("lora" in name for name in wrapped.state_dict())


def test_a_run_goes_on_with_its_own_arguments_alone(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs) -> None:
            raise KeyboardInterrupt

    data = DatasetDict(train=dataset(4), validation=dataset())
    tiny_teacher().save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    given = {"teacher": str(tmp_path / "teacher"), "texts": ["Smith works in York", "a b c"]}
    begun = {**given, "budget": Budget(epochs=2, alignment_epochs=1, batch_size=4)}
    folder = student(tmp_path / "student")
    with pytest.raises(KeyboardInterrupt):
        train_tagger(folder, data, tmp_path / "out", **begun, callbacks=[Stop()])
    tiny_teacher(seed=9).save_pretrained(tmp_path / "other-teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "other-teacher")
    others = [
        ({"teacher": str(tmp_path / "other-teacher")}, "another teacher"),
        ({"keep_layers": [0]}, "another student"),
        ({"budget": replace(begun["budget"], learning_rate=0.1)}, "learning_rate=.* and not 0.1"),
        ({"budget": replace(begun["budget"], seed=3)}, "seed=0 and not 3"),
        ({"window_size": 3}, "window_size=5 and not 3"),
        ({"freeze_student": True}, "freeze_student=False and not True"),
        ({"texts": ["Smith works in London", "a b c"]}, "other text or labels"),
    ]
    for change, message in others:
        with pytest.raises(ValueError, match=rf"of a run with .*{message}.*go on with the same models"):
            train_tagger(folder, data, tmp_path / "out", **{**begun, **change}, resume=True)
    relabelled = DatasetDict(data, train=data["train"].map(lambda row: {"tags": [0] * len(row["tags"])}))
    with pytest.raises(ValueError, match="other text or labels"):
        train_tagger(folder, relabelled, tmp_path / "out", **begun, resume=True)
    elsewhere = DatasetDict(data, validation=data["validation"].select([0]))
    with pytest.raises(ValueError, match="other validation data"):
        train_tagger(folder, elsewhere, tmp_path / "out", **begun, resume=True)
    assert train_tagger(folder, data, tmp_path / "out", **begun, resume=True).scores
