"""Speed of exported models: torch, torch.compile, ONNX and ONNX in int8, for a teacher and a two-layer AlAd student.

    python benchmarks/export_speed.py
    python benchmarks/export_speed.py --teacher my-teacher --student my-student --data shared/data/wnut17

Without arguments both are built from the weights of all-MiniLM-L6-v2 with fresh heads: speed does not depend on what
they were trained for, agreement and scores do. Medians over repeats on one thread; all arms of a row take turns, so
that a disturbance hits each of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from datasets import Dataset, disable_progress_bars
from speed import ENCODER, LABELS, take_turns
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from alad_hf import AlAdForTokenClassification
from alad_hf.compression.truncation import truncate_layers
from alad_hf.data.loading import load_token_classification
from alad_hf.export import ExportReport, export_onnx, load_onnx
from alad_hf.hub.finished_models import load_finished
from alad_hf.hub.pretrained_weights import resolve_pretrained

BATCHES = (1, 32)
TOKENS = (16, 64, 128)


def build_models(folder: Path) -> dict[str, str]:
    """Write a teacher and an AlAd student with its first and last layer; returns their folders by name."""
    source = resolve_pretrained(ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoder = AutoModel.from_pretrained(source, add_pooling_layer=False)
    teacher = AutoModelForTokenClassification.from_pretrained(source, num_labels=LABELS)
    student = AlAdForTokenClassification.from_student_pretrained(truncate_layers(encoder, [0, 5]), num_labels=LABELS)
    folders = {}
    for name, model in (("teacher", teacher), ("student", student)):
        folders[name] = str(folder / name)
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def stored_weights(folder: str) -> int:
    """Bytes of the weights as torch stores them."""
    return sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))


def speed_rows(
    models: dict[str, PreTrainedModel], exports: dict[tuple[str, str], ExportReport], threads: int, repeats: int
) -> list[dict[str, object]]:
    """One row for each batch and length, with the median milliseconds of each arm."""
    sessions = {key: load_onnx(report.folder, threads=threads)[0] for key, report in exports.items()}
    rows: list[dict[str, object]] = []
    for batch in BATCHES:
        for tokens in TOKENS:
            ids = torch.randint(1000, 20_000, (batch, tokens))
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            torch.compiler.reset()  # after some shapes of one model it would run uncompiled, without saying so
            compiled = {name: torch.compile(model, dynamic=False) for name, model in models.items()}
            arms: dict[str, Callable[[], object]] = {}
            for name in models:
                arms[f"{name} torch"] = lambda model=models[name], inputs=inputs: model(**inputs)
                arms[f"{name} compiled"] = lambda model=compiled[name], inputs=inputs: model(**inputs)
                for kind in ("onnx", "onnx_int8"):
                    arms[f"{name} {kind}"] = lambda model=sessions[name, kind], inputs=inputs: model(**inputs)
            with torch.inference_mode():
                medians = take_turns(arms, repeats if batch * tokens < 1024 else max(5, repeats // 3))
            for name in models:
                arm_names = ("torch", "compiled", "onnx", "onnx_int8")
                row = {f"{arm}_ms": round(medians[f"{name} {arm}"], 2) for arm in arm_names}
                rows.append({"model": name, "batch": batch, "tokens": tokens, **row})
                print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", help="folder of a tagger")
    parser.add_argument("--student", help="folder of an AlAd tagger")
    parser.add_argument("--data", help="data to score on before and after, as for load_token_classification")
    parser.add_argument("--split", default="validation", help="which split of it")
    parser.add_argument("--out", default="benchmarks/results/export_speed.json")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if bool(arguments.teacher) != bool(arguments.student):
        parser.error("--teacher and --student go together: give both, or neither")
    if arguments.data and not arguments.teacher:
        parser.error("--data needs --teacher and --student: heads that nobody trained have no score")
    load_at_start = os.getloadavg()[0]
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    data: Dataset | None = None
    if arguments.data:
        data = load_token_classification(arguments.data)[arguments.split]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folders = {"teacher": arguments.teacher, "student": arguments.student}
        if not arguments.teacher:
            folders = build_models(work)
        exports, files = {}, []
        for name, folder in folders.items():
            row: dict[str, object] = {"model": name, "torch_bytes": stored_weights(folder)}
            for kind, quantize in (("onnx", None), ("onnx_int8", "int8")):
                # Logits of heads that nobody trained are small noise, of which int8 changes a larger share.
                tolerance = 1.0 if quantize and not arguments.teacher else None
                target = work / f"{name}-{kind}"
                report = export_onnx(folder, target, quantize=quantize, tolerance=tolerance, dataset=data)
                exports[name, kind] = report
                row[f"{kind}_bytes"] = report.bytes
                row[f"{kind}_difference"] = report.difference
                row[f"{kind}_same_decision"] = report.same_decision
                if report.scores:
                    row["torch_f1"] = report.scores["torch"].get("f1")
                    row[f"{kind}_f1"] = report.scores["onnx"].get("f1")
            files.append(row)
            print(row, flush=True)
        models = {name: load_finished(AutoModelForTokenClassification, folder) for name, folder in folders.items()}
        speed = speed_rows(models, exports, arguments.threads, arguments.repeats)
    results = {
        "encoder": arguments.teacher or ENCODER,
        "data": arguments.data,
        "threads": arguments.threads,
        "processors": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "load_at_start": load_at_start,
        "files": files,
        "speed": speed,
    }
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
