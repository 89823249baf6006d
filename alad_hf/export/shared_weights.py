"""Weights that layers share, made visible as such in an ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .optional_packages import import_extra


def point_at_shared_weights(file: Path) -> None:
    """Let every operator name the weight that it reads, in place of an alias of it.

    torch stores equal weights once and gives every further use an `Identity` of its own. onnxruntime's quantization
    looks for weights by name and leaves such uses in float, beside the int8 copy: a recursive encoder would run in
    int8 in its first round alone, and weigh more than before.

    Args:
        file: An ONNX file, rewritten in place.
    """
    onnx = import_extra("onnx")
    model = onnx.load(file)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    results = {output.name for output in graph.output}
    originals: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = originals.get(node.input[0], node.input[0]) if node.op_type == "Identity" else ""
        if source in weights and node.output[0] not in results:
            originals[node.output[0]] = source
        else:
            kept.append(node)
    for node in _with_inner_nodes(kept):
        node.input[:] = [originals.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    onnx.save(model, file)


def _with_inner_nodes(nodes: Any) -> Iterator[Any]:  # noqa: ANN401 - protobuf's messages
    """Nodes and those of the graphs inside them, such as the branches of an `If`, which see the outer names."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _with_inner_nodes(graph.node)


__all__ = ["point_at_shared_weights"]
