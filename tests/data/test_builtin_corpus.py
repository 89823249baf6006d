"""The built-in corpus keeps what its data card promises."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from itertools import combinations, product

import pytest
from datasets import ClassLabel, DatasetDict, List, Value

from alad_hf.data.builtin import BUILTIN_TAGS, load_builtin_corpus

SPLITS = ("train", "validation", "test")
TYPES = ("PER", "ORG", "LOC", "PROD", "EVENT")


@pytest.fixture(scope="module")
def corpus() -> DatasetDict:
    return load_builtin_corpus()


def sentences(corpus: DatasetDict, split: str) -> list[tuple[list[str], list[str]]]:
    return [(row["tokens"], [BUILTIN_TAGS[tag] for tag in row["tags"]]) for row in corpus[split]]


def entities(tokens: list[str], tags: list[str]) -> list[tuple[str, str]]:
    """Read (type, name) pairs off IOB2 tags, independently of the package's own scorer."""
    starts = [index for index, tag in enumerate(tags) if tag.startswith("B-")]
    found = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        found.append((tags[start][2:], " ".join(tokens[start:end])))
    return found


def mentions(corpus: DatasetDict, split: str) -> list[tuple[str, str]]:
    return [entity for tokens, tags in sentences(corpus, split) for entity in entities(tokens, tags)]


def is_lower_case(tokens: list[str]) -> bool:
    return not any(token != token.lower() for token in tokens)


def has_chat_token(tokens: list[str]) -> bool:
    """Tell whether a hashtag, a handle or an emoji occurs."""
    return any((token[0] in "#@" and len(token) > 1) or any(ord(char) > 0x25FF for char in token) for token in tokens)


def test_features(corpus):
    assert tuple(corpus) == SPLITS
    for split in SPLITS:
        assert corpus[split].features["tokens"] == List(Value("string"))
        assert corpus[split].features["tags"] == List(ClassLabel(names=list(BUILTIN_TAGS)))
        assert corpus[split].features["domain"] == Value("string")
        assert corpus[split].column_names == ["tokens", "tags", "domain"]


def test_tags_cover_all_types():
    assert BUILTIN_TAGS == ("O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI"))


@pytest.mark.parametrize("split", SPLITS)
def test_tags_are_valid_iob2(corpus, split):
    for tokens, tags in sentences(corpus, split):
        assert len(tokens) == len(tags) > 0
        assert all(token and not any(char.isspace() for char in token) for token in tokens)
        for before, tag in zip(["O", *tags], tags, strict=False):
            if tag.startswith("I-"):
                assert before[2:] == tag[2:], f"{tag} follows {before} in {tokens}"


@pytest.mark.parametrize(
    ("split", "sentence_floor", "mention_floor"), [("train", 400, 110), ("validation", 100, 25), ("test", 120, 25)]
)
def test_counts_reach_their_floors(corpus, split, sentence_floor, mention_floor):
    assert len(corpus[split]) >= sentence_floor
    counts = Counter(kind for kind, _ in mentions(corpus, split))
    assert {kind: counts[kind] for kind in TYPES if counts[kind] < mention_floor} == {}


@pytest.mark.parametrize("split", SPLITS)
def test_sentence_and_entity_density(corpus, split):
    words = [sum(any(char.isalnum() for char in token) for token in tokens) for tokens, _ in sentences(corpus, split)]
    assert 14 <= sum(words) / len(words) <= 22
    assert 1.3 <= len(mentions(corpus, split)) / len(corpus[split]) <= 2


@pytest.mark.parametrize("split", SPLITS)
def test_several_domains_lower_case_noise_and_sentences_without_entities(corpus, split):
    assert len(set(corpus[split]["domain"])) == 12
    rows = sentences(corpus, split)
    assert 0.08 <= sum(is_lower_case(tokens) for tokens, _ in rows) / len(rows) <= 0.2
    assert sum(has_chat_token(tokens) for tokens, _ in rows) >= 5
    assert 0.1 <= sum(set(tags) == {"O"} for _, tags in rows) / len(rows) <= 0.16


@pytest.mark.parametrize(("first", "second"), list(combinations(SPLITS, 2)))
def test_splits_share_no_entity_name(corpus, first, second):
    names = [{name.lower() for _, name in mentions(corpus, split)} for split in (first, second)]
    assert names[0] & names[1] == set()
    # Stricter for people: no first or last name either.
    people = [
        {word.lower() for kind, name in mentions(corpus, split) if kind == "PER" for word in name.split()}
        for split in (first, second)
    ]
    assert people[0] & people[1] == set()


def test_no_sentence_occurs_twice_or_nearly(corpus):
    rows = [(split, tokens) for split in SPLITS for tokens, _ in sentences(corpus, split)]
    folded = Counter(" ".join(tokens).lower() for _, tokens in rows)
    assert [text for text, count in folded.items() if count > 1] == []
    token_sets = {split: [frozenset(map(str.lower, t)) for name, t in rows if name == split] for split in SPLITS}
    for first, second in combinations(SPLITS, 2):
        for left, right in product(token_sets[first], token_sets[second]):
            assert len(left & right) / len(left | right) <= 0.8, (sorted(left), sorted(right))


@pytest.mark.parametrize("split", SPLITS)
def test_no_skeleton_recurs(corpus, split):
    """Sentences with their entities masked stay distinct, and no opening of four words is a habit."""
    masked = [
        tuple("<" + tag[2:] + ">" if tag != "O" else token.lower() for token, tag in zip(tokens, tags, strict=True))
        for tokens, tags in sentences(corpus, split)
    ]
    assert len(set(masked)) == len(masked)
    openings = Counter(words[:4] for words in masked if not any(word.startswith("<") for word in words[:4]))
    assert [opening for opening, count in openings.items() if count > 2] == []


def test_card_counts_equal_the_data(corpus):
    card = files("alad_hf.data.builtin").joinpath("README.md").read_text(encoding="utf-8")
    lines = [line for line in card.split("\n") if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    header = next(row for row in cells if row[1:] == list(SPLITS))
    table = [row for row in cells[cells.index(header) + 2 :] if len(row) == len(header)]
    stated = {row[0]: [int(cell) for cell in row[1:]] for row in table}

    rows = {split: sentences(corpus, split) for split in SPLITS}
    names = {split: {name.lower() for _, name in mentions(corpus, split)} for split in SPLITS}
    counts = {split: Counter(kind for kind, _ in mentions(corpus, split)) for split in SPLITS}
    expected = {
        "sentences": {split: len(rows[split]) for split in SPLITS},
        "tokens": {split: sum(len(tokens) for tokens, _ in rows[split]) for split in SPLITS},
        "entity mentions": {split: sum(counts[split].values()) for split in SPLITS},
        "distinct entity names": {split: len(names[split]) for split in SPLITS},
        **{f"`{kind}` mentions": {split: counts[split][kind] for split in SPLITS} for kind in TYPES},
        "sentences without entities": {split: sum(set(t) == {"O"} for _, t in rows[split]) for split in SPLITS},
        "sentences in lower case": {split: sum(is_lower_case(t) for t, _ in rows[split]) for split in SPLITS},
        "sentences with a hashtag, handle or emoji": {
            split: sum(has_chat_token(t) for t, _ in rows[split]) for split in SPLITS
        },
    }
    assert stated == {name: list(by_split.values()) for name, by_split in expected.items()}
