"""Publishing and loading over HTTP: huggingface_hub's real client against a Hub on the loopback."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import Blob, Fault, HubServer
from safetensors.torch import load_file, save_file
from tiny import TAGS, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel

from alad_hf import AlAdConfig, AlAdForTokenClassification
from alad_hf.hub import push_checkpoint, write_model_card
from alad_hf.hub.push import _card_named, _files_to_publish

ROOT = Path(__file__).resolve().parents[2]
TEXT = "smith works in london ."
TOKEN = "hf_ada"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer({TOKEN: "ada", "hf_eve": "eve"}) as server:
        yield server


def environment(hub: HubServer, home: Path, **changes: str) -> dict[str, str]:
    """That of a user whose Hub is ours: constants of huggingface_hub are read from it at import."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    return {
        **inherited,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        **changes,
    }


class Client:
    """A Python process of a user of the Hub; runs code and returns what it leaves in `result`."""

    SETUP = """
        import json, os, sys, traceback
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print must not get among the answers
        names = {}
        for line in sys.stdin:
            names["result"] = None
            try:
                exec(json.loads(line), names)
                answer = {"result": names["result"]}
            except Exception as error:
                kinds = [kind.__name__ for kind in type(error).__mro__]
                answer = {"kinds": kinds, "message": str(error), "trace": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)
    """

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        command = [sys.executable, "-c", textwrap.dedent(self.SETUP)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": (cwd / "stderr.txt").open("w")}
        self.process = subprocess.Popen(command, env=env, cwd=cwd, text=True, **streams)

    def ask(self, code: str) -> dict:
        self.process.stdin.write(json.dumps(textwrap.dedent(code)) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def run(self, code: str):
        answer = self.ask(code)
        assert "message" not in answer, answer["trace"]
        return answer["result"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def client(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("client")
    client = Client(environment(hub, folder / "home"), folder)
    client.run(
        """
        import alad_hf
        from alad_hf import AlAdForTokenClassification
        from alad_hf.hub import push_checkpoint
        from huggingface_hub import HfApi
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

        def weights(*arguments, **options):
            model = AutoModelForTokenClassification.from_pretrained(*arguments, **options)
            return type(model).__module__, model.classifier.bias.tolist()
        """
    )
    yield client
    client.close()


def write_checkpoint(folder: Path, bias: float = 0.0) -> Path:
    """A finished tagger, as a recipe leaves it: model, code, tokenizer and card."""
    torch.manual_seed(0)
    config = AlAdConfig(text_config=tiny_config(), hidden_size=32, adapter_size=4, id2label=dict(enumerate(TAGS)))
    model = AlAdForTokenClassification(config)
    model.classifier.bias.data.fill_(bias)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    write_model_card(model, folder, task="ner", dataset_name="org/corpus", metrics={"f1": 0.5})
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tagger")


def push(client: Client, folder: Path, name: str, **options: object):
    return client.run(f"result = push_checkpoint({str(folder)!r}, {name!r}, **{ {'token': TOKEN, **options}!r}).oid")


def test_one_commit_holds_all_and_comes_back(hub, client, checkpoint, tmp_path):
    (checkpoint / "trainer_state.json").write_text("{}")
    (checkpoint / "notes.py").write_text("print('mine')")
    oid = push(client, checkpoint, "ada/tagger")

    repo = hub.model("ada/tagger")
    assert [commit.message for commit in repo.commits] == ["initial commit", "Upload model, tokenizer, card and code"]
    files = repo.at(oid).files
    expected = {path.name for path in checkpoint.iterdir()} - {"trainer_state.json", "notes.py"}
    assert set(files) == {*expected, ".gitattributes"}
    for name in expected - {"README.md"}:
        assert files[name].content == (checkpoint / name).read_bytes(), name
    assert files["model.safetensors"].is_large and not files["config.json"].is_large
    card = files["README.md"].content.decode()
    assert "# ada/tagger\n" in card and "- name: ada/tagger\n" in card
    assert card.count('model="ada/tagger"') == 2 and '"tagger"' not in card

    entities = client.run(f"result = [e['word'] for e in pipeline('ner', model='ada/tagger')({TEXT!r})]")
    local = client.run(f"result = [e['word'] for e in pipeline('ner', model={str(checkpoint)!r})({TEXT!r})]")
    assert entities == local != []
    module, bias = client.run("result = weights('ada/tagger')")
    assert module == "alad_hf.models.modeling_alad"
    assert bias == [0.0] * len(TAGS)


def test_push_to_hub_of_transformers(hub, client, checkpoint):
    client.run(
        f"""
        AutoModelForTokenClassification.from_pretrained({str(checkpoint)!r}).push_to_hub("ada/plain", token={TOKEN!r})
        AutoTokenizer.from_pretrained({str(checkpoint)!r}).push_to_hub("ada/plain", token={TOKEN!r})
        """
    )
    files = hub.model("ada/plain").at("main").files
    assert {"modeling_alad.py", "configuration_alad.py", "model.safetensors", "tokenizer.json"} <= set(files)
    assert client.run(f"result = len(pipeline('ner', model='ada/plain')({TEXT!r}))") > 0


def test_without_the_package_and_then_offline(hub, client, checkpoint, tmp_path):
    oid = push(client, checkpoint, "ada/remote")
    env = environment(hub, tmp_path / "home", PYTHONPATH="")
    script = f"""
        import json, sys
        sys.modules["alad_hf"] = None
        from transformers import pipeline
        refused = None
        try:
            pipeline("ner", model="ada/remote")
        except ValueError as error:
            refused = str(error)
        tagger = pipeline("ner", model="ada/remote", revision={oid!r}, trust_remote_code=True)
        print()  # transformers asked a question without ending the line
        print(json.dumps([refused, type(tagger.model).__module__, [e["word"] for e in tagger({TEXT!r})]]))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    options = {"cwd": tmp_path, "text": True, "capture_output": True, "stdin": subprocess.DEVNULL, "timeout": 120}
    online = subprocess.run(command, env=env, **options)
    assert online.returncode == 0, online.stderr
    refused, module, entities = json.loads(online.stdout.splitlines()[-1])
    assert "trust_remote_code=True" in refused
    assert module.startswith("transformers_modules.") and module.endswith(".modeling_alad")
    assert entities == client.run(f"result = [e['word'] for e in pipeline('ner', model='ada/remote')({TEXT!r})]")

    asked = len(hub.requests)
    offline = subprocess.run(command, env={**env, "HF_HUB_OFFLINE": "1"}, **options)
    assert offline.returncode == 0, offline.stderr
    assert offline.stdout.splitlines()[-1] == online.stdout.splitlines()[-1]
    assert len(hub.requests) == asked


def test_private_models_and_wrong_names(hub, client, checkpoint):
    push(client, checkpoint, "ada/secret", private=True)
    assert hub.model("ada/secret").private
    for load in ("weights('ada/secret')", "weights('ada/secret', token='hf_eve')", "weights('ada/nothing')"):
        refused = client.ask(f"result = {load}")
        assert "OSError" in refused["kinds"], refused
        assert "is not a local folder and is not a valid model identifier" in refused["message"]
        assert "private" in refused["message"] and "token" in refused["message"]
    assert client.run(f"result = weights('ada/secret', token={TOKEN!r})")[1] == [0.0] * len(TAGS)

    refused = client.ask(f"result = weights('ada/secret', revision='v9', token={TOKEN!r})")
    assert "OSError" in refused["kinds"]
    assert "v9 is not a valid git identifier" in refused["message"]

    for token, status in ((False, "401"), ("hf_eve", "403"), ("hf_nobody", "401")):
        refused = client.ask(f"push_checkpoint({str(checkpoint)!r}, 'ada/secret', token={token!r})")
        assert "OSError" in refused["kinds"] and status in refused["message"], refused
    refused = client.ask(f"push_checkpoint({str(checkpoint)!r}, 'ada/secret', private=False, token={TOKEN!r})")
    assert "is there already and is private; nothing was uploaded" in refused["message"], refused
    assert len(hub.model("ada/secret").commits) == 2


def test_a_broken_line_leaves_the_old_model_or_the_new_one(hub, client, checkpoint, tmp_path):
    push(client, checkpoint, "ada/broken")
    before = hub.model("ada/broken").at("main")
    newer = write_checkpoint(tmp_path / "newer", bias=1.5)
    call = f"result = push_checkpoint({str(newer)!r}, 'ada/broken', token={TOKEN!r}).oid"

    with hub.failing(Fault("PUT", "/large-files/", status=403)):  # one that the client does not try again by itself
        assert "message" in client.ask(call)
    with hub.failing(Fault("POST", "/commit/main")):
        assert "message" in client.ask(call)
    assert hub.model("ada/broken").at("main") is before
    assert client.run("result = weights('ada/broken')")[1] == [0.0] * len(TAGS)

    uploads = len(hub.asked("PUT", "/large-files/"))
    with hub.failing(Fault("POST", "/commit/main", after=True)):
        assert "message" in client.ask(call)
    assert len(hub.asked("PUT", "/large-files/")) == uploads  # the weights had arrived before
    assert client.run("result = weights('ada/broken')")[1] == [1.5] * len(TAGS)
    # The user, who saw an error, calls again: the same commit, not one more.
    assert client.run(call) == hub.model("ada/broken").at("main").oid
    assert len(hub.model("ada/broken").commits) == 3

    newest = write_checkpoint(tmp_path / "newest", bias=2.5)
    with hub.failing(Fault("PUT", "/large-files/")) as fault:  # which newer clients try again by themselves
        client.ask(f"result = push_checkpoint({str(newest)!r}, 'ada/broken', token={TOKEN!r}).oid")
    assert fault.times == 0
    push(client, newest, "ada/broken")
    assert len(hub.model("ada/broken").commits) == 4
    assert client.run("result = weights('ada/broken')")[1] == [2.5] * len(TAGS)


def test_revisions_keep_what_they_were(hub, client, checkpoint, tmp_path):
    first = push(client, checkpoint, "ada/moving")
    client.run(f"HfApi(token={TOKEN!r}).create_tag('ada/moving', tag='v1')")
    second = push(client, write_checkpoint(tmp_path / "second", bias=1.0), "ada/moving")
    push(client, write_checkpoint(tmp_path / "third", bias=2.0), "ada/moving", revision="try/other")
    values = client.run(
        f"result = [weights('ada/moving', revision=name)[1][0] for name in ('v1', {first!r}, 'main', {second!r}, "
        "'try/other')]"
    )
    assert values == [0.0, 0.0, 1.0, 1.0, 2.0]
    # Somebody else changes a file: the next load sees it, a pinned one does not.
    repo = hub.model("ada/moving")
    changed = dict(repo.at("main").files)
    config = json.loads(changed["config.json"].content)
    config["id2label"]["1"] = "B-HUMAN"
    changed["config.json"] = Blob(json.dumps(config).encode(), False)
    repo.commit("main", "rename a label", changed)
    labels = client.run(
        "from transformers import AutoConfig\n"
        f"names = None, {second!r}\n"
        "result = [AutoConfig.from_pretrained('ada/moving', revision=name).id2label[1] for name in names]"
    )
    assert labels == ["B-HUMAN", "B-PER"]


def test_weights_that_would_be_loaded_instead_are_deleted(hub, client, tmp_path):
    push(client, write_checkpoint(tmp_path / "whole"), "ada/sharded")
    sharded = write_checkpoint(tmp_path / "sharded", bias=1.0)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    halves = [sorted(tensors)[::2], sorted(tensors)[1::2]]
    weight_map = {}
    for number, half in enumerate(halves, start=1):
        name = f"model-0000{number}-of-00002.safetensors"
        save_file({key: tensors[key] for key in half}, sharded / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, name)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    push(client, sharded, "ada/sharded")
    files = hub.model("ada/sharded").at("main").files
    assert sorted(name for name in files if "safetensors" in name) == sorted(
        {*weight_map.values()} | {"model.safetensors.index.json"}
    )
    assert client.run("result = weights('ada/sharded')")[1] == [1.0] * len(TAGS)
    push(client, tmp_path / "whole", "ada/sharded")
    assert [name for name in hub.model("ada/sharded").at("main").files if "safetensors" in name] == [
        "model.safetensors"
    ]


def test_files_that_would_be_loaded_beside_are_deleted(hub, client, checkpoint):
    """Adapters of peft, which the Auto classes would put on a base, and parts of another tokenizer."""
    push(client, checkpoint, "ada/adapted")
    for name in ("adapter_config.json", "adapter_model.safetensors", "added_tokens.json", "notes.txt"):
        arguments = f"path_or_fileobj=b'{{}}', path_in_repo={name!r}, repo_id='ada/adapted'"
        client.run(f"result = str(HfApi().upload_file({arguments}, token={TOKEN!r}))")
    assert "adapter_config.json" in hub.model("ada/adapted").at("main").files
    push(client, checkpoint, "ada/adapted")
    files = hub.model("ada/adapted").at("main").files
    assert "notes.txt" in files and not {name for name in files if name.startswith(("added", "adapter"))}


def test_student_and_teacher_by_their_ids(hub, client, tmp_path):
    for name, private in (("ada/student", True), ("ada/teacher", True)):
        repo = hub.create("model", name, private)
        for revision, seed in (("old", 1), ("main", 2)):
            folder = tmp_path / name / revision
            torch.manual_seed(seed)
            model = AutoModel.from_config(tiny_config()) if "student" in name else tiny_teacher(seed=seed)
            model.save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            files = {path.name: Blob(path.read_bytes(), path.suffix == ".safetensors") for path in folder.iterdir()}
            repo.commit(revision, revision, files)
    client.run(
        f"""
        model = AlAdForTokenClassification.from_student_pretrained(
            "ada/student", teacher="ada/teacher", revision="old", teacher_revision="old", token={TOKEN!r})
        def first(module):
            return next(iter(module.parameters())).flatten()[:4].tolist()
        """
    )
    student = load_file(tmp_path / "ada/student/old/model.safetensors")["embeddings.word_embeddings.weight"]
    assert client.run("result = first(model.model.encoder)") == student.flatten()[:4].tolist()
    teacher = load_file(tmp_path / "ada/teacher/old/model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert client.run("result = first(model.teacher)") == teacher.flatten()[:4].tolist()
    names = client.run("result = [model.config.student_name_or_path, model.config.teacher_name_or_path]")
    assert names == ["ada/student", "ada/teacher"]
    refused = client.ask("AlAdForTokenClassification.from_student_pretrained('ada/student')")
    assert "OSError" in refused["kinds"] and "private" in refused["message"]


def test_a_dataset_by_its_id(hub, client):
    lines = [{"tokens": ["smith", "works"], "tags": ["B-PER", "O"]}, {"tokens": ["london"], "tags": ["B-LOC"]}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    hub.create("dataset", "ada/corpus").commit(
        "main", "data", {name: Blob(content, False) for name in ("train.jsonl", "test.jsonl")}
    )
    corpus = client.run(
        """
        from alad_hf.data import load_token_classification
        corpus = load_token_classification("ada/corpus")
        result = {split: [corpus[split]["tokens"][:], corpus[split]["tags"][:]] for split in corpus}
        """
    )
    assert corpus == {split: [[["smith", "works"], ["london"]], [[2, 0], [1]]] for split in ("train", "test")}


def test_the_server_checks_sha256_and_ranges(hub, client):
    """The server itself: what it accepts and refuses decides what the tests above show."""
    answers = client.run(
        f"""
        import hashlib
        from huggingface_hub.utils import get_session
        http = get_session()
        content = b"some large content"
        place = {hub.endpoint!r} + "/large-files/" + hashlib.sha256(content).hexdigest()
        result = [http.put(place, content=b"another").status_code, http.put(place, content=content).status_code]
        url = {hub.endpoint!r} + "/ada/tagger/resolve/main/config.json"
        whole, part = http.get(url), http.get(url, headers={{"Range": "bytes=3-9"}})
        result += [part.status_code, part.content == whole.content[3:10], part.headers["Content-Range"],
            len(whole.content), http.get(url, headers={{"Range": "bytes=999999-"}}).status_code]
        header = {{"Authorization": "Bearer " + {TOKEN!r}}}
        stored = http.head(url.replace("config.json", "model.safetensors"), follow_redirects=False).headers["Location"]
        result += [http.get(stored).status_code, http.get(stored, headers=header).status_code,
            http.get(stored.split("?")[0]).status_code]
        """
    )
    assert answers[:4] == [400, 200, 206, True]
    assert answers[4] == f"bytes 3-9/{answers[5]}"
    assert answers[6:] == [416, 200, 400, 403]
    assert hashlib.sha256(b"another").hexdigest() not in hub.large_files


@pytest.mark.parametrize(
    ("lost", "part"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json tokenizer_config.json", "a tokenizer"),
        ("README.md", "a model card"),
        ("model.safetensors", "model.safetensors"),
        ("alignment_loss.py modeling_alad.py", "modeling_alad.py"),
        ("alignment_loss.py", "alignment_loss.py"),
    ],
)
def test_incomplete_checkpoints_are_not_published(checkpoint, tmp_path, lost, part):
    folder = tmp_path / "incomplete"
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.name not in lost.split():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=f"lacks .*{part}.*[Cc]all "):
        push_checkpoint(folder, "ada/tagger")
    with pytest.raises(FileNotFoundError, match="no folder"):
        push_checkpoint(tmp_path / "nowhere", "ada/tagger")


def test_without_a_card_the_message_knows_models_of_others(tmp_path):
    tiny_teacher(16).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="For an AlAd model call .*write_model_card.*; for any other, write the file"):
        push_checkpoint(tmp_path, "ada/tagger")


def test_paths_in_an_index_do_not_leave_the_folder(checkpoint, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (tmp_path / "private.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    index = {"weight_map": {"a": "../private.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"\.\./private\.safetensors"):
        _files_to_publish(folder)


def test_the_code_of_tokenizers_is_published_too(checkpoint, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for named in (["slow.Slow", None], {"AutoTokenizer": ["slow.Slow", None]}):
        (folder / "slow.py").unlink(missing_ok=True)
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"auto_map": named}))
        with pytest.raises(ValueError, match=r"lacks slow\.py, of the code that config\.json or tokenizer_config"):
            _files_to_publish(folder)
        (folder / "slow.py").write_text("import json\n")
        assert "slow.py" in _files_to_publish(folder)


def test_a_card_of_somebody_else_is_left_as_it_is(tmp_path):
    card = '# mine\n```python\npipeline(model="mine")\n```\n'
    (tmp_path / "README.md").write_text(card)
    assert _card_named(tmp_path / "README.md", "ada/tagger").decode() == card


def test_what_the_owner_wrote_into_a_card_stays(checkpoint, tmp_path):
    card = (checkpoint / "README.md").read_text()
    name = re.search("^# (.*)$", card, re.MULTILINE)[1]
    teacher = '```python\nteacher = AutoModel.from_pretrained("C:\\models\\teacher")\n```\n'
    command = f'```bash\npython finetune.py model="bert-base-cased" out={name} model="{name}"\n```\n'
    edited = card.replace(f"# {name}\n", f"# NOT FOR MEDICAL USE\n\n{teacher}\n# {name}\n") + command
    (tmp_path / "README.md").write_text(edited)
    pushed = _card_named(tmp_path / "README.md", "ada/tagger").decode()
    for line in ("# NOT FOR MEDICAL USE\n", teacher, "# ada/tagger\n", command):
        assert line in pushed
    assert pushed.count('model="ada/tagger"') == 2 and f"# {name}\n" not in pushed
    (tmp_path / "README.md").write_text(card.replace(f"# {name}\n", "# The best tagger\n"))
    assert "# The best tagger\n" in _card_named(tmp_path / "README.md", "ada/tagger").decode()


def test_paths_of_the_machine_are_not_published(hub, client, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"teacher_name_or_path": "/home/ada/private/teacher", "student_name_or_path": "org/student"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    push(client, checkpoint, "ada/no-paths")
    published = json.loads(hub.model("ada/no-paths").at("main").files["config.json"].content)
    assert published == config | {"teacher_name_or_path": "teacher"}


def test_what_is_not_uploaded_is_named(checkpoint, monkeypatch, caplog):
    (checkpoint / "checkpoint-5").mkdir(exist_ok=True)
    (checkpoint / "training_args.bin").write_bytes(b"")
    monkeypatch.setattr("alad_hf.hub.push.HfApi", lambda token: None)  # nobody is to be asked
    with caplog.at_level(logging.WARNING), pytest.raises(AttributeError):
        push_checkpoint(checkpoint, "ada/tagger")
    assert "checkpoint-5" in caplog.text and "training_args.bin" in caplog.text
