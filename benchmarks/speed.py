"""Speed: the adapter's forward against the student's, fewer layers against narrower ones, and a training step.

    python benchmarks/speed.py

The limit of the adapter is the student alone (ratio 1.0), of a joint training step on cached states a plain
fine-tuning step of the same student. Medians over repeats; what is compared takes turns, so a disturbance hits all.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from alad_hf import AlAdForTokenClassification
from alad_hf.alignment.teacher_cache import cache_teacher_states
from alad_hf.compression import prune_width, truncate_layers
from alad_hf.data.collators import DataCollatorForAlignment
from alad_hf.hub.pretrained_weights import resolve_pretrained

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
LABELS = 13


def take_turns(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each function."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def forward_table(repeats: int) -> list[dict[str, float]]:
    """Student alone against student with adapter, without gradients."""
    source = resolve_pretrained(ENCODER)
    rows = []
    for layers in (2, 6):
        student = truncate_layers(AutoModel.from_pretrained(source, add_pooling_layer=False), range(layers)).eval()
        for adapter_type in ("light", "mlp"):
            model = AlAdForTokenClassification.from_student_pretrained(student, adapter_type=adapter_type).eval()
            adapter = model.model.adapter
            parts = model.num_parameters_by_part()
            for batch in (1, 32):
                for tokens in (16, 64, 128, 512):
                    ids = torch.randint(1000, 20_000, (batch, tokens))
                    mask = torch.ones_like(ids)
                    with torch.no_grad():
                        states = student(ids, attention_mask=mask).last_hidden_state
                        medians = take_turns(
                            {
                                "student": lambda: student(ids, attention_mask=mask),  # noqa: B023
                                "adapter": lambda: adapter(states),  # noqa: B023
                                "student_and_adapter": lambda: model.model(ids, attention_mask=mask),  # noqa: B023
                            },
                            repeats if batch * tokens < 4096 else max(3, repeats // 4),
                        )
                    rows.append(
                        {
                            "layers": layers,
                            "adapter": adapter_type,
                            "batch": batch,
                            "tokens": tokens,
                            "adapter_parameters": parts["adapter"] / parts["student"],
                            **{f"{name}_ms": round(value, 3) for name, value in medians.items()},
                            "ratio": round(medians["student_and_adapter"] / medians["student"], 3),
                        }
                    )
                    print(rows[-1], flush=True)
    return rows


def shape_table(repeats: int) -> list[dict[str, float | str]]:
    """Encoders with a half and a third of the layers, or of the heads and neurons of every layer."""
    source = resolve_pretrained(ENCODER)
    whole = AutoModel.from_pretrained(source, add_pooling_layer=False).eval()
    layers, heads, neurons = (
        getattr(whole.config, name) for name in ("num_hidden_layers", "num_attention_heads", "intermediate_size")
    )
    shapes = {f"{layers} layers": whole}
    for part in (2, 3):
        shapes[f"{layers // part} layers"] = truncate_layers(whole, range(layers // part)).eval()
        shapes[f"{layers} layers, width / {part}"] = prune_width(
            whole,
            heads=heads // part,
            neurons=neurons // part,
            texts=["Which ones are kept does not matter for the time."],
            tokenizer=AutoTokenizer.from_pretrained(source),
            refit=False,
        ).eval()
    rows: list[dict[str, float | str]] = []
    for batch, tokens in ((1, 32), (1, 128), (32, 32), (32, 128)):
        ids = torch.randint(1000, 20_000, (batch, tokens))
        mask = torch.ones_like(ids)
        calls = {
            name: lambda model=model, ids=ids, mask=mask: model(ids, attention_mask=mask)
            for name, model in shapes.items()
        }
        with torch.no_grad():
            medians = take_turns(calls, repeats)
        rows += [
            {"student": name, "batch": batch, "tokens": tokens, "ms": round(value, 3)}
            for name, value in medians.items()
        ]
        print(rows[-len(medians) :], flush=True)
    return rows


def training_table(repeats: int) -> dict[str, float]:
    """A plain fine-tuning step against a joint AlAd step on cached columns, 32 x 32 tokens, data loading included."""
    source = resolve_pretrained(ENCODER)
    tokenizer = AutoTokenizer.from_pretrained(source)
    student = truncate_layers(AutoModel.from_pretrained(source, add_pooling_layer=False), range(2))
    teacher = AutoModelForTokenClassification.from_pretrained(source, num_labels=LABELS)
    ids = torch.randint(1000, 20_000, (32 * (repeats + 2), 32))
    rows = Dataset.from_dict(
        {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist(), "labels": (ids % LABELS).tolist()}
    )
    with tempfile.TemporaryDirectory() as folder:
        plain_folder = Path(folder) / "student"
        student.save_pretrained(plain_folder)
        plain = AutoModelForTokenClassification.from_pretrained(plain_folder, num_labels=LABELS)
        aligned = AlAdForTokenClassification.from_student_pretrained(
            student, teacher=teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer
        )
        aligned.detach_teacher()
        cached = cache_teacher_states(
            rows, teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer, cache_dir=Path(folder) / "states"
        )
        steps = {}
        for name, model, dataset in (("plain", plain, rows), ("cached", aligned, cached)):
            model.train()
            loader = iter(DataLoader(dataset, batch_size=32, collate_fn=DataCollatorForAlignment(tokenizer)))
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

            def step(model=model, loader=loader, optimizer=optimizer) -> None:  # noqa: ANN001
                model(**next(loader)).loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

            steps[name] = step
        medians = take_turns(steps, repeats)
    return {
        "batch": 32,
        "tokens": 32,
        "plain_ms": round(medians["plain"], 1),
        "cached_ms": round(medians["cached"], 1),
        "ratio": round(medians["cached"] / medians["plain"], 3),
    }


def main() -> None:
    """Measure and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/speed.json")
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    results = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "training_step": training_table(options.repeats),
        "shapes": shape_table(options.repeats),
        "forward": forward_table(options.repeats),
    }
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(results["training_step"])


if __name__ == "__main__":
    main()
