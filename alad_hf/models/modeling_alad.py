"""AlAd models: a student encoder, an alignment adapter and a task head (Alignment Adapter, arXiv 2602.14635)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput, TokenClassifierOutput
from transformers.utils import can_return_tuple, logging

from .alad_construction import StudentTeacherMixin
from .alignment_adapter import AdapterLinear, AlignmentAdapter, LayerMix
from .alignment_loss import answering_sums, cosine_distance, shared_by_tokens, squared_error, tagging_sums
from .compressed_embeddings import CompressedEmbedding, check_embeddings
from .configuration_alad import AlAdConfig
from .quantized_student import asking_for_torchao, check_frozen, is_quantized, spare_float_parts
from .shard_names import check_shard_names
from .student import build_student
from .task_losses import at_least_one, token_items
from .teacher import TeacherColumns, TeacherSignal, accepted_arguments, without_cache

logger = logging.get_logger(__name__)

UNLABELLED = -1
"""Label of a token of unlabelled text: counted (the Trainer sees `label != -100`), but without a task loss."""
_NEVER_NEW = ("encoder.", "adapter.")
"""Parts that every checkpoint has, unlike a head."""


@dataclass
class AlAdModelOutput(BaseModelOutput):
    """Output of `AlAdModel`: `last_hidden_state` (batch, tokens, d_L) holds the aligned states.

    `hidden_states`, if asked for, are the student's, followed by the aligned states. `loss` and the dictionary
    `loss_terms` with its unweighted parts are there when a teacher's signal was.
    """

    loss: torch.Tensor | None = None
    loss_terms: dict[str, torch.Tensor] | None = None


@dataclass
class AlAdTokenClassifierOutput(TokenClassifierOutput):
    """`TokenClassifierOutput` and `loss_terms`, the unweighted parts of the loss by name."""

    loss_terms: dict[str, torch.Tensor] | None = None


@dataclass
class AlAdQuestionAnsweringOutput(QuestionAnsweringModelOutput):
    """`QuestionAnsweringModelOutput` and `loss_terms`, the unweighted parts of the loss by name."""

    loss_terms: dict[str, torch.Tensor] | None = None


class AlAdPreTrainedModel(StudentTeacherMixin, PreTrainedModel):
    """What all AlAd models share: initialisation, the frozen student, the teacher and the sum of the loss terms."""

    config_class = AlAdConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The wrapper has no attention of its own: the student decides, and refuses what it cannot do.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (AdapterLinear, LayerMix)):
            module.init_weights()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> AlAdPreTrainedModel:
        """`PreTrainedModel.from_pretrained`, and the student frozen again where the configuration says so.

        Loading replaces every parameter, and with it what `__init__` said about its gradient. A `quantization_config`
        quantizes the student alone. Weights are read as safetensors only, unless the caller says otherwise.

        Raises:
            ValueError: The student is quantized and `freeze_student` is False, the quantization is not torchao's, its
                compressed embeddings are damaged, or the checkpoint lacks weights of student or adapter, which
                transformers would fill with random ones.
            ImportError: The checkpoint is quantized by torchao, which is not installed.
        """
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = spare_float_parts(kwargs["quantization_config"])
        from_files = kwargs.get("state_dict") is None
        if from_files:
            kwargs.setdefault("use_safetensors", True)
            name_or_path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            check_shard_names(name_or_path, kwargs.get("subfolder", ""))
        wants_info = kwargs.pop("output_loading_info", False)
        with asking_for_torchao():
            loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        lost = sorted(name for name in info["missing_keys"] if name.removeprefix("model.").startswith(_NEVER_NEW))
        if lost and from_files:
            raise ValueError(
                f"{model.name_or_path!r} lacks {len(lost)} tensors of student and adapter, such as {lost[:3]}: it is "
                f"damaged or of another shape. To build a new model, call {cls.__name__}.from_student_pretrained(...)."
            )
        check_embeddings(model, missing=info["missing_keys"])
        model.freeze_student(model.config.freeze_student)
        if is_quantized(model):
            model.is_quantized = False  # or else the Trainer, which sees no adapter of peft, would refuse the model
        return (model, info) if wants_info else model

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """`PreTrainedModel.resize_token_embeddings`; a student's compressed embeddings cannot be resized.

        New tokens are frozen with the others where those are, of which a warning tells. An attached teacher that does
        not know them is to be attached again.

        Raises:
            ValueError: They are compressed and have another size.
        """
        embedding: Any = self.get_input_embeddings()
        if isinstance(embedding, CompressedEmbedding):
            embedding.refuse_resizing(new_num_tokens)
            return embedding
        before = embedding.num_embeddings
        resized: Any = super().resize_token_embeddings(new_num_tokens, *args, **kwargs)
        if new_num_tokens is not None:
            self.__dict__["_resized_to"] = new_num_tokens
        if resized.num_embeddings > before and not resized.weight.requires_grad:
            logger.warning(
                "The embeddings of %d new tokens are frozen as the others are, and training will leave them as they "
                "are now. Load or build the model with freeze_embeddings=False, and freeze_student=False, to train "
                "them.",
                resized.num_embeddings - before,
            )
        return resized

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """`PreTrainedModel.save_pretrained`; a quantized student is stored as it is."""
        if is_quantized(self):
            # Or else transformers (5.6 to 5.23) tries to undo how torchao's tensors were loaded, and fails.
            kwargs.setdefault("save_original_format", False)
        super().save_pretrained(*args, **kwargs)

    def train(self, mode: bool = True) -> AlAdPreTrainedModel:
        """Set the mode; a frozen student stays in eval mode, so its states have no dropout noise."""
        super().train(mode)
        if self.config.freeze_student:
            self.base_model.encoder.eval()
        return self

    def freeze_student(self, frozen: bool = True) -> None:
        """Freeze the student (plug-and-play) or release it (joint training); recorded in the configuration.

        Raises:
            ValueError: A quantized student is to be released.
        """
        check_frozen(self.base_model.encoder, frozen)
        self.config.freeze_student = frozen
        _set_trainable(self.base_model.encoder, self.config)
        self.train(self.training)

    def _alignment_terms(
        self, aligned: torch.Tensor, teacher_states: torch.Tensor | None, token_weights: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The unweighted sums over tokens; `token_weights` are 0 where the teacher has no counterpart."""
        if teacher_states is None:
            return {}
        if teacher_states.shape != aligned.shape:
            raise ValueError(
                f"teacher_states have shape {tuple(teacher_states.shape)}, the aligned states {tuple(aligned.shape)}. "
                "They must come from the same tokens, and the config's hidden_size must be the teacher's width."
            )
        terms = {}
        if self.config.alignment_mse_weight:
            terms["alignment_mse"] = squared_error(aligned, teacher_states, token_weights)
        if self.config.alignment_cosine_weight:
            terms["alignment_cosine"] = cosine_distance(aligned, teacher_states, token_weights)
        return terms

    def _to_distil(self, teacher_logits: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
        """The teacher's logits, if there are some to be learned."""
        if teacher_logits is None or not self.config.distillation_weight:
            return None
        self._check_teacher_logits(teacher_logits, logits)
        return teacher_logits

    def _total_loss(
        self, sums: dict[str, torch.Tensor], items: torch.Tensor | int
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor] | None]:
        """Divide every sum once, by the same number of items, and add the parts up by their weights."""
        if not sums:
            return None, None
        terms = {name: value / at_least_one(items) for name, value in sums.items()}
        loss = sum(getattr(self.config, f"{name}_weight", 1.0) * value for name, value in terms.items())
        return loss, {name: value.detach() for name, value in terms.items()}

    def _signal(
        self, given: TeacherColumns, wanted: bool, real: torch.Tensor, **inputs: torch.Tensor | None
    ) -> tuple[TeacherSignal, torch.Tensor]:
        """What the teacher says, and which tokens it says it of.

        Args:
            given: The batch's columns. Where they hold no signal, an attached teacher gives it.
            wanted: Whether a loss is wanted, without which no attached teacher runs.
            real: (batch, tokens), 1 for real tokens.
            **inputs: What the student reads.

        Returns:
            The signal, and a float (batch, tokens), 1 for real tokens with a counterpart among the teacher's.
        """
        signal = TeacherSignal(given.states, given.logits, given.mask)
        if given.states is None and given.logits is None and wanted and self.teacher is not None:
            signal = self._run_teacher(given, **inputs)
        if signal.mask is None:
            return signal, real.float()
        if signal.mask.shape != real.shape:
            raise ValueError(
                f"teacher_mask has shape {tuple(signal.mask.shape)}, the batch {tuple(real.shape)} tokens. "
                "It must say of each of the student's tokens whether the teacher has a counterpart."
            )
        return signal, real.float() * signal.mask


def _warn_of_missing_labels(signal: TeacherSignal) -> None:
    if signal.states is not None or signal.logits is not None:
        logger.warning_once(
            "There is a teacher's signal but no labels. Where the Trainer keeps them for a loss of its own, nothing "
            "is aligned: leave label_smoothing_factor out, and let a compute_loss_func add outputs.loss. Of "
            "unlabelled text, DataCollatorForAlignment makes labels."
        )


def _set_trainable(encoder: PreTrainedModel, config: AlAdConfig) -> None:
    encoder.requires_grad_(not config.freeze_student)
    if config.freeze_embeddings:
        encoder.get_input_embeddings().requires_grad_(False)


class AlAdModel(AlAdPreTrainedModel):
    """A student encoder and the adapter that maps its states onto a teacher's; no task head.

    Args:
        config: The configuration; its `text_config` describes the student.

    Example:
        >>> from alad_hf import AlAdModel
        >>> model = AlAdModel.from_student_pretrained("prajjwal1/bert-tiny", teacher="google-bert/bert-base-uncased")
        >>> model(**inputs).last_hidden_state.shape  # (batch, tokens, the teacher's width)
    """

    # The heads of this family: a base model loads from any of their checkpoints without a word.
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^qa_outputs\."]

    def __init__(self, config: AlAdConfig) -> None:
        super().__init__(config)
        self.encoder = build_student(config.text_config)
        self.adapter = AlignmentAdapter.from_sizes(
            config.adapter_type,
            student_size=config.text_config.hidden_size,
            aligned_size=config.hidden_size,
            window_size=config.window_size,
            adapter_size=config.adapter_size,
        )
        self.layer_mix = LayerMix(config.text_config.num_hidden_layers + 1) if config.mix_student_layers else None
        self._encoder_arguments = accepted_arguments(self.encoder)
        _set_trainable(self.encoder, config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The student's token embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the student's token embeddings."""
        self.encoder.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        teacher_states: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_mask: torch.Tensor | None = None,
        teacher_input_ids: torch.Tensor | None = None,
        teacher_attention_mask: torch.Tensor | None = None,
        teacher_token_type_ids: torch.Tensor | None = None,
        teacher_alignment: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> AlAdModelOutput:
        """Align the student's states; with a teacher's signal, also compute the alignment loss.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for students without token types.
            position_ids: (batch, tokens).
            inputs_embeds: (batch, tokens, student width) in place of `input_ids`.
            labels: (batch, tokens); read only for how many are not -100, the divisor of the loss.
            teacher_states: (batch, tokens, d_L) to align to; an attached teacher computes them otherwise.
            teacher_logits: Accepted, so that cached columns fit every AlAd class, and of no use without a head.
            teacher_mask: (batch, tokens), 0 where the teacher has no counterpart of a token: no loss but the task's.
            teacher_input_ids: (batch, teacher tokens) for an attached teacher with another tokenizer.
            teacher_attention_mask: (batch, teacher tokens), 1 for the teacher's real tokens.
            teacher_token_type_ids: (batch, teacher tokens), where the teacher has token types.
            teacher_alignment: (batch, tokens, teacher tokens) weights; a row sums to 1, or to 0 without a counterpart.
            output_hidden_states: Also return the student's states, followed by the aligned ones.
            num_items_in_batch: Divisor of the loss, as the Trainer gives it; defaults to the count of `labels`. Where
                there are none, or it is 0, the real tokens are counted.
            **kwargs: Passed on to the student, such as `output_attentions`.

        Raises:
            ValueError: `attention_mask` is not (batch, tokens), or `teacher_states` do not fit.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask must be (batch, tokens), got shape {tuple(attention_mask.shape)}: the adapter has to "
                "know which single tokens are real."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        given = TeacherColumns(
            teacher_states,
            None,
            teacher_mask,
            teacher_input_ids,
            teacher_attention_mask,
            teacher_token_type_ids,
            teacher_alignment,
        )
        known = {name: value for name, value in inputs.items() if value is None or name in self._encoder_arguments}
        known = {name: value for name, value in known.items() if value is not None}
        every_state = output_hidden_states or self.layer_mix is not None
        if self.config.output_attentions:
            kwargs.setdefault("output_attentions", True)
        kwargs = {**without_cache(self._encoder_arguments), **kwargs}
        encoded = self.encoder(**known, output_hidden_states=every_state, return_dict=True, **kwargs)
        student_states = encoded.last_hidden_state
        if self.layer_mix is not None:
            # Some encoders (a norm behind the last layer) return other states at the end of `hidden_states`.
            student_states = self.layer_mix([*encoded.hidden_states[:-1], student_states])
        if attention_mask is None:
            real = student_states.new_ones(student_states.shape[:2])
        else:
            real = attention_mask.to(student_states)  # the device, too, where a student is spread over several
            # Padding must not enter a real token's window: without this, a batch changes its sentences' results.
            student_states = student_states * real.unsqueeze(-1)
        aligned = self.adapter(student_states)

        wanted = self.training or labels is not None or num_items_in_batch is not None
        signal, matched = self._signal(given, wanted, real, **inputs)
        terms = self._alignment_terms(aligned, signal.states, matched)
        loss, loss_terms = self._total_loss(terms, token_items(labels, real, num_items_in_batch))
        return AlAdModelOutput(
            last_hidden_state=aligned,
            hidden_states=(*encoded.hidden_states, aligned) if output_hidden_states else None,
            attentions=encoded.get("attentions"),
            loss=loss,
            loss_terms=loss_terms,
        )


class AlAdForTokenClassification(AlAdPreTrainedModel):
    """An AlAd model with a tagging head: dropout and one linear layer on the aligned states.

    Aligned states live in the teacher's space, so the teacher's own head fits them: `from_student_pretrained` starts
    from it where it can.

    Args:
        config: The configuration, with `id2label` for the tags.

    Example:
        >>> from alad_hf import AlAdForTokenClassification
        >>> model = AlAdForTokenClassification.from_student_pretrained("prajjwal1/bert-tiny", teacher="me/ner")
        >>> trainer = Trainer(model=model, ...)  # the alignment loss is part of the model's loss
    """

    def __init__(self, config: AlAdConfig) -> None:
        super().__init__(config)
        self.model = AlAdModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        teacher_states: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_mask: torch.Tensor | None = None,
        teacher_input_ids: torch.Tensor | None = None,
        teacher_attention_mask: torch.Tensor | None = None,
        teacher_token_type_ids: torch.Tensor | None = None,
        teacher_alignment: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> AlAdTokenClassifierOutput:
        """Tag tokens.

        The loss is (sum of cross entropies over labelled tokens + weighted sums of the alignment and distillation
        terms over real tokens) / `num_items_in_batch`, every part of it divided by the same number once.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for students without token types.
            position_ids: (batch, tokens).
            inputs_embeds: (batch, tokens, student width) in place of `input_ids`.
            labels: (batch, tokens) tag ids; -100 is ignored, -1 marks a token of unlabelled text.
            teacher_states: (batch, tokens, d_L) of the teacher; an attached teacher computes them otherwise.
            teacher_logits: (batch, tokens, labels) of the teacher.
            teacher_mask: (batch, tokens), 0 where the teacher has no counterpart of a token: no loss but the task's.
            teacher_input_ids: (batch, teacher tokens) for an attached teacher with another tokenizer.
            teacher_attention_mask: (batch, teacher tokens), 1 for the teacher's real tokens.
            teacher_token_type_ids: (batch, teacher tokens), where the teacher has token types.
            teacher_alignment: (batch, tokens, teacher tokens) weights; a row sums to 1, or to 0 without a counterpart.
            num_items_in_batch: Divisor of the loss, as the Trainer gives it; defaults to the number of labels that are
                not -100. Where there are none, or it is 0, the real tokens are counted.
            **kwargs: Passed on to the student, such as `output_hidden_states` or `output_attentions`.

        Returns:
            Logits of shape (batch, tokens, labels), and the loss with its parts where labels or a teacher are given.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        given = TeacherColumns(
            teacher_states,
            teacher_logits,
            teacher_mask,
            teacher_input_ids,
            teacher_attention_mask,
            teacher_token_type_ids,
            teacher_alignment,
        )
        outputs = self.model(**inputs, **kwargs, return_dict=True)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))

        real = logits.new_ones(logits.shape[:2]) if attention_mask is None else attention_mask.to(logits.device)
        # A Trainer with a loss function of its own keeps the labels, and passes their number.
        wanted = self.training or labels is not None or num_items_in_batch is not None
        signal, matched = self._signal(given, wanted, real, **inputs)
        sums = self._alignment_terms(outputs.last_hidden_state, signal.states, matched)
        teacher_says = self._to_distil(signal.logits, logits)
        if self.training and labels is None and not torch.compiler.is_compiling():
            _warn_of_missing_labels(signal)
        labels = labels.to(logits.device) if labels is not None else None
        sums |= tagging_sums(logits, labels, teacher_says, matched, self.config.distillation_temperature)
        loss, loss_terms = self._total_loss(sums, token_items(labels, real, num_items_in_batch))
        return AlAdTokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_terms=loss_terms,
        )


class AlAdForQuestionAnswering(AlAdPreTrainedModel):
    """An AlAd model with an extractive question-answering head: start and end logits from the aligned states.

    Args:
        config: The configuration.
    """

    # The Trainer counts token labels, and the items of this loss are examples: a mean over the batch, which it divides
    # by the number of accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: AlAdConfig) -> None:
        super().__init__(config)
        self.model = AlAdModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        teacher_states: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_mask: torch.Tensor | None = None,
        teacher_input_ids: torch.Tensor | None = None,
        teacher_attention_mask: torch.Tensor | None = None,
        teacher_token_type_ids: torch.Tensor | None = None,
        teacher_alignment: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> AlAdQuestionAnsweringOutput:
        """Score every token as the start and the end of the answer.

        The items of this loss are examples: the task loss is a mean over them, and the tokens of one example share one
        unit of weight in the alignment terms. Padding is no candidate for an answer: the loss of an example does not
        depend on the others in its batch.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for students without token types.
            position_ids: (batch, tokens).
            inputs_embeds: (batch, tokens, student width) in place of `input_ids`.
            start_positions: (batch,) index of the answer's first token; negative or not a real token is ignored.
            end_positions: (batch,) index of its last token.
            teacher_states: (batch, tokens, d_L) of the teacher; an attached teacher computes them otherwise.
            teacher_logits: (batch, tokens, 2), start and end logits of the teacher.
            teacher_mask: (batch, tokens), 0 where the teacher has no counterpart of a token: no loss but the task's.
            teacher_input_ids: (batch, teacher tokens) for an attached teacher with another tokenizer.
            teacher_attention_mask: (batch, teacher tokens), 1 for the teacher's real tokens.
            teacher_token_type_ids: (batch, teacher tokens), where the teacher has token types.
            teacher_alignment: (batch, tokens, teacher tokens) weights; a row sums to 1, or to 0 without a counterpart.
            num_items_in_batch: Divisor of the loss; defaults to the number of examples.
            **kwargs: Passed on to the student, such as `output_hidden_states` or `output_attentions`.

        Returns:
            `start_logits` and `end_logits` of shape (batch, tokens), and the loss with its parts.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        given = TeacherColumns(
            teacher_states,
            teacher_logits,
            teacher_mask,
            teacher_input_ids,
            teacher_attention_mask,
            teacher_token_type_ids,
            teacher_alignment,
        )
        outputs = self.model(**inputs, **kwargs, return_dict=True)
        logits = self.qa_outputs(outputs.last_hidden_state)

        real = logits.new_ones(logits.shape[:2]) if attention_mask is None else attention_mask.to(logits.device)
        wanted = self.training or start_positions is not None or kwargs.get("labels") is not None
        signal, matched = self._signal(given, wanted, real, **inputs)
        answers = None if start_positions is None or end_positions is None else (start_positions, end_positions)
        sums = self._alignment_terms(outputs.last_hidden_state, signal.states, shared_by_tokens(matched))
        teacher_says = self._to_distil(signal.logits, logits)
        sums |= answering_sums(logits, answers, teacher_says, real, matched, self.config.distillation_temperature)
        loss, loss_terms = self._total_loss(
            sums, logits.shape[0] if num_items_in_batch is None else num_items_in_batch
        )
        return AlAdQuestionAnsweringOutput(
            loss=loss,
            start_logits=logits[..., 0].contiguous(),
            end_logits=logits[..., 1].contiguous(),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            loss_terms=loss_terms,
        )


__all__ = [
    "AlAdForQuestionAnswering",
    "AlAdForTokenClassification",
    "AlAdModel",
    "AlAdModelOutput",
    "AlAdPreTrainedModel",
    "AlAdQuestionAnsweringOutput",
    "AlAdTokenClassifierOutput",
]
