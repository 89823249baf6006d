"""The command line as a process of its own: what is written where, signals and exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TORCHAO_IMPORT = re.compile(
    r"Failed to load \S+/torchao/\S+\.so: "
    r"|Skipping import of cpp extensions due to incompatible torch version"
    r"|W\d+ .*\btorch/utils/_pytree\.py:\d+\] <enum '\w+'> is an Enum subclass "
)
COMMAND = [sys.executable, "-m", "alad_hf.cli"]
ENVIRONMENT = {**os.environ, "COLUMNS": "200"}


def own_lines(stderr: str) -> list[str]:
    """What a process wrote, without what torchao, where it is installed, says when transformers imports it."""
    return [line for line in stderr.splitlines() if not TORCHAO_IMPORT.match(line)]


def test_predictions_alone_are_written_and_nothing_else_is_said(folder: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "predict", str(folder / "tagger")],
        input="Smith visited New York.\r\n\nJones works in Berlin 🙂\n".encode(),
        capture_output=True,
        check=False,
        env=ENVIRONMENT | {"PYTHONIOENCODING": "latin-1"},  # what goes into a pipe is UTF-8 nevertheless
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.decode("utf-8").split("\n")[:-1]]
    assert [row["text"] for row in rows] == ["Smith visited New York.", "", "Jones works in Berlin 🙂"]
    assert own_lines(done.stderr.decode()) == []


def test_killed_and_resumed_nothing_is_lost_or_repeated(folder: Path, tmp_path: Path, run) -> None:
    lines = [f"Smith {number} visited New York .\n" for number in range(400)]
    output = tmp_path / "out.jsonl"
    arguments = ["predict", str(folder / "tagger"), "--output", str(output), "--batch-size", "1"]
    process = subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    try:
        # Its input stays open, so that it never comes to the end.
        process.stdin.write("".join(lines[:300]).encode())
        process.stdin.flush()
        deadline = time.monotonic() + 120
        while not (output.exists() and output.stat().st_size) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate()
    before = output.read_bytes()
    assert 0 < before.count(b"\n") < 300
    output.write_bytes(before[:-1].rstrip(b"\n")[:-3])  # within a line, as a full disk would leave it

    run(*arguments, stdin="".join(lines), code=1)  # no overwriting
    run(*arguments, "--resume", stdin="".join(lines))
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == [line.rstrip() for line in lines]
    whole = output.read_bytes()
    run(*arguments, "--resume", stdin="".join(lines))
    assert output.read_bytes() == whole


def test_a_hub_that_nobody_reaches_is_an_error_of_the_user(folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(folder / "tagger", tmp_path / "tagger")
    (model / "README.md").write_text("# A card\n")
    inherited = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("HF_")}
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens there
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "push", str(model), "me/mine"],
            capture_output=True,
            text=True,
            check=False,
            env={
                **inherited,
                "HF_ENDPOINT": endpoint,
                "HF_TOKEN": "hf_me",
                "HF_HOME": str(tmp_path),
                "NO_PROXY": "127.0.0.1",
                "no_proxy": "127.0.0.1",
            },
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert own_lines(done.stderr)[-1].startswith(f"Error: No answer from the Hugging Face Hub at {endpoint} (")


@pytest.mark.slow
def test_an_interruption_is_exit_code_130(folder: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "predict", str(folder / "tagger")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    try:
        process.stdin.write(b"a\n" * (64 * 32 + 1))  # one look-ahead and a line more
        process.stdin.flush()
        assert process.stdout.read(1) == b"{"  # it is at work
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
