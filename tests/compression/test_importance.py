"""Importance of heads and neurons against finite differences of masks."""

from __future__ import annotations

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from graft_models import HEADS, LAYOUTS, NEURONS, model_of, rows, text_for
from tiny import TAGS, tiny_config, tiny_tokenizer
from torch.nn import functional
from transformers import AutoModelForQuestionAnswering, BertForTokenClassification, BertModel, PreTrainedModel

from alad_hf.compression.calibration import CalibrationText
from alad_hf.compression.encoder_layouts import LayerParts, encoder_layers
from alad_hf.compression.importance import _drawn, layer_importance
from alad_hf.data import encode_questions


def scaled(part: LayerParts, kind: str, index: int, factor: float) -> None:
    """A mask on a head or neuron is a factor on its columns of the output projection."""
    linear, size = (part.attention_output, part.head_size) if kind == "heads" else (part.output, 1)
    with torch.no_grad():
        linear.weight[:, index * size : (index + 1) * size] *= factor


def row_losses(model: PreTrainedModel, text: CalibrationText) -> torch.Tensor:
    losses = []
    for batch in text.batches:
        with torch.no_grad():
            logits = model(batch["input_ids"], batch["attention_mask"]).logits
        losses.append(functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none").sum(1))
    return torch.cat(losses)


@pytest.mark.parametrize("name", LAYOUTS)
def test_scores_are_finite_differences_of_masks(name: str) -> None:
    model = model_of(name, tagger=True).double()
    text = text_for(model, 6, labelled=True, batch_size=4)
    scores = layer_importance(model, text)
    assert [len(one) for one in scores.heads] == [HEADS] * 4 and [len(one) for one in scores.neurons] == [NEURONS] * 4
    step = 1e-5
    for layer, kind, index in [(0, "heads", 1), (3, "heads", 3), (1, "neurons", 5), (3, "neurons", 0)]:
        part = encoder_layers(model)[layer]
        scaled(part, kind, index, 1 + step)
        above = row_losses(model, text)
        scaled(part, kind, index, (1 - step) / (1 + step))
        below = row_losses(model, text)
        scaled(part, kind, index, 1 / (1 - step))
        expected = ((above - below) / (2 * step)).abs().sum() / text.num_tokens
        assert getattr(scores, kind)[layer][index].item() == pytest.approx(expected.item(), rel=1e-5)


def test_batches_do_not_matter() -> None:
    model = model_of(tagger=True)
    one, two = (layer_importance(model, text_for(model, labelled=True, batch_size=size)) for size in (1, 16))
    for a, b in zip(one.heads + one.neurons, two.heads + two.neurons, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_part_without_output_scores_zero(labelled: bool) -> None:
    model = model_of(tagger=True)
    part = encoder_layers(model)[1]
    scaled(part, "heads", 2, 0)
    scaled(part, "neurons", 7, 0)
    scores = layer_importance(model, text_for(model, labelled=labelled))
    assert scores.heads[1][2] == 0 and scores.neurons[1][7] == 0
    assert (scores.heads[1] > 0).sum() == HEADS - 1 and (scores.neurons[1] > 0).sum() == NEURONS - 1


def test_without_head_and_labels_scores_follow_the_change_of_the_states() -> None:
    """For a small mask the change of the states is |dh/dm| times it, which the scores estimate up to a factor."""
    model = model_of().double()
    text = text_for(model, 300, batch_size=300)
    scores = layer_importance(model, text).heads[2]
    batch = text.batches[0]

    @torch.no_grad()
    def run() -> torch.Tensor:
        states = model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        return states * batch["attention_mask"].unsqueeze(-1)

    before, changes = run(), []
    for head in range(HEADS):
        scaled(encoder_layers(model)[2], "heads", head, 1 + 1e-4)
        changes.append((run() - before).flatten(1).norm(dim=1).sum())
        scaled(encoder_layers(model)[2], "heads", head, 1 / (1 + 1e-4))
    ratios = scores / torch.stack(changes)
    assert ratios.max() / ratios.min() < 1.25


def test_nothing_of_the_model_changes_also_where_it_is_frozen() -> None:
    model = model_of(tagger=True).train()
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = layer_importance(model, text_for(model, labelled=True))
    assert scores.heads[0].min() > 0
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def answerer() -> PreTrainedModel:
    torch.manual_seed(0)
    config = model_of().config
    config.num_labels = 2
    return AutoModelForQuestionAnswering.from_config(config).eval()


@pytest.mark.parametrize("kind", ["tagger", "answerer"])
def test_batches_do_not_matter_without_labels(kind: str) -> None:
    """Though padding differs: what is drawn is drawn row by row."""
    model = answerer() if kind == "answerer" else model_of(tagger=True)
    one, two = (layer_importance(model, text_for(model, batch_size=size)) for size in (3, 16))
    for a, b in zip(one.heads + one.neurons, two.heads + two.neurons, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("width", [16, 20])
def test_batches_do_not_matter_to_what_is_drawn_for_an_encoder(width: int) -> None:
    torch.manual_seed(0)
    encoder = BertModel(tiny_config(hidden_size=width), add_pooling_layer=False).eval()
    one, two = (layer_importance(encoder, text_for(encoder, batch_size=size)) for size in (1, 16))
    for a, b in zip(one.heads + one.neurons, two.heads + two.neurons, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_labels_are_drawn_by_their_probabilities() -> None:
    scores = torch.tensor([[0.1, 0.2, 0.7, 0.0]]).log()
    draws = torch.arange(1000, dtype=torch.float64) / 1000
    drawn = _drawn(scores.expand(1000, -1), draws)
    assert torch.bincount(drawn, minlength=4).tolist() == pytest.approx([100, 200, 700, 0], abs=1)


def test_answers_have_a_loss_too() -> None:
    model = answerer()
    text = text_for(model, 8)
    unlabelled = layer_importance(model, text)
    for batch in text.batches:
        batch |= {"start_positions": torch.ones(len(batch["input_ids"]), dtype=torch.long)}
        batch |= {"end_positions": torch.full((len(batch["input_ids"]),), 2)}
    text.labelled = True
    labelled = layer_importance(model, text)
    assert unlabelled.heads[0].min() > 0 and labelled.heads[0].min() > 0
    assert not torch.allclose(unlabelled.heads[0], labelled.heads[0])


def test_questions_are_read_beside_their_paragraphs_and_their_answers_count() -> None:
    context = " ".join(["smith works in paris"] * 12)
    answers = [{"text": ["paris"], "answer_start": [context.index("paris")]}, {"text": [], "answer_start": []}]
    columns = {"id": ["a", "b"], "question": ["a paris", "b"], "context": [context] * 2, "answers": answers}
    questions, model, tokenizer = Dataset.from_dict(columns), answerer(), tiny_tokenizer()
    given = CalibrationText(model, questions, tokenizer)
    lengths = {
        "max_length": model.config.max_position_embeddings,
        "overlap": model.config.max_position_embeddings // 3,
    }
    rows = encode_questions(questions, tokenizer, for_training=True, **lengths)
    assert given.labelled and len(rows) > len(questions), "the paragraph needs more than one window"
    by_hand = CalibrationText(model, rows, tokenizer)
    for read, wanted in zip(given.batches, by_hand.batches, strict=True):
        assert read.keys() == wanted.keys() and {"start_positions", "end_positions"} < read.keys()
        assert all(torch.equal(read[name], wanted[name]) for name in read)
    answer = rows[0]["input_ids"][rows[0]["start_positions"] : rows[0]["end_positions"] + 1]
    assert answer == tokenizer("paris", add_special_tokens=False)["input_ids"]


def test_a_question_answerer_that_is_given_text_without_questions_says_so(caplog: pytest.LogCaptureFixture) -> None:
    CalibrationText(answerer(), ["smith works in paris"], tiny_tokenizer())
    assert "this text has none" in caplog.text and "--data" in caplog.text
    caplog.clear()
    CalibrationText(model_of(tagger=True), ["smith works in paris"], tiny_tokenizer())
    assert not caplog.text


def test_tags_are_taken_by_their_names_where_the_model_has_them() -> None:
    names = [*TAGS[1:], TAGS[0]]
    words = {"tokens": [["smith", "in", "paris"]], "tags": [[names.index(tag) for tag in ("B-PER", "O", "B-LOC")]]}
    features = Features(tokens=List(Value("string")), tags=List(ClassLabel(names=names)))
    data, tokenizer = Dataset.from_dict(words, features=features), tiny_tokenizer()
    text = CalibrationText(model_of(tagger=True), data, tokenizer)
    (labels,) = [batch["labels"][0] for batch in text.batches]
    assert text.labelled and [TAGS[label] for label in labels[labels >= 0]] == ["B-PER", "O", "B-LOC"]
    assert not CalibrationText(model_of(), data, tokenizer).labelled, "an encoder has no tags"
    unnamed = data.cast_column("tags", List(Value("int64")))
    assert not CalibrationText(model_of(tagger=True), unnamed, tokenizer).labelled


def test_labels_of_which_none_counts_are_no_labels() -> None:
    model, text = model_of(tagger=True), rows()
    nothing = text.add_column("labels", [[-100] * len(ids) for ids in text["input_ids"]])
    given, plain = (CalibrationText(model, each, tiny_tokenizer()) for each in (nothing, text))
    assert not given.labelled
    for one, other in zip(layer_importance(model, given).neurons, layer_importance(model, plain).neurons, strict=True):
        assert one.any() and torch.equal(one, other)


def test_scores_that_rank_nothing_are_refused() -> None:
    model = BertForTokenClassification(tiny_config(id2label={0: "O"}, label2id={"O": 0})).eval()
    text = text_for(model)
    with pytest.raises(ValueError, match=r"BertForTokenClassification has the importance 0.*one label.*base_model"):
        layer_importance(model, text)
    assert layer_importance(model.base_model, text).heads[0].all()


def test_normalised_scores_have_length_one_in_every_layer() -> None:
    model = model_of(tagger=True)
    scores = layer_importance(model, text_for(model))
    for before, after in zip(
        scores.heads + scores.neurons, scores.normalised().heads + scores.normalised().neurons, strict=True
    ):
        assert after.norm().item() == pytest.approx(1)
        torch.testing.assert_close(after * before.norm(), before)
