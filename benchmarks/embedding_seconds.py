"""How long compressing a token table takes, at the ratio that is the slowest for most methods.

    python benchmarks/embedding_seconds.py --data ../shared/data

On an idle machine, with all of its cores. The metric of an encoder is timed by itself (`embedding_metric`): it is
measured once and serves every method.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from embedding_compression import MATRICES, METHODS, arguments, unlabelled_texts, weights_of
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from alad_hf.compression.embedding_metric import embedding_metric
from alad_hf.compression.embeddings import compress_table, embedding_table
from alad_hf.hub.pretrained_weights import resolve_pretrained

RATIO = 2.5
TIMED = (
    "svd",
    "svd_metric",
    "autoencoder",
    "autoencoder_metric",
    "lighttoken",
    "lighttoken_metric",
    "lighttoken_paper",
    "pq",
    "pq_weighted_kept_rotated",
    "pq_metric_kept",
    "int8",
    "int4",
)


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/embedding_seconds.json"))
    parser.add_argument("--matrices", nargs="+", choices=MATRICES, default=list(MATRICES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(TIMED))
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    results = json.loads(options.out.read_text()) if options.out.exists() else {"ratio": RATIO, "seconds": {}}
    results["machine"] = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    results["torch"] = torch.__version__
    for matrix in options.matrices:
        source = resolve_pretrained(MATRICES[matrix])
        model = AutoModel.from_pretrained(source, add_pooling_layer=False)
        table = embedding_table(model).detach()
        texts = unlabelled_texts(options.data)
        weights = weights_of(texts, source, len(table))
        seconds = results["seconds"].setdefault(matrix, {})
        begin = time.perf_counter()
        metrics = {"text": embedding_metric(model, texts["text"], AutoTokenizer.from_pretrained(source))}
        seconds["embedding_metric"] = round(time.perf_counter() - begin, 1)
        for name in options.methods:
            if name in seconds:
                continue
            ratio = None if name.startswith("int") else RATIO
            begin = time.perf_counter()
            compress_table(table, **arguments(name, ratio, weights, metrics, seed=0))
            seconds[name] = round(time.perf_counter() - begin, 1)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            print(f"{matrix} {name:26} {seconds[name]:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
