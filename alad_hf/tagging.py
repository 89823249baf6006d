"""Tag words and running text with any token classifier of transformers, and score one on a data set."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .data.sources import check_one_split
from .data.tag_schemes import split_tag
from .data.tagged_datasets import dataset_to_sentences, declared_tag_names
from .data.word_boundaries import split_words
from .evaluation.entity_f1 import check_iob2_tag, entity_scores
from .evaluation.tagging_accuracy import tagging_scores
from .word_prediction import WordTag, label_names, predict_words

logger = logging.getLogger(__name__)


def tag_words(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Iterable[Sequence[str]],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    show_progress: bool = False,
) -> Iterator[list[str]]:
    """Tag sentences of words, one tag a word.

    Sentences may be of any length: one that is longer than the model's input is cut into windows that overlap and
    split no word, and each word takes the tag of its first token from the window in which that token is farthest from
    a border (the first of them, if several are); see `alad_hf.long_documents`. A word without any token, such as a
    lone variation selector, is tagged "O", or "X" where there is no "O", or else with the model's first tag; one
    warning tells how many were.

    The sentences may be a stream: they are read, sorted by length and tagged by 64 `batch_size` at a time, or by fewer
    where they are long, so that memory stays bounded, and come back in their order. The model is in eval mode while
    it runs, and in its own mode whenever this function hands out a result.

    Args:
        model: A token classifier, AlAd or not; it runs where it is.
        tokenizer: Its fast tokenizer.
        sentences: Lists of words; an empty one gets an empty list.
        batch_size: Windows of one forward pass.
        max_length: Tokens of one window, special ones included; as many as fit the model if omitted.
        overlap: Tokens that consecutive windows of a sentence share; a quarter of `max_length` if omitted.
        show_progress: Whether to show a bar with the words per second.

    Returns:
        An iterator over lists of tags, the names in `model.config.id2label`.

    Raises:
        ValueError: If a size is out of range or the tokenizer is a slow one; while iterating if the model's output is
            not a number.
        TypeError: While iterating, if a sentence is not a list of strings.

    Example:
        >>> list(tag_words(model, tokenizer, [["Ada", "lived", "in", "London"]]))  # doctest: +SKIP
        [['B-PER', 'O', 'O', 'B-LOC']]
    """
    predictions = predict_words(
        model,
        tokenizer,
        sentences,
        batch_size=batch_size,
        max_length=max_length,
        overlap=overlap,
        show_progress=show_progress,
    )
    return ([word.tag for word in sentence] for sentence in predictions)


def tag_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    show_progress: bool = False,
) -> Iterator[list[dict[str, Any]]]:
    """Find the entities of running text, or the tag of its every word.

    Texts are split into words by `split_words`, as those of JSON lines are for training, and tagged as by `tag_words`.
    Where the model's tags mark spans (`B-PER`, `I-PER`), an entity begins at `B-X`, or at an `I-X` that continues no
    entity of type X, as in `entity_scores`; other tag sets, such as parts of speech, give one item a word. Words
    tagged "O" give none.

    Args:
        model: A token classifier, AlAd or not; it runs where it is.
        tokenizer: Its fast tokenizer.
        texts: Texts of any length.
        batch_size: Windows of one forward pass.
        max_length: Tokens of one window, special ones included; as many as fit the model if omitted.
        overlap: Tokens that consecutive windows of a text share; a quarter of `max_length` if omitted.
        show_progress: Whether to show a bar with the words per second.

    Returns:
        An iterator over a list for each text, in their order, of `{"label", "start", "end", "text", "score"}`: the
        text is that of the characters `start` to `end - 1`, the score the mean probability of its words' tags.

    Raises:
        ValueError: As by `tag_words`.
        TypeError: If `texts` is a single string or, while iterating, one of them is not a string.

    Example:
        >>> next(tag_text(model, tokenizer, ["Ada lived in London."]))[1]  # doctest: +SKIP
        {'label': 'LOC', 'start': 13, 'end': 19, 'text': 'London', 'score': 0.98}
    """
    if isinstance(texts, str):
        raise TypeError("texts is a single string, expected several: pass [text].")
    are_spans = marks_spans(label_names(model))
    waiting: deque[tuple[str, list[tuple[int, int]]]] = deque()

    def sentences() -> Iterator[list[str]]:
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"Text {number} is {text!r}, expected a string.")
            offsets = split_words(text)
            waiting.append((text, offsets))
            yield [text[start:end] for start, end in offsets]

    predictions = predict_words(
        model,
        tokenizer,
        sentences(),
        batch_size=batch_size,
        max_length=max_length,
        overlap=overlap,
        show_progress=show_progress,
    )
    return (group_words(*waiting.popleft(), words, are_spans) for words in predictions)


def evaluate_tagger(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    overlap: int | None = None,
    token_column: str | None = None,
    tag_column: str | None = None,
) -> dict[str, float]:
    """Score a token classifier on every word of a data set, however long its sentences are.

    Words without a token count as well, with the tag that `tag_words` gives them. Tags of model and data are matched
    by their names, never by their ids. One warning tells of tags in the data that the model does not have, whose
    words can only be wrong, and one of predicted tags that the data do not have. Of tags that mark spans only the
    types have to be known: a model without `B-X` begins an X by `I-X`, which counts against the accuracy alone.

    Args:
        model: A token classifier, AlAd or not; it runs where it is.
        tokenizer: Its fast tokenizer.
        dataset: Words and tags (`ClassLabel` or strings), such as a split of `load_token_classification`.
        batch_size: Windows of one forward pass.
        max_length: Tokens of one window, special ones included; as many as fit the model if omitted.
        overlap: Tokens that consecutive windows of a sentence share; a quarter of `max_length` if omitted.
        token_column: The column with the words; `tokens` or `words` if omitted.
        tag_column: The column with the tags; `tags`, `ner_tags`, `pos_tags` or `upos` if omitted.

    Returns:
        For tags that mark spans `precision`, `recall`, `f1`, `macro_f1`, `accuracy` and `f1_TYPE` for each type (see
        `entity_scores`); for others `accuracy`, `macro_f1` and `f1_TAG` for each tag (see `tagging_scores`). All from
        0 to 1.

    Raises:
        TypeError: `dataset` holds several splits.
        ValueError: If the model shares no tag but "O" with the data, tags that mark spans are not IOB2, the columns
            are missing or malformed, or as by `tag_words`.
    """
    check_one_split(dataset)
    sentences = dataset_to_sentences(dataset, "The data set", token_column, tag_column)
    references = [sentence.tags for sentence in sentences]
    counts = Counter(tag for tags in references for tag in tags)
    names = sorted({*counts, *(declared_tag_names([dataset], tag_column) or [])})
    _check_shared_tags(model, names, counts)
    tokens = (sentence.tokens for sentence in sentences)
    predictions = list(
        tag_words(model, tokenizer, tokens, batch_size=batch_size, max_length=max_length, overlap=overlap)
    )
    surplus = _not_among(names, Counter(tag for tags in predictions for tag in tags), marks_spans(names))
    if surplus:
        logger.warning(
            "%d words were given tags that the data do not have and count as wrong: %s.",
            sum(surplus.values()),
            sorted(surplus),
        )
    if marks_spans(names):
        scores, groups = entity_scores(predictions, references), "per_type"
    else:
        scores, groups = tagging_scores(predictions, references), "per_tag"
    per_group = scores.pop(groups)
    return scores | {f"f1_{name}": row["f1"] for name, row in per_group.items()}


def marks_spans(tags: Iterable[str]) -> bool:
    """Whether tags mark where spans begin and go on (`B-PER`, `I-PER`), or each word's own class.

    Some treebanks have classes such as `S----3MS2-`; they have no `O`, and classes of other forms.
    """
    prefixes = [split_tag(tag)[0] for tag in tags]
    prefixed = [prefix not in ("", "O") for prefix in prefixes]
    return any(prefixed) and ("O" in prefixes or all(prefixed))


def _check_shared_tags(model: PreTrainedModel, names: list[str], counts: Counter[str]) -> None:
    labels = label_names(model)
    # "O" alone tells nothing: it is a tag of every entity recogniser, whatever its types.
    telling = {name for name in names if name != "O"} or set(names)
    if len(_not_among(labels, Counter(telling), marks_spans(names))) == len(telling):
        raise ValueError(
            f"The model and the data share no tag that says anything: the model has {labels}, the data "
            f"have {names}. Evaluate on data with the model's tags; if only the names differ, set "
            "model.config.id2label to the data's."
        )
    if marks_spans(names):
        for label_id, label in enumerate(labels):
            check_iob2_tag(label, f"model.config.id2label[{label_id}]")
    unknown = _not_among(labels, counts, marks_spans(names))
    if unknown:
        logger.warning(
            "%d of %d words have tags that the model does not have and count as missed: %s.",
            sum(unknown.values()),
            counts.total(),
            sorted(unknown),
        )


def _not_among(names: Iterable[str], counts: Counter[str], are_spans: bool) -> dict[str, int]:
    """The tags that some names lack, with their counts; of spans only whole types, for I-X begins an X as B-X does."""

    def kind(tag: str) -> str:
        return split_tag(tag)[1] if are_spans else tag

    known = {kind(name) for name in names}
    return {tag: count for tag, count in counts.items() if kind(tag) not in known}


def group_words(
    text: str, offsets: Sequence[tuple[int, int]], words: Sequence[WordTag], are_spans: bool
) -> list[dict[str, Any]]:
    """Group tagged words: into entities, or each by itself where tags do not mark spans.

    Args:
        text: The text.
        offsets: First and exclusive last character of each of its words.
        words: Their tags.
        are_spans: What `marks_spans` says of the model's tags.

    Returns:
        The items that `tag_text` gives for one text.
    """
    groups: list[tuple[str, list[int]]] = []
    previous_prefix, previous_label = "O", ""
    for index, word in enumerate(words):
        prefix, label = split_tag(word.tag) if are_spans or word.tag == "O" else ("", word.tag)
        # The prefixes of BIOES and BILOU too: E, L, S and U close an entity.
        starts = prefix in set("BSU") or previous_prefix in set("ELSU") or label != previous_label
        if prefix != "O":
            if starts or not are_spans:
                groups.append((label, []))
            groups[-1][1].append(index)
        previous_prefix, previous_label = prefix, label
    items = []
    for label, indices in groups:
        start, end = offsets[indices[0]][0], offsets[indices[-1]][1]
        score = sum(words[index].score for index in indices) / len(indices)
        items.append({"label": label, "start": start, "end": end, "text": text[start:end], "score": score})
    return items
