"""MiniALBERT as its authors published it, restated in plain torch: names and shapes of a checkpoint, and the maths.

Shares no code with the package. Sources: arXiv 2210.06425, and minialbert_modeling.py of nlpie-research/MiniALBERT on
GitHub at 8906cec. `published_minialbert.json` holds what that file itself computed from `published_weights` and
`example_inputs`; `run_published_minialbert.py` made it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

CONFIG = {
    "model_type": "bert",
    "vocab_size": 23,
    "embedding_size": 6,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "use_adapter": True,
    "reduction_factor": 4,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}
LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0."


def published_shapes(config: dict, *, is_masked_lm: bool = True) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint in the order of the authors' classes, with the pooler that nothing calls."""
    width, hidden, inner = config["embedding_size"], config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["reduction_factor"]
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes[name + ".weight"], shapes[name + ".bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, size: int) -> None:
        shapes[name + ".weight"], shapes[name + ".bias"] = (size,), (size,)

    shapes["albert.embeddings.position_ids"] = (1, config["max_position_embeddings"])
    shapes["albert.embeddings.word_embeddings.weight"] = (config["vocab_size"], width)
    shapes["albert.embeddings.position_embeddings.weight"] = (config["max_position_embeddings"], width)
    shapes["albert.embeddings.token_type_embeddings.weight"] = (config["type_vocab_size"], width)
    norm("albert.embeddings.LayerNorm", width)
    norm(LAYER + "full_layer_layer_norm", hidden)
    for part in ("query", "key", "value", "dense"):
        linear(LAYER + "attention." + part, hidden, hidden)
    norm(LAYER + "attention.LayerNorm", hidden)
    linear(LAYER + "ffn", hidden, inner)
    linear(LAYER + "ffn_output", inner, hidden)
    linear("albert.pooler", hidden, hidden)
    if width != hidden:
        linear("projector", width, hidden)
    if config["use_adapter"]:
        for kind in ("att_adapters", "mlp_adapters"):
            for step in range(config["num_hidden_layers"]):
                linear(f"{kind}.{step}.block.0", hidden, narrow)
                linear(f"{kind}.{step}.block.2", narrow, hidden)
                norm(f"{kind}.{step}.norm", hidden)
    if not is_masked_lm:
        return shapes
    shapes = {"albert." + name: shape for name, shape in shapes.items()}
    linear("vocab_transform", hidden, hidden)
    norm("vocab_layer_norm", hidden)
    linear("vocab_projector", hidden, config["vocab_size"])
    return shapes


def published_weights(config: dict) -> dict[str, Tensor]:
    """A masked-LM checkpoint with weights from a formula, the same on every machine and version."""
    weights = {}
    for place, (name, shape) in enumerate(published_shapes(config).items()):
        if name.endswith("position_ids"):
            weights[name] = torch.arange(shape[1]).unsqueeze(0)
            continue
        count = math.prod(shape)
        # The digits behind the point of large multiples of a sine: nearly random, and no generator to depend on.
        noise = 43758.5453 * torch.sin(12.9898 * torch.arange(count, dtype=torch.float64) + 78.233 * place)
        wave = 2 * (noise - noise.floor()) - 1
        is_scale = name.endswith("norm.weight") or name.endswith("LayerNorm.weight")
        values = 1 + 0.2 * wave if is_scale else 0.4 * wave
        weights[name] = values.reshape(shape).float()
    return weights


def example_inputs(config: dict) -> dict[str, Tensor]:
    """Three rows of 9, 6 and 1 real tokens, with both token types."""
    ids = (torch.arange(27).reshape(3, 9) * 7) % (config["vocab_size"] - 1) + 1
    mask = (torch.arange(9) < torch.tensor([[9], [6], [1]])).long()
    types = (torch.arange(9) >= torch.tensor([[5], [3], [9]])).long() * mask
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": types}


def restated_outputs(
    weights: dict[str, Tensor], config: dict, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
) -> dict[str, Tensor]:
    """Masked-LM logits, all hidden states and all attention probabilities, in the weights' precision."""

    def linear(name: str, states: Tensor) -> Tensor:
        return states @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(name: str, states: Tensor) -> Tensor:
        centred = states - states.mean(dim=-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-12)
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    def gelu(states: Tensor) -> Tensor:
        return 0.5 * states * (1 + torch.erf(states / math.sqrt(2)))

    def adapt(name: str, states: Tensor) -> Tensor:
        if not config["use_adapter"]:
            return states
        update = linear(name + ".block.2", gelu(linear(name + ".block.0", states)))
        return norm(name + ".norm", update + states)

    def attend(states: Tensor) -> tuple[Tensor, Tensor]:
        contexts, maps = [], []
        size = config["hidden_size"] // config["num_attention_heads"]
        for head in range(config["num_attention_heads"]):
            columns = slice(head * size, (head + 1) * size)
            query, key, value = (linear(layer + "attention." + part, states)[..., columns] for part in QKV)
            scores = torch.einsum("bqd,bkd->bqk", query, key) / math.sqrt(size)
            scores = scores.masked_fill(attention_mask[:, None, :] == 0, torch.finfo(scores.dtype).min)
            maps.append(functional.softmax(scores, dim=-1))
            contexts.append(torch.einsum("bqk,bkd->bqd", maps[-1], value))
        update = linear(layer + "attention.dense", torch.cat(contexts, dim=-1))
        return norm(layer + "attention.LayerNorm", states + update), torch.stack(maps, dim=1)

    layer = "albert." + LAYER
    table = "albert.albert.embeddings."
    states = (
        weights[table + "word_embeddings.weight"][input_ids]
        + weights[table + "token_type_embeddings.weight"][token_type_ids]
        + weights[table + "position_embeddings.weight"][: input_ids.shape[1]]
    )
    states = norm(table + "LayerNorm", states)
    if config["embedding_size"] != config["hidden_size"]:
        states = linear("albert.projector", states)
    every, maps = [states], []
    for step in range(config["num_hidden_layers"]):
        states, probabilities = attend(adapt(f"albert.att_adapters.{step}", states))
        states = adapt(f"albert.mlp_adapters.{step}", states)
        states = norm(
            layer + "full_layer_layer_norm", linear(layer + "ffn_output", gelu(linear(layer + "ffn", states))) + states
        )
        every.append(states)
        maps.append(probabilities)
    head = norm("vocab_layer_norm", gelu(linear("vocab_transform", states)))
    return {
        "logits": linear("vocab_projector", head),
        "hidden_states": torch.stack(every),
        "attentions": torch.stack(maps),
    }


QKV = ("query", "key", "value")
