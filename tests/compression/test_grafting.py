"""Grafted layers: which parts go where, what they compute, and what is saved."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from graft_models import DEPTH, HEADS, LAYOUTS, NEURONS, model_of, rows, states, text_for
from tiny import tiny_config, tiny_tokenizer
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedModel

from alad_hf import AlAdForTokenClassification
from alad_hf.compression import compress_embeddings, graft_layers, truncate_layers
from alad_hf.compression.calibration import reading, run_layers
from alad_hf.compression.encoder_layouts import encoder_layers
from alad_hf.compression.grafting import choose_parts, write_grafts
from alad_hf.compression.importance import Importance
from alad_hf.compression.refit import LayerSources
from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.layer_widths import layer_width, set_layer_width

GROUPS = [[0, 1], [2, 3]]


def graft(model: PreTrainedModel, count: int | None = 2, **changes: object) -> PreTrainedModel:
    arguments = {"texts": rows(), "tokenizer": tiny_tokenizer(), "strategy": "fixed", **changes}
    return graft_layers(model, count, **arguments)


def whole(model: PreTrainedModel, kept: int, group: list[int]) -> LayerSources:
    return LayerSources.whole_layer(model, kept, group)


def scores_of(parts: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(parts, generator=generator).double() for _ in range(DEPTH)]


@pytest.fixture
def importance() -> Importance:
    return Importance(scores_of(HEADS), scores_of(NEURONS, seed=1))


@pytest.mark.parametrize("name", LAYOUTS)
class TestEveryLayout:
    def test_permuted_heads_and_neurons_compute_the_same(self, name: str) -> None:
        model = model_of(name)
        order = list(range(HEADS)) if name == "mpnet" else [2, 0, 3, 1]  # MPNet's heads have places
        neurons = torch.randperm(NEURONS).tolist()
        sources = [
            LayerSources([one], [(one, head) for head in order], [(one, neuron) for neuron in neurons])
            for one in range(DEPTH)
        ]
        text = text_for(model, 8)
        permuted = write_grafts(model, sources)
        assert not torch.equal(encoder_layers(permuted)[0].output.weight, encoder_layers(model)[0].output.weight)
        torch.testing.assert_close(states(permuted, text), states(model, text), atol=1e-6, rtol=1e-5)

    def test_no_share_of_the_source_is_the_target_bit_exact(self, name: str) -> None:
        model = model_of(name)
        student = write_grafts(model, [whole(model, 1, [0, 1]), whole(model, 3, [2, 3])])
        for own, index in zip(encoder_layers(student), (1, 3), strict=True):
            theirs = encoder_layers(model)[index].layer.state_dict()
            assert all(torch.equal(value, theirs[key]) for key, value in own.layer.state_dict().items())

    def test_a_stock_model_comes_out_and_is_better_than_dropping(self, name: str, tmp_path: Path) -> None:
        model = model_of(name, tagger=True)
        before = copy.deepcopy(model.state_dict())
        student = graft(model, texts=rows(120))
        assert type(student) is type(model) and student.config.num_hidden_layers == 2
        text = text_for(model, 60)
        wanted = states(model, text)
        for kept in ([0, 2], [1, 3], [0, 1]):
            dropped = states(truncate_layers(model, kept), text)
            assert (states(student, text) - wanted).square().sum() < (dropped - wanted).square().sum()
        student.save_pretrained(tmp_path)
        loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] or all("pooler" in key for key in info["missing_keys"])
        assert torch.equal(states(loaded.eval(), text), states(student, text))
        assert loaded.config.compression == student.config.compression
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_widened_and_concatenated_layers_are_saved_with_their_widths(self, name: str, tmp_path: Path) -> None:
        model = model_of(name, tagger=True)
        text = text_for(model, 8)
        for folder, changes, width in (
            ("wider", {"extra_heads": 1, "extra_neurons": 5}, (HEADS + 1, NEURONS + 5)),
            ("both", {"concatenate": True, "refit": False}, (2 * HEADS, 2 * NEURONS)),
        ):
            student = graft(model, 3, groups=[[0], [1, 2], [3]], **changes)
            assert student.config.model_type == "compressed_encoder"
            parts = encoder_layers(student.base_model.encoder)
            assert [(part.heads, part.neurons) for part in parts] == [(HEADS, NEURONS), width, (HEADS, NEURONS)]
            student.save_pretrained(tmp_path / folder)
            loaded = AutoModel.from_pretrained(tmp_path / folder).eval()
            assert torch.equal(states(loaded, text), states(student, text))
            assert student.config.compression["layer_map"] == [[0], [1, 2], [3]]

    def test_concatenated_parts_add_up(self, name: str) -> None:
        """Attention and feed-forward part of A and B side by side: A(x) + B(x), and both biases."""
        model = model_of(name)
        student = graft(model, 3, groups=[[0], [1, 2], [3]], concatenate=True, refit=False)
        encoder = student.base_model.encoder
        batch = text_for(model, 3).batches[0]
        x = torch.randn(*batch["input_ids"].shape, 16)
        attended, fed = [], []
        for owner, part in (
            (encoder, encoder_layers(encoder)[1]),
            (model, encoder_layers(model)[1]),
            (model, encoder_layers(model)[2]),
        ):
            with reading(part.attention_output) as seen:
                run_layers(owner, [part.layer], batch, x)
            attended.append(seen()[0][1][batch["attention_mask"].bool()])
            fed.append(part.output(torch.nn.functional.gelu(part.intermediate(x))))
        torch.testing.assert_close(attended[0], attended[1] + attended[2], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(fed[0], fed[1] + fed[2], atol=1e-6, rtol=1e-5)


def test_a_source_without_output_leaves_the_target() -> None:
    model = model_of()
    source = encoder_layers(model)[0]
    with torch.no_grad():
        for linear in (source.attention_output, source.output):
            linear.weight.zero_()
            linear.bias.zero_()
    student = graft(model, 3, groups=[[0, 1], [2], [3]], concatenate=True, refit=False)
    target = truncate_layers(model, [1, 2, 3])
    text = text_for(model, 8)
    torch.testing.assert_close(states(student, text), states(target, text), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("extra", [0, 2])
def test_the_best_of_the_union_are_chosen_and_gathered_by_index(importance: Importance, extra: int) -> None:
    model = model_of()
    layers = encoder_layers(model)
    source = choose_parts(layers, [1, 2, 3], importance, extra, 3 * extra)
    for chosen, scores, count in (
        (source.heads, importance.heads, HEADS + extra),
        (source.neurons, importance.neurons, NEURONS + 3 * extra),
    ):
        union = {(layer, index): scores[layer][index].item() for layer in (1, 2, 3) for index in range(len(scores[0]))}
        assert len(chosen) == count == len(set(chosen))
        assert min(union[one] for one in chosen) >= max(value for one, value in union.items() if one not in chosen)
        # The target's own are where they were, as far as there is a place.
        assert all(
            place == index for place, (layer, index) in enumerate(chosen) if layer == 3 and place < len(scores[0])
        )
    if extra:
        return
    written = encoder_layers(write_grafts(model, [whole(model, 0, [0]), source]))[1]
    size = written.head_size
    for place, (layer, head) in enumerate(source.heads):
        here, there = slice(place * size, (place + 1) * size), slice(head * size, (head + 1) * size)
        for name in ("query", "key", "value"):
            assert torch.equal(getattr(written, name).weight[here], getattr(layers[layer], name).weight[there])
            assert torch.equal(getattr(written, name).bias[here], getattr(layers[layer], name).bias[there])
        assert torch.equal(written.attention_output.weight[:, here], layers[layer].attention_output.weight[:, there])
    for place, (layer, neuron) in enumerate(source.neurons):
        assert torch.equal(written.intermediate.weight[place], layers[layer].intermediate.weight[neuron])
        assert written.intermediate.bias[place] == layers[layer].intermediate.bias[neuron]
        assert torch.equal(written.output.weight[:, place], layers[layer].output.weight[:, neuron])
    for norm in ("attention_norm", "output_norm"):
        assert torch.equal(getattr(written, norm).weight, getattr(layers[3], norm).weight)


def test_mpnets_heads_keep_their_places_unless_they_say_where_they_came_from(importance: Importance) -> None:
    model = model_of("mpnet")
    source = choose_parts(encoder_layers(model), [0, 1], importance)
    assert [head for _, head in source.heads] == list(range(HEADS))
    for place, (layer, _) in enumerate(source.heads):
        assert importance.heads[layer][place] == max(importance.heads[one][place] for one in (0, 1))
    order = [2, 0, 3, 1]
    moved = write_grafts(
        model,
        [
            LayerSources([one], [(one, head) for head in order], whole(model, one, [one]).neurons)
            for one in range(DEPTH)
        ],
    )
    text = text_for(model, 8)
    torch.testing.assert_close(states(moved, text), states(model, text), atol=1e-6, rtol=1e-5)


def test_labels_decide_importance_and_texts_do_too() -> None:
    model = model_of(tagger=True)
    labelled = graft(model, texts=rows(labelled=True), refit=False)
    unlabelled = graft(model, texts=["works for smith in new york", "jones visited berlin ."], refit=False)
    assert labelled.config.compression["importance"] != unlabelled.config.compression["importance"]


def test_the_upper_layers_become_one_and_the_lower_ones_stay() -> None:
    model = model_of()
    student = graft_layers(model, 3, texts=rows(), tokenizer=tiny_tokenizer())
    assert student.config.compression["layer_map"] == [[0], [1], [2, 3]]
    for own, theirs in zip(encoder_layers(student)[:2], encoder_layers(model), strict=False):
        weights = theirs.layer.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in own.layer.state_dict().items())
    upper = encoder_layers(student)[2].output.weight
    assert not any(torch.equal(upper, part.output.weight) for part in encoder_layers(model))


def test_the_record_is_a_partition_and_counts_are_kept() -> None:
    record = graft(model_of(), strategy="similar").config.compression
    assert record["method"] == "grafting"
    assert [one for group in record["layer_map"] for one in group] == list(range(DEPTH))
    for group, heads, neurons in zip(record["layer_map"], record["heads"], record["neurons"], strict=True):
        assert len(heads) == HEADS and {layer for layer, _ in heads} <= set(group)
        assert sum(neurons) == NEURONS and len(neurons) == len(group)
    assert record["refit"]["tokens"] == text_for(model_of()).num_tokens
    assert len(record["importance"]["heads"]) == DEPTH


def test_grafting_a_graft_records_the_layers_of_the_first_model() -> None:
    first = graft(model_of(), 3, groups=[[0], [1], [2, 3]], refit=False)
    record = graft(first, 2, groups=[[0, 1], [2]], refit=False).config.compression
    assert record["layer_map"] == [[0, 1], [2, 3]]
    assert record["heads"][1] == first.config.compression["heads"][2]
    assert record["made_of"] == "grafting"


@pytest.mark.parametrize("name", ["bert", "mpnet"])
@pytest.mark.parametrize("changes", [{"extra_neurons": 3}, {"extra_heads": 1}])
def test_a_graft_of_wider_layers_is_grafted_again(name: str, changes: dict[str, int], tmp_path: Path) -> None:
    model = model_of(name, tagger=True)
    first = graft(model, None, groups=[[0], [1], [2, 3]], **changes)
    second = graft(first, None, groups=[[0, 1], [2]], **changes)
    widths = [(part.heads, part.neurons) for part in encoder_layers(second)]
    assert widths == [(HEADS + changes.get("extra_heads", 0), NEURONS + changes.get("extra_neurons", 0))] * 2
    third = graft(second, 1)  # to the width of its last layer
    assert [(part.heads, part.neurons) for part in encoder_layers(third)] == widths[:1]
    assert second.config.compression["layer_map"] == [[0, 1], [2, 3]]
    assert third.config.compression["layer_map"] == [[0, 1, 2, 3]]
    text = text_for(model)
    for number, student in enumerate((second, third)):
        student.save_pretrained(tmp_path / str(number))
        loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / str(number)).eval()
        assert torch.equal(states(loaded, text), states(student, text))


def test_a_graft_of_a_compressed_embedding_keeps_it_and_its_record() -> None:
    model = compress_embeddings(model_of(), "int8")
    student = graft(model)
    assert type(student) is type(model) and student.config.embedding == model.config.embedding
    assert student.config.compression["embedding"] == model.config.compression["embedding"]
    assert student.config.compression["method"] == "grafting"
    wider = graft(student, 1, extra_neurons=2)
    assert wider.config.layer_widths == [{"heads": HEADS, "intermediate": NEURONS + 2}]
    assert wider.config.compression["embedding"] == model.config.compression["embedding"]


def test_mpnets_heads_find_their_places_from_layers_with_fewer_heads() -> None:
    pruned = model_of("mpnet")
    set_layer_width(encoder_layers(pruned)[2].layer, heads=2, intermediate=NEURONS)
    student = graft(wrap_encoder(pruned), None, groups=[[0], [1], [2, 3]], refit=False)
    assert [part.heads for part in encoder_layers(student)] == [HEADS] * 3


def test_mpnets_heads_keep_their_places_in_a_layer_with_other_ones() -> None:
    model = model_of("mpnet")
    set_layer_width(encoder_layers(model)[1].layer, HEADS, NEURONS, position_heads=[3, 2, 1, 0])
    lower = [(0, head) for head in range(HEADS)]
    sources = [LayerSources([0, 1], lower, [(1, one) for one in range(NEURONS)])]
    student = write_grafts(model, [*sources, whole(model, 2, [2]), whole(model, 3, [3])])
    assert layer_width(encoder_layers(student)[0].layer)["position_heads"] == [0, 1, 2, 3]


def test_same_seed_same_graft() -> None:
    model = model_of(tagger=True)
    one, two = graft(model).state_dict(), graft(model, batch_size=3).state_dict()
    assert one.keys() == two.keys()
    three = graft(model).state_dict()
    assert all(torch.equal(value, three[key]) for key, value in one.items())


def test_a_process_without_the_package_loads_a_graft(tmp_path: Path) -> None:
    graft(model_of()).save_pretrained(tmp_path)
    script = (
        "import sys; from transformers import AutoModel; model = AutoModel.from_pretrained(sys.argv[1]); "
        "assert type(model).__module__.startswith('transformers.') and 'alad_hf' not in sys.modules; "
        "print(model.config.num_hidden_layers, model.config.compression['layer_map'])"
    )
    result = subprocess.run(  # isolated: neither the working directory nor PYTHONPATH
        [sys.executable, "-I", "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "2 [[0, 1], [2, 3]]", result.stderr


def test_becomes_the_student_of_an_alad_model() -> None:
    student = graft(model_of())
    model = AlAdForTokenClassification.from_student_pretrained(student, hidden_size=24, num_labels=5)
    assert model.config.text_config.compression == student.config.compression


def test_groups_of_numpy_are_saved(tmp_path: Path) -> None:
    graft(model_of(), None, groups=np.array_split(np.arange(4), 2)).save_pretrained(tmp_path / "groups")
    graft(model_of(), np.int64(2)).save_pretrained(tmp_path / "count")
    maps = [AutoModel.from_pretrained(tmp_path / name).config.compression["layer_map"] for name in ("groups", "count")]
    assert maps == [[[0, 1], [2, 3]]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": None}, "num_hidden_layers=..., or which go together"),
        ({"count": 5}, "from 1 to the model's 4, got 5"),
        ({"strategy": "best"}, "'upper', 'fixed', 'similar'.*got 'best'"),
        ({"groups": [[0], [2, 1], [3]], "count": None}, "in order, each once"),
        ({"groups": [[0.0], [1, 2, 3]], "count": None}, r"groups must hold integers, got \[0\.0\]"),
        ({"groups": [[0, 1], [2, 3]], "count": 3}, "num_hidden_layers=3"),
        ({"extra_heads": -1}, "prune_width makes layers narrower"),
        ({"extra_heads": 20}, "8 heads or neurons together, fewer than 24"),
        ({"concatenate": True, "extra_heads": 1}, "leave out extra_heads"),
        ({"texts": []}, "no text"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, message: str) -> None:
    changes = {"count": 2, **changes}
    with pytest.raises(ValueError, match=message):
        graft(model_of(), **changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modernbert", "linear maps of a ModernBert"),
        ("deberta-v2", "linear maps of a DebertaV2"),
        ("albert", "1 lists|0 lists|told apart|linear maps"),
    ],
)
def test_other_layouts_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        graft(AutoModel.from_config(tiny_config(name)), 1)


def test_layers_with_norms_elsewhere_are_refused() -> None:
    from transformers import RobertaPreLayerNormConfig

    sizes = {key: value for key, value in tiny_config("roberta").to_dict().items() if key != "model_type"}
    config = RobertaPreLayerNormConfig.from_dict(sizes)
    with pytest.raises(ValueError, match=r"has no norm attention\.output\.LayerNorm.*truncate_layers takes any"):
        graft(AutoModel.from_config(config), 1)
