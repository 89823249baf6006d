"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

# Before transformers is imported: a test that reaches for the Hub must fail, not wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest
import torch
from datasets import disable_progress_bars

disable_progress_bars()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real datasets, where a checkout of the data lies beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real datasets at {folder}")
    return folder


@pytest.fixture(scope="session")
def minilm() -> str:
    """A real pretrained encoder, all-MiniLM-L6-v2."""
    from alad_hf.hub.pretrained_weights import resolve_pretrained

    try:
        return resolve_pretrained("sentence-transformers/all-MiniLM-L6-v2")
    except OSError as error:
        pytest.skip(f"pretrained weights out of reach: {error}")
