"""Makes published_minialbert.json with the authors' own code, which needs an old transformers: 4.30.2 was used.

python -m venv old && old/bin/pip install torch "numpy<2.5" transformers==4.30.2
old/bin/python tests/golden/run_published_minialbert.py path/to/MiniALBERT/minialbert_modeling.py
"""

from __future__ import annotations

import json
import sys
import typing
from pathlib import Path

import torch
from published_minialbert import CONFIG, example_inputs, published_weights
from transformers import AlbertConfig

CHANGES = {
    "with adapters": {},
    "without adapters": {"use_adapter": False},
    "without projection": {"embedding_size": CONFIG["hidden_size"]},
}
COLUMNS = 5
"""Of logits and states that are kept, for every real token."""


def authors_outputs(source: str, changes: dict) -> dict:
    """What the authors' masked-LM model makes of the example."""
    config = {**CONFIG, **changes}
    names = {"__name__": "authors", "Optional": typing.Optional}  # their file relies on a star import for it
    exec(compile(source, "minialbert_modeling.py", "exec"), names)
    model = names["MiniAlbertForMaskedLM"](AlbertConfig(**config)).eval()
    model.load_state_dict(published_weights(config))
    inputs = example_inputs(config)
    with torch.no_grad():
        outputs = model(**inputs)
    real = inputs["attention_mask"].bool()
    tables = {"logits": outputs.logits[real], "last_hidden_state": outputs.hidden_states[-1][real]}
    return {
        name: [[round(x, 7) for x in row] for row in table[:, :COLUMNS].tolist()] for name, table in tables.items()
    }


if __name__ == "__main__":
    source = Path(sys.argv[1]).read_text(encoding="utf-8")
    values = {name: {"changes": changes, **authors_outputs(source, changes)} for name, changes in CHANGES.items()}
    Path(__file__).with_name("published_minialbert.json").write_text(json.dumps(values) + "\n", encoding="utf-8")
