"""The rendered cards in model_cards/ are whole, and say what the results file of the script that wrote them says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from alad_hf.hub.markdown_tables import number

ROOT = Path(__file__).resolve().parents[2]
CARDS = ROOT / "model_cards"
RESULTS = ROOT / "benchmarks" / "results" / "released_models.json"
RELEASED = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def test_there_is_a_card_for_every_result_and_no_other() -> None:
    cards = {path.stem for path in CARDS.glob("*.md")} - {"README", "template"}
    assert cards == set(RELEASED)


@pytest.mark.parametrize("name", RELEASED)
def test_a_card_shows_its_result(name: str) -> None:
    card, result = ModelCard.load(CARDS / f"{name}.md"), RELEASED[name]
    measured = {one.metric_name: one.metric_value for one in card.data.eval_results}
    assert measured == {
        {"f1": "F1", "macro_f1": "macro F1"}.get(key, key.replace("_", " ")): value
        for key, value in result["scores"].items()
        if isinstance(value, float) and not key.startswith("f1_")
    }
    commands = re.search(r"```bash\n(.*?)\n```", card.content, re.DOTALL)[1]
    assert commands.splitlines() == result["commands"]
    for title, row in result["comparison"].items():
        assert f"| {title} | {number(row.get('f1', row.get('accuracy')))} | {row['parameters']:,} |" in card.content
    (figure,) = re.findall(r"!\[.*?\]\((.*?)\)", card.content)
    assert (CARDS / figure).read_bytes().startswith(b"\x89PNG")
    assert "/tmp/" not in card.content and str(Path.home()) not in card.content
