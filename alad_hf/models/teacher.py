"""The teacher during training: attached to a model without being part of it, and its tokenizer checked.

A teacher is needed while an adapter is trained and never afterwards, so nothing here is saved or counted.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

# Casing, accents, byte fallback, digits, punctuation, scripts, emoji, odd blanks, sub-words: where tokenizers differ.
TOKENIZATION_PROBES = (
    "The quick brown fox jumped over 13 lazy dogs, didn't it?",
    "Ångström café naïve ÉCOLE straße İstanbul",
    "www.example.org/a_b-c?d=1 @user #tag $9.99 50% e=mc²",
    "北京 Москва ελληνικά עברית العربية हिन्दी 한국어",
    "🙂👍🏽 zero\u200bwidth non\u00a0breaking\ttab",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
)


class TeacherSignal(NamedTuple):
    """What the loss needs of the teacher for one batch; `logits` is None for a teacher without a task head."""

    states: torch.Tensor
    """(batch, tokens, d_L), the teacher's last hidden states."""
    logits: torch.Tensor | None
    """(batch, tokens, labels), or (batch, tokens, 2) with start and end logits for question answering."""


def load_teacher(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """Load a teacher with its task head if its checkpoint has one that AlAd can use, else the bare encoder.

    Args:
        name_or_path: Folder or Hub id.
        **kwargs: For `from_pretrained`, such as `revision` or `token`.
    """
    config = AutoConfig.from_pretrained(name_or_path, **kwargs)
    architectures = " ".join(config.architectures or [])
    if "ForTokenClassification" in architectures:
        return AutoModelForTokenClassification.from_pretrained(name_or_path, **kwargs)
    if "ForQuestionAnswering" in architectures:
        return AutoModelForQuestionAnswering.from_pretrained(name_or_path, **kwargs)
    return AutoModel.from_pretrained(name_or_path, **kwargs)


@torch.no_grad()
def teacher_signal(teacher: PreTrainedModel, **inputs: torch.Tensor | None) -> TeacherSignal:
    """Run a teacher in eval mode on its own device and return its signal there.

    Args:
        teacher: Encoder, token-classification or question-answering model.
        **inputs: `input_ids`, `attention_mask` and the like, each (batch, tokens); those that the teacher's `forward`
            does not take are left out.
    """
    teacher.eval()
    accepted = accepted_arguments(teacher)
    inputs = {
        name: value.to(teacher.device) for name, value in inputs.items() if value is not None and name in accepted
    }
    outputs = teacher(**inputs, output_hidden_states=True, return_dict=True)
    if "start_logits" in outputs:
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)
    else:
        logits = outputs.get("logits")
    return TeacherSignal(outputs.hidden_states[-1], logits)


def state_width(teacher: PreTrainedModel) -> int:
    """Width of a teacher's last hidden states; of an AlAd model that serves as one, of its aligned states."""
    config = teacher.config
    return config.hidden_size if hasattr(config, "hidden_size") else config.get_text_config().hidden_size


def accepted_arguments(module: nn.Module) -> frozenset[str]:
    """Names of the arguments that a module's `forward` declares."""
    return frozenset(inspect.signature(type(module).forward).parameters)


def linear_head(teacher: PreTrainedModel) -> nn.Linear | None:
    """The teacher's task head if it is one linear layer on the last hidden states, else None.

    Heads with hidden layers (ModernBERT has one) cannot be carried over to aligned states by copying two tensors.
    """
    head = getattr(teacher, "classifier", None) or getattr(teacher, "qa_outputs", None)
    if not isinstance(head, nn.Linear):
        return None
    ids = torch.arange(2, device=teacher.device).unsqueeze(0)
    signal = teacher_signal(teacher, input_ids=ids, attention_mask=torch.ones_like(ids))
    with torch.no_grad():
        rebuilt = head(signal.states)
    same = rebuilt.shape == signal.logits.shape and torch.allclose(rebuilt, signal.logits, atol=1e-4)
    return head if same else None


def check_same_tokenization(tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise unless both tokenizers give the same ids for the same text.

    Vocabularies are compared as a whole, behaviour on a few texts that tell tokenizers apart.

    Raises:
        ValueError: They differ; the message shows where.
    """
    remedy = (
        "AlAd aligns token i of the student to token i of the teacher, so both must tokenize alike. "
        "Take a teacher and a student that share one tokenizer."
    )
    vocabulary, teacher_vocabulary = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if vocabulary != teacher_vocabulary:
        different = sorted(set(vocabulary.items()) ^ set(teacher_vocabulary.items()))
        raise ValueError(
            f"The teacher's tokenizer has another vocabulary than the student's ({len(teacher_vocabulary)} and "
            f"{len(vocabulary)} entries, {len(different)} (token, id) pairs in one only, such as "
            f"{different[:3]}). {remedy}"
        )
    for probe in TOKENIZATION_PROBES:
        ids, teacher_ids = (side(probe, verbose=False)["input_ids"] for side in (tokenizer, teacher_tokenizer))
        if ids != teacher_ids:
            raise ValueError(
                f"The teacher's tokenizer has the student's vocabulary but splits {probe!r} into "
                f"{teacher_tokenizer.convert_ids_to_tokens(teacher_ids)} where the student's gives "
                f"{tokenizer.convert_ids_to_tokens(ids)}. {remedy}"
            )


__all__ = [
    "TeacherSignal",
    "accepted_arguments",
    "check_same_tokenization",
    "linear_head",
    "load_teacher",
    "state_width",
    "teacher_signal",
]
