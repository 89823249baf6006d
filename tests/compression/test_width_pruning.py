"""Width pruning: which heads and neurons stay, and what the layers then compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graft_models import DEPTH, HEADS, LAYOUTS, NEURONS, model_of, rows, states, text_for
from tiny import tiny_teacher, tiny_tokenizer
from transformers import AutoModelForTokenClassification, PreTrainedModel

from alad_hf import AlAdForTokenClassification
from alad_hf.compression import compress_embeddings, graft_layers, prune_width, truncate_layers
from alad_hf.compression.encoder_layouts import encoder_layers
from alad_hf.compression.importance import layer_importance


def prune(model: PreTrainedModel, **changes: object) -> PreTrainedModel:
    return prune_width(model, **{"texts": rows(120, labelled=True), "tokenizer": tiny_tokenizer(), **changes})


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_pruned_layer_computes_what_the_masked_one_does_and_a_refit_more(name: str, tmp_path: Path) -> None:
    model = model_of(name, tagger=True)
    text = text_for(model, 120, labelled=True)
    scores = layer_importance(model, text)
    pruned = prune(model, heads=2, neurons=10, refit=False)
    masked = model_of(name, tagger=True)
    with torch.no_grad():
        for part, heads, neurons in zip(encoder_layers(masked), scores.heads, scores.neurons, strict=True):
            for head in heads.argsort()[: HEADS - 2].tolist():
                part.attention_output.weight[:, head * part.head_size : (head + 1) * part.head_size] = 0
            part.output.weight[:, neurons.argsort()[: NEURONS - 10]] = 0
    torch.testing.assert_close(states(pruned, text), states(masked, text), atol=1e-5, rtol=1e-4)
    refitted = prune(model, heads=2, neurons=10)
    wanted = states(model, text)
    assert (states(refitted, text) - wanted).square().sum() < (states(pruned, text) - wanted).square().sum()

    assert [(part.heads, part.neurons) for part in encoder_layers(refitted.base_model.encoder)] == [(2, 10)] * DEPTH
    refitted.save_pretrained(tmp_path)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(states(loaded, text), states(refitted, text))
    record = loaded.config.compression
    assert record["method"] == "width pruning" and record["layer_map"] == [[one] for one in range(DEPTH)]


def test_nothing_taken_out_is_the_model() -> None:
    model = model_of()
    same = prune(model, heads=HEADS, neurons=NEURONS)
    assert type(same) is type(model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in same.state_dict().items())


def test_one_number_is_needed() -> None:
    with pytest.raises(ValueError, match="Say what is to be kept of each layer"):
        prune(model_of())


def test_an_aligned_model_is_not_compressed_under_its_adapter() -> None:
    options = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
    aligned = AlAdForTokenClassification.from_student_pretrained(model_of(), teacher=tiny_teacher(), **options)
    for model in (aligned, aligned.base_model):
        for attempt in (
            lambda model: prune(model, heads=2),
            lambda model: graft_layers(model, 2, texts=rows(), tokenizer=tiny_tokenizer()),
            lambda model: truncate_layers(model, [0]),
            lambda model: compress_embeddings(model, "int8"),
        ):
            with pytest.raises(ValueError, match=r"Compress the student first.*model.base_model.encoder"):
                attempt(model)
    assert truncate_layers(aligned.base_model.encoder, [0]).config.num_hidden_layers == 1


def test_the_record_goes_back_to_the_model_that_was_not_compressed_at_all() -> None:
    texts = {"texts": rows(), "tokenizer": tiny_tokenizer()}
    grafted = graft_layers(model_of(), groups=[[0], [1, 2, 3]], **texts)
    made = grafted.config.compression
    narrow = prune(grafted, neurons=8).config.compression
    assert narrow["layer_map"] == [[0], [1, 2, 3]] and narrow["heads"] == made["heads"]
    assert "neurons" not in narrow  # which of the merged ones they were is not known
    narrow = prune(grafted, heads=2).config.compression
    assert narrow["neurons"] == made["neurons"] and sum(narrow["neurons"][1]) == NEURONS
    kept = truncate_layers(grafted, [1])
    assert (kept.config.compression["heads"], kept.config.compression["neurons"]) == (
        [made["heads"][1]],
        [made["neurons"][1]],
    )
    assert prune(kept, heads=HEADS, neurons=8).config.compression["heads"] == [made["heads"][1]]


def test_without_a_number_a_layer_keeps_what_it_has() -> None:
    texts = {"texts": rows(), "tokenizer": tiny_tokenizer()}
    wider = graft_layers(model_of(), groups=[[0], [1], [2, 3]], extra_neurons=3, extra_heads=1, **texts)
    fewer_heads = prune(wider, heads=1)
    assert [(part.heads, part.neurons) for part in encoder_layers(fewer_heads)] == [
        (1, NEURONS),
        (1, NEURONS),
        (1, NEURONS + 3),
    ]
    fewer_neurons = prune(wider, neurons=10)
    assert [(part.heads, part.neurons) for part in encoder_layers(fewer_neurons)] == [
        (HEADS, 10),
        (HEADS, 10),
        (HEADS + 1, 10),
    ]


@pytest.mark.parametrize("changes", [{"heads": 0}, {"heads": HEADS + 1}, {"neurons": 0}, {"neurons": NEURONS + 1}])
def test_impossible_widths_are_refused(changes: dict[str, int]) -> None:
    (name, value), *_ = changes.items()
    with pytest.raises(ValueError, match=f"{name} must be from 1 to the .* of a layer, got {value}"):
        prune(model_of(), **changes)
