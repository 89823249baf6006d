"""Perplexity of masked tokens: against uniform models and against the model whose table really is another."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import VOCABULARY, tiny_config, tiny_tokenizer
from transformers import AutoModelForMaskedLM

from alad_hf.evaluation.masked_lm_perplexity import _hide, masked_lm_perplexity

TEXTS = ["jones works for acme in london .", "smith visited the un", "new york and berlin played"] * 4


@pytest.fixture
def model():
    return AutoModelForMaskedLM.from_config(tiny_config("bert", initializer_range=0.5))


def perplexity(model, **options):
    return masked_lm_perplexity(model, tiny_tokenizer(), TEXTS, **options)


def other_table(model):
    return torch.randn_like(model.get_input_embeddings().weight)


def test_of_a_model_that_knows_nothing_is_the_vocabulary(model):
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
        model.get_output_embeddings().bias.zero_()

    assert perplexity(model) == pytest.approx(len(VOCABULARY), rel=1e-4)


@pytest.mark.parametrize("tied", [False, True])
def test_is_that_of_the_model_with_the_table_in_it(model, tied):
    table = other_table(model)
    replaced = copy.deepcopy(model)
    with torch.no_grad():
        if tied:
            replaced.get_input_embeddings().weight.copy_(table)
            assert replaced.get_output_embeddings().weight is replaced.get_input_embeddings().weight
        else:
            replaced.get_input_embeddings().weight = torch.nn.Parameter(table)

    assert perplexity(model, input_table=table, tied=tied) == pytest.approx(perplexity(replaced), rel=1e-5)


def test_model_is_left_as_it_was(model):
    model.bert.embeddings.eval()  # a part that is not in training
    before, states = perplexity(model), copy.deepcopy(model.state_dict())
    changed = {tied: perplexity(model, input_table=other_table(model), tied=tied) for tied in (False, True)}

    assert perplexity(model) == before and len({before, *changed.values()}) == 3
    assert all(torch.equal(states[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training and not model.bert.embeddings.training


def test_own_table_changes_nothing_and_padding_neither(model):
    table = model.get_input_embeddings().weight.detach().clone()

    assert perplexity(model, input_table=table, tied=True) == pytest.approx(perplexity(model), rel=1e-6)
    assert perplexity(model, batch_size=1) == pytest.approx(perplexity(model, batch_size=12), rel=1e-5)


def test_hides_whole_words_about_as_many_as_wanted_and_nothing_special():
    tokenizer, text = tiny_tokenizer(), " ".join(["unable visitors"] * 40)
    generator = torch.Generator().manual_seed(0)
    words = tokenizer(text, truncation=True, max_length=64).word_ids()
    hidden = _hide(text, tokenizer, 0.15, True, 1, 64, generator)["labels"]

    chosen = {word for word, label in zip(words, hidden, strict=True) if label != -100}
    assert None not in chosen
    assert all((label != -100) == (word in chosen) for word, label in zip(words, hidden, strict=True))
    assert 9 <= sum(label != -100 for label in hidden) <= 18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_table": torch.ones(3, 3)}, r"input_table is \(3, 3\)"),
        ({"share": 0.0}, "between 0 and 1, got 0.0"),
        ({"shortest": 1000}, "no text of 1000 tokens"),
    ],
)
def test_refuses(model, options, message):
    with pytest.raises(ValueError, match=message):
        perplexity(model, **options)
