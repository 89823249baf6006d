"""Token embeddings compressed by every method at equal stored bytes: what is lost of the table, and of the score.

    python benchmarks/embedding_compression.py --data ../shared/data [--parts reconstruction untuned tuned]

- reconstruction: the tables of MiniLM-L6 and MPNet; cosine, RMSE, common neighbours and seconds.
- untuned: a MiniLM-L6 tagger, fine-tuned before, whose table is replaced and nothing tuned afterwards.
- tuned: the same tagger fine-tuned on the labels with its compressed table, its factors trained too ("tuned") or the
  table fixed ("tuned_fixed"), for the same steps by every method; and with AlAd on top, on labels and unlabelled text,
  joint with the student, its table fixed ("alad") or its factors trained too ("alad_factors"), or plug-and-play, the
  student frozen ("plug_and_play"). Codes are fixed in all of them.

Everything is decided on dev. "weighted" methods count rows by `token_weights` of UD-EWT's training sentences without
their labels, English web text and the domain of ewt_pos; "encyclopedia" ones by those of Wikipedia, "domain" ones by
those of the task's unlabelled text. "metric" ones err in the metric of the tagger's encoder over the same text, too
(`embedding_metric`). LightToken keeps some rows by themselves by default, in "none_kept" none. Results are added to
the JSON file run by run, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import torch
from recovery import MINILM, MPNET, Experiment, add_teacher_options
from recovery_tasks import TASKS
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from alad_hf import AlAdForTokenClassification
from alad_hf.compression.embedding_metric import embedding_metric
from alad_hf.compression.embeddings import compress_embeddings, compress_table, embedding_table
from alad_hf.compression.row_weights import token_weights
from alad_hf.hub.pretrained_weights import resolve_pretrained

MATRICES = {"minilm": MINILM, "mpnet": MPNET}
RATIOS = (2.5, 5.0, 10.0, 25.0, 50.0, 100.0)
METHODS: dict[str, dict[str, Any]] = {
    "svd": {"method": "svd"},
    "svd_weighted": {"method": "svd", "weights": "text"},
    "svd_metric": {"method": "svd", "weights": "text", "metric": True},
    "autoencoder": {"method": "autoencoder"},
    "autoencoder_weighted": {"method": "autoencoder", "weights": "text"},
    "autoencoder_metric": {"method": "autoencoder", "weights": "text", "metric": True},
    "autoencoder_svd_start": {"method": "autoencoder", "start": "svd"},
    "lighttoken_paper": {
        "method": "lighttoken",
        "start": "autoencoder",
        "rank": 4,
        "refinement": 0,
        "kept_rows": 0,
        "weights": "uniform",
    },
    "lighttoken_none_kept": {"method": "lighttoken", "kept_rows": 0},
    "lighttoken_weighted_none_kept": {"method": "lighttoken", "kept_rows": 0, "weights": "text"},
    "lighttoken": {"method": "lighttoken"},
    "lighttoken_weighted": {"method": "lighttoken", "weights": "text"},
    "lighttoken_metric": {"method": "lighttoken", "weights": "text", "metric": True},
    "lighttoken_encyclopedia": {"method": "lighttoken", "weights": "encyclopedia"},
    "lighttoken_encyclopedia_metric": {"method": "lighttoken", "weights": "encyclopedia", "metric": True},
    "lighttoken_domain": {"method": "lighttoken", "weights": "domain"},
    "lighttoken_domain_metric": {"method": "lighttoken", "weights": "domain", "metric": True},
    "pq": {"method": "pq"},
    "pq_weighted": {"method": "pq", "weights": "text"},
    "pq_weighted_kept": {"method": "pq", "kept_rows": 476, "weights": "text"},
    "pq_weighted_kept_rotated": {"method": "pq", "kept_rows": 476, "weights": "text", "rotation": True},
    "pq_metric_kept": {"method": "pq", "kept_rows": 476, "weights": "text", "metric": True},
    "int8": {"method": "int8"},
    "int4": {"method": "int4"},
}
TEXTS = {"text": "ewt_train", "encyclopedia": "wikitext2_valid"}
"""Unlabelled texts that are the same for all tasks: files of `distill_text`, by kind."""
STEPS = 102
EVALUATIONS = 3
LEARNING_RATES = {"tuned": 1e-4, "tuned_fixed": 1e-4, "alad": 2e-4, "alad_factors": 2e-4, "plug_and_play": 2e-3}
"""By arm. The rate of joint AlAd was picked from two on dev of WNUT-17 with seed 0, over LightToken at ratio 100 and
SVD at 25; that of plug-and-play is the one of `recovery.py`."""


def points(options: argparse.Namespace) -> list[tuple[str, float | None]]:
    """The methods and ratios that are asked for; rounding has a ratio of its own."""
    return [
        (name, ratio) for name in options.methods for ratio in ([None] if name.startswith("int") else options.ratios)
    ]


def arguments(
    name: str,
    ratio: float | None,
    weights: dict[str, torch.Tensor],
    metrics: dict[str, torch.Tensor],
    seed: int,
) -> dict[str, Any]:
    """Keyword arguments of `compress_table` for a method of this benchmark."""
    settings = dict(METHODS[name])
    kind = settings.pop("weights", None)
    metric = metrics[kind] if settings.pop("metric", False) else None
    given = {"row_weights": weights[kind] if kind else None, "metric": metric}
    return {**settings, **given, "ratio": ratio, "seed": seed, "progress": False}


def unlabelled_texts(data: Path) -> dict[str, list[str]]:
    """Lines by kind."""
    return {
        kind: (data / "distill_text" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        for kind, name in TEXTS.items()
    }


def weights_of(texts: dict[str, list[str]], source: str, rows: int) -> dict[str, torch.Tensor]:
    """Weights of a model's tokens, by kind of text."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    weights = {kind: token_weights(lines, tokenizer, rows) for kind, lines in texts.items()}
    return {**weights, "uniform": torch.ones(rows)}


def metrics_of(
    options: argparse.Namespace, model: PreTrainedModel, source: str, texts: dict[str, list[str]]
) -> dict[str, torch.Tensor]:
    """The metrics of a model's encoder over the kinds of text that a method wants."""
    wanted = {METHODS[name]["weights"] for name in options.methods if METHODS[name].get("metric")}
    tokenizer = AutoTokenizer.from_pretrained(source)
    return {kind: embedding_metric(model, text, tokenizer) for kind, text in texts.items() if kind in wanted}


class Results:
    """The JSON file, written after every run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        # A method that an older file knows nothing of is no contradiction.
        known = self.data.get("settings", {}).get("methods", {})
        self.check_settings(self.data, {"methods": {name: METHODS.get(name) for name in known or METHODS}})
        self.data["settings"] = {"methods": METHODS}

    def check_settings(self, section: dict[str, Any], settings: dict[str, Any]) -> None:
        """Settings that were others when the section was begun end the run."""
        if section.setdefault("settings", settings) != settings:
            raise SystemExit(f"{self.path} was made with other settings: {section['settings']}. Name another --out.")

    def section(self, *keys: str) -> dict[str, Any]:
        """A dictionary at a path of keys."""
        place = self.data
        for key in keys:
            place = place.setdefault(key, {})
        return place

    def put(self, section: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        """Add and write."""
        section[key] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1) + "\n")


def reconstruct(options: argparse.Namespace, results: Results) -> None:
    """The first part."""
    for matrix in options.matrices:
        source = resolve_pretrained(MATRICES[matrix])
        model = AutoModel.from_pretrained(source, add_pooling_layer=False)
        table = embedding_table(model).detach()
        texts = unlabelled_texts(options.data)
        weights = weights_of(texts, source, len(table))
        metrics = metrics_of(options, model, source, texts)
        for name, ratio in points(options):
            if METHODS[name].get("weights") == "domain":  # which there is none of
                continue
            section = results.section("reconstruction", matrix, name)
            if str(ratio) in section:
                continue
            begin = time.perf_counter()
            try:
                embedding, record = compress_table(table, **arguments(name, ratio, weights, metrics, seed=0))
            except ValueError as error:  # some methods do not go so far
                results.put(section, str(ratio), {"error": str(error)})
                continue
            seconds = time.perf_counter() - begin
            cosines = torch.nn.functional.cosine_similarity(table, embedding.dense(), dim=1)
            counts = weights["text"] ** 2
            record["text_cosine"] = ((counts * cosines).sum() / counts.sum()).item()
            results.put(section, str(ratio), record | {"seconds": round(seconds, 1)})
            print(
                f"{matrix} {name:22} ratio {record['ratio']:6.2f} cosine {record['mean_cosine']:.4f} in text "
                f"{record['text_cosine']:.4f} rmse {record['rmse']:.5f} neighbours {record['neighbour_overlap']:.3f} "
                f"{seconds:.0f} s",
                flush=True,
            )


def run_task(options: argparse.Namespace, results: Results, task: str) -> None:
    """The other parts, on one task."""
    experiment = Experiment(options, "minilm", task)
    teacher = experiment.teacher()
    rows = len(embedding_table(teacher))
    texts = {**unlabelled_texts(options.data), "domain": experiment.task.lines}
    weights = weights_of(texts, experiment.teacher_source, rows)
    metrics = metrics_of(options, teacher, experiment.teacher_source, texts)
    untuned = results.section("untuned", task)
    if "dense" not in untuned:
        results.put(untuned, "dense", scores(experiment, teacher))
        report(experiment, task, "untuned", "dense", untuned["dense"])
    folders = {} if options.skip_dense else {"dense": experiment.work / "teacher"}
    for name, ratio in points(options):
        key = f"{name}@{ratio}"
        folder = options.work / "minilm" / task / "compressed" / key
        try:
            if not (folder / "config.json").exists():
                given = arguments(name, ratio, weights, metrics, seed=0)
                compress_embeddings(teacher, **given).save_pretrained(folder)
        except ValueError as error:  # some methods do not go so far
            results.put(untuned, key, {"error": str(error)})
            continue
        folders[key] = folder
        if key not in untuned:
            model = AutoModelForTokenClassification.from_pretrained(folder)
            record = model.config.compression["embedding"]
            kept = {field: record[field] for field in ("bytes", "ratio", "mean_cosine", "rmse")}
            results.put(untuned, key, scores(experiment, model) | kept)
            report(experiment, task, "untuned", key, untuned[key])
    if "tuned" in options.parts:
        tuned = results.section("tuned", task)
        steps = STEPS * options.longer
        results.check_settings(tuned, {"steps": steps, "learning_rates": LEARNING_RATES})
        for seed, arm, key in itertools.product(options.seeds, options.arms, folders):
            section = tuned.setdefault(arm, {}).setdefault(key, {})
            if str(seed) not in section:
                results.put(section, str(seed), tune(experiment, folders[key], arm, seed, steps))
                report(experiment, task, f"{arm} {seed}", key, section[str(seed)])


def tune(experiment: Experiment, folder: Path, arm: str, seed: int, steps: int) -> dict[str, Any]:
    """Fine-tune a tagger with its table, or an AlAd model over its encoder, and score the best on dev."""
    set_seed(seed)
    if arm in ("tuned", "tuned_fixed"):
        model = AutoModelForTokenClassification.from_pretrained(folder)
        model.get_input_embeddings().requires_grad_(arm == "tuned")
        rows = experiment.rows
    else:
        model = AlAdForTokenClassification.from_student_pretrained(
            str(folder),
            teacher=experiment.teacher(),
            tokenizer=experiment.tokenizer,
            freeze_student=arm == "plug_and_play",
            freeze_embeddings=arm != "alad_factors",
        )
        model.detach_teacher()
        rows = experiment.training_rows("plug_and_play" if arm == "plug_and_play" else "joint")
    rate = LEARNING_RATES[arm]
    fit = experiment.fit(model, rows, seed=seed, learning_rate=rate, steps=steps, evaluations=EVALUATIONS)
    return fit | scores(experiment, model)


def scores(experiment: Experiment, model: PreTrainedModel) -> dict[str, Any]:
    """Of dev and test."""
    return {split: experiment.score(model, split) for split in ("validation", "test")}


def report(experiment: Experiment, task: str, part: str, key: str, run: dict[str, Any]) -> None:
    """One line."""
    dev, test = (run[split][experiment.task.metric] for split in ("validation", "test"))
    print(f"{task} {part:9} {key:28} dev {dev:.1f} test {test:.1f}", flush=True)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, default=Path(".benchmarks/recovery"), help="taggers, shared with recovery"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/embedding_compression.json"))
    parser.add_argument(
        "--parts", nargs="+", choices=("reconstruction", "untuned", "tuned"), default=["reconstruction"]
    )
    parser.add_argument("--matrices", nargs="+", choices=MATRICES, default=list(MATRICES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ratios", nargs="+", type=float, default=list(RATIOS))
    parser.add_argument("--tasks", nargs="+", choices=[name for name in TASKS if name != "qa"], default=["wnut17"])
    parser.add_argument("--arms", nargs="+", choices=LEARNING_RATES, default=list(LEARNING_RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--longer", type=int, default=1, metavar="TIMES", help="tuned steps times this")
    parser.add_argument("--skip-dense", action="store_true", help="do not tune the tagger with its own table")
    add_teacher_options(parser)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    results = Results(options.out)
    if "reconstruction" in options.parts:
        reconstruct(options, results)
    if {"untuned", "tuned"} & set(options.parts):
        for task in options.tasks:
            run_task(options, results, task)


if __name__ == "__main__":
    main()
