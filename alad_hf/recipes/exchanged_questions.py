"""Unlabelled pairs of a question and a paragraph out of a question-answering corpus."""

from __future__ import annotations

import random

from datasets import Dataset


def exchange_questions(data: Dataset, *, copies: int, seed: int = 0) -> Dataset:
    """Pair every question with other paragraphs than its own, and leave all answers behind.

    It shows a student questions and texts in combinations that the labels do not have. Where the answer is, or that
    there is none, only a teacher can say.

    Args:
        data: Columns `id`, `question`, `context` and, optionally, `title`, by which paragraphs belong to an article.
        copies: How many other paragraphs each question gets, besides its own: first those of its article, then any.
            Fewer where `data` has fewer paragraphs.
        seed: Of the choice.

    Returns:
        A dataset with the columns `id`, `question` and `context`: first the pairs of `data`, then the exchanged ones.

    Raises:
        ValueError: `copies` is negative.
    """
    if copies < 0:
        raise ValueError(f"copies={copies} must be 0 or more.")
    generator = random.Random(seed)
    ids, questions, contexts = data["id"][:], data["question"][:], data["context"][:]
    titles = data["title"][:] if "title" in data.column_names else [""] * len(ids)
    # Dictionaries in place of sets: their order does not depend on the hash seed of the process.
    articles: dict[str, dict[str, None]] = {}
    for title, context in zip(titles, contexts, strict=True):
        articles.setdefault(title, {})[context] = None
    paragraphs = list(dict.fromkeys(contexts))
    pairs = {"id": list(map(str, ids)), "question": list(questions), "context": list(contexts)}
    for identifier, title, question, own in zip(ids, titles, questions, contexts, strict=True):
        near = [context for context in articles[title] if context != own] if title else []
        chosen = generator.sample(near, min(copies, len(near)))
        while len(chosen) < min(copies, len(paragraphs) - 1):
            other = generator.choice(paragraphs)
            if other != own and other not in chosen:
                chosen.append(other)
        pairs["id"] += [f"{identifier}-{number}" for number in range(1, len(chosen) + 1)]
        pairs["question"] += [question] * len(chosen)
        pairs["context"] += chosen
    return Dataset.from_dict(pairs)
