"""A tagging head fitted while the encoder stands still: against scikit-learn, and what must not change."""

from __future__ import annotations

import copy

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny import TAGS, tiny_config, tiny_tokenizer
from tiny_training import make_model, make_rows
from torch import nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from alad_hf.training import fit_tagging_head

PENALTY = 1e-2


def tiny_tagger(architecture: str = "bert") -> PreTrainedModel:
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: index for index, tag in enumerate(TAGS)}}
    return AutoModelForTokenClassification.from_config(tiny_config(architecture, **labels))


@torch.no_grad()
def states_and_labels(model: PreTrainedModel, rows: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row, without a batch and without a hook."""
    states, labels = [], []
    for row in rows:
        hidden = model.eval().base_model(row["input_ids"].unsqueeze(0)).last_hidden_state[0]
        labelled = row["labels"] >= 0
        states.append(hidden[labelled])
        labels.append(row["labels"][labelled])
    return torch.cat(states), torch.cat(labels)


@pytest.mark.parametrize("architecture", ["bert", "mpnet", "electra", "modernbert"])
def test_the_head_is_the_logistic_regression_of_scikit_learn(architecture: str) -> None:
    model, rows = tiny_tagger(architecture), make_rows(rows=40, teacher=False)
    loss = fit_tagging_head(model, rows, tokenizer=tiny_tokenizer(), penalty=PENALTY, batch_size=7)

    read: list[torch.Tensor] = []
    watch = model.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        for row in rows:
            model.eval()(row["input_ids"].unsqueeze(0))
    watch.remove()
    states = torch.cat([states[0][row["labels"] >= 0] for states, row in zip(read, rows, strict=True)])
    labels = torch.cat([row["labels"][row["labels"] >= 0] for row in rows])

    centred = states - states.mean(dim=0)
    scaled = (centred / centred.square().mean().sqrt()).double().numpy()
    # Its objective is the sum of cross entropies and half of the squares divided by C.
    oracle = LogisticRegression(C=1 / (2 * PENALTY * len(labels)), tol=1e-8, max_iter=5000).fit(scaled, labels.numpy())
    expected = torch.tensor(oracle.predict_log_proba(scaled))
    with torch.no_grad():
        got = model.classifier(states).log_softmax(dim=-1)
    assert torch.allclose(got.double(), expected, atol=5e-3)
    assert loss == pytest.approx(nn.functional.nll_loss(expected, labels).item(), abs=1e-3)


def test_nothing_but_the_head_changes() -> None:
    model = tiny_tagger().train()
    before, rows, random_state = copy.deepcopy(model.state_dict()), make_rows(teacher=False), torch.get_rng_state()
    fit_tagging_head(model, rows, tokenizer=tiny_tokenizer())
    assert torch.equal(torch.get_rng_state(), random_state)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert model.training
    assert not model.classifier._forward_pre_hooks
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_what_the_head_was_before_and_unlabelled_tokens_do_not_matter() -> None:
    rows = make_rows(teacher=False)
    unlabelled = rows.map(lambda row: {"labels": [-1 if label == -100 else label for label in row["labels"].tolist()]})
    heads = []
    for data, scale in ((rows, 1), (rows, 50), (unlabelled, 1)):
        model = tiny_tagger()
        with torch.no_grad():
            model.classifier.weight.mul_(scale)
        fit_tagging_head(model, data, tokenizer=tiny_tokenizer())
        heads.append(model.classifier.weight.detach())
    assert torch.equal(heads[0], heads[1])
    assert torch.equal(heads[0], heads[2])


def test_the_head_reads_about_as_many_tokens_as_it_is_told_and_draws_them_by_seed() -> None:
    rows = make_rows(rows=60, teacher=False)
    seen: list[int] = []

    def fitted(seed: int, tokens: int) -> torch.Tensor:
        model = tiny_tagger()
        watch = model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        fit_tagging_head(model, rows, tokenizer=tiny_tokenizer(), tokens=tokens, seed=seed, batch_size=1)
        watch.remove()
        return model.classifier.weight.detach()

    first = fitted(0, tokens=40)
    assert 4 <= len(seen) <= 40  # each row has from 1 to 11 labelled tokens
    assert torch.equal(first, fitted(0, tokens=40))
    assert not torch.equal(first, fitted(1, tokens=40))
    assert torch.allclose(fitted(0, tokens=10**6), fitted(1, tokens=10**6), atol=1e-3)


def test_a_head_without_bias() -> None:
    model = tiny_tagger()
    model.classifier = nn.Linear(16, len(TAGS), bias=False)
    rows = make_rows(rows=40, teacher=False)
    states, labels = states_and_labels(model, rows)
    loss = fit_tagging_head(model, rows, tokenizer=tiny_tokenizer(), penalty=1e-4)
    with torch.no_grad():
        assert nn.functional.cross_entropy(model.classifier(states), labels).item() == pytest.approx(loss, abs=1e-4)
    assert loss < torch.distributions.Categorical(torch.bincount(labels).float()).entropy().item()


def test_autocast_around_it_does_not_make_the_regression_coarse() -> None:
    model, rows = tiny_tagger(), make_rows(rows=40, teacher=False)
    read: list[torch.Tensor] = []
    watch = model.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float()))
    with torch.autocast("cpu", torch.bfloat16):
        loss = fit_tagging_head(model, rows, tokenizer=tiny_tokenizer(), penalty=PENALTY, batch_size=1)
    watch.remove()

    # The minimum in float32 on the states that were read, row by row from short to long: a bias has no gradient there.
    labels = sorted((row["labels"] for row in rows), key=len)
    states = torch.cat([states[0][tags >= 0] for states, tags in zip(read, labels, strict=True)])
    labels = torch.cat([tags[tags >= 0] for tags in labels])
    model.zero_grad()
    exact = nn.functional.cross_entropy(model.classifier(states), labels)
    exact.backward()
    assert exact.item() == pytest.approx(loss, abs=1e-5)
    assert model.classifier.bias.grad.abs().max() < 1e-3


def test_an_alad_model_whose_teacher_gave_no_head() -> None:
    model = make_model("tagging")
    rows = make_rows(rows=40, teacher=False)
    encoder = copy.deepcopy(model.model.state_dict())
    loss = fit_tagging_head(model, rows, tokenizer=tiny_tokenizer())
    assert loss < torch.tensor(len(TAGS)).log()
    assert all(torch.equal(value, encoder[name]) for name, value in model.model.state_dict().items())


def test_bad_input() -> None:
    rows = make_rows(teacher=False)
    with pytest.raises(ValueError, match="a head is fitted to `labels`"):
        fit_tagging_head(tiny_tagger(), rows.remove_columns("labels"), tokenizer=tiny_tokenizer())
    with pytest.raises(ValueError, match="no linear layer"):
        fit_tagging_head(make_model("answers"), rows, tokenizer=tiny_tokenizer())
    nothing = rows.map(lambda row: {"labels": [-100] * len(row["labels"])})
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_tagging_head(tiny_tagger(), nothing, tokenizer=tiny_tokenizer())
    for wrong in ({"tokens": 0}, {"batch_size": 0}, {"penalty": -1e-3}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
            fit_tagging_head(tiny_tagger(), rows, tokenizer=tiny_tokenizer(), **wrong)
