"""What all compressed token embeddings share: lookup, materialised table, stored bytes, checks after loading."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import initialization as init

# Bounds that no sensible table reaches: a hostile config.json must fail here, before memory is allocated.
MAX_ROWS = 16_777_216
MAX_WIDTH = 65_536
MAX_ENTRIES = 2**33
MAX_BITS_PER_COLUMN = 64

FACTOR_DTYPES = ("float32", "float16")


class CompressedEmbedding(nn.Module):
    """A token embedding that stores less than its table of `num_embeddings` rows and `embedding_dim` columns.

    It takes the place of `nn.Embedding`: ids of any shape go in, vectors come out. Codes are persistent integer
    buffers, which get no gradient; factors, decoders, codebooks and scales are parameters, trainable or not as usual.

    `factor_dtype` is how the parameters are stored. With "float16" they stay in the model's dtype in memory and are
    rounded in `state_dict`, so that the file, and every model loaded from it, holds 16 bits of each.

    Args:
        num_embeddings: Rows of the table (tokens of the vocabulary).
        embedding_dim: Columns of the table.
        factor_dtype: "float32" or "float16".

    Raises:
        ValueError: A number is out of its bounds.
    """

    method: str
    codes: torch.Tensor
    table: torch.Tensor | None

    def __init__(self, num_embeddings: int, embedding_dim: int, factor_dtype: str = "float32") -> None:
        super().__init__()
        check_number("num_embeddings", num_embeddings, MAX_ROWS)
        check_number("embedding_dim", embedding_dim, MAX_WIDTH)
        if num_embeddings * embedding_dim > MAX_ENTRIES:
            raise ValueError(
                f"num_embeddings={num_embeddings} times embedding_dim={embedding_dim} must be at most {MAX_ENTRIES}."
            )
        if factor_dtype not in FACTOR_DTYPES:
            raise ValueError(f"factor_dtype must be one of {FACTOR_DTYPES}, got {factor_dtype!r}.")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.factor_dtype = factor_dtype
        self.register_buffer("table", None, persistent=False)
        self.register_state_dict_post_hook(_round_stored_factors)
        self.register_load_state_dict_post_hook(_renew_table)

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (tokens, embedding_dim) of a list of ids (tokens,)."""
        raise NotImplementedError

    def _decode_part(self, part: CompressedEmbedding, ids: torch.Tensor) -> torch.Tensor:
        """`part.decode(ids)` of an embedding inside this one, by its forward where accelerate has to load it first."""
        return part(ids) if hasattr(part, "_hf_hook") else part.decode(ids)

    def specification(self) -> dict[str, Any]:
        """What `build_embedding` needs to build this module again, without its tensors; plain JSON."""
        return {
            "method": self.method,
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "factor_dtype": self.factor_dtype,
        }

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (..., embedding_dim) of integer ids (...).

        On a CPU each distinct id of a batch is decoded once, where a quarter of the ids or more are repetitions.
        """
        if self.table is not None and torch.is_grad_enabled() and self._is_trained():
            self.table = None  # which training, be it in eval mode, would leave behind
        if self.table is not None:
            return functional.embedding(ids, self.table)
        flat = ids.reshape(-1)
        # torch.unique has a result of unknown length, which graphs do not like, and which a GPU has to wait for.
        if flat.device.type == "cpu" and not is_traced():
            distinct, places = torch.unique(flat, return_inverse=True)
            if 4 * len(distinct) <= 3 * len(flat):
                return self.decode(distinct).index_select(0, places.reshape(-1)).view(*ids.shape, self.embedding_dim)
        return self.decode(flat).view(*ids.shape, self.embedding_dim)

    def dense(self) -> torch.Tensor:
        """The whole table (num_embeddings, embedding_dim), with gradients to the factors where they are trained.

        Costs a decoding of every row: milliseconds to a second, and 4 * num_embeddings * embedding_dim bytes.
        """
        ids = torch.arange(self.num_embeddings, device=self.device)
        # In slices: the unpacked codes of all rows at once would take several times the table.
        return torch.cat([self.decode(part) for part in ids.split(4096)])

    @property
    def weight(self) -> torch.Tensor:
        """`dense()`, for code that reads the table, its shape or its dtype; writing to it changes nothing."""
        return self.dense() if self.table is None else self.table

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return next(iter(self.state_dict(keep_vars=True).values())).device

    @property
    def stored_bytes(self) -> int:
        """Bytes of the tensors in a checkpoint: codes, factors, decoders, biases and scales; no header."""
        return sum(tensor.nbytes for tensor in self.state_dict(keep_vars=True).values())

    def materialize(self, wanted: bool = True) -> CompressedEmbedding:
        """Keep the decoded table in memory, so that a lookup costs what it costs in `nn.Embedding`.

        It takes 4 * num_embeddings * embedding_dim bytes (half of it in 16 bits) besides the compressed form, which
        is what `save_pretrained` goes on to store. The factors are frozen, since training would not reach the table;
        where they are trained nevertheless, training decodes, and drops the table.

        Args:
            wanted: False drops the table.
        """
        self.table = None
        if wanted:
            self.requires_grad_(False)
            self.table = self.dense()
        return self

    def train(self, mode: bool = True) -> CompressedEmbedding:
        """Set the mode; a table in memory is dropped where training is about to change what it was made from."""
        if mode and self._is_trained():
            self.table = None
        return super().train(mode)

    def init_weights(self) -> None:
        """Start from zero codes, scales of one and small random factors; a maker puts better ones in their place."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                init.zeros_(parameter)
            elif name.endswith("scales"):
                init.ones_(parameter)
            elif name.endswith("rotation"):
                init.copy_(parameter, torch.eye(len(parameter), dtype=parameter.dtype, device=parameter.device))
            else:
                init.normal_(parameter, std=0.02 ** (0.5 if name.endswith(("latents", "decoder")) else 1))
        for _, buffer in self.named_buffers():
            if buffer is not self.table:
                init.zeros_(buffer)

    def check(self) -> None:
        """Make sure that the tensors, as loaded, are what the specification says.

        Raises:
            ValueError: A tensor has another shape or kind, is not finite, or a code is out of range.
        """
        expected = build_like(self).state_dict()
        for name, tensor in self.state_dict().items():
            wanted = expected[name]
            is_float = tensor.is_floating_point() and wanted.is_floating_point()
            if tensor.shape != wanted.shape or (tensor.dtype != wanted.dtype and not is_float):
                raise ValueError(
                    f"{name} of this {type(self).__name__} is {tuple(tensor.shape)} {tensor.dtype}, its specification "
                    f"says {tuple(wanted.shape)} {wanted.dtype}: the checkpoint is damaged, or its config.json is "
                    "another model's."
                )
            if is_float and not tensor.is_meta and not tensor.isfinite().all():
                raise ValueError(
                    f"{name} of this {type(self).__name__} has entries that are not finite: the checkpoint is damaged."
                )
        if not any(tensor.is_meta for tensor in self.state_dict().values()):  # of offloaded tensors the shapes must do
            self.check_codes()

    def check_codes(self) -> None:
        """Raise ValueError if a code is out of range; in most forms every code is valid."""

    def refuse_resizing(self, rows: int | None) -> None:
        """Raise ValueError if `rows` is another number of rows than there are; None asks for no change."""
        if rows not in (None, self.num_embeddings):
            raise ValueError(
                f"A {type(self).__name__} of {self.num_embeddings} tokens cannot be resized to {rows}: codes and "
                "latents of new tokens would have to be found first. Resize the model before compressing it, or call "
                "set_input_embeddings(torch.nn.Embedding.from_pretrained(embedding.dense())), resize, and compress "
                "again."
            )

    def round_factors(self) -> None:
        """Round the parameters to what `factor_dtype` can hold, so that saving and loading changes nothing."""
        if self.factor_dtype == "float16":
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.copy_(parameter.half())

    def fill(self, **tensors: torch.Tensor | None) -> None:
        """Put all tensors of a new module into it, on their device and, as for factors, rounded to what is stored.

        Raises:
            ValueError: A tensor has another shape, or entries that are not finite.
        """
        given = {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}
        self.to(next(iter(given.values())).device)
        for name, tensor in self.state_dict(keep_vars=True).items():
            if given[name].shape != tensor.shape:
                raise ValueError(f"{name} must have shape {tuple(tensor.shape)}, got {tuple(given[name].shape)}.")
        self.load_state_dict(given)
        self.round_factors()
        self.check()

    def extra_repr(self) -> str:
        """The specification and the size, in place of a list of tensors."""
        settings = ", ".join(f"{name}={value}" for name, value in self.specification().items() if name != "method")
        return f"{settings}, stored_bytes={self.stored_bytes}"

    def _is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())


def build_like(module: CompressedEmbedding) -> CompressedEmbedding:
    """A module of the same specification on the meta device."""
    fields = module.specification()
    fields.pop("method")
    with torch.device("meta"):
        return type(module)(**fields)


def check_number(name: str, value: int, largest: int, *, smallest: int = 1) -> None:
    """Raise ValueError if `value` is no whole number from `smallest` to `largest`."""
    if type(value) is not int or not smallest <= value <= largest:
        raise ValueError(f"{name} must be a whole number from {smallest} to {largest}, got {value!r}.")


def check_switch(name: str, value: bool) -> None:
    """Raise ValueError if `value` is neither True nor False."""
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, got {value!r}.")


def is_traced() -> bool:
    """Whether a graph of the model is being made: by `torch.compile`, `torch.export` or `torch.jit.trace`."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _renew_table(module: CompressedEmbedding, incompatible_keys: object) -> None:
    """A table in memory is decoded anew from what was loaded."""
    if module.table is not None:
        module.materialize()


def _round_stored_factors(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict) -> None:
    if module.factor_dtype != "float16":
        return
    for name, _ in module.named_parameters():
        tensor = state[prefix + name]
        if tensor.is_meta and not isinstance(tensor, nn.Parameter):
            continue  # transformers asks this state dict which dtype a tensor shall have in memory
        if tensor.dtype in (torch.float32, torch.float64):
            state[prefix + name] = tensor.detach().half()


__all__ = [
    "FACTOR_DTYPES",
    "MAX_BITS_PER_COLUMN",
    "CompressedEmbedding",
    "build_like",
    "check_number",
    "check_switch",
    "is_traced",
]
