"""Unlabelled text out of tagged text."""

from __future__ import annotations

import random

from datasets import Dataset


def exchange_mentions(data: Dataset, *, copies: int, seed: int = 0) -> Dataset:
    """Unlabelled text out of tagged text: every entity replaced by another of its type, a third of it lower-cased.

    It shows a student contexts and names in combinations that the labels do not have, which only a teacher can tag.

    Args:
        data: Columns `tokens` and `tags` in IOB2, a tag below 0 for none; text without entities is returned as it is.
        copies: How many variants of each sentence, besides the sentence itself.
        seed: Of the choice.

    Returns:
        A dataset with the column `tokens`.
    """
    names = data.features["tags"].feature.names
    generator = random.Random(seed)
    sentences = [(row["tokens"], [names[tag] if tag >= 0 else "O" for tag in row["tags"]]) for row in data]
    mentions: dict[str, list[list[str]]] = {}
    for tokens, tags in sentences:
        for start, end in _mention_spans(tags):
            mentions.setdefault(tags[start][2:], []).append(tokens[start:end])
    variants = [tokens for tokens, _ in sentences]
    for tokens, tags in sentences:
        spans = _mention_spans(tags)
        for _ in range(copies if spans else 0):
            variant, position = [], 0
            for start, end in spans:
                variant += tokens[position:start] + generator.choice(mentions[tags[start][2:]])
                position = end
            variant += tokens[position:]
            variants.append([word.lower() for word in variant] if generator.random() < 1 / 3 else variant)
    return Dataset.from_dict({"tokens": variants})


def _mention_spans(tags: list[str]) -> list[tuple[int, int]]:
    starts = [index for index, tag in enumerate(tags) if tag.startswith("B-")]
    spans = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        spans.append((start, end))
    return spans
