"""Every kind of student with every kind of teacher, frozen and joint: docs/combinations.md is the table of it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from tiny import STUDENT_CONFIGS, TAGS, VOCABULARY, tiny_config, tiny_teacher, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    GPT2Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TorchAoConfig,
)

from alad_hf import AlAdForQuestionAnswering, AlAdForTokenClassification
from alad_hf.compression.truncation import truncate_layers
from alad_hf.data import DataCollatorForAlignment, encode_tagged_words

# peft 0.21 itself still asks transformers under a name that 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

STUDENTS = [*STUDENT_CONFIGS, "truncated", "int8", "lora"]
TEACHERS = ["tagger", "tagger with another tokenizer", "decoder with another tokenizer", "reader"]
SENTENCES = [["smith", "works", "for", "acme"], ["jones", "visited", "the", "unplayedable", "new", "london", "."]]


def make_student(kind: str, folder: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind in STUDENT_CONFIGS:
        return AutoModel.from_config(tiny_config(kind))
    if kind == "truncated":
        return truncate_layers(AutoModel.from_config(tiny_config(num_hidden_layers=4)), [0, 2])
    encoder = AutoModel.from_config(tiny_config())
    if kind == "lora":
        peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alad_hf[lora]'")
        config = peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
        return peft.get_peft_model(encoder, config)
    quantization = pytest.importorskip(
        "torchao.quantization", reason="torchao is not installed: pip install 'alad_hf[quantization]'"
    )
    encoder.save_pretrained(folder)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    return AutoModel.from_pretrained(folder, quantization_config=config)


def other_tokenizer() -> PreTrainedTokenizerBase:
    """One that knows no words, only letters, under other ids."""
    special = [token for token in VOCABULARY if token.startswith("[")]
    letters = [token for token in reversed(VOCABULARY) if len(token.removeprefix("##")) == 1]
    return tiny_tokenizer(vocabulary={token: index for index, token in enumerate([*special, *letters])})


@cache
def make_teacher(kind: str) -> PreTrainedModel:
    torch.manual_seed(1)
    if kind.startswith("decoder"):
        sizes = {"n_embd": 24, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 2, "eos_token_id": 3}
        return AutoModel.from_config(GPT2Config(vocab_size=len(VOCABULARY), **sizes)).eval()
    if kind == "reader":
        return AutoModelForQuestionAnswering.from_config(tiny_config(hidden_size=32)).eval()
    return tiny_teacher()


@cache
def make_batch(kind: str) -> dict[str, torch.Tensor]:
    teacher_tokenizer = other_tokenizer() if "another" in kind else None
    tags = [[1, 0, 0, 1], [1, 0, 0, 0, 3, 4, 0]]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=TAGS))})
    rows = encode_tagged_words(
        Dataset.from_dict({"tokens": SENTENCES, "tags": tags}, features),
        tiny_tokenizer(),
        max_length=64,
        teacher_tokenizer=teacher_tokenizer,
    )
    batch = DataCollatorForAlignment(tiny_tokenizer())(list(rows.remove_columns("sentence")))
    assert ("teacher_alignment" in batch) == (teacher_tokenizer is not None)
    if kind == "reader":
        del batch["labels"]
        batch |= {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([2, 5])}
    return dict(batch)


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "joint"])
@pytest.mark.parametrize("student", STUDENTS)
def test_learns(student: str, frozen: bool, teacher: str, tmp_path: Path) -> None:
    source = make_student(student, tmp_path)
    arguments = {"teacher": make_teacher(teacher), "tokenizer": tiny_tokenizer(), "freeze_student": frozen}
    arguments["alignment_mse_weight"] = 1.0
    arguments["teacher_tokenizer"] = other_tokenizer() if "another" in teacher else tiny_tokenizer()
    if teacher != "reader":
        arguments["id2label"] = dict(enumerate(TAGS))
    model_class = AlAdForQuestionAnswering if teacher == "reader" else AlAdForTokenClassification
    if student == "int8" and not frozen:
        with pytest.raises(ValueError, match="int8 weights have no gradients"):
            model_class.from_student_pretrained(source, **arguments)
        return
    model = model_class.from_student_pretrained(source, **arguments)
    batch = make_batch(teacher)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}

    def student_states() -> torch.Tensor:
        with torch.no_grad():
            return model(**inputs, output_hidden_states=True).hidden_states[-2]

    before, states = model(**batch), student_states()
    expected = {"task", "alignment_mse"} | ({"distillation"} if not teacher.startswith("decoder") else set())
    assert before.loss_terms.keys() == expected
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for _ in range(8):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    after = model(**batch)
    assert after.loss < before.loss
    assert after.loss_terms["alignment_mse"] < before.loss_terms["alignment_mse"]
    assert torch.equal(student_states(), states) == frozen
