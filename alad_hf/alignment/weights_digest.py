"""A name for what a model computes, by which what was made with it is recognised."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from ..models.quantized_student import plain_tensors


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of all tensors in a model's `state_dict` by their names, and of which of peft's adapters act.

    Raises:
        ValueError: A tensor is offloaded.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} of a {type(model).__name__} is offloaded, and by its weights is recognised what was made "
                "with a model, such as a teacher's cached states. Load it whole, in half precision if need be, or "
                "leave a teacher attached in training."
            )
        digest.update(name.encode())
        for part in plain_tensors(tensor.detach()):
            digest.update(part.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for name, module in model.named_modules():
        if isinstance(getattr(module, "merged_adapters", None), list):  # a layer of peft, which need not be installed
            acting = None if module.disable_adapters else module.active_adapters
            scaling = getattr(module, "scaling", None)
            digest.update(f"{name} {acting} {module.merged_adapters} {scaling}".encode())
    return digest.hexdigest()
