"""ONNX export: the same answers as torch for every architecture, batch and length; shared weights; int8; refusals."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tiny import STUDENT_CONFIGS, TAGS, VOCABULARY, tiny_alad_config, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from alad_hf import (
    AlAdForQuestionAnswering,
    AlAdForTokenClassification,
    CompressedEncoderConfig,
    CompressedEncoderForQuestionAnswering,
    CompressedEncoderForTokenClassification,
    MiniAlbertConfig,
)
from alad_hf.export import ExportError, export_onnx, is_onnx_folder, load_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason='the extra "export" is not installed')
onnx = pytest.importorskip("onnx", reason='the extra "export" is not installed')

LABELS = {"id2label": dict(enumerate(TAGS)), "label2id": {tag: index for index, tag in enumerate(TAGS)}}
# Lengths on both sides of the one that was traced, a single token, and all that the model takes.
SHAPES = [(1, 1), (1, 9), (4, 3), (2, 31), (1, 64)]


def tagger(kind: str = "bert", seed: int = 0, **changes: object) -> PreTrainedModel:
    """A stock tagger whose logits differ from token to token, as those of a trained one do."""
    torch.manual_seed(seed)
    model = AutoModelForTokenClassification.from_config(tiny_config(kind, **LABELS, **changes)).eval()
    return spread(model)


def spread(model: PreTrainedModel) -> PreTrainedModel:
    """Larger weights, of which an error of the export would show, and biases that are not zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def aligned(model_class: type, **options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    student = AutoModel.from_config(tiny_config())
    return spread(model_class.from_student_pretrained(student, hidden_size=32, **options).eval())


def mixed_batch(rows: int, tokens: int, side: str) -> dict[str, torch.Tensor]:
    """Random ids; every row has another number of real tokens."""
    ids = torch.randint(5, len(VOCABULARY), (rows, tokens))
    position = torch.arange(tokens).expand(rows, tokens)
    real = tokens - torch.arange(rows).clamp(max=tokens - 1)[:, None]
    mask = (position < real if side == "right" else position >= tokens - real).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def assert_same_answers(model: PreTrainedModel, folder: Path, names: list[str], tolerance: float = 1e-4) -> None:
    runnable, _ = load_onnx(folder, threads=1)
    for side in ("right", "left"):
        for shape in SHAPES:
            batch = mixed_batch(*shape, side)
            with torch.no_grad():
                expected = model(**batch)
            given = runnable(**batch)
            real = batch["attention_mask"] > 0
            for name in names:
                assert given[name].shape == expected[name].shape
                torch.testing.assert_close(given[name][real], expected[name][real], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", sorted(STUDENT_CONFIGS))
def test_stock_taggers(kind: str, tmp_path: Path) -> None:
    model = tagger(kind)
    report = export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert report.difference < 1e-5
    assert report.same_decision == 1
    assert_same_answers(model, tmp_path / "onnx", ["logits"])


def test_a_tokenizer_that_gives_no_mask(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_input_names = ["input_ids"]
    report = export_onnx(tagger("bert"), tmp_path / "onnx", tokenizer=tokenizer)
    assert report.inputs == ["input_ids"] and report.difference < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"adapter_type": "light"},
        {"adapter_type": "linear", "adapter_size": 6},
        {"adapter_type": "mlp", "adapter_size": 24, "mix_student_layers": True},
    ],
    ids=["light", "linear", "mlp and layer mix"],
)
def test_aligned_tagger(options: dict[str, object], tmp_path: Path) -> None:
    model = aligned(AlAdForTokenClassification, **options, **LABELS)
    export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert_same_answers(model, tmp_path / "onnx", ["logits"])


def test_attached_teacher_stays_out_of_the_file(tmp_path: Path) -> None:
    alone = tagger(num_hidden_layers=1)
    options = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
    model = AlAdForTokenClassification.from_student_pretrained(alone.base_model, teacher=tiny_teacher(), **options)
    sizes = []
    for name in ("with", "without"):
        sizes.append(export_onnx(model, tmp_path / name, tokenizer=tiny_tokenizer()).bytes)
        model.detach_teacher()
    assert sizes[0] == sizes[1]


EMBEDDINGS = {
    "low_rank": {"rank": 6, "bias": True},
    "binary_code": {"bits": 20, "rank": 2, "factor_dtype": "float16"},
    "product_quantized": {"subvectors": 4, "centroids": 9, "rotation": True, "row_scales": True},
    "integer": {"bits": 8, "factor_dtype": "float16"},
    "four bits": {"method": "integer", "bits": 4, "factor_dtype": "float16"},
    "kept rows": {
        "method": "kept_rows",
        "kept_rows": 5,
        "kept_bits": 4,
        "shared": {
            "method": "binary_code",
            "num_embeddings": len(VOCABULARY) - 5,
            "embedding_dim": 16,
            "bits": 11,
            "factor_dtype": "float16",
        },
    },
}


def compressed(
    method: str, model_class: type[PreTrainedModel] = CompressedEncoderForTokenClassification, **labels: object
) -> PreTrainedModel:
    """A model with its own widths in every layer and a compressed token embedding."""
    sizes = {"num_embeddings": len(VOCABULARY), "embedding_dim": 16}
    config = CompressedEncoderConfig(
        text_config=tiny_config(),
        embedding={"method": method, **sizes, **EMBEDDINGS[method]},
        layer_widths=[{"heads": 1, "intermediate": 10}, {"heads": 2, "intermediate": 40}],
        **labels,
    )
    torch.manual_seed(0)
    model = spread(model_class(config).eval())
    for name, buffer in model.get_input_embeddings().named_buffers():
        if name.endswith("codes"):
            buffer.copy_(torch.randint(0, 9, buffer.shape))
        elif name == "kept_ids":
            buffer.copy_(torch.arange(len(buffer)) * 3 + 1)
    return model


def recursive(layers: int = 3, **changes: object) -> MiniAlbertConfig:
    sizes = {"hidden_size": 16, "embedding_size": 8, "num_attention_heads": 2, "intermediate_size": 24}
    return MiniAlbertConfig(
        vocab_size=len(VOCABULARY),
        num_hidden_layers=layers,
        adapter_reduction=4,
        max_position_embeddings=64,
        **{**sizes, **changes},
    )


@pytest.mark.parametrize("method", sorted(EMBEDDINGS))
def test_compressed_encoders(method: str, tmp_path: Path) -> None:
    model = compressed(method, **LABELS)
    export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert_same_answers(model, tmp_path / "onnx", ["logits"])


def test_recursive_encoder_under_an_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = AutoModel.from_config(recursive())
    model = spread(AlAdForTokenClassification.from_student_pretrained(student, hidden_size=32, **LABELS).eval())
    export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert_same_answers(model, tmp_path / "onnx", ["logits"])


ANSWERERS = {
    "AlAd": lambda: aligned(AlAdForQuestionAnswering),
    "mpnet": lambda: spread(AutoModelForQuestionAnswering.from_config(tiny_config("mpnet")).eval()),
    "minialbert": lambda: spread(AutoModelForQuestionAnswering.from_config(recursive()).eval()),
    "compressed encoder": lambda: compressed("binary_code", CompressedEncoderForQuestionAnswering),
}


@pytest.mark.parametrize("kind", ANSWERERS)
def test_question_answering(kind: str, tmp_path: Path) -> None:
    model = ANSWERERS[kind]()
    report = export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert report.task == "question-answering"
    assert_same_answers(model, tmp_path / "onnx", ["start_logits", "end_logits"])


def test_the_description_names_what_the_graph_reads(tmp_path: Path) -> None:
    """A DistilBERT student has no token types, though the tokenizer gives some and `forward` takes them."""
    model = AlAdForTokenClassification(tiny_alad_config("distilbert")).eval()
    report = export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    described = json.loads((tmp_path / "onnx" / "onnx_export.json").read_text())["inputs"]
    assert described == report.inputs == ["input_ids", "attention_mask"]
    assert {node.name for node in session.get_inputs()} == set(described)


def test_token_types_count(tmp_path: Path) -> None:
    model = tagger()
    export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    runnable, _ = load_onnx(tmp_path / "onnx")
    ids = torch.randint(5, 90, (2, 12))
    types = torch.randint(2, ids.shape)
    with torch.no_grad():
        expected = model(input_ids=ids, token_type_ids=types).logits
    torch.testing.assert_close(runnable(ids, token_type_ids=types).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(runnable(ids).logits, expected, atol=1e-2)


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("own", [True, False], ids=["minialbert", "albert"])
def test_shared_layers_are_in_the_file_once(own: bool, quantize: str | None, tmp_path: Path) -> None:
    """Once in float or once in int8, never in both, whatever the number of rounds."""
    stored = {}
    for layers in (1, 4):
        folder = tmp_path / str(layers)
        config = recursive(layers, use_adapter=False, **LABELS)
        model = spread(AutoModelForTokenClassification.from_config(config).eval()) if own else None
        export_onnx(
            model or tagger("albert", num_hidden_layers=layers),
            folder,
            tokenizer=tiny_tokenizer(),
            quantize=quantize,
            tolerance=None if quantize is None else 1,
        )
        file = onnx.load(folder / "model.onnx")
        stored[layers] = sorted((list(tensor.dims), tensor.data_type) for tensor in weights(file))
        assert [path.name for path in folder.iterdir() if path.suffix in (".data", ".bin")] == []
    assert stored[4] == stored[1]


def weights(file: object) -> list:
    """Tensors with more than one element, also those that hang on a node."""
    constants = [attribute.t for node in file.graph.node for attribute in node.attribute if attribute.HasField("t")]
    return [tensor for tensor in (*file.graph.initializer, *constants) if len(tensor.dims) and max(tensor.dims) > 4]


def test_the_folder_is_complete(tmp_path: Path) -> None:
    model = tagger()
    model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer().save_pretrained(tmp_path / "saved")
    report = export_onnx(tmp_path / "saved", tmp_path / "onnx")
    written = json.loads((tmp_path / "onnx" / "onnx_export.json").read_text())
    assert written == report.as_dict()
    assert written["bytes"] == (tmp_path / "onnx" / "model.onnx").stat().st_size
    runnable, tokenizer = load_onnx(tmp_path / "onnx")
    assert runnable.config.id2label == dict(enumerate(TAGS))
    text = "Smith visited New York."
    assert tokenizer(text).input_ids == tiny_tokenizer()(text).input_ids
    assert is_onnx_folder(tmp_path / "onnx")
    assert not is_onnx_folder(tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx", "saved"]


def test_int8_is_smaller_and_close(tmp_path: Path) -> None:
    # Wide enough that weights, not operators, fill the file.
    model = tagger(hidden_size=64, intermediate_size=512, num_hidden_layers=3)
    plain = export_onnx(model, tmp_path / "float", tokenizer=tiny_tokenizer())
    small = export_onnx(model, tmp_path / "int8", tokenizer=tiny_tokenizer(), quantize="int8")
    assert small.bytes < plain.bytes / 2
    assert plain.difference < 1e-5 < small.difference < 0.1
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8" / "model.onnx").graph.node}
    assert "MatMulInteger" in kinds
    batch = mixed_batch(3, 20, "right")
    outputs = [load_onnx(tmp_path / name)[0](**batch).logits for name in ("float", "int8")]
    assert (outputs[0] - outputs[1]).norm() < 0.1 * outputs[0].norm()


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_too_large_a_difference_leaves_nothing_behind(quantize: str | None, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"root mean square difference is \d\S* of .* above tolerance=0 "):
        export_onnx(tagger(), tmp_path / "new" / "onnx", tokenizer=tiny_tokenizer(), quantize=quantize, tolerance=0)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = tagger().train()
    model.classifier.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert model.training and model.bert.training and not model.classifier.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_half_precision_is_exported_in_float(tmp_path: Path) -> None:
    model = tagger().bfloat16()
    export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert model.dtype == torch.bfloat16
    assert_same_answers(model.float(), tmp_path / "onnx", ["logits"])


def test_attention_masks_are_made_as_before(tmp_path: Path) -> None:
    before = dict(ALL_MASK_ATTENTION_FUNCTIONS.items())
    export_onnx(tagger(), tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert dict(ALL_MASK_ATTENTION_FUNCTIONS.items()) == before


def test_what_torch_cannot_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger()
    monkeypatch.setattr(model.classifier, "forward", torch.linalg.eigvals)
    with pytest.raises(ExportError, match="torch cannot export a BertForTokenClassification to ONNX"):
        export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_holds_for_one_length_only_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tagger()
    head = model.classifier.forward
    # Python's own number is a constant to the tracer.
    monkeypatch.setattr(model.classifier, "forward", lambda states: head(states) * float(states.shape[1]))
    with pytest.raises(ExportError, match="does not give torch's logits"):
        export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        export_onnx(tagger(), tmp_path, tokenizer=tiny_tokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "alad_hf\[export\]"'):
        export_onnx(tagger(), tmp_path / "onnx", tokenizer=tiny_tokenizer())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quantize": "int4"}, ValueError, "quantize='int4' must be 'int8'"),
        ({"opset": 11}, ValueError, "opset=11 must be from 18 to 20"),
        ({"tolerance": -1}, ValueError, "tolerance=-1 must be 0 or more"),
        ({"tolerance": float("nan")}, ValueError, "tolerance=nan must be 0 or more"),
        ({"tokenizer": None}, ValueError, "tokenizer is missing"),
        ({"revision": "main"}, ValueError, r"\['revision'\] are for loading"),
    ],
)
def test_arguments_out_of_range(options: dict, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        export_onnx(tagger(), tmp_path / "onnx", **{"tokenizer": tiny_tokenizer(), **options})


def test_models_without_a_head(tmp_path: Path) -> None:
    encoder = AutoModel.from_config(tiny_config())
    with pytest.raises(TypeError, match="A BertModel has no head for token classification or question answering"):
        export_onnx(encoder, tmp_path / "onnx", tokenizer=tiny_tokenizer())
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(TypeError, match="encoder', of .*BertModel.*, has no head"):
        export_onnx(tmp_path / "encoder", tmp_path / "onnx")
    with pytest.raises(TypeError, match="A Linear is no model of transformers"):
        export_onnx(torch.nn.Linear(2, 2), tmp_path / "onnx", tokenizer=tiny_tokenizer())


def test_int8_of_torchao_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason='the extra "quantization" is not installed')
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = tagger()
    quantize_(model.bert, Int8WeightOnlyConfig())
    with pytest.raises(ValueError, match="quantized already .* Load it in float"):
        export_onnx(model, tmp_path / "onnx", tokenizer=tiny_tokenizer())
