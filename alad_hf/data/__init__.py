"""Readers of corpora for token classification and question answering."""

from __future__ import annotations

from alad_hf.data.columns import read_conll, read_conllu
from alad_hf.data.json_lines import read_json_lines
from alad_hf.data.loading import load_question_answering, load_token_classification
from alad_hf.data.squad import read_squad
from alad_hf.data.tag_schemes import TAG_SCHEMES, corpus_to_iob2, detect_tag_scheme, to_iob2

__all__ = [
    "TAG_SCHEMES",
    "corpus_to_iob2",
    "detect_tag_scheme",
    "load_question_answering",
    "load_token_classification",
    "read_conll",
    "read_conllu",
    "read_json_lines",
    "read_squad",
    "to_iob2",
]
