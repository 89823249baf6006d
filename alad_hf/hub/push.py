"""Publish a finished checkpoint on the Hub: weights, tokenizer, card and modelling code in one commit."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from transformers.dynamic_module_utils import get_relative_import_files

from .markdown_tables import plain
from .model_card import SIGNATURE
from .public_names import public_name

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.json"
WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
CARD_FILE = "README.md"
_OF_A_TOKENIZER = (
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "chat_template.jinja",
)
# Names and not suffixes: a folder of a training run holds more than what the world is to see.
_PUBLISHED = (CONFIG_FILE, CARD_FILE, *_OF_A_TOKENIZER, "LICENSE*", "NOTICE*", "*.png", "*.svg")
_READ_WHERE_PRESENT = (
    "model.safetensors",
    "model-*.safetensors",
    INDEX_FILE,
    "adapter_config.json",
    "adapter_model*",
    *_OF_A_TOKENIZER,
)
"""What `from_pretrained` of a model (peft's adapters among them) or a tokenizer reads of a repository that has it."""
_NAMES_IN_CONFIG = ("student_name_or_path", "teacher_name_or_path")
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
_NAME_IN_SNIPPET = re.compile(rf"(\bmodel=|\bfrom_pretrained\()({_QUOTED})")


def push_checkpoint(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model, tokenizer, card and code",
) -> CommitInfo:
    """Upload a checkpoint's folder, as the recipes write it, in one commit; the repository is made if needed.

    `model.push_to_hub` and `tokenizer.push_to_hub` make two commits, between which the model cannot be used, and the
    first of them writes a card of its own. Here nothing is visible before everything is: an upload that breaks off
    leaves the repository as it was, and is repeated by the same call. Files of an earlier commit that would be loaded
    in place of the new ones or beside them (weights, peft's adapters, parts of a tokenizer) are deleted in the same
    commit.

    Weights are published as safetensors only. Whatever else the folder holds, such as the Trainer's checkpoints, is
    not uploaded, and one message names it. A card written by `write_model_card` is uploaded with `repo_id` as the
    model's name, and a configuration without the paths of its student and teacher; the folder itself is not changed.

    Args:
        folder: Folder with the model, its tokenizer and its card.
        repo_id: `organisation/model` on the Hub, or `model` for the user's own.
        private: Whether the repository shall be private; by default a new one is as the organisation has set.
        token: By default the one of `hf auth login`.
        revision: Branch to commit to, made from `main` if needed; by default `main`.
        commit_message: What the history of the repository shows.

    Returns:
        What huggingface_hub tells of the commit, such as `oid` and `commit_url`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It lacks a part of a complete checkpoint, which the message names, or the repository is there, and
            is public where it shall be private or the reverse.
        huggingface_hub.errors.HfHubHTTPError: The Hub refused, for example a token without the right to write.

    Example:
        >>> push_checkpoint("out", "organisation/my-tagger").commit_url  # doctest: +SKIP
        'https://huggingface.co/organisation/my-tagger/commit/...'
    """
    folder = Path(folder)
    names = _files_to_publish(folder)
    left_out = sorted(path.name for path in folder.iterdir() if path.name not in names)
    if left_out:
        logger.warning("Not uploaded from %s: %s.", folder, ", ".join(left_out))
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if private is not None and api.model_info(repo_id).private != private:
        raise ValueError(
            f"private={private}, but {repo_id} is there already and is {'public' if private else 'private'}; nothing "
            f"was uploaded. Call HfApi().update_repo_settings({repo_id!r}, private={private}) first, or leave private "
            "out."
        )
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    before = api.model_info(repo_id, revision=revision)
    present = [file.rfilename for file in before.siblings or []]
    outdated = [
        name for name in present if any(fnmatch(name, form) for form in _READ_WHERE_PRESENT) and name not in names
    ]
    contents = {name: folder / name for name in names} | {
        CARD_FILE: _card_named(folder / CARD_FILE, repo_id),
        CONFIG_FILE: _config_without_paths(folder / CONFIG_FILE),
    }
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, content) for name, content in contents.items()
    ]
    operations += [CommitOperationDelete(name) for name in outdated]
    return api.create_commit(
        repo_id, operations, commit_message=commit_message, revision=revision, parent_commit=before.sha
    )


def files_of_model(folder: Path, runtime_files: Sequence[str] = ()) -> list[str]:
    """The names of the files that a model and its tokenizer consist of: of their folder, all that is to be published.

    Args:
        folder: The folder.
        runtime_files: What another runtime than torch reads in place of the safetensors and the modelling code.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It lacks a part; the message names the part.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}. Name one that a recipe wrote.")
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    names = [name for name in files if any(fnmatch(name, form) for form in _PUBLISHED)]
    for part, is_there, remedy in (
        (CONFIG_FILE, CONFIG_FILE in names, "model.save_pretrained(folder)"),
        ("a tokenizer", any(name.startswith("tokenizer") for name in names), "tokenizer.save_pretrained(folder)"),
    ):
        if not is_there:
            raise ValueError(f"{str(folder)!r} lacks {part}, without which nobody could use the model. Call {remedy}.")
    if runtime_files:
        return [*names, *runtime_files, *_code(folder, ["AutoConfig", "AutoTokenizer"])]
    return [*names, *_weights(folder), *_code(folder)]


def _files_to_publish(folder: Path) -> list[str]:
    names = files_of_model(folder)
    if CARD_FILE not in names:
        raise ValueError(
            f"{str(folder)!r} lacks a model card, {CARD_FILE}, without which nobody would know what the model is. For "
            "an AlAd model call alad_hf.hub.write_model_card(model, folder, ...) or `alad-hf card`; for any other, "
            "write the file by hand."
        )
    return names


def _weights(folder: Path) -> list[str]:
    index = folder / INDEX_FILE
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [WEIGHTS_FILE]
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing and any(folder.glob("*.onnx")):
        raise ValueError(
            f"{str(folder)!r} holds a model in ONNX, and what is pushed is a checkpoint of torch with its weights in "
            "safetensors: name the folder of the model that it was exported from."
        )
    if missing:
        raise ValueError(
            f"{str(folder)!r} lacks the weights {', '.join(missing)}. Only safetensors are published, since other "
            "formats can carry code: call model.save_pretrained(folder)."
        )
    return [*names, *([INDEX_FILE] if index.is_file() else [])]


def _code(folder: Path, classes: Sequence[str] | None = None) -> list[str]:
    """The code that model and tokenizer name for all or some Auto classes, with what it imports from its folder."""
    references = [
        reference
        for file in (CONFIG_FILE, "tokenizer_config.json")
        for name, named in _auto_map(folder / file).items()
        if classes is None or name in classes
        for reference in (named if isinstance(named, list) else [named])  # a slow and a fast tokenizer, or null
        if reference
    ]
    modules = {f"{reference.split('.')[0]}.py" for reference in references if "--" not in reference}  # else elsewhere
    names = set(modules)
    missing = sorted(name for name in modules if not (folder / name).is_file())
    for name in modules if not missing else ():
        try:
            names |= {Path(file).name for file in get_relative_import_files(folder / name)}
        except FileNotFoundError as error:
            missing = [Path(error.filename).name]
    if missing:
        raise ValueError(
            f"{str(folder)!r} lacks {', '.join(missing)}, of the code that config.json or tokenizer_config.json "
            "names. Call save_pretrained(folder) of model and tokenizer, which write it."
        )
    return sorted(names)


def _auto_map(file: Path) -> dict[str, Any]:
    auto_map = json.loads(file.read_text(encoding="utf-8")).get("auto_map", {}) if file.exists() else {}
    return auto_map if isinstance(auto_map, dict) else {"AutoTokenizer": auto_map}  # as older tokenizers wrote it


def _card_named(path: Path, repo_id: str) -> bytes:
    """The card; where it is one of ours, its title and snippets call the model by its name on the Hub."""
    text = path.read_text(encoding="utf-8")
    if SIGNATURE not in text:
        return text.encode()
    card = ModelCard(text)
    data: Any = card.data
    if data.eval_results:
        data.model_name = repo_id
    # Every second part lies inside a fence.
    parts = re.split(r"(?m)^(?=```)", card.text)
    titles = {line for part in parts[::2] for line in part.splitlines() if line.startswith("# ")}
    loaded = [match[2] for part in parts[1::2] for match in _NAME_IN_SNIPPET.finditer(part)]
    name = next((name for name in map(_unquoted, loaded) if f"# {plain(name)}" in titles), None)
    if name is not None:  # else its owner has given it another title

        def renamed(match: re.Match) -> str:
            return f"{match[1]}{json.dumps(repo_id)}" if _unquoted(match[2]) == name else match[0]

        title = re.compile(rf"^# {re.escape(plain(name))}$", re.MULTILINE)
        for number, part in enumerate(parts):
            if number % 2 == 0:
                parts[number] = title.sub(lambda _: f"# {repo_id}", part)
            elif part.startswith("```python"):
                parts[number] = _NAME_IN_SNIPPET.sub(renamed, part)
        card.text = "".join(parts)
    return str(card).encode()


def _unquoted(literal: str) -> str:
    """What a string in a snippet of ours says; those of others may have escapes of Python's own, and stay."""
    try:
        return json.loads(literal)
    except ValueError:
        return literal


def _config_without_paths(path: Path) -> bytes:
    """The configuration; of a student and a teacher on this machine it has the last part of their paths."""
    text = path.read_text(encoding="utf-8")
    config = json.loads(text)
    names = {key: name for key in _NAMES_IN_CONFIG if isinstance(name := config.get(key), str)}
    public = {key: public_name(name) for key, name in names.items()}
    if public == names:
        return text.encode()
    return (json.dumps(config | public, indent=2, sort_keys=True) + "\n").encode()


__all__ = ["files_of_model", "push_checkpoint"]
