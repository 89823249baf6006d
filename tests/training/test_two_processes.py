"""Two processes with half the batch each train what one process with the whole batch does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_process_script import CASES, train_all

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def free_port() -> int:
    """A port that was free a moment ago; accelerate 1.3 waits for ever on port 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The results of both processes; gloo on the loopback device, a free port chosen by the launcher."""
    folder = tmp_path_factory.mktemp("two_processes")
    # `accelerate launch`; its --cpu alone stays in one process, and several of them go by the name of --multi_gpu.
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    settings = ["--mixed_precision=no", "--dynamo_backend=no", f"--main_process_port={free_port()}"]
    done = subprocess.run(
        [sys.executable, *launcher, *settings, str(HERE / "two_process_script.py"), str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), str(ROOT)]),
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [torch.load(folder / f"process-{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The results of one process with twice the batch."""
    return train_all(tmp_path_factory.mktemp("one_process"), per_device_train_batch_size=4)


@pytest.mark.parametrize(("task", "frozen"), CASES)
def test_weights_and_logs_agree(task: str, frozen: bool, processes: list[dict], single: dict) -> None:
    weights, lines = single[task, frozen]
    for result in processes:
        other_weights, other_lines = result[task, frozen]
        assert weights.keys() == other_weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(other_weights[name], weight, atol=1e-6, rtol=0, msg=name)
        assert len(other_lines) == len(lines) == 2
        for line, other in zip(lines, other_lines, strict=True):
            assert other == pytest.approx(line, abs=1e-5)
