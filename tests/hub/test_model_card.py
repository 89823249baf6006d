from __future__ import annotations

import ast
import functools
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from inspect import getsource
from pathlib import Path

import jinja2
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from tiny import TAGS, tiny_config, tiny_tokenizer
from transformers import AutoModelForTokenClassification, TrainingArguments

from alad_hf import AlAdConfig, AlAdForQuestionAnswering, AlAdForTokenClassification
from alad_hf.evaluation import entity_scores, squad_scores
from alad_hf.hub import write_model_card
from alad_hf.hub.model_card import record_training, recorded_training

ROOT = Path(__file__).resolve().parents[2]
TEXT = "smith works in london ."
LONG_TEXT = " ".join([TEXT] * 30)
EXAMPLES = {
    "ner": {"text": TEXT},
    "pos": {"text": TEXT},
    "question-answering": {"question": "who works ?", "context": TEXT},
}
METRICS = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "macro_f1": 0.125}
FULL = {
    "training": {
        "general_alignment": {"learning_rate": 5e-4, "text": "/home/zaphod/wiki.txt", "resume": False},
        "joint": {"learning_rate": 5e-5, "warm_up": None},
        "seed": 7,
    },
    "baseline": {
        "teacher": {"f1": 0.5, "parameters": 22_713_216, "stored_megabytes": 90.852864, "gap_recovered": None},
        "/home/zaphod/plain student": {"f1": 0.25, "parameters": 1, "sentences_per_second": 1234.5},
        "this | model": {"name": "this | model", "f1": 1 / 3, "note": "from /home/zaphod/x", "gap_recovered": 1 / 3},
    },
    "sentences_per_second": 1234.5,
    "language": ["de", "en"],
}


def build(task: str = "ner", **fields):
    torch.manual_seed(0)
    question_answering = task == "question-answering"
    labels = {} if question_answering else {"id2label": dict(enumerate(TAGS))}
    config = AlAdConfig(text_config=tiny_config(), hidden_size=32, **{"adapter_size": 4, **labels, **fields})
    model = (AlAdForQuestionAnswering if question_answering else AlAdForTokenClassification)(config).eval()
    if not question_answering:  # always a person, so that a usage snippet has something to print
        model.classifier.bias.data[TAGS.index("B-PER")] = 9.0
    return model


def card_text(model, folder, task="ner", metrics=METRICS, dataset_name="org/corpus", **arguments):
    return write_model_card(
        model, folder, task=task, dataset_name=dataset_name, metrics=metrics, **arguments
    ).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of every table row in the card."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)\n```", text, re.DOTALL)


def test_metadata_survives_a_round_trip(tmp_path):
    model = build(student_name_or_path="/cache/models--org--student/snapshots/0", teacher_name_or_path="org/teacher")
    path = write_model_card(model, tmp_path / "my-model", task="ner", dataset_name="org/corpus", metrics=METRICS)
    assert path == tmp_path / "my-model" / "README.md"
    card = ModelCard.load(path)
    data = card.data.to_dict()
    assert data == metadata_load(path)
    assert str(card) == path.read_text(encoding="utf-8")
    expected = {
        "library_name": "transformers",
        "pipeline_tag": "token-classification",
        "base_model": "org/student",
        "base_model_relation": "finetune",
        "datasets": ["org/corpus"],
        "tags": ["alad", "alignment-adapter", "custom_code"],
        "metrics": ["f1", "precision", "recall"],
    }
    assert {key: data[key] for key in expected} == expected
    assert data["widget"][0]["text"] in snippets(card.text)[0]
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "my-model"
    assert [(one.metric_name, one.metric_type, one.metric_value) for one in results] == [
        ("precision", "precision", 0.5),
        ("recall", "recall", 0.25),
        ("F1", "f1", 1 / 3),
        ("macro F1", "f1", 0.125),
    ]
    assert {(one.task_type, one.dataset_type, one.dataset_name, one.dataset_split) for one in results} == {
        ("token-classification", "org/corpus", "org/corpus", "test")
    }
    assert "[org/teacher](https://huggingface.co/org/teacher)" in card.text


def test_ids_are_given_only_where_they_are_ids(tmp_path):
    model = build(student_name_or_path="/home/zaphod/runs/student")
    write_model_card(model, tmp_path, task="ner", dataset_name="My Own Data", metrics={})
    data = metadata_load(tmp_path / "README.md")
    absent = {"base_model", "base_model_relation", "datasets", "license", "language", "model-index", "metrics"}
    assert not absent & set(data)
    card_text(model, tmp_path, dataset_name="My Own Data")
    (result,) = metadata_load(tmp_path / "README.md")["model-index"][0]["results"]
    assert result["dataset"] == {"name": "My Own Data", "type": "my-own-data", "split": "test"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"adapter_type": "light", "adapter_size": None},
            ["light, window size 5, inner width 64", "linear map of the student's state"],
        ),
        ({"adapter_type": "mlp", "adapter_size": 9}, ["mlp, window size 5, inner width 9", "the published one"]),
        (
            {"adapter_type": "linear", "adapter_size": None},
            ["linear, window size 5, full rank", "one linear map of the student's states"],
        ),
        (
            {"adapter_type": "linear", "adapter_size": 3, "mix_student_layers": True},
            ["linear, window size 5, rank 3", "one linear map of rank 3", "a learned mix of all the student's layers"],
        ),
    ],
)
def test_the_adapter_in_words(fields, expected, tmp_path):
    text = " ".join(card_text(build(**fields), tmp_path).split())
    assert all(words in text for words in expected) and "None" not in text


@pytest.mark.parametrize("arguments", [{}, FULL], ids=["least", "full"])
@pytest.mark.parametrize("names", [(None, None), ("/home/zaphod/runs/student", r"C:\zaphod\teacher")])
@pytest.mark.parametrize("task", list(EXAMPLES))
def test_nothing_is_left_open_or_betrays_the_machine(task, names, arguments, tmp_path, monkeypatch):
    strict = functools.partial(jinja2.Template, undefined=jinja2.StrictUndefined)
    monkeypatch.setattr(jinja2, "Template", strict)
    model = build(task, student_name_or_path=names[0], teacher_name_or_path=names[1])
    dataset = str(tmp_path / "corpus" / "wnut17")
    text = card_text(model, tmp_path / "out", task, dataset_name=dataset, **arguments)
    for unwanted in ("{{", "}}", "{%", "None", "nan", "zaphod", "C:", str(tmp_path), str(tmp_path.parent), "/home"):
        assert unwanted not in text
    assert re.search(r"(?<![\w.:/])/\w", re.sub(r"https?://\S+", "", text)) is None
    assert "wnut17" in text and text.endswith("\n") and "\n\n\n" not in text
    widths = [{line.replace("\\|", "").count("|") for line in block} for block in tables(text)]
    assert widths and all(len(width) == 1 for width in widths)


def tables(text: str) -> list[list[str]]:
    blocks, lines = [], [*text.splitlines(), ""]
    for before, line in zip(["", *lines], lines, strict=False):
        if line.startswith("|"):
            if not before.startswith("|"):
                assert before == "", f"a table needs an empty line before it: {before!r}"
                blocks.append([])
            blocks[-1].append(line)
    return blocks


def test_numbers_are_those_of_the_model_and_the_caller(tmp_path):
    model = build(freeze_student=True, alignment_mse_weight=0.5, alignment_cosine_weight=0.25, distillation_weight=0)
    model.save_pretrained(tmp_path)
    text = card_text(model, tmp_path, **FULL)
    encoder, adapter = (
        sum(parameter.numel() for parameter in part.parameters())
        for part in (model.model.encoder, model.model.adapter)
    )
    for expected in (
        ["student", f"{encoder:,}"],
        ["adapter", f"{adapter:,}"],
        ["head", "165"],
        ["all", f"{encoder + adapter + 32 * 5 + 5:,}"],
        ["language", "de, en"],
        ["labels", "`O`, `B-PER`, `I-PER`, `B-LOC`, `I-LOC`"],
        ["student", "not recorded (bert, 2 layers, 16 wide)"],
        ["adapter", "light, window size 5, inner width 4"],
        ["student's weights", "frozen (plug-and-play)"],
        ["squared error between adapted and teacher states (a mean over the width)", "0.5"],
        ["one minus the cosine of adapted and teacher states", "0.25"],
        ["F1", "0.3333"],
    ):
        assert expected in rows(text)
    assert "divergence of the logits" not in text
    assert f"{100 * adapter / encoder:.1f} % of the student's" in text
    (stored,) = re.findall(r"weights take ([\d.]+) MB", text)
    assert float(stored) == pytest.approx((tmp_path / "model.safetensors").stat().st_size / 1e6, abs=0.006)
    assert "The model read 1,234 sentences a second" in text


def test_comparison_table(tmp_path):
    text = card_text(build(), tmp_path, **FULL)
    expected = [
        ["", "F1", "parameters", "stored MB", "gap recovered", "sentences/s", "note"],
        [":--", *["--:"] * 6],
        ["teacher", "0.5000", "22,713,216", "90.85", "–", "–", "–"],
        ["plain student", "0.2500", "1", "–", "–", "1,234", "–"],
        ["this \\| model", "0.3333", "–", "–", "33 %", "–", "from x"],
    ]
    first = rows(text).index(expected[0])
    assert rows(text)[first : first + 5] == expected
    assert '"gap recovered" is' in text and '"gap recovered" is' not in card_text(build(), tmp_path)


def test_a_score_for_each_type_is_a_table_and_no_metric_of_the_hub(tmp_path):
    text = card_text(build(), tmp_path, metrics={**METRICS, "f1_PER": 0.5, "f1_$": 0.25})
    assert "Scores by type" in text and ["PER", "0.5000"] in rows(text) and ["$", "0.2500"] in rows(text)
    assert not [name for name in metadata_load(tmp_path / "README.md")["metrics"] if name.startswith("f1_")]


def test_commands_and_figure(tmp_path):
    (tmp_path / "scores.png").write_bytes(b"")
    commands = ["alad-hf compress encoder --method int8 --output small", "echo ```"]
    said = {"conditions": "Latency: on a <slow> machine.", "about_data": "From there, CC BY 4.0."}
    text = card_text(build(), tmp_path, commands=commands, figure="scores.png", **said, **FULL)
    told = {"conditions": "Data in /home/ada/private/text.txt.", "about_data": "Kept in /home/ada/private/corpus."}
    assert "/home" not in card_text(build(), tmp_path, **told, **FULL)
    assert "Latency: on a \\<slow\\> machine." in text and "Labels: org/corpus. From there, CC BY 4.0." in text
    assert "````bash\n" + "\n".join(commands) + "\n````" in text
    assert text.index("![Score against latency") > text.index("Side by side") and "](scores.png)" in text
    assert "with below, were made by these commands:" in text
    assert "Made by these commands:" in card_text(build(), tmp_path, commands=commands)
    assert "by these commands" not in card_text(build(), tmp_path)
    with pytest.raises(FileNotFoundError, match="no picture 'none.png'"):
        card_text(build(), tmp_path, figure="none.png")


def test_smaller_embeddings_are_named(tmp_path):
    model = build()
    model.config.text_config.compression = {"embedding": {"method": "pq", "bytes": 1_870_734, "ratio": 25.06}}
    text = card_text(model, tmp_path)
    assert ["student's token embeddings", "by pq: 1.87 MB, 25.1 times smaller than in float32"] in rows(text)


def test_what_fits_one_input_is_said(tmp_path):
    model = build()
    assert f"at most {tiny_config().max_position_embeddings} tokens" in card_text(model, tmp_path)
    model.config.text_config.max_position_embeddings = -1
    assert "One input holds" not in card_text(model, tmp_path)


def test_hyper_parameters_are_kept_for_a_later_card(tmp_path):
    assert recorded_training(tmp_path) == {}
    record_training(tmp_path, {"epochs": 5, "learning_rate": 1e-3})
    assert recorded_training(tmp_path) == {"epochs": 5, "learning_rate": 1e-3}
    for content, message in (("{", "is no JSON"), ("[1]", "must hold values by name")):
        (tmp_path / "training.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            recorded_training(tmp_path)


def test_hyper_parameters_by_stage(tmp_path):
    text = card_text(build(), tmp_path, **FULL)
    expected = [
        ["hyper-parameter", "all stages", "general alignment", "joint"],
        [":--", "--:", "--:", "--:"],
        ["seed", "7", "–", "–"],
        ["learning rate", "–", "0.0005", "5e-05"],
        ["text", "–", "wiki.txt", "–"],
        ["resume", "–", "no", "–"],
        ["warm up", "–", "–", "default"],
    ]
    first = rows(text).index(expected[0])
    assert rows(text)[first : first + 7] == expected


def test_hyper_parameters_without_stages_or_as_training_arguments(tmp_path):
    text = card_text(build(), tmp_path, training={"epochs": 5, "learning_rate": None})
    assert ["hyper-parameter", "value"] in rows(text) and ["learning rate", "default"] in rows(text)
    arguments = TrainingArguments(str(tmp_path), learning_rate=1e-4, num_train_epochs=3, report_to="none")
    steps = TrainingArguments(str(tmp_path), max_steps=90, lr_scheduler_type="constant", report_to="none")
    text = card_text(build(), tmp_path, training={"alignment": arguments, "task": steps})
    assert ["learning rate", "0.0001", "5e-05"] in rows(text)
    assert ["num train epochs", "3", "–"] in rows(text) and ["max steps", "–", "90"] in rows(text)
    assert ["lr scheduler type", "linear", "constant"] in rows(text)


def test_scores_go_in_as_the_metrics_return_them(tmp_path):
    metrics = entity_scores([["B-PER", "O", "B-LOC"]], [["B-PER", "O", "B-PER"]])
    text = card_text(build(), tmp_path, metrics=metrics)
    assert "Scores per type:" in text
    assert ["PER", "1.0000", "0.5000", "0.6667", "2"] in rows(text)
    names = {one["type"] for one in metadata_load(tmp_path / "README.md")["model-index"][0]["results"][0]["metrics"]}
    assert names == {"precision", "recall", "f1", "accuracy"}

    answers = [{"id": "1", "answers": {"text": ["London"], "answer_start": [0]}}]
    metrics = squad_scores([{"id": "1", "prediction_text": "in London"}], answers)
    text = card_text(build("question-answering"), tmp_path, "question-answering", metrics)
    assert ["exact match", "0.0000"] in rows(text) and ["F1", "66.67"] in rows(text) and ["total", "1"] in rows(text)
    (result,) = metadata_load(tmp_path / "README.md")["model-index"][0]["results"]
    assert {one["type"] for one in result["metrics"]} == {"exact_match", "f1"}  # a count is no score
    assert "labels" not in [cells[0] for cells in rows(text)]
    # The Hub's widget has a text and a context; transformers 5 has no pipeline for questions.
    assert metadata_load(tmp_path / "README.md")["widget"] == [
        {"text": "Where does Ingrid live?", "context": "Ingrid Solberg lives in Oslo and builds boats."}
    ]
    assert "stride" not in text and "takes one input" in text


@pytest.mark.parametrize(
    ("fields", "shown", "told"),
    [
        ({}, "trained with the adapter (joint), all but its token embeddings", "all but its token embeddings, were"),
        ({"freeze_embeddings": False}, "trained with the adapter (joint)", "own weights were trained together"),
        ({"freeze_student": True}, "frozen (plug-and-play)", "own weights were kept"),
    ],
)
def test_a_card_says_what_of_the_student_was_trained(fields, shown, told, tmp_path):
    text = card_text(build(**fields), tmp_path)
    assert ["student's weights", shown] in rows(text) and told in text


SHOUT = """
def run(code, task):
    print(f"<{task}>")
    exec(code, {})
"""


@pytest.mark.parametrize("with_package", [True, False])
def test_usage_snippets_run_as_written(with_package, tmp_path):
    script = [SHOUT]
    if not with_package:
        script.append("import sys; sys.modules['alad_hf'] = None  # any import of the package fails")
    for task, example in EXAMPLES.items():
        model, folder = build(task), tmp_path / "my-org" / f"tiny-{task}"
        model.save_pretrained(folder)
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = 384  # the window of QuestionAnswerer
        tokenizer.save_pretrained(folder)
        if task == "ner":  # longer than one input, and still read to its end
            tokenizer.model_max_length = 64
            tokenizer.save_pretrained(folder)
            example = {"text": LONG_TEXT}
        text = card_text(model, folder, task, repo_id=f"my-org/tiny-{task}", example=example)
        assert f"# my-org/tiny-{task}\n" in text
        own, alone = snippets(text)
        script.append(f"run({own if with_package else alone!r}, {task!r})")
    # The Hub id is a folder here, seen from where the snippets run.
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
            "PYTHONPATH": str(ROOT) if with_package else "",
        },
    )
    assert done.returncode == 0, done.stderr
    _, ner, pos, answer = re.split(r"<ner>|<pos>|<question-answering>", done.stdout)
    if with_package:
        found = [line.split()[::2] for line in ner.strip().splitlines()]
        assert found == [["PER", word] for word in LONG_TEXT.split()]
        assert [line.split() for line in pos.strip().splitlines()] == [[word, "PER"] for word in TEXT.split()]
        assert ast.literal_eval(answer.strip())["answer"] in TEXT
    else:
        assert ner.count("'entity_group': 'PER'") == len(LONG_TEXT.split())
        assert "'entity': 'B-PER'" in pos and answer.strip()


@pytest.mark.parametrize("text", ['she said "no"', "a\\b 'c'", "Zürich 🙂\nnew line", "{name} {{ x }} {% y %}"])
def test_any_text_can_be_an_example(text, tmp_path):
    path = write_model_card(
        build(), tmp_path, task="ner", dataset_name="x", metrics=METRICS, example={"text": text}, repo_id="org/x"
    )
    assert metadata_load(path)["widget"] == [{"text": text}]
    for code in snippets(path.read_text(encoding="utf-8")):
        literals = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
        assert text in literals and "org/x" in literals


class ValidatingHub(BaseHTTPRequestHandler):
    """Stands in for the Hub's /api/validate-yaml: refuses metadata without what a model-index must have."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            assert (self.path, body["repoType"]) == ("/api/validate-yaml", "model")
            data = yaml.safe_load(body["content"].split("---\n")[1])
            for result in data["model-index"][0]["results"]:
                assert result["task"]["type"] and result["dataset"]["type"] and result["dataset"]["name"]
                assert result["metrics"]
                for metric in result["metrics"]:
                    assert metric["type"] and isinstance(metric["value"], float)
            assert data["model-index"][0]["name"]
        except (AssertionError, KeyError, IndexError, TypeError, yaml.YAMLError) as error:
            self.send_response(400)
            answer = repr(error).encode()
        else:
            self.send_response(200)
            answer = b'{"errors": [], "warnings": []}'
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


@pytest.mark.skipif(
    "constants.ENDPOINT" not in getsource(ModelCard.validate), reason="this huggingface_hub asks huggingface.co only"
)
def test_card_validates_over_the_client_of_the_hub(tmp_path):
    path = write_model_card(build(), tmp_path, task="ner", dataset_name="org/corpus", metrics=METRICS, **FULL)
    script = """
        import sys
        from huggingface_hub import ModelCard
        card = ModelCard.load(sys.argv[1])
        card.validate()
        print("valid")
        card.data.eval_results[0].metric_value = None
        try:
            card.validate()
        except ValueError as error:
            print("refused", error)
    """
    server = HTTPServer(("127.0.0.1", 0), ValidatingHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(path)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
            },
            timeout=60,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["valid", "refused"]


def test_replacing_another_card_is_reported(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        card_text(build(), tmp_path)
        card_text(build(), tmp_path, split="dev")
        assert caplog.records == []
        (tmp_path / "README.md").write_text("by hand", encoding="utf-8")
        card_text(build(), tmp_path, split="dev")
    assert "Replacing the model card" in caplog.text
    assert "On the split `dev` of org/corpus" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_template_is_in_the_package_and_linked_beside_the_cards():
    packaged = files("alad_hf.hub").joinpath("model_card_template.md").read_text(encoding="utf-8")
    link = ROOT / "model_cards" / "template.md"
    # A checkout without links has the target's path as the file's content.
    assert link.read_text(encoding="utf-8").strip() in (packaged.strip(), "../alad_hf/hub/model_card_template.md")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"task": "summarization"}, ValueError, r"task must be one of \['ner', 'pos', 'question-answering'\], got 's"),
        ({"task": "question-answering"}, TypeError, "an AlAdForQuestionAnswering, got AlAdForTokenClassification"),
        ({"metrics": {"f1": float("nan")}}, ValueError, r"metrics\['f1'\] must be a finite number .* got nan"),
        ({"metrics": {"f1": "0.5"}}, ValueError, "must be a finite number or a table of them, got '0.5'"),
        ({"example": {"question": "who ?"}}, ValueError, r"example must give \['text'\] as texts for task='ner'"),
        ({"example": {"text": " "}}, ValueError, "example must give"),
    ],
)
def test_errors_name_the_bad_value(arguments, error, message, tmp_path):
    with pytest.raises(error, match=message):
        write_model_card(build(), tmp_path, **{"task": "ner", "dataset_name": "x", "metrics": METRICS, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_adapter_has_no_such_card(tmp_path):
    plain = AutoModelForTokenClassification.from_config(tiny_config())
    with pytest.raises(TypeError, match="got BertForTokenClassification. Pass the trained AlAd model"):
        card_text(plain, tmp_path)
