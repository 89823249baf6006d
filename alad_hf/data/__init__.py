"""From files and the Hub to batches: readers, tag schemes, token labels and the collator."""

from __future__ import annotations

from .collators import DataCollatorForAlignment
from .columns import read_conll, read_conllu
from .json_lines import read_json_lines
from .loading import load_question_answering, load_token_classification
from .mixing import mix_rows
from .question_answering import encode_questions
from .squad import read_squad
from .tag_schemes import TAG_SCHEMES, corpus_to_iob2, detect_tag_scheme, to_iob2
from .token_alignment import teacher_columns
from .token_labels import encode_tagged_words, longest_input
from .unlabelled_text import encode_text

__all__ = [
    "TAG_SCHEMES",
    "DataCollatorForAlignment",
    "corpus_to_iob2",
    "detect_tag_scheme",
    "encode_questions",
    "encode_tagged_words",
    "encode_text",
    "load_question_answering",
    "load_token_classification",
    "longest_input",
    "mix_rows",
    "read_conll",
    "read_conllu",
    "read_json_lines",
    "read_squad",
    "teacher_columns",
    "to_iob2",
]
