"""From files and the Hub to batches: readers, tag schemes, token labels and the collator."""

from __future__ import annotations

from .collators import DataCollatorForAlignment
from .columns import read_conll, read_conllu
from .json_lines import read_json_lines
from .loading import load_question_answering, load_token_classification
from .squad import read_squad
from .tag_schemes import TAG_SCHEMES, corpus_to_iob2, detect_tag_scheme, to_iob2
from .token_labels import encode_tagged_words, longest_input

__all__ = [
    "TAG_SCHEMES",
    "DataCollatorForAlignment",
    "corpus_to_iob2",
    "detect_tag_scheme",
    "encode_tagged_words",
    "load_question_answering",
    "load_token_classification",
    "longest_input",
    "read_conll",
    "read_conllu",
    "read_json_lines",
    "read_squad",
    "to_iob2",
]
