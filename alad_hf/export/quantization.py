"""An ONNX file in int8: dynamic quantization by onnxruntime, without any calibration data."""

from __future__ import annotations

import logging
from pathlib import Path

from .optional_packages import import_extra

# Gather reads the embedding tables, which are a large part of a small encoder.
QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")


def quantize_to_int8(source: Path, target: Path) -> None:
    """Store the weights of matrix products and embedding tables in int8, and run the products in it.

    Matrices have one scale an output channel, which follows them closer than one scale a matrix. Their codes
    use 7 of the 8 bits (`reduce_range`): with all 8, x86 processors without VNNI overflow in silence, so that a file
    would give other answers there than on the machine that checked it. Activations are quantized as they come.

    Args:
        source: The ONNX file in float32.
        target: Where to write the other one.
    """
    quantization = import_extra("onnxruntime.quantization")
    root = logging.getLogger()
    root.addFilter(_is_no_advice)
    try:
        quantization.quantize_dynamic(
            source,
            target,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            per_channel=True,
            reduce_range=True,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        root.removeFilter(_is_no_advice)


def _is_no_advice(record: logging.LogRecord) -> bool:
    """It logs, on the root logger, that a model should be pre-processed, which is for other kinds of it."""
    return "pre-processing before quantization" not in record.getMessage()


__all__ = ["quantize_to_int8"]
