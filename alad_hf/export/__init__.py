"""ONNX: export of taggers and question answerers, int8 quantization, and a model object that runs the result."""

from __future__ import annotations

from .onnx_export import ExportError, ExportReport, export_onnx
from .onnx_runtime import OnnxModel, is_onnx_folder, load_onnx

__all__ = ["ExportError", "ExportReport", "OnnxModel", "export_onnx", "is_onnx_folder", "load_onnx"]
