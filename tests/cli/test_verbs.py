"""Every verb does what its call in Python does."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tiny import TAGS, tiny_tokenizer
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForTokenClassification, AutoTokenizer
from typer.testing import CliRunner

from alad_hf import AlAdForTokenClassification, AlAdModel
from alad_hf.cli.application import console
from alad_hf.compression import compress_embeddings, embedding_metric, prune_width, token_weights
from alad_hf.data import encode_tagged_words, load_question_answering, load_token_classification
from alad_hf.hub.model_card import record_training
from alad_hf.question_answering import QuestionAnswerer
from alad_hf.recipes import with_tags_of
from alad_hf.tagging import evaluate_tagger, tag_text

TASK = ["--data", "{corpus}", "--output", "{out}"]
TEXT = "Smith visited New York.\n\nJones works in Berlin 🙂\n"


def test_help_names_every_verb(run) -> None:
    shown = run("--help").stdout
    for verb in (
        "quickstart",
        "compress",
        "distill",
        "align",
        "train",
        "evaluate",
        "predict",
        "benchmark",
        "export",
        "card",
    ):
        assert f" {verb} " in shown
        assert "--config" in run(verb, "--help").stdout
    assert "--install-completion" in shown and "130 interrupted" in shown


def test_train(folder: Path, tmp_path: Path, run) -> None:
    out = tmp_path / "out"
    done = run(
        *("train", folder / "student", "--teacher", folder / "teacher", "--data", folder / "corpus", "--output", out),
        *("--epochs", 1, "--batch-size", 8, "--window-size", 3, "--distillation-weight", 0.5, "--text"),
        *(folder / "text.txt", "--no-freeze-embeddings", "--teacher-layers", 1, "--teacher-layers", 2, "--json"),
    )
    result = json.loads(done.stdout)
    assert (result["output"], result["split"]) == (str(out), "test") and 0 <= result["scores"]["f1"] <= 1
    config = json.loads((out / "config.json").read_text())
    chosen = {"window_size": 3, "distillation_weight": 0.5, "freeze_embeddings": False, "teacher_layers": [1, 2]}
    assert chosen.items() <= config.items()
    assert "alignment-adapter" in (out / "README.md").read_text()
    data = load_token_classification(folder / "corpus")
    model = AutoModelForTokenClassification.from_pretrained(out)
    assert evaluate_tagger(model, tiny_tokenizer(), data["test"]) == result["scores"]
    assert "Saved in" in done.stderr


def test_evaluate(folder: Path, run) -> None:
    model = AutoModelForTokenClassification.from_pretrained(folder / "tagger")
    data = load_token_classification(folder / "corpus")
    scores = json.loads(run("evaluate", folder / "tagger", "--data", folder / "corpus", "--json").stdout)
    assert scores == evaluate_tagger(model, tiny_tokenizer(), data["test"])
    shown = run("evaluate", folder / "tagger", "--data", folder / "corpus", "--split", "train").stdout
    expected = evaluate_tagger(model, tiny_tokenizer(), data["train"])
    assert f"{100 * expected['accuracy']:.2f}" in shown


def test_predict(folder: Path, tmp_path: Path, run) -> None:
    model = AutoModelForTokenClassification.from_pretrained(folder / "tagger")
    expected = list(tag_text(model, tiny_tokenizer(), TEXT.splitlines()))
    rows = [json.loads(line) for line in run("predict", folder / "tagger", stdin=TEXT).stdout.splitlines()]
    assert [row["entities"] for row in rows] == expected and any(expected)

    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": ["Smith", "visited"], "id": 1}) + "\n")
    out = tmp_path / "made" / "out.conll"
    done = run(
        *("predict", folder / "tagger", tmp_path / "in.jsonl", "--output", out, "--output-format", "conll"),
    )
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == ["Smith", "visited", ""]
    assert out.read_text().split("\t")[1].split("\n")[0] in TAGS
    assert done.stdout == "" and "Wrote 1 predictions" in done.stderr
    assert run("predict", folder / "tagger", out, "--output", tmp_path / "quiet", "--quiet").stderr == ""
    run("predict", folder / "tagger", out, "--output", out, code=1)


def test_predict_tags_a_long_document_to_its_end(folder: Path, tmp_path: Path, run) -> None:
    document = "Smith visited New York 🙂\r\n" * 100
    (tmp_path / "document.txt").write_bytes(document.encode())
    arguments = ("predict", folder / "tagger", tmp_path / "document.txt", "--input-format", "document")
    (row,) = run(*arguments, "--max-length", 20, "--overlap", 8).stdout.splitlines()
    row = json.loads(row)
    assert row["text"] == document
    assert all(document[one["start"] : one["end"]] == one["text"] for one in row["entities"])
    assert row["entities"][-1]["start"] > len(document) - 30


def test_align_by_training_and_in_closed_form(folder: Path, tmp_path: Path, run) -> None:
    common = ("align", folder / "student", "--teacher", folder / "teacher", "--text", folder / "text.txt", "--json")
    done = run(*common, "--output", tmp_path / "trained", "--window-size", 3, "--epochs", 2)
    trained = json.loads(done.stdout)
    assert trained["steps"] == 2 * 3 and trained["last_loss"] > 0  # 80 lines that are not blank, 32 a step
    model = AlAdForTokenClassification.from_pretrained(tmp_path / "trained")
    assert model.config.freeze_student and model.config.window_size == 3
    student = AlAdForTokenClassification.from_pretrained(folder / "tagger")
    for name, parameter in model.base_model.encoder.named_parameters():
        assert torch.equal(parameter, student.base_model.encoder.get_parameter(name))

    solved = json.loads(run(*common, "--output", tmp_path / "solved", "--method", "closed-form").stdout)
    assert solved["mse_after"] < solved["mse_before"] and solved["tokens"] > 400
    assert len(
        list(tag_text(AlAdForTokenClassification.from_pretrained(tmp_path / "solved"), tiny_tokenizer(), ["a"]))
    )
    message = run(*common, "--output", tmp_path / "no", "--method", "closed-form", "--epochs", 1, code=1).stderr
    assert "nothing that --epochs could do" in message
    weights = ("--distillation-weight", 2, "--alignment-cosine-weight", 1)
    message = run(*common, "--output", tmp_path / "no", "--method", "closed-form", *weights, code=1).stderr
    assert "nothing that --alignment-cosine-weight, --distillation-weight could do" in message
    assert (
        "nothing that --regularisation could do" in run(*common, "--output", "x", "--regularisation", 1, code=1).stderr
    )
    weights = ("--distillation-weight", 0, "--alignment-mse-weight", 0)
    message = run(*common, "--output", tmp_path / "no", *weights, code=1).stderr
    assert "nothing to learn from the teacher: alignment_mse_weight, alignment_cosine_weight, dist" in message


def test_align_with_a_bare_encoder_gives_a_bare_model(folder: Path, tmp_path: Path, run) -> None:
    run(
        *("align", folder / "student", "--teacher", folder / "student", "--text", folder / "text.txt"),
        *("--output", tmp_path / "out", "--train-student", "--quiet"),
    )
    model = AlAdModel.from_pretrained(tmp_path / "out")
    assert not model.config.freeze_student


@pytest.mark.parametrize(
    "options",
    [
        ("truncate", "--layers", "1"),
        ("truncate", "--layers", "by_similarity", "--num-layers", 1, "--text", "{text}", "--refit"),
        ("graft", "--num-layers", 1, "--text", "{text}", "--strategy", "similar", "--no-refit"),
        ("prune", "--heads", 1, "--neurons", 12, "--text", "{text}", "--seed", 3),
    ],
    ids=lambda options: options[0],
)
def test_compress(folder: Path, tmp_path: Path, run, options: tuple) -> None:
    options = [str(option).format(text=folder / "text.txt") for option in options]
    done = run("compress", folder / "teacher", "--output", tmp_path / "out", "--json", "--method", *options)
    facts = json.loads(done.stdout)
    assert facts["parameters"] < facts["parameters_before"]
    assert facts["stored_megabytes"] < facts["stored_megabytes_before"]
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")  # the head is kept
    assert model.num_parameters() == facts["parameters"]
    assert list(model.config.id2label.values()) == TAGS


def test_compress_by_the_labels_of_tagged_words(folder: Path, tmp_path: Path, run) -> None:
    sizes = ("--method", "prune", "--heads", 1, "--neurons", 12)
    run("compress", folder / "teacher", *sizes, "--data", folder / "corpus", "--output", tmp_path / "out")
    teacher = AutoModelForTokenClassification.from_pretrained(folder / "teacher")
    data = load_token_classification(folder / "corpus")
    assert data["train"].features["tags"].feature.names != TAGS, "the data number their tags in another way"
    rows = encode_tagged_words(with_tags_of(teacher, data)["train"], tiny_tokenizer(), max_length=32)
    wanted = prune_width(teacher, heads=1, neurons=12, texts=rows, tokenizer=tiny_tokenizer()).state_dict()
    made = AutoModelForTokenClassification.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(made[name], value) for name, value in wanted.items())


def test_distill_a_recursive_student(folder: Path, tmp_path: Path, run) -> None:
    run("compress", folder / "student", "--method", "recursive", "--num-layers", 2, "--embedding-size", 4,
        "--output", tmp_path / "recursive")  # fmt: skip
    common = ("distill", tmp_path / "recursive", "--teacher", folder / "student", "--text", folder / "text.txt",
              "--max-tokens", 16, "--batch-size", 4, "--output", tmp_path / "out")  # fmt: skip
    facts = json.loads(run(*common, "--steps", 3, "--json").stdout)
    assert facts["steps"] == 3 and facts["weights"]["output"] == 0  # a bare encoder predicts no words
    before, after = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("recursive", "out"))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "Pass resume=True (--resume)" in run(*common, "--steps", 5, code=1).stderr
    assert json.loads(run(*common, "--steps", 5, "--resume", "--json").stdout)["steps"] == 5


def test_compress_draws_a_graft(folder: Path, tmp_path: Path, run) -> None:
    pytest.importorskip("matplotlib")
    common = ("compress", folder / "teacher", "--output", tmp_path / "out", "--picture", tmp_path / "graft.png")
    run(*common, "--method", "graft", "--num-layers", 1, "--text", folder / "text.txt")
    assert (tmp_path / "graft.png").read_bytes().startswith(b"\x89PNG")
    assert "nothing that --picture could do" in run(*common, "--method", "int8", code=1).stderr


def test_a_picture_that_cannot_be_drawn_is_known_before_the_model_is_made(folder: Path, tmp_path: Path, run) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    common = ("compress", folder / "teacher", "--method", "graft", "--num-layers", 1, "--text", folder / "text.txt")
    for picture, message in (
        ("p.xyz", "p.xyz' ends in '.xyz', and pictures end in one of ['"),
        ("p", "ends in ''"),
        ("nowhere/p.png", "for the picture p.png: make it first"),
        ("folder.png", "folder.png is a folder: name a file"),
    ):
        (tmp_path / "folder.png").mkdir(exist_ok=True)
        assert message in run(*common, "--output", out, "--picture", tmp_path / picture, code=1).stderr
        assert not out.exists()
    run(*common, "--output", out, "--picture", out / "p.PNG")  # a folder that the call makes
    assert (out / "p.PNG").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("svd", "--bytes", 2000),
        ("autoencoder", "--ratio", 2, "--option", "epochs=1", "--option", "final_epochs=1"),
        ("lighttoken", "--option", "bits=4", "--option", "refinement=0", "--seed", 1),
        ("pq", "--ratio", 3),
        ("int8",),
        ("int4",),
    ],
    ids=lambda options: options[0],
)
def test_compress_embeddings(folder: Path, tmp_path: Path, run, options: tuple) -> None:
    arguments = ("compress", folder / "teacher", "--output", tmp_path / "out", "--json", "--method", *options)
    facts = json.loads(run(*arguments).stdout)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    assert model.config.compression == facts["compression"]
    assert facts["compression"]["embedding"]["method"]
    assert facts["stored_megabytes"] < facts["stored_megabytes_before"]
    next(tag_text(model, tiny_tokenizer(), ["Smith"]))


@pytest.mark.parametrize("method", ["svd", "autoencoder", "lighttoken", "pq"])
def test_compress_weights_tokens_by_the_text(method: str, folder: Path, tmp_path: Path, run) -> None:
    (tmp_path / "text.txt").write_text("Smith went to London\n" * 50)
    arguments = ("compress", folder / "teacher", "--output", tmp_path / "out", "--method", method, "--bytes", 4000)
    teacher = AutoModelForTokenClassification.from_pretrained(folder / "teacher")
    rows = len(teacher.get_input_embeddings().weight)
    lines = ["Smith went to London"] * 50
    weights = token_weights(lines, tiny_tokenizer(), rows)
    assert len(weights.unique()) > 1
    metric = embedding_metric(teacher, lines, tiny_tokenizer())
    given = {"metric": {"row_weights": weights, "metric": metric}, "no-metric": {"row_weights": weights}, "": {}}
    tables = {
        name: compress_embeddings(teacher, method, bytes=4000, progress=False, **one).get_input_embeddings().dense()
        for name, one in given.items()
    }
    assert not torch.allclose(tables["metric"], tables["no-metric"])
    assert not torch.allclose(tables["no-metric"], tables[""])
    default = "no-metric" if method == "pq" else "metric"
    for option, expected in (((), default), (("--metric",), "metric"), (("--no-metric",), "no-metric")):
        run(*arguments, "--text", tmp_path / "text.txt", *option)
        (tmp_path / "out").rename(tmp_path / f"out{len(option)}{expected}")
        written = AutoModelForTokenClassification.from_pretrained(tmp_path / f"out{len(option)}{expected}")
        torch.testing.assert_close(written.get_input_embeddings().dense(), tables[expected])


def test_compress_to_a_recursive_encoder(folder: Path, tmp_path: Path, run) -> None:
    options = ("--num-layers", 3, "--bytes", 20_000, "--text", folder / "text.txt", "--json")
    done = run("compress", folder / "student", "--output", tmp_path / "out", "--method", "recursive", *options)
    encoder = AutoModel.from_pretrained(tmp_path / "out")
    assert encoder.config.num_hidden_layers == 3 and encoder.config.model_type == "minialbert"
    assert 0 < 4 * encoder.num_parameters() <= 20_000
    assert json.loads(done.stdout)["method"] == "recursive"
    # It is a student as any other.
    run(
        *("align", tmp_path / "out", "--teacher", folder / "teacher", "--text", folder / "text.txt", "--method"),
        *("closed-form", "--output", tmp_path / "aligned"),
    )


@pytest.mark.parametrize("models", [["student"], ["teacher", "tagger"]])
def test_benchmark(folder: Path, run, models: list[str]) -> None:
    data = [] if models == ["student"] else ["--data", folder / "corpus"]
    common = ("benchmark", *(folder / name for name in models), *data, "--tokens", 8, "--repeats", 2)
    rows = json.loads(run(*common, "--batch-size", 2, "--json").stdout)
    assert [Path(row["model"]).name for row in rows] == models
    for row in rows:
        assert row["parameters"] > 0 and row["sentences_per_second"] > 0
        ((one),) = row["latency"]
        assert (one["batch_size"], one["tokens"]) == (2, 8) and 0 < one["median_ms"] <= one["p90_ms"]
    if data:
        model = AutoModelForTokenClassification.from_pretrained(folder / "teacher")
        test = load_token_classification(folder / "corpus")["test"]
        assert rows[0]["scores"] == evaluate_tagger(model, tiny_tokenizer(), test)
        shown = run(*common).stdout
        assert "ms, 1 x" in shown and "ms, 32 x" in shown and f"{100 * rows[0]['scores']['f1']:.2f}" in shown


def test_export_then_predict_evaluate_and_benchmark(folder: Path, tmp_path: Path, run) -> None:
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'alad_hf[export]'")
    out = tmp_path / "onnx"
    facts = json.loads(run("export", folder / "tagger", "--output", out, "--data", folder / "corpus", "--json").stdout)
    assert facts["scores"]["onnx"] == pytest.approx(facts["scores"]["torch"])
    texts = [json.loads(line) for line in run("predict", folder / "tagger", stdin=TEXT).stdout.splitlines()]
    for backend in ([], ["--backend", "onnx", "--threads", 1]):
        found = [json.loads(line) for line in run("predict", out, *backend, stdin=TEXT).stdout.splitlines()]
        for row, expected in zip(found, texts, strict=True):
            assert [(one["label"], one["start"], one["end"]) for one in row["entities"]] == [
                (one["label"], one["start"], one["end"]) for one in expected["entities"]
            ]
    scores = [run("evaluate", one, "--data", folder / "corpus", "--json").stdout for one in (out, folder / "tagger")]
    assert json.loads(scores[0]) == pytest.approx(json.loads(scores[1]))
    (row,) = json.loads(run("benchmark", out, "--tokens", 8, "--repeats", 2, "--json").stdout)
    assert row["parameters"] is None and row["stored_megabytes"] > 0 and row["sentences_per_second"] > 0
    assert "run on the CPU" in run("predict", out, "--device", "cuda", code=1).stderr
    assert "exist" in run("export", folder / "tagger", "--output", out, code=1).stderr

    shown = run("export", folder / "tagger", "--output", tmp_path / "again", "--data", folder / "corpus").stdout
    percent = f"{100 * facts['scores']['torch']['accuracy']:.2f}"
    assert re.search(rf"torch +onnx *\n(.*\n)+ *accuracy +{percent} +{percent} *\n", shown)


def test_card(folder: Path, tmp_path: Path, run) -> None:
    model = AlAdForTokenClassification.from_pretrained(folder / "tagger")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    done = run("card", tmp_path, "--data", folder / "corpus", "--repo-id", "me/mine", "--language", "de", "--json")
    card = (tmp_path / "README.md").read_text()
    assert "me/mine" in card and "language: de" in card
    scores = json.loads(done.stdout)["scores"]
    assert scores == evaluate_tagger(model, tiny_tokenizer(), load_token_classification(folder / "corpus")["test"])
    assert f"{scores['accuracy']:.3f}"[:4] in card
    assert "written for AlAd models" in run("card", folder / "teacher", "--data", folder / "corpus", code=1).stderr


def test_card_beside_teacher_and_plain_student(folder: Path, tmp_path: Path, run) -> None:
    pytest.importorskip("matplotlib")
    AlAdForTokenClassification.from_pretrained(folder / "tagger").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    record_training(tmp_path, {"epochs": 7})
    data = ("--data", folder / "corpus")
    others = ("--teacher", folder / "teacher", "--plain-student", folder / "tagger")
    made = "alad-hf train student --teacher teacher"
    done = json.loads(run("card", tmp_path, *data, *others, "--command", made, "--json").stdout)
    card, rows = (tmp_path / "README.md").read_text(), done["comparison"]
    assert list(rows) == ["teacher", "plain student", "this model"]
    assert rows["this model"]["f1"] == rows["plain student"]["f1"] == done["scores"]["f1"]
    assert all(row["latency_ms"] > 0 for row in rows.values())
    assert "| epochs | 7 |" in card and f"```bash\n{made}\n```" in card and "(score_and_latency.png)" in card
    assert (tmp_path / "score_and_latency.png").read_bytes().startswith(b"\x89PNG")
    wrong = run("card", tmp_path, *data, "--teacher", folder / "student", code=1).stderr
    assert "neither tags nor answers" in wrong


def test_push_asks_for_a_complete_checkpoint(folder: Path, tmp_path: Path, run) -> None:
    assert "There is no folder" in run("push", tmp_path / "nowhere", "me/mine", code=1).stderr
    exported = shutil.copytree(folder / "teacher", tmp_path / "exported")
    (exported / "model.safetensors").rename(exported / "model.onnx")
    message = run("push", exported, "me/mine", code=1).stderr
    assert "a model in ONNX, and what is pushed is a checkpoint" in message and "save_pretrained" not in message


def test_what_is_said_of_a_space_can_be_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run
) -> None:
    pytest.importorskip("gradio", reason='the extra "demo" is not installed')
    monkeypatch.setattr("alad_hf.demo.space._requirements", lambda extras: [])  # of an installed package
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(console, "_width", None)
    space = tmp_path / "a space with a long name" / "in it"
    said = run("demo", folder / "teacher", "--compare", "runs/nope", "--write-space", space).stderr
    assert f"\nhf upload NAME {shlex.quote(str(space))} --repo-type space\n" in said
    assert "runs/nope is no folder here: the Space will load it from the Hub by that name." in said
    assert f"{folder / 'teacher'} is no" not in said


def test_push_makes_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    calls = []

    class Commit:
        commit_url, oid = "https://hub/commit/1", "1"

    monkeypatch.setattr(
        "alad_hf.hub.push.push_checkpoint", lambda *args, **kwargs: calls.append((args, kwargs)) or Commit()
    )
    done = run("push", folder / "tagger", "me/mine", "--private", "--revision", "new", "--message", "First", "--json")
    assert json.loads(done.stdout) == {"commit_url": "https://hub/commit/1", "oid": "1"}
    expected = {"private": True, "revision": "new", "commit_message": "First"}
    assert calls == [((folder / "tagger", "me/mine"), expected)]


def test_quickstart_makes_the_call(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run) -> None:
    from alad_hf.quickstart import QuickstartResult, Row

    calls = []

    def quickstart(output: Path, **arguments: object) -> QuickstartResult:
        calls.append((output, arguments))
        arguments["report"]("Training: teacher")
        rows = [Row("teacher", 0.5, 2_000_000, 10_000, 8.0, 100.0, 0.25)]
        return QuickstartResult(rows, output / "alad", 1.0, metric="accuracy", split="validation")

    monkeypatch.setattr("alad_hf.quickstart.quickstart", quickstart)
    monkeypatch.setattr("alad_hf.quickstart.tag_in_fresh_process", lambda folder, sentence: "PER 0.9 Ada\n")
    done = run("quickstart", "--output", tmp_path, "--layers", 1, "--seed", 4)
    assert "50.0" in done.stdout and "25 %" in done.stdout and "PER 0.9 Ada" in done.stdout
    assert "accuracy" in done.stdout and "validation score" in done.stdout and "F1" not in done.stdout
    assert "Training: teacher" in done.stderr
    (output, arguments) = calls[0]
    assert output == tmp_path and (arguments["layers"], arguments["seed"], arguments["texts"]) == (1, 4, None)
    (row,) = json.loads(run("quickstart", "--json", "--quiet").stdout)
    assert row["name"] == "teacher"


def test_questions_from_training_to_answers(folder: Path, tmp_path: Path, run) -> None:
    context = "Smith visited New York and works in Berlin"
    questions = [
        {"id": str(n), "question": "visited", "answers": [{"text": "New York", "answer_start": 14}]} for n in (1, 2)
    ]
    squad = {"data": [{"paragraphs": [{"context": context, "qas": questions}]}]}
    for split in ("train", "dev"):
        (tmp_path / f"{split}.json").write_text(json.dumps(squad))
    common = ("--task", "qa", "--data", tmp_path, "--epochs", 1)
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    run("train", folder / "student", *common, "--output", teacher)
    done = run("train", folder / "student", *common, "--output", out, "--teacher", teacher, "--frozen")
    assert "exact_match" in done.stdout and "Saved in" in done.stderr

    scores = run("evaluate", out, "--data", tmp_path, "--split", "validation", "--json")
    assert json.loads(scores.stdout)["total"] == 2

    sizes = ("--method", "prune", "--heads", 1, "--neurons", 12)
    run("compress", teacher, *sizes, "--data", tmp_path, "--output", tmp_path / "pruned")
    asked_teacher = AutoModelForQuestionAnswering.from_pretrained(teacher)
    read = {"texts": load_question_answering(tmp_path)["train"], "tokenizer": tiny_tokenizer()}
    wanted = prune_width(asked_teacher, heads=1, neurons=12, **read).state_dict()
    made = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "pruned").state_dict()
    assert all(torch.equal(made[name], value) for name, value in wanted.items())

    asked = {"question": "visited", "context": context}
    row = json.loads(run("predict", out, stdin=json.dumps(asked) + "\n").stdout)
    answer = row["answer"]
    assert asked.items() <= row.items() and context[answer["start"] : answer["end"]] == answer["answer"]
    unsure = run("predict", out, "--handle-impossible-answer", stdin=json.dumps(asked) + "\n")
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    expected = QuestionAnswerer(model, tokenizer)(**asked, handle_impossible_answer=True)
    found = json.loads(unsure.stdout)["answer"]
    assert found.pop("score") == pytest.approx(expected.pop("score"), rel=1e-4)
    assert found == expected
    assert "Line 1: found invalid JSON 'Who?'" in run("predict", out, stdin="Who?\n", code=1).stderr
    assert "as JSON lines" in run("predict", out, "--output-format", "conll", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{tagger}", "--data", "{corpus}", "--split", "dev"], "no split 'dev'; it has"),
        (["evaluate", "{nowhere}", "--data", "{corpus}"], "nowhere"),
        (["evaluate", "{student}", "--data", "{corpus}"], "without a head"),
        (["evaluate", "{tagger}", "--data", "{corpus}/absent.conll"], "absent.conll"),
        (["benchmark", "{student}", "--data", "{corpus}"], "without a head cannot be scored"),
        (["benchmark", "{tagger}", "--split", "test"], "--split test is a part of --data, which is missing"),
        (["export", "{tagger}", "--output", "{out}", "--split", "x"], "--split x is a part of --data"),
        (["demo", "{tagger}", "--write-space", "{out}", "--port", "80"], "so --port would do nothing"),
        (
            ["demo", "{tagger}", "--write-space", "{out}", "--share", "--host", "::1", "--device", "cpu"],
            "so --host and --share and --device would do nothing",
        ),
        pytest.param(
            ["evaluate", "{teacher}", "--data", "{corpus}", "--device", "cuda"],
            "There is no device 'cuda' here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
        (["compress", "{teacher}", "--method", "int8", "--output", "{student}"], "student holds a model already"),
        (
            ["align", "{student}", "--teacher", "{teacher}", "--text", "{corpus}/train.conll", "--output", "{tagger}"],
            "tagger holds a model already: name another folder",
        ),
        (["predict", "{tagger}", "{corpus}/absent.txt"], "is not a file"),
        (["predict", "{tagger}", "{corpus}/train.conll", "--resume"], "name it with --output"),
        (["predict", "{tagger}", "--overlap", "62"], "overlap=62 must be at least 0"),
        (["predict", "{tagger}", "{tagger}/model.safetensors"], "pass --input-format, one of ['text', "),
        (["predict", "{tagger}", "--handle-impossible-answer"], "this is a tagger: leave it out"),
        (["train", "{student}", "--keep-layers", "0,7", *TASK], "layers from 0 to 1"),
        (["train", "{student}", "--keep-layers", "0;7", *TASK], "listed by their indices"),
        (["train", "{student}", "--frozen", *TASK], "nothing that freeze_student could do"),
        (["train", "{student}", "--no-adapter", *TASK], "nothing that adapter=False could do"),
        (
            ["train", "{student}", "--no-adapter", "--teacher", "{teacher}", "--frozen", *TASK],
            "--no-adapter) there is nothing that freeze_student could do",
        ),
        (["train", "{student}", "--window-size", "5", *TASK], "nothing that window_size could do"),
        (["train", "{student}", "--epochs", "0", *TASK], "Budget(epochs=0) must be 1 or more"),
        (["train", "{student}", "--task", "qa", "--text", "x.txt", *TASK], "--text is for tagging"),
        (["train", "{student}", "--teacher", "{teacher}", "--window-size", "4", *TASK], "window_size must be an odd"),
        (["train", "{student}", "--teacher", "{student}", *TASK], "does not know the tags ['B-LOC', 'B-PER'"),
        (["compress", "{student}", "--method", "truncate", "--output", "{out}"], "needs --layers"),
        (["compress", "{student}", "--method", "graft", "--output", "{out}"], "needs --num-layers"),
        (
            ["compress", "{teacher}", "--method", "prune", "--text", "x.txt", *TASK],
            "--text and --data say both what is read",
        ),
        (["compress", "{student}", "--method", "prune", *TASK], "for a model without a head pass --text"),
        (
            ["compress", "{teacher}", "--method", "prune", "--heads", "1", "--data", "builtin", "--output", "{out}"],
            "The model does not know the tags ['B-EVENT', 'B-ORG'",
        ),
        (["compress", "{student}", "--method", "svd", "--option", "rank", "--output", "{out}"], "takes name=value"),
        (
            ["compress", "{student}", "--method", "pq", "--bytes", "999", "--option", "bytes=9", "--output", "{out}"],
            "bytes is given twice",
        ),
        (["compress", "{student}", "--method", "int8", "--seed", "1", "--output", "{out}"], "nothing that --seed"),
        (["compress", "{student}", "--method", "svd", "--no-metric", *TASK[2:]], "of --text, which is missing"),
        (["compress", "{student}", "--method", "int8", "--metric", *TASK[2:]], "nothing that --metric could do"),
        (["compress", "{tagger}", "--method", "int8", "--output", "{out}"], "student first, then align the result"),
        (
            ["compress", "{teacher}", "--method", "prune", "--data", "{corpus}", "--output", "{out}"],
            "heads=... or neurons=... (--heads, --neurons)",
        ),
        (
            ["train", "{student}", "--teacher", "{teacher}", "--frozen", "--no-freeze-embeddings", *TASK],
            "leave out freeze_embeddings=False (--no-freeze-embeddings)",
        ),
        (["compress", "{student}", "--method", "svd", "--option", "rnk=2", "--output", "{out}"], "rnk"),
        (["compress", "{student}", "--method", "graft", "--num-layers", "1", "--output", "{out}"], "pass --text"),
        (
            ["compress", "{student}", "--method", "prune", "--ratio", "2", "--layers", "1", "--output", "{out}"],
            "nothing that --layers, --ratio could do: leave it out. It reads --heads, --neurons, --text, --data, --r",
        ),
    ],
)
def test_mistakes_get_an_answer_and_no_traceback(
    folder: Path, tmp_path: Path, run, arguments: list[str], message: str
) -> None:
    places = {name: folder / name for name in ("student", "teacher", "tagger", "corpus", "nowhere")}
    done = run(*(argument.format(**places, out=tmp_path / "out") for argument in arguments), code=1)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_values_out_of_range_are_wrong_usage(folder: Path, tmp_path: Path, run) -> None:
    (tmp_path / "file").write_text("")
    align = ["align", folder / "student", "--teacher", folder / "teacher", "--text", tmp_path / "file"]
    for arguments in (
        [*align, "--output", tmp_path / "file"],
        [*align, "--output", tmp_path / "out", "--epochs", 0],
        [*align, "--output", tmp_path / "out", "--batch-size", 0],
        ["quickstart", "--output", tmp_path / "out", "--epochs", 0],
        ["quickstart", "--output", tmp_path / "out", "--layers", 0],
    ):
        assert "Invalid value for" in run(*arguments, code=2).stderr


def test_a_tilde_is_the_home_folder_in_every_option(folder: Path, tmp_path: Path, run, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    options = "teacher: ~/teacher\ntext: ~/text.txt\noutput: ~/of-a-tilde\nmethod: closed-form\n"
    (tmp_path / "options.yaml").write_text(options)
    run("align", "~/student", "--config", "options.yaml")
    assert (folder / "of-a-tilde" / "config.json").exists() and not (tmp_path / "~").exists()


def test_quiet_shows_no_progress(folder: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("huggingface_hub.utils.tqdm", "huggingface_hub.constants"):
        monkeypatch.setattr(sys.modules[module], "HF_HUB_DISABLE_PROGRESS_BARS", None)
    (tmp_path / "text").write_text("Smith visited York\nJones works\n" * 20)
    align = ["align", folder / "student", "--teacher", folder / "teacher", "--text", tmp_path / "text"]
    align += ["--method", "closed-form", "--adapter-type", "linear"]
    assert "Moments" not in run(*align, "--output", tmp_path / "pipe").stderr
    stream = sys.modules[CliRunner.isolation.__module__]._NamedTextIOWrapper  # of typer, or of click
    monkeypatch.setattr(stream, "isatty", lambda self: True, raising=False)
    assert "Moments" in run(*align, "--output", tmp_path / "one").stderr
    assert "Moments" not in run(*align, "--output", tmp_path / "two", "--quiet").stderr


def test_the_size_of_teacher_states_is_announced_but_to_the_quiet(
    folder: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("alad_hf.alignment.teacher_cache.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    train = ("train", folder / "student", "--teacher", folder / "teacher", "--data", folder / "corpus", "--epochs", 1)
    run(*train, "--output", tmp_path / "one")
    assert "tokens will take" in caplog.text
    caplog.clear()
    shutil.rmtree(tmp_path / "cache")
    run(*train, "--output", tmp_path / "two", "--quiet")
    assert "tokens will take" not in caplog.text and list((tmp_path / "cache").rglob("*.arrow"))


def test_a_model_without_a_tokenizer_or_in_onnx_is_named(folder: Path, tmp_path: Path, run) -> None:
    AutoModelForTokenClassification.from_pretrained(folder / "teacher").save_pretrained(tmp_path)
    assert "holds no tokenizer" in run("evaluate", tmp_path, "--data", folder / "corpus", code=1).stderr
    line = ("distill", tmp_path, "--teacher", folder / "student", "--text", folder / "text.txt", "--steps", 1)
    assert "holds no tokenizer" in run(*line, "--output", tmp_path / "out", code=1).stderr
    (tmp_path / "tokenizer.json").write_text("{")
    message = run(*line, "--output", tmp_path / "out", code=1).stderr
    assert "EOF" in message or "Expecting" in message, message  # why it could not be loaded
    (tmp_path / "model.safetensors").rename(tmp_path / "model.onnx")
    done = run("compress", tmp_path, "--method", "int8", "--output", tmp_path / "out", code=1)
    assert "is a model in ONNX, which torch cannot load: name the one that it was made of" in done.stderr


def test_a_damaged_checkpoint_is_an_error_of_the_user(folder: Path, tmp_path: Path, run) -> None:
    AutoModelForTokenClassification.from_pretrained(folder / "teacher").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = run("predict", tmp_path, code=1)
    assert done.stderr.startswith("Error: ") and "Traceback" not in done.stderr


def test_a_value_of_a_wrong_type_in_a_config_is_an_error_of_the_user(folder: Path, tmp_path: Path, run) -> None:
    model = shutil.copytree(folder / "teacher", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_size": "x"}))
    done = run("predict", model, code=1)
    assert done.stderr.startswith("Error: ") and "hidden_size" in done.stderr and "Traceback" not in done.stderr
