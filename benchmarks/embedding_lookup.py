"""What looking tokens up in compressed embeddings costs, beside the forward pass of MiniLM-L6; random tables.

    python benchmarks/embedding_lookup.py

The limit is the stock embedding, a copy of rows. Medians of about a second each.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from alad_hf.models.compressed_embeddings import CompressedEmbedding, build_embedding

ROWS, WIDTH = 30_522, 384
BATCHES = [(1, 16), (1, 128), (32, 128)]
SEED = 0


def light_token(bits: int, kept_rows: int = 0) -> dict:
    """What LightToken makes of the table by default: codes, beside kept rows or not."""
    codes = {"method": "binary_code", "bits": bits, "factor_dtype": "float16"}
    if not kept_rows:
        return codes
    shared = {**codes, "num_embeddings": ROWS - kept_rows, "embedding_dim": WIDTH}
    return {
        "method": "kept_rows",
        "kept_rows": kept_rows,
        "kept_bits": 4,
        "shared": shared,
        "factor_dtype": "float16",
    }


# About the compression ratio that the name says, decoders and biases counted.
FORMS: dict[str, dict] = {
    "SVD, ratio 5": {"method": "low_rank", "rank": 75, "bias": False},
    "SVD, ratio 25": {"method": "low_rank", "rank": 15, "bias": False},
    "LightToken, ratio 2.5": light_token(4088),
    "LightToken, ratio 5": light_token(2040),
    "LightToken, ratio 10": light_token(1012, kept_rows=476),
    "LightToken, ratio 25": light_token(392, kept_rows=476),
    "LightToken, ratio 100": light_token(80, kept_rows=476),
    "product quantization, ratio 10": {"method": "product_quantized", "subvectors": 128},
    "the same, rotated and scaled": {
        "method": "product_quantized",
        "subvectors": 128,
        "rotation": True,
        "row_scales": True,
    },
    "product quantization, ratio 25": {"method": "product_quantized", "subvectors": 48},
    "int8": {"method": "integer", "bits": 8},
    "int4": {"method": "integer", "bits": 4},
}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/embedding_lookup.json"))
    options = parser.parse_args()
    torch.manual_seed(SEED)
    results = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "batches": BATCHES,
        "milliseconds": measure(),
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, times in results["milliseconds"].items():
        print(f"{name:50}", *(f"{time:8.3f} ms" for time in times))


def measure() -> dict[str, list[float]]:
    """Milliseconds by name, one for each batch: the forward pass, the stock lookup in it, and compressed lookups."""
    config = BertConfig(
        vocab_size=ROWS, hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    # Tokens as frequent as in text (Zipf's law), so that a batch repeats them as often as text does.
    frequencies = 1 / torch.arange(1, ROWS + 1)
    batches = [
        torch.multinomial(frequencies, rows * tokens, replacement=True).view(rows, tokens) for rows, tokens in BATCHES
    ]
    with torch.no_grad():
        times = {"MiniLM-L6 forward": [milliseconds(lambda ids=ids: model(input_ids=ids)) for ids in batches]}
        times["nn.Embedding"] = lookups(model.get_input_embeddings(), batches)
        for name, fields in FORMS.items():
            embedding = random_embedding(fields)
            ratio = 4 * ROWS * WIDTH / embedding.stored_bytes
            times[f"{name} (exactly {ratio:.1f})"] = lookups(embedding, batches)
        times["any, materialised"] = lookups(random_embedding(FORMS["LightToken, ratio 25"]).materialize(), batches)
    return times


def random_embedding(fields: dict) -> CompressedEmbedding:
    """An embedding of MiniLM's size with random codes and factors."""
    embedding = build_embedding({"num_embeddings": ROWS, "embedding_dim": WIDTH, **fields}).eval()
    embedding.init_weights()
    for name, buffer in embedding.named_buffers():
        if name.endswith("codes"):
            low, high = (-128, 128) if buffer.dtype == torch.int8 else (0, 256)
            buffer.copy_(torch.randint(low, high, buffer.shape))
        elif name == "kept_ids":
            buffer.copy_(torch.arange(len(buffer)))  # the first are the most frequent
    return embedding


def lookups(embedding: torch.nn.Module, batches: list[torch.Tensor]) -> list[float]:
    """Milliseconds of looking up each batch."""
    return [milliseconds(lambda ids=ids: embedding(ids)) for ids in batches]


def milliseconds(function: Callable[[], object], seconds: float = 1.0) -> float:
    """Median time of a call; calls go on for about `seconds`, at least five times."""
    function()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - before))
    return statistics.median(times)


if __name__ == "__main__":
    main()
