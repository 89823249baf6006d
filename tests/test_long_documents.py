"""Texts longer than the model's input: where they are cut, and that the cut does not show."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from tiny import TAGS, VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, PreTrainedModel, pipeline
from transformers.modeling_outputs import TokenClassifierOutput

from alad_hf import AlAdForTokenClassification
from alad_hf.data.word_boundaries import split_words
from alad_hf.long_documents import Chunk, cut_chunks, state_length, words_of_chunks
from alad_hf.tagging import tag_text
from alad_hf.word_prediction import BUFFERED_BATCHES, BUFFERED_WORDS, predict_words

RADIUS = 4
HOSTILE = [
    "a", "New York", "\r\n", "\n\n", "\t", " ", "\u00a0", "\u2028", "\u0085", "\ufeff", "\ufe0f", "\u200d", "\u0301",
    "cafe\u0301", "e\u0301\u0323", "🙂", "👩\u200d👩\u200d👧", "🇩🇪",
     "1️⃣", "𝒳", "ﬁ", "ß", "İ", "Ω", "שלום", "مرحبا", "日本語",
    "[SEP]", "[CLS]", "[PAD]", "[UNK]", "##ing", "\0", "\x1f", "\u202e", "...", "--", "x" * 90, "un" * 40,
    "Smith-Jones's",
]  # fmt: skip


class Neighbours(PreTrainedModel):
    """Tags a token by itself and `RADIUS` neighbours on either side, and by nothing else."""

    config_class = type(tiny_config())

    def __init__(self, positions: int = 64) -> None:
        config = tiny_config(max_position_embeddings=positions)
        config.id2label = dict(enumerate(TAGS))
        super().__init__(config)
        generator = torch.Generator().manual_seed(7)
        self.table = torch.nn.Parameter(torch.randn(len(VOCABULARY), 8, generator=generator))
        self.window = torch.nn.Conv1d(8, len(TAGS), 2 * RADIUS + 1, padding=RADIUS, bias=False)
        torch.nn.init.normal_(self.window.weight, generator=generator)

    def forward(self, input_ids, attention_mask):
        # Special tokens look like nothing, so that a border of a chunk can only hide what lies behind it.
        special = input_ids < 5
        states = self.table[input_ids].masked_fill(special.unsqueeze(-1), 0.0)
        return TokenClassifierOutput(logits=self.window(states.transpose(1, 2)).transpose(1, 2))


def word_ids(lengths: list[int]) -> list[int]:
    return [word for word, length in enumerate(lengths) for _ in range(length)]


def test_chunks_of_any_text() -> None:
    generator = random.Random(0)
    for _ in range(400):
        check_chunks(generator)


def check_chunks(generator: random.Random) -> None:
    room = generator.randint(1, 12)
    overlap = generator.randrange(room)
    lengths = generator.choices([1, 1, 1, 2, 3, 5, 14], k=generator.randint(0, 40))
    ids = word_ids(lengths)
    chunks = cut_chunks(ids, room, overlap)
    if not ids:
        assert chunks == []
        return
    assert chunks[0].start == 0 and chunks[-1].end == len(ids)
    for chunk in chunks:
        assert 0 < chunk.end - chunk.start <= room
        for border in (chunk.start, chunk.end):
            inside_a_word = 0 < border < len(ids) and ids[border - 1] == ids[border]
            assert not inside_a_word or lengths[ids[border]] > room
    for one, two in pairwise(chunks):
        assert one.start < two.start <= one.end < two.end
        if one.end - two.start < overlap:  # then what follows would not fit behind more of what came before
            following = lengths[ids[one.end]] if lengths[ids[one.end]] <= room else 1
            before = max(position for position in [0, *borders(ids, room)] if position < two.start)
            assert one.end + following - before > room
    if len(chunks) > 1:  # the last one reaches back as far as it can
        before = max(position for position in [0, *borders(ids, room)] if position < chunks[-1].start)
        assert len(ids) - before > room
    assert len(ids) > room or chunks == [Chunk(0, len(ids))]

    chosen = words_of_chunks(ids, chunks)
    assert sorted(word for words in chosen for word in words) == list(range(len(lengths)))
    for index, words in enumerate(chosen):
        for word, position in words.items():
            assert position == ids.index(word)
            contexts = [
                min(position - chunk.start, chunk.end - 1 - position) if chunk.start <= position < chunk.end else -1
                for chunk in chunks
            ]
            assert index == contexts.index(max(contexts))


def borders(ids: list[int], room: int) -> list[int]:
    """Where a chunk may begin, found one by one."""
    return [at for at in range(1, len(ids)) if ids[at] != ids[at - 1] or ids.count(ids[at]) > room]


def test_a_word_near_an_end_of_the_text_sees_most_where_it_is_chosen() -> None:
    # With the ends of the text counted as no border at all, the choice is the same.
    generator = random.Random(1)
    for _ in range(100):
        ids = word_ids(generator.choices([1, 2, 3], k=40))
        chunks = cut_chunks(ids, 12, generator.randrange(12))
        for index, words in enumerate(words_of_chunks(ids, chunks)):
            for position in words.values():
                contexts = [
                    min(
                        position - chunk.start if chunk.start else 10**6,
                        chunk.end - 1 - position if chunk.end < len(ids) else 10**6,
                    )
                    for chunk in chunks
                    if chunk.start <= position < chunk.end
                ]
                first = next(n for n, chunk in enumerate(chunks) if chunk.end > position)
                assert contexts[index - first] == max(contexts)


def random_text(generator: random.Random, pieces: int) -> str:
    plain = ["Smith", "visited", "New", "York", "un", "able", "playing", "q7", ",", "."]
    return "".join(generator.choice(HOSTILE if generator.random() < 0.3 else plain) + " " for _ in range(pieces))


@pytest.mark.parametrize("seed", range(6))
def test_hostile_text_in_chunks_is_tagged_as_at_once(seed: int) -> None:
    generator = random.Random(seed)
    texts = [random_text(generator, pieces) for pieces in (300, 0, 3, 80)]
    # Words as they come, of one to ninety tokens, in chunks that hold the largest; the context is the model's.
    whole = list(tag_text(Neighbours(10_000), tiny_tokenizer(), texts, max_length=10_000))
    parts = list(tag_text(Neighbours(10_000), tiny_tokenizer(), texts, max_length=240, overlap=190, batch_size=3))
    assert len(whole[0]) > 20
    for text, one, two in zip(texts, whole, parts, strict=True):
        assert [(item["label"], item["start"], item["end"]) for item in two] == [
            (item["label"], item["start"], item["end"]) for item in one
        ]
        assert [item["score"] for item in two] == pytest.approx([item["score"] for item in one], rel=1e-4)
        for item in two:
            assert text[item["start"] : item["end"]] == item["text"] != ""
    # Without an overlap the cuts would show.
    apart = list(tag_text(Neighbours(10_000), tiny_tokenizer(), texts, max_length=240, overlap=0))
    assert [item["score"] for item in apart[0]] != pytest.approx([item["score"] for item in whole[0]], rel=1e-4)


def test_every_word_has_as_much_context_as_half_the_overlap() -> None:
    words = ["Smith", "visited", "unable", "q7"] * 300
    expected = list(predict_words(Neighbours(5_000), tiny_tokenizer(), [words], max_length=5_000))
    # The longest word is four tokens, so that chunks overlap by eight to eleven.
    found = list(predict_words(Neighbours(), tiny_tokenizer(), [words], max_length=30, overlap=2 * RADIUS + 4))
    assert [word.tag for word in found[0]] == [word.tag for word in expected[0]]
    assert len({word.tag for word in found[0]}) > 1


def test_a_document_does_not_depend_on_what_it_is_tagged_with() -> None:
    generator = random.Random(3)
    texts = [random_text(generator, pieces) for pieces in (90, 1, 30, 0, 200)]
    alone = [next(tag_text(Neighbours(), tiny_tokenizer(), [text])) for text in texts]
    for batch_size in (1, 4, 64):
        together = list(tag_text(Neighbours(), tiny_tokenizer(), texts, batch_size=batch_size))
        for one, two in zip(together, alone, strict=True):
            assert [(item["label"], item["start"]) for item in one] == [(item["label"], item["start"]) for item in two]


def test_documents_fill_the_buffer_sooner_than_sentences() -> None:
    taken = []
    long = ["a"] * (BUFFERED_WORDS * BUFFERED_BATCHES)

    def documents():
        for number in range(10):
            taken.append(number)
            yield long

    results = predict_words(Neighbours(), tiny_tokenizer(), documents(), batch_size=2)
    assert len(next(results)) == len(long)
    assert taken == [0, 1]  # as many words as 2 * 64 sentences of 64 words


def test_offsets_are_those_of_the_original_string() -> None:
    for text in ("".join(HOSTILE), "\r\n".join(HOSTILE), "a\u0301" * 50):
        spans = split_words(text)
        assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
        assert all(one[1] <= two[0] for one, two in pairwise(spans))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An AlAd checkpoint whose last word of a text is always found."""
    torch.manual_seed(3)
    model = AlAdForTokenClassification.from_student_pretrained(
        AutoModel.from_config(tiny_config()),
        teacher=tiny_teacher(),
        tokenizer=tiny_tokenizer(),
        teacher_tokenizer=tiny_tokenizer(),
    )
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30  # as from a tokenizer that does not say
    state_length(tokenizer, model.config)
    assert tokenizer.model_max_length == 64
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_what_the_pipeline_does_with_long_text(saved: str) -> None:
    text = " ".join(["Smith visited New York , and Jones works for Acme in Berlin ."] * 20)
    ner = pipeline("ner", model=saved, aggregation_strategy="first")
    assert ner.tokenizer.model_max_length == 64
    # transformers cuts off what does not fit, and says nothing: hence `stride`, or `tag_text`.
    assert max(entity["end"] for entity in ner(text)) < 400 < len(text)
    assert max(entity["end"] for entity in ner(text, stride=16)) > len(text) - 70
    items = next(tag_text(ner.model, ner.tokenizer, [text]))
    assert max(item["end"] for item in items) > len(text) - 70


@pytest.mark.parametrize(("stated", "expected"), [(10**30, 65), (512, 65), (48, 48)])
def test_a_tokenizer_learns_what_fits(stated: int, expected: int) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = stated
    state_length(tokenizer, tiny_config("roberta"))
    assert tokenizer.model_max_length == expected


def test_a_model_without_a_limit_leaves_the_tokenizer_alone() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 10**30
    config = tiny_config()
    config.max_position_embeddings = -1
    state_length(tokenizer, config)
    assert tokenizer.model_max_length == 10**30
