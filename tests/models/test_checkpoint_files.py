"""A checkpoint's modelling code is complete, also where transformers follows imports only one step deep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alad_hf import models

FOLDER = Path(models.__file__).parent


def named_files(name: str) -> set[str]:
    """Files beside this one that it names in an import, as transformers finds them: by a regular expression."""
    return set(re.findall(r"^\s*from\s+\.(\S+)\s+import", (FOLDER / f"{name}.py").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("configuration_*.py")), ids=lambda path: path.stem)
def test_configurations_name_every_file_that_they_lead_to(path: Path) -> None:
    """transformers 5.6 copies from a local folder what the configuration's file names, and needs what those name."""
    reached, left = set(), [path.stem]
    while left:
        new = named_files(left.pop()) - reached
        reached |= new
        left += new
    assert reached - {path.stem} <= named_files(path.stem), "add them under TYPE_CHECKING"


@pytest.mark.parametrize("kind", ["alad", "compressed_encoder", "minialbert"])
def test_models_lead_to_nothing_else(kind: str) -> None:
    """Of a model's file and its configuration's, which are copied one after the other."""
    model, configuration = f"modeling_{kind}", f"configuration_{kind}"
    copied = {model, configuration} | named_files(model) | named_files(configuration)
    missing = set().union(*map(named_files, copied)) - copied
    assert not missing, "add them under TYPE_CHECKING"
