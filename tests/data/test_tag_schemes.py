"""Tag schemes, against an oracle that encodes and decodes entities on its own and against seqeval's strict IOB2."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from seqeval.scheme import IOB2, Entities

from alad_hf.data.tag_schemes import TAG_SCHEMES, corpus_to_iob2, detect_tag_scheme, to_iob2

ENTITY_SCHEMES = TAG_SCHEMES[1:]

Span = tuple[int, int, str]


def encode(spans: list[Span], length: int, scheme: str) -> list[str]:
    tags = ["O"] * length
    single, last = {"BIOES": "SE", "BILOU": "UL"}.get(scheme, "BI")
    previous_end, previous_type = -1, ""
    for start, end, entity_type in spans:
        first = "B"
        if scheme == "IO" or (scheme == "IOB1" and (start, entity_type) != (previous_end, previous_type)):
            first = "I"
        letters = first + "I" * (end - start - 2) + last if end - start > 1 else first
        if end - start == 1 and scheme in ("BIOES", "BILOU"):
            letters = single
        if end - start > 1 and scheme not in ("BIOES", "BILOU"):
            letters = first + "I" * (end - start - 1)
        tags[start:end] = [f"{letter}-{entity_type}" for letter in letters]
        previous_end, previous_type = end, entity_type
    return tags


def decode(tags: list[str], scheme: str) -> list[Span]:
    """Match entities with a regular expression in the prefixes of each run of one type."""
    pattern = {
        "IO": "I+",
        "IOB1": "^I+|BI*",
        "IOB2": "BI*",
        "BIOES": "BI*E|S",
        "BILOU": "BI*L|U",
    }[scheme]
    spans, offset = [], 0
    for entity_type, group in itertools.groupby(tags, key=lambda tag: tag.partition("-")[2]):
        letters = "".join(tag[0] for tag in group)
        if entity_type:
            spans += [(offset + m.start(), offset + m.end(), entity_type) for m in re.finditer(pattern, letters)]
        offset += len(letters)
    return spans


def decode_with_seqeval(tags: list[str]) -> list[Span]:
    return [(entity.start, entity.end, entity.tag) for entity in Entities([tags], IOB2).entities[0]]


def is_valid(tags: list[str], scheme: str) -> bool:
    return encode(decode(tags, scheme), len(tags), scheme) == tags


def random_spans(generator: random.Random, length: int) -> list[Span]:
    spans, position = [], 0
    while position < length:
        end = min(length, position + generator.randint(1, 4))
        if generator.random() < 0.6:
            spans.append((position, end, generator.choice(["PER", "creative-work"])))
        position = end
    return spans


@pytest.mark.parametrize("scheme", ENTITY_SCHEMES)
def test_entities_survive_conversion(scheme: str) -> None:
    generator = random.Random(scheme)
    sentences = []
    for _ in range(300):
        length = generator.randint(0, 12)
        spans = random_spans(generator, length)
        tags = encode(spans, length, scheme)
        if scheme != "IO":  # IO joins neighbours of one type
            assert decode(tags, scheme) == spans
        assert decode_with_seqeval(to_iob2(tags, scheme)) == decode(tags, scheme)
        sentences.append(tags)
    assert detect_tag_scheme(sentences) == scheme
    assert corpus_to_iob2(sentences) == [to_iob2(tags, scheme) for tags in sentences]


@pytest.mark.parametrize(
    "alphabet",
    [
        ["O", "B-X", "I-X", "B-Y", "I-Y"],
        ["O", "B-X", "I-X", "E-X", "S-X", "I-Y", "E-Y"],
        ["O", "B-X", "I-X", "L-X", "U-X", "E-X"],
    ],
)
def test_every_short_sentence_is_judged_as_by_the_oracle(alphabet: list[str]) -> None:
    for length in range(1, 5):
        for sentence in itertools.product(alphabet, repeat=length):
            tags = list(sentence)
            valid = [scheme for scheme in ENTITY_SCHEMES if is_valid(tags, scheme)]
            for scheme in ENTITY_SCHEMES:
                if scheme in valid:
                    assert decode_with_seqeval(to_iob2(tags, scheme)) == decode(tags, scheme)
                else:
                    with pytest.raises(ValueError, match=f"is not valid in {scheme}"):
                        to_iob2(tags, scheme)
            if set(tags) == {"O"}:
                assert detect_tag_scheme([tags]) == "none"
            elif valid:
                assert detect_tag_scheme([tags]) in valid
                # Whichever of the valid schemes is named, the entities are the same.
                assert len({tuple(decode(tags, scheme)) for scheme in valid}) == 1
            else:
                with pytest.raises(ValueError, match="follow no single tag scheme"):
                    detect_tag_scheme([tags])


def test_detection_takes_the_whole_corpus_into_account() -> None:
    assert detect_tag_scheme([["I-PER", "I-PER"]]) == "IO"
    assert detect_tag_scheme([["I-PER", "I-PER"], ["I-PER", "B-PER"]]) == "IOB1"
    with pytest.raises(ValueError, match=r"sentence 1, token 1: tag 'I-PER'.*IOB2.*sentence 2, token 2: tag 'B-PER'"):
        detect_tag_scheme([["I-PER", "I-PER"], ["O", "B-PER"]])


@pytest.mark.parametrize("tags", [["NOUN", "VERB"], ["B", "I", "O"], ["-LRB-", "I-", "O"], ["O", "O"], []])
def test_tags_without_prefix_and_type_are_plain_classes(tags: list[str]) -> None:
    assert detect_tag_scheme([tags]) == "none"
    assert corpus_to_iob2([tags]) == [tags]


def test_none_leaves_any_tags_as_they_are() -> None:
    assert to_iob2(["I-X", "PER", "E-Y"], "none") == ["I-X", "PER", "E-Y"]


def test_errors_name_place_tag_and_remedy() -> None:
    with pytest.raises(ValueError, match=r"sentence 2, token 2: tag 'PER' is not valid in IOB2: expected O or B-, I-"):
        detect_tag_scheme([["B-LOC"], ["O", "PER"]])
    with pytest.raises(ValueError, match=r"a\.conll, line 7, token 1: .*not closed by E-.*tag_scheme='none'"):
        detect_tag_scheme([["S-LOC"], ["B-PER", "S-LOC"]], places=["a.conll, line 3", "a.conll, line 7"])
    with pytest.raises(ValueError, match="token 2: tag 'I-PER' is not valid in BILOU: the entity is not closed by L-"):
        to_iob2(["B-PER", "I-PER"], "BILOU")
    with pytest.raises(ValueError, match="Unknown tag scheme 'BIO': expected .*'IOB2'"):
        to_iob2(["O"], "BIO")
