"""What the tables and figures of README and docs share."""

from __future__ import annotations

import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

TASK_NAMES = {
    "wnut17": "WNUT-17, F1",
    "ncbi_disease": "NCBI-disease, F1",
    "ewt_pos": "UD-EWT POS, accuracy",
    "qa": "XQuAD, F1",
}


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"
