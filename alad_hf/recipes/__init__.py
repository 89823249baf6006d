"""From data to a finished model in one call, for tags and for answers."""

from __future__ import annotations

from ..data.tag_names import with_tags_of
from .budget import DEFAULTS, EXCHANGED_COPIES, EXCHANGED_EPOCHS, EXCHANGED_PARAGRAPHS, Budget
from .exchanged_mentions import exchange_mentions
from .exchanged_questions import exchange_questions
from .grafting import graft_tagger
from .question_answering import TrainedQuestionAnswerer, train_question_answerer
from .stages import TrainedModel
from .tagging import TrainedTagger, train_tagger

__all__ = [
    "DEFAULTS",
    "EXCHANGED_COPIES",
    "EXCHANGED_EPOCHS",
    "EXCHANGED_PARAGRAPHS",
    "Budget",
    "TrainedModel",
    "TrainedQuestionAnswerer",
    "TrainedTagger",
    "exchange_mentions",
    "exchange_questions",
    "graft_tagger",
    "train_question_answerer",
    "train_tagger",
    "with_tags_of",
]
