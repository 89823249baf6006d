"""Run an exported model: an object that taggers, question answerers and their scores take for a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.modeling_outputs import QuestionAnsweringModelOutput, TokenClassifierOutput

from ..hub.pinned_wheels import file_sha256
from .optional_packages import import_extra

MODEL_FILE = "model.onnx"
DESCRIPTION_FILE = "onnx_export.json"
OUTPUTS = {"token-classification": ["logits"], "question-answering": ["start_logits", "end_logits"]}
"""Names of the ONNX outputs, by task."""


class OnnxModel(nn.Module):
    """A token classifier or question answerer that onnxruntime runs on the CPU.

    It is called as the model was that it was exported from, and stands in for it in `tag_text`, `evaluate_tagger`,
    `QuestionAnswerer` and the like. It has no weights of torch's and cannot be trained or moved.

    Args:
        file: The ONNX file.
        config: The exported model's configuration.
        task: "token-classification" or "question-answering".
        threads: How many threads share one operator; as many as onnxruntime chooses if omitted.

    Raises:
        OSError: onnxruntime cannot read the file.
        ValueError: `threads` is below 1.
    """

    def __init__(
        self, file: str | os.PathLike[str], config: PreTrainedConfig, task: str, threads: int | None = None
    ) -> None:
        super().__init__()
        if threads is not None and threads < 1:
            raise ValueError(f"threads={threads} must be 1 or more; leave it out for onnxruntime's own choice.")
        runtime = import_extra("onnxruntime")
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # errors arrive as exceptions, which say the same
        try:
            session = runtime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base of their own
            raise OSError(
                f"onnxruntime {runtime.__version__} cannot load {os.fspath(file)!r}: {error}. Export the model again "
                "with export_onnx, or install the onnxruntime of the machine that did."
            ) from error
        self.config = config
        self.task = task
        self._session = session
        self.input_names = frozenset(node.name for node in session.get_inputs())

    @property
    def device(self) -> torch.device:
        """Where inputs are expected and outputs appear."""
        return torch.device("cpu")

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> TokenClassifierOutput | QuestionAnsweringModelOutput:
        """Score every token.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); 0 if omitted, and without effect where the exported model had no use for
                them.

        Returns:
            `logits` (batch, tokens, labels), or `start_logits` and `end_logits` (batch, tokens).

        Raises:
            ValueError: The model cannot read these tokens: too many in a row, or ids that it does not know.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "token_type_ids": torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        }
        feed = {name: value.long().cpu().numpy() for name, value in given.items() if name in self.input_names}
        try:
            arrays = self._session.run(OUTPUTS[self.task], feed)
        except Exception as error:  # onnxruntime's errors share no base of their own
            encoder = self.config.get_text_config()
            sizes = {name: getattr(encoder, name, None) for name in ("max_position_embeddings", "vocab_size")}
            raise ValueError(
                f"The model cannot read a batch of {tuple(input_ids.shape)} (rows, tokens) with ids up to "
                f"{int(input_ids.max())}; its configuration says {sizes}. Cut long inputs into windows, as tag_text, "
                f"tag_words and QuestionAnswerer do. onnxruntime says: {error}"
            ) from error
        tensors = [torch.from_numpy(array) for array in arrays]
        if self.task == "question-answering":
            return QuestionAnsweringModelOutput(start_logits=tensors[0], end_logits=tensors[1])
        return TokenClassifierOutput(logits=tensors[0])


def is_onnx_folder(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a folder that `export_onnx` wrote."""
    return all(Path(path, name).is_file() for name in (MODEL_FILE, DESCRIPTION_FILE))


def load_onnx(
    folder: str | os.PathLike[str], *, threads: int | None = None, **kwargs: Any
) -> tuple[OnnxModel, PreTrainedTokenizerBase]:
    """Load what `export_onnx` wrote; torch runs nothing of it.

    Args:
        folder: The folder.
        threads: How many threads share one operator; as many as onnxruntime chooses if omitted.
        **kwargs: For `AutoConfig.from_pretrained` and `AutoTokenizer.from_pretrained`. No code of the folder is run
            without `trust_remote_code=True`, nor asked about.

    Returns:
        The model and its tokenizer.

    Raises:
        ImportError: onnxruntime is not installed.
        OSError: The folder is no export, or a file of it is damaged.
        ValueError: `threads` is below 1.

    Example:
        >>> model, tokenizer = load_onnx("my-model-onnx", threads=2)  # doctest: +SKIP
        >>> next(tag_text(model, tokenizer, ["Ada lived in London."]))  # doctest: +SKIP
    """
    if not is_onnx_folder(folder):
        raise OSError(
            f"{os.fspath(folder)!r} holds no {MODEL_FILE} with its {DESCRIPTION_FILE}: name a folder that "
            "export_onnx or `alad-hf export` wrote."
        )
    kwargs.setdefault("trust_remote_code", False)
    description = _read_description(Path(folder, DESCRIPTION_FILE))
    file = Path(folder, MODEL_FILE)
    if file_sha256(file) != description["sha256"]:
        raise OSError(
            f"{os.fspath(file)!r} is not the file that was exported: its SHA-256 differs from the one in "
            f"{DESCRIPTION_FILE}. It is damaged or was replaced; copy the folder or export the model again."
        )
    config = AutoConfig.from_pretrained(folder, **kwargs)
    tokenizer = AutoTokenizer.from_pretrained(folder, **kwargs)
    return OnnxModel(file, config, description["task"], threads), tokenizer


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        readable = description["task"] in OUTPUTS and isinstance(description["sha256"], str)
    except (ValueError, KeyError, TypeError):
        readable = False
    if not readable:
        raise OSError(f"{os.fspath(file)!r} is damaged: it names no task and SHA-256 of the model. Export it again.")
    return description


__all__ = ["DESCRIPTION_FILE", "MODEL_FILE", "OUTPUTS", "OnnxModel", "is_onnx_folder", "load_onnx"]
