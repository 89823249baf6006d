"""The splits of a tagged corpus, checked before anything is trained on them."""

from __future__ import annotations

from datasets import ClassLabel, DatasetDict
from transformers import PreTrainedModel

from ..data.loading import Source, load_token_classification
from ..data.tag_names import with_common_tags, with_tags_of
from ..data.tagged_datasets import dataset_to_sentences
from .validation_split import with_validation


def tagged_splits(
    data: Source, teacher: PreTrainedModel | None = None, tagger: PreTrainedModel | None = None
) -> DatasetDict:
    """Check splits, hold out a validation split where there is none, and number the tags of all alike.

    Args:
        data: Splits with the columns `tokens` and `tags`, of which others than `train`, `validation` and `test` are
            left out; or what `load_token_classification` makes such of.
        teacher: A tagger whose numbers they get.
        tagger: Without a teacher, what is trained on: they get its numbers if it has the same tags, so that its head
            can be kept.

    Raises:
        ValueError: A split is empty or lacks a column, its tags are no class labels, the split that scores are of has
            a word without a tag, or the teacher does not know a tag.
    """
    if not isinstance(data, DatasetDict):
        data = load_token_classification(data)
    data = DatasetDict({split: data[split] for split in ("train", "validation", "test") if split in data})
    for split, rows in data.items():
        if not len(rows):
            raise ValueError(f"The split {split!r} has no rows: leave it out, or fill it.")
        tags = rows.features.get("tags")
        if "tokens" not in rows.features or not isinstance(getattr(tags, "feature", None), ClassLabel):
            raise ValueError(
                f"The split {split!r} has the columns {dict(rows.features)}, expected 'tokens' (strings) and 'tags' "
                "(ClassLabel). load_token_classification(data) finds columns of other names and makes class labels "
                "of strings."
            )
    data = with_validation(data, "tokens")
    scored = scored_split(data)
    dataset_to_sentences(data[scored], f"The split {scored!r}", "tokens", "tags")
    if teacher is not None:
        return with_tags_of(teacher, data)
    data = with_common_tags(data)
    if tagger is not None and {*tagger.config.id2label.values()} == {*data["train"].features["tags"].feature.names}:
        return with_tags_of(tagger, data)
    return data


def scored_split(data: DatasetDict) -> str:
    """The split that a recipe's scores are of."""
    return "test" if "test" in data else "validation"
