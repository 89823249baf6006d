"""The teacher during training: attached to a model without being part of it, and its tokenizer checked.

A teacher is needed while an adapter is trained and never afterwards, so nothing here is saved or counted.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
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

from .shard_names import check_shard_names

# Casing, accents, byte fallback, digits, punctuation, scripts, emoji, odd blanks, sub-words: where tokenizers differ.
TOKENIZATION_PROBES = (
    "The quick brown fox jumped over 13 lazy dogs, didn't it?",
    "Ångström café naïve ÉCOLE straße İstanbul",
    "www.example.org/a_b-c?d=1 @user #tag $9.99 50% e=mc²",
    "北京 Москва ελληνικά עברית العربية हिन्दी 한국어",
    "🙂👍🏽 zero\u200bwidth non\u00a0breaking\ttab",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
)


class TeacherColumns(NamedTuple):
    """What a batch brings of the teacher: its signal, computed before, or its own tokens for an attached teacher."""

    states: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    input_ids: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    token_type_ids: torch.Tensor | None = None
    alignment: torch.Tensor | None = None


class TeacherSignal(NamedTuple):
    """What the loss needs of the teacher for one batch; `logits` is None for a teacher without a task head."""

    states: torch.Tensor
    """(batch, tokens, d_L), the teacher's hidden states on the student's tokens."""
    logits: torch.Tensor | None
    """(batch, tokens, labels), or (batch, tokens, 2) with start and end logits for question answering."""
    mask: torch.Tensor | None = None
    """(batch, tokens), true where the teacher has a counterpart of the student's token; None where it always has."""


def load_teacher(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """Load a teacher with its task head if its checkpoint has one that AlAd can use, else the bare model.

    Language models (`ForMaskedLM`, `ForCausalLM`) are loaded without their vocabulary head, and of encoder-decoders
    the encoder.

    Args:
        name_or_path: Folder or Hub id.
        **kwargs: For `from_pretrained`, such as `revision` or `token`. No code of the checkpoint is run without
            `trust_remote_code=True`, nor asked about.

    Raises:
        ValueError: An index of its weights names a file outside its folder.
    """
    kwargs.setdefault("trust_remote_code", False)
    check_shard_names(name_or_path, kwargs.get("subfolder", ""))
    config = AutoConfig.from_pretrained(name_or_path, **kwargs)
    architectures = " ".join(config.architectures or [])
    if "ForTokenClassification" in architectures:
        return AutoModelForTokenClassification.from_pretrained(name_or_path, **kwargs)
    if "ForQuestionAnswering" in architectures:
        return AutoModelForQuestionAnswering.from_pretrained(name_or_path, **kwargs)
    model = AutoModel.from_pretrained(name_or_path, **kwargs)
    return model.get_encoder() if config.is_encoder_decoder else model


@torch.no_grad()
def teacher_signal(
    teacher: PreTrainedModel,
    *,
    layers: Sequence[int] | None = None,
    alignment: torch.Tensor | None = None,
    **inputs: torch.Tensor | None,
) -> TeacherSignal:
    """Run a teacher in eval mode on its own device and return its signal there.

    Args:
        teacher: Encoder, decoder, token-classification or question-answering model. Of a language model, the part
            under its vocabulary head runs.
        layers: Indices into the teacher's `hidden_states` (0 for the embeddings, negative from the end) whose mean are
            the states; by default the last ones.
        alignment: (batch, student tokens, teacher tokens), the weights by which the student's tokens take up the
            teacher's: rows sum to 1, or to 0 where the teacher has no counterpart. With it, `inputs` are the teacher's
            own tokens, and the signal comes back in float32 on the student's. Without, both have the same tokens.
        **inputs: `input_ids`, `attention_mask` and the like, each (batch, tokens); those that the teacher's `forward`
            does not take are left out.

    Raises:
        ValueError: `layers` are out of range, `alignment` does not fit the inputs, or the teacher is an
            encoder-decoder.
    """
    teacher.eval()
    if teacher.get_output_embeddings() is not None:
        teacher = teacher.base_model
    accepted = accepted_arguments(teacher)
    if "decoder_input_ids" in accepted:
        raise ValueError(
            f"A {type(teacher).__name__} is an encoder-decoder, whose last states belong to the decoder. "
            "Take its encoder as the teacher: AutoModel.from_pretrained(...).get_encoder()."
        )
    inputs = {
        name: value.to(teacher.device) for name, value in inputs.items() if value is not None and name in accepted
    }
    outputs = teacher(**inputs, **without_cache(accepted), output_hidden_states=True, return_dict=True)
    states = _mean_of_layers(outputs.hidden_states, layers)
    answers = "start_logits" in outputs
    logits = outputs.get("logits")
    if answers:
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)
    if logits is not None and logits.dim() != 3:
        logits = None  # of a sequence classifier: one verdict on the whole text
    if alignment is None:
        return TeacherSignal(states, logits)

    states = states.float()
    if inputs.get("attention_mask") is not None:
        # A teacher's row without a single token may come out as NaN, which a weight of 0 would not take away.
        unread = (inputs["attention_mask"] == 0).all(dim=1).view(-1, 1, 1)
        states = states.masked_fill(unread, 0)
        logits = logits.float().masked_fill(unread, 0) if logits is not None else None
    alignment = alignment.to(states.device, torch.float32)
    if alignment.dim() != 3 or alignment.shape[::2] != states.shape[:2]:
        raise ValueError(
            f"The alignment must be (batch, student tokens, teacher tokens) with (batch, teacher tokens) = "
            f"{tuple(states.shape[:2])}, got shape {tuple(alignment.shape)}."
        )
    with torch.autocast(states.device.type, enabled=False):  # or the products would be in half precision
        if answers:
            logits = _move_answer_logits(logits, alignment, inputs.get("attention_mask"))
        elif logits is not None:
            logits = torch.bmm(alignment, logits.float())
        return TeacherSignal(torch.bmm(alignment, states), logits, alignment.sum(dim=-1) > 0)


def _mean_of_layers(hidden_states: tuple[torch.Tensor, ...], layers: Sequence[int] | None) -> torch.Tensor:
    if layers is None:
        return hidden_states[-1]
    count = len(hidden_states)
    if not layers or not all(-count <= layer < count for layer in layers):
        raise ValueError(
            f"The teacher has {count} hidden states (0 are the embeddings), so its layers are chosen by one or more "
            f"indices from {-count} to {count - 1}, got {list(layers)}."
        )
    return torch.stack([hidden_states[layer] for layer in layers]).mean(dim=0)


def _move_answer_logits(
    logits: torch.Tensor, alignment: torch.Tensor, attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """Move the teacher's probability of each token to the student's tokens that share its characters.

    Start and end logits are a distribution over tokens, so what moves is probability mass, which a teacher's token
    splits among its counterparts: log of sum_j p_j A_ij / sum_k A_kj, minus infinity where there is no counterpart.

    Args:
        logits: (batch, teacher tokens, 2).
        alignment: (batch, student tokens, teacher tokens) A.
        attention_mask: (batch, teacher tokens), 1 for real tokens; all real if None.

    Returns:
        (batch, student tokens, 2) log probabilities.
    """
    logits = logits.float()
    if attention_mask is not None:
        logits = logits.masked_fill(attention_mask.unsqueeze(-1) == 0, torch.finfo(torch.float32).min)
    received = alignment.sum(dim=1, keepdim=True)
    log_shares = (alignment / received.masked_fill(received == 0, 1)).log()
    return torch.logsumexp(log_shares.unsqueeze(-1) + logits.log_softmax(dim=1).unsqueeze(1), dim=2)


def state_width(teacher: PreTrainedModel, layers: Sequence[int] | None = None) -> int:
    """Width of the states that `teacher_signal` gives, found by running two tokens.

    Raises:
        ValueError: `layers` are out of range.
    """
    return probe_signal(teacher, layers).states.shape[-1]


def probe_signal(teacher: PreTrainedModel, layers: Sequence[int] | None = None) -> TeacherSignal:
    """What `teacher_signal` gives for two tokens, which tells what kind of signal it is."""
    ids = torch.arange(2, device=teacher.device).unsqueeze(0)
    return teacher_signal(teacher, layers=layers, input_ids=ids, attention_mask=torch.ones_like(ids))


def accepted_arguments(module: nn.Module) -> frozenset[str]:
    """Names of the arguments that a module's `forward` declares, or that of the module which torch.compile wrapped."""
    return frozenset(inspect.signature(type(getattr(module, "_orig_mod", module)).forward).parameters)


def without_cache(accepted: frozenset[str]) -> dict[str, bool]:
    """What keeps a decoder from remembering every layer's keys and values, where its `forward` takes it."""
    return {"use_cache": False} if "use_cache" in accepted else {}


def tagging_head(model: PreTrainedModel) -> nn.Module | None:
    """The layers that score labels: encoders call them `classifier`, most decoders `score`."""
    return getattr(model, "classifier", None) or getattr(model, "score", None)


def answering_head(model: PreTrainedModel) -> nn.Module | None:
    """The layers that score starts and ends of answers."""
    return getattr(model, "qa_outputs", None)


def moved_to(teacher: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """A teacher on a device; one that its `device_map` has spread over several stays where it is."""
    if teacher.device != device and getattr(teacher, "hf_device_map", None) is None:
        teacher.to(device)
    return teacher


def linear_head(teacher: PreTrainedModel, layers: Sequence[int] | None = None) -> nn.Linear | None:
    """The teacher's task head if it is one linear layer on the states of `layers` (by default the last), else None.

    Heads with hidden layers (ModernBERT has one) cannot be carried over to aligned states by copying two tensors.
    """
    head = tagging_head(teacher) or answering_head(teacher)
    if not isinstance(head, nn.Linear):
        return None
    signal = probe_signal(teacher, layers)
    if signal.logits is None or signal.states.shape[-1] != head.in_features:
        return None
    with torch.no_grad():
        rebuilt = head(signal.states)
    same = rebuilt.shape == signal.logits.shape and torch.allclose(rebuilt, signal.logits, atol=1e-4)
    return head if same else None


def copy_head(model: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int] | None = None) -> None:
    """Give a model the teacher's task head, where both are one linear layer of one shape for one task and its labels.

    Args:
        model: It is changed in place, or stays as it is.
        teacher: See `linear_head`.
        layers: Likewise.
    """
    own = getattr(model, "classifier", None) or answering_head(model)
    head = linear_head(teacher, layers) if isinstance(own, nn.Linear) else None
    if head is None or head.weight.shape != own.weight.shape:
        return
    if (answering_head(model) is None) != (answering_head(teacher) is None):
        return
    if tagging_head(model) is not None and teacher.config.id2label != model.config.id2label:
        return  # the outputs of a question answerer are start and end, whatever its configuration calls them
    with torch.no_grad():
        own.weight.copy_(head.weight)
        own.bias.copy_(head.bias if head.bias is not None else torch.zeros_like(own.bias))


def tokenizes_alike(
    tokenizer: PreTrainedTokenizerBase, teacher_tokenizer: PreTrainedTokenizerBase, *, pairs: bool = False
) -> bool:
    """Whether both tokenizers give the same ids for the same text, so that a batch of one fits the other's model.

    Vocabularies are compared as a whole, behaviour on a few texts that tell tokenizers apart.

    Args:
        tokenizer: The student's.
        teacher_tokenizer: The teacher's.
        pairs: Whether pairs of texts are read. The token types that tell the teacher the second text must then be the
            student's, too: DistilBERT has BERT's vocabulary, but none of these.
    """
    if tokenizer.get_vocab() != teacher_tokenizer.get_vocab():
        return False
    probes: list[tuple[str, ...]] = [(probe,) for probe in TOKENIZATION_PROBES]
    if pairs:
        probes.append(tuple(TOKENIZATION_PROBES[:2]))
    for probe in probes:
        own, teachers = (side(*probe, verbose=False) for side in (tokenizer, teacher_tokenizer))
        if own["input_ids"] != teachers["input_ids"]:
            return False
    types = teachers.get("token_type_ids")
    return not pairs or types is None or types == own.get("token_type_ids")


__all__ = [
    "TeacherColumns",
    "TeacherSignal",
    "accepted_arguments",
    "answering_head",
    "copy_head",
    "linear_head",
    "load_teacher",
    "moved_to",
    "probe_signal",
    "state_width",
    "tagging_head",
    "teacher_signal",
    "tokenizes_alike",
    "without_cache",
]
