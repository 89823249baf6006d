"""How an AlAd model comes from a student, and how a teacher is attached to it and taken off again."""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .configuration_alad import AlAdConfig
from .quantized_student import check_frozen, float_config, keep_quantization
from .student import bare_encoder, cast_parameters, load_student
from .teacher import (
    TeacherColumns,
    TeacherSignal,
    answering_head,
    copy_head,
    load_teacher,
    moved_to,
    probe_signal,
    state_width,
    tagging_head,
    teacher_signal,
    tokenizes_alike,
)

logger = logging.getLogger(__name__)

_CONFIG_ARGUMENTS = {field.name for field in dataclasses.fields(AlAdConfig)} | {"num_labels"}


class StudentTeacherMixin:
    """Construction from a pretrained student, and the teacher of a model in training."""

    @classmethod
    def from_student_pretrained(
        cls,
        student: str | PreTrainedModel,
        *,
        teacher: str | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        copy_teacher_head: bool = True,
        revision: str | None = None,
        teacher_revision: str | None = None,
        token: str | bool | None = None,
        **config_arguments: Any,
    ) -> StudentTeacherMixin:
        """Put an alignment adapter (and this class's head) on a pretrained student.

        Args:
            student: Folder, Hub id, or a model in memory (its encoder is copied; a task head is left behind), whose
                dtype and attention kernels the model has. LoRA weights of a `PeftModel` are merged into the copy. int8
                weights of torchao stay as they are.
            teacher: Folder, Hub id or model. Sets the aligned width, the labels and the head, and is attached, so that
                training needs nothing else; see `attach_teacher`. Without one, train on cached teacher columns.
            tokenizer: The student's tokenizer, where it cannot be loaded from the student's own name.
            teacher_tokenizer: The teacher's tokenizer, likewise.
            copy_teacher_head: Start from the teacher's head where it is one linear layer with the same labels.
            revision: Branch, tag or commit of the student on the Hub; also of its tokenizer.
            teacher_revision: Branch, tag or commit of the teacher on the Hub; also of its tokenizer.
            token: For private models on the Hub; by default the one of `hf auth login`.
            **config_arguments: Fields of `AlAdConfig`, such as `window_size=5`, `freeze_student=True` or `id2label`.

        Raises:
            TypeError: An argument that `AlAdConfig` does not have.
            ValueError: Student and teacher do not fit together, or the student is quantized and not frozen.
        """
        unknown = sorted(set(config_arguments) - _CONFIG_ARGUMENTS)
        if unknown:
            own = sorted(
                field.name for field in dataclasses.fields(AlAdConfig) if field.name in AlAdConfig.__annotations__
            )
            raise TypeError(f"{unknown} are not fields of AlAdConfig; it has {own} besides id2label and num_labels.")
        student_name = _as_recorded(student if isinstance(student, str) else student.name_or_path)
        if isinstance(student, str):
            encoder = load_student(student, revision=revision, token=token)
        else:
            encoder = bare_encoder(student)
        check_frozen(encoder, config_arguments.get("freeze_student"))
        if isinstance(teacher, str):
            teacher = load_teacher(teacher, revision=teacher_revision, token=token)
        if teacher is not None:
            config_arguments.setdefault("hidden_size", state_width(teacher, config_arguments.get("teacher_layers")))
            config_arguments.setdefault("teacher_name_or_path", _as_recorded(teacher.name_or_path))
            if "id2label" not in config_arguments and "num_labels" not in config_arguments:
                config_arguments["id2label"] = dict(teacher.config.id2label)
        if config_arguments.get("id2label"):
            labels = config_arguments["id2label"]
            config_arguments.setdefault("label2id", {name: int(index) for index, name in labels.items()})
        config = AlAdConfig(
            text_config=float_config(encoder),
            student_name_or_path=config_arguments.pop("student_name_or_path", student_name),
            **config_arguments,
        )
        model = cls(config)
        _copy_encoder(encoder, model.base_model.encoder)
        cast_parameters(model, encoder.dtype)
        keep_quantization(encoder, model)
        attention = encoder.config._attn_implementation
        if attention != model.base_model.encoder.config._attn_implementation:
            model.set_attn_implementation(attention)
        if teacher is not None:
            if copy_teacher_head:
                copy_head(model, teacher, config.teacher_layers)
            tokenizer = tokenizer or load_tokenizer(
                config.student_name_or_path, "tokenizer", revision=revision, token=token
            )
            teacher_tokenizer = teacher_tokenizer or load_tokenizer(
                teacher.name_or_path, "teacher_tokenizer", revision=teacher_revision, token=token
            )
            model.attach_teacher(teacher, tokenizer=tokenizer, teacher_tokenizer=teacher_tokenizer)
        return model.eval()

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The attached teacher, if any."""
        return self.__dict__.get("_attached_teacher", (None, None, False))[0]

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The attached teacher's tokenizer."""
        return self.__dict__.get("_attached_teacher", (None, None, False))[1]

    def attach_teacher(
        self,
        teacher: str | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        """Let a teacher compute its states during training.

        It runs in eval mode without gradients, follows the batches to their device, and is no part of the model: not
        of `state_dict`, `parameters`, `save_pretrained` nor `.to()`. Cached columns (`alad_hf.cache_teacher_states`)
        give the same loss and run the teacher once instead of once an epoch. (Where all labels of a row are -100, the
        collator counts its tokens only if it brings a teacher's columns, too.)

        A teacher that tokenizes like the student reads the student's tokens. Any other reads its own: batches then
        need `teacher_input_ids` and `teacher_alignment`, which the encoders of this package add where they are given
        `teacher_tokenizer`.

        Args:
            teacher: Folder, Hub id, or a model.
            tokenizer: The student's tokenizer; by default loaded from `config.student_name_or_path`.
            teacher_tokenizer: The teacher's; by default loaded from the teacher's name.

        Raises:
            ValueError: The teacher does not fit, see `check_teacher`, or a tokenizer cannot be loaded.
        """
        if isinstance(teacher, str):
            teacher = load_teacher(teacher)
        self.check_teacher(teacher)
        tokenizer = tokenizer or load_tokenizer(self.config.student_name_or_path, "tokenizer")
        teacher_tokenizer = teacher_tokenizer or load_tokenizer(teacher.name_or_path, "teacher_tokenizer")
        alike = tokenizes_alike(tokenizer, teacher_tokenizer, pairs=answering_head(self) is not None)
        teacher.eval().requires_grad_(False)
        # In a tuple and past nn.Module's bookkeeping, so that the teacher never becomes a submodule.
        self.__dict__["_attached_teacher"] = (teacher, teacher_tokenizer, alike)
        self.__dict__.pop("_resized_to", None)  # the tokenizers were compared as they are now

    def detach_teacher(self) -> None:
        """Forget the attached teacher; the model is unchanged otherwise."""
        self.__dict__.pop("_attached_teacher", None)

    def _run_teacher(self, given: TeacherColumns, **inputs: torch.Tensor | None) -> TeacherSignal:
        """Run the attached teacher on its own tokens where the batch has them, else on the student's."""
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "This is one of several copies in one process (DataParallel), which share one attached teacher. Start "
                "one process for each GPU with `accelerate launch`, show it one alone (CUDA_VISIBLE_DEVICES=0), or "
                "cache the teacher's states: cache_teacher_states."
            )
        alike = self.__dict__["_attached_teacher"][2]
        if given.input_ids is not None and given.alignment is not None:
            inputs = {
                "input_ids": given.input_ids,
                "attention_mask": given.attention_mask,
                "token_type_ids": given.token_type_ids,
            }
        elif not alike or given.input_ids is not None or given.alignment is not None:
            raise ValueError(
                "A teacher with another tokenizer than the student reads its own tokens, and the batch lacks "
                "teacher_input_ids or teacher_alignment. Encode the rows with encode_tagged_words(..., "
                "teacher_tokenizer=...), or compute the teacher's states before training with cache_teacher_states."
            )
        elif self.__dict__.get("_resized_to", 0) > self.teacher.config.get_text_config().vocab_size:
            # By the number that was asked for: rows that pad a table are no ids.
            raise ValueError(
                f"The student was resized to {self.__dict__['_resized_to']} tokens, of which the attached teacher "
                f"knows {self.teacher.config.get_text_config().vocab_size}. Attach it again with the tokenizer that "
                "has the new ones, attach_teacher(..., tokenizer=...), and let rows bring the teacher's own tokens: "
                "encode_tagged_words(..., teacher_tokenizer=...). Where only the table was to be padded, resize with "
                "pad_to_multiple_of."
            )
        elif inputs.get("input_ids") is None:
            raise ValueError(
                "An attached teacher reads input_ids, and only inputs_embeds were given. Pass input_ids, or the "
                "teacher's states as teacher_states."
            )
        teacher = moved_to(self.teacher, inputs["input_ids"].device)
        return teacher_signal(teacher, layers=self.config.teacher_layers, alignment=given.alignment, **inputs)

    def check_teacher(self, teacher: PreTrainedModel) -> None:
        """Make sure that a teacher's states and logits mean what this model learns.

        Raises:
            ValueError: Its states have another width, it lacks a layer of `config.teacher_layers`, or its logits,
                which distillation compares by position, are of another task, of other labels or in another order.
        """
        signal = probe_signal(teacher, self.config.teacher_layers)
        width = signal.states.shape[-1]
        if width != self.config.hidden_size:
            raise ValueError(
                f"The teacher's states are {width} wide, the aligned states {self.config.hidden_size}. "
                f"Build the model for this teacher: {type(self).__name__}.from_student_pretrained(..., teacher=...)."
            )
        own_tags, own_answers = tagging_head(self), answering_head(self)
        if signal.logits is None or not self.config.distillation_weight or (own_tags is None and own_answers is None):
            return
        if (own_answers is None) != (answering_head(teacher) is None):
            raise ValueError(
                f"The logits of a {type(teacher).__name__} are no targets for those of an {type(self).__name__}. Pass "
                "a teacher of the same task, or align with its states alone: distillation_weight=0."
            )
        if own_tags is not None and teacher.config.id2label != self.config.id2label:
            raise ValueError(
                f"The teacher's labels are {list(teacher.config.id2label.values())}, the model's "
                f"{list(self.config.id2label.values())}. Distillation needs the same ones in the same order: build "
                "the model with id2label=teacher.config.id2label, or turn it off with distillation_weight=0."
            )

    def _check_teacher_logits(self, teacher_logits: torch.Tensor, logits: torch.Tensor) -> None:
        if teacher_logits.shape != logits.shape:
            raise ValueError(
                f"teacher_logits have shape {tuple(teacher_logits.shape)}, the model's logits {tuple(logits.shape)}. "
                "Distillation needs a teacher with the same labels; distillation_weight=0 turns it off."
            )

    def num_parameters_by_part(self) -> dict[str, int]:
        """Number of parameters, each tensor once, in the student, the adapter with its layer mix, and the head."""
        base = self.base_model
        student = {id(parameter): parameter.numel() for parameter in base.encoder.parameters()}
        adapter = {id(parameter): parameter.numel() for parameter in base.adapter.parameters()}
        if base.layer_mix is not None:
            adapter |= {id(parameter): parameter.numel() for parameter in base.layer_mix.parameters()}
        every = {id(parameter): parameter.numel() for parameter in self.parameters()}
        parts = {"student": sum(student.values()), "adapter": sum(adapter.values())}
        return parts | {"head": sum(every.values()) - sum(parts.values())}

    def print_trainable_parameters(self) -> None:
        """Print how many parameters training would change."""
        every = {id(parameter): parameter for parameter in self.parameters()}.values()
        total = sum(parameter.numel() for parameter in every)
        trainable = sum(parameter.numel() for parameter in every if parameter.requires_grad)
        parts = ", ".join(f"{name} {count:,}" for name, count in self.num_parameters_by_part().items())
        print(  # noqa: T201 - printing is what this method is for
            f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.2f} "
            f"({parts})"
        )


def _copy_encoder(source: PreTrainedModel, target: PreTrainedModel) -> None:
    # Assigned, since copying into a float parameter would undo a quantization.
    weights = {name: value.detach().clone().to(target.device) for name, value in source.state_dict().items()}
    missing, unexpected = target.load_state_dict(weights, strict=False, assign=True)
    unexpected = [name for name in unexpected if not name.startswith("pooler.")]
    if missing or unexpected:
        raise ValueError(
            f"A {type(source).__name__} does not fit the {type(target).__name__} that AutoModel builds from its "
            f"configuration: missing {missing[:3]}, unexpected {unexpected[:3]}. Pass a student that "
            "AutoModel.from_config can rebuild."
        )


def _as_recorded(name: str | None) -> str | None:
    """A model's name for the configuration; elsewhere, that of a relative folder must not be taken for a Hub id."""
    if name and os.path.isdir(name) and not os.path.isabs(name) and not name.startswith("."):
        return f"./{name}"
    return name or None


def load_tokenizer(name: str | None, argument: str, **kwargs: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer by the name of its model, or raise ValueError that asks for it as `argument`.

    Args:
        name: Folder or Hub id of the model.
        argument: What the caller would pass the tokenizer as.
        **kwargs: For `from_pretrained`, such as `revision` or `token`. No code beside the model is run.
    """
    remedy = f"Pass {argument}=AutoTokenizer.from_pretrained(...)"
    if not name:
        raise ValueError(f"The model has no name to load its tokenizer from. {remedy}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"No tokenizer could be loaded from {name!r}: {error}\n{remedy}, or save one beside the model."
        ) from error
    if is_empty(tokenizer):
        raise ValueError(f"{name!r} holds no tokenizer. {remedy}, or save one beside the model.")
    return tokenizer


def is_empty(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether there are special tokens alone: such a tokenizer is what transformers makes of a model without one."""
    return len(tokenizer) <= len(tokenizer.all_special_tokens)


__all__ = ["StudentTeacherMixin", "is_empty", "load_tokenizer"]
