"""MiniALBERT (arXiv 2210.06425): a student whose one layer is called many times, and its task models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from .alignment_adapter import AdapterLinear
from .configuration_minialbert import MiniAlbertConfig
from .minialbert_layers import BottleneckAdapter, MiniAlbertEmbeddings, MiniAlbertLayer, build_adapters
from .shard_names import check_shard_names
from .task_losses import span_loss, text_loss, token_loss


class MiniAlbertPreTrainedModel(PreTrainedModel):
    """What all MiniALBERT models share: initialisation, loading, and what is done with adapters."""

    config_class = MiniAlbertConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # Every recursion calls the same layer, so there is nothing to put on another device.
    _no_split_modules = ["MiniAlbertModel"]
    # accelerate would move these modules as it moves tensors; they load their own weights.
    _skip_keys_device_placement = ["attention_adapter", "feed_forward_adapter"]

    task_head: str | None = None
    """Name of the head that is new to a task, and trained along with adapters."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AdapterLinear):
            module.init_weights()

    @classmethod
    def from_pretrained(
        cls, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> MiniAlbertPreTrainedModel:
        """`PreTrainedModel.from_pretrained`, which must find every weight of the encoder.

        Weights are read as safetensors only, unless the caller says otherwise.

        Raises:
            ValueError: The checkpoint lacks weights of the encoder, which transformers would fill with random ones.
        """
        from_files = kwargs.get("state_dict") is None
        if from_files:
            kwargs.setdefault("use_safetensors", True)
            name_or_path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            check_shard_names(name_or_path, kwargs.get("subfolder", ""))
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        encoder = {name for name, _ in model.base_model.named_parameters()}
        lost = sorted(name for name in info["missing_keys"] if name.removeprefix("model.") in encoder)
        if lost and from_files:
            raise ValueError(_explain_lost(model, lost))
        return (model, info) if output_loading_info else model

    def add_adapters(
        self, *, form: Literal["identity_start", "published"] = "identity_start", reduction: int = 16
    ) -> None:
        """Give every recursion two new adapters, recorded in the configuration.

        Args:
            form: "identity_start" leaves the model's function as it is until the adapters are trained. "published"
                does not: its layer norm rescales the states, most of all the embeddings, which have none.
            reduction: How many times narrower than the hidden states an adapter is inside.

        Raises:
            ValueError: There are adapters already, or an argument is out of its bounds.
        """
        base = self.base_model
        if base.config.use_adapter:
            raise ValueError(
                f"This {type(self).__name__} has {base.config.adapter_form!r} adapters already; train_adapters_only() "
                "trains them."
            )
        fields = {"use_adapter": True, "adapter_form": form, "adapter_reduction": reduction}
        MiniAlbertConfig.from_dict({**base.config.to_dict(), **fields})  # checks them
        for name, value in fields.items():
            setattr(base.config, name, value)
        weight = base.layer.output.weight
        for name in ("attention_adapters", "feed_forward_adapters"):
            adapters = build_adapters(base.config).apply(base._init_weights)
            setattr(base, name, adapters.to(device=weight.device, dtype=weight.dtype).train(self.training))

    def train_adapters_only(self) -> None:
        """Freeze everything but the adapters, their norms, and the head of a task (arXiv 2210.06425, adapter tuning).

        A masked-LM head is pretrained and no task's: it stays frozen as a whole, with its vocabulary matrix, which is
        twice as large as all the rest. Call it after loading; a checkpoint does not remember what was frozen.

        Raises:
            ValueError: There are no adapters.
        """
        if not self.base_model.config.use_adapter:
            raise ValueError(f"This {type(self).__name__} has no adapters to train; call add_adapters() first.")
        self.requires_grad_(False)
        self.base_model.attention_adapters.requires_grad_(True)
        self.base_model.feed_forward_adapters.requires_grad_(True)
        if self.task_head is not None:
            self.get_submodule(self.task_head).requires_grad_(True)


def _explain_lost(model: PreTrainedModel, lost: list[str]) -> str:
    message = f"{model.name_or_path!r} lacks {len(lost)} tensors of a {type(model).__name__}, such as {lost[:3]}. "
    if all("adapters." in name for name in lost):
        return message + "Load it with use_adapter=False and call add_adapters()."
    return message + (
        "It is damaged or of another shape; a checkpoint of the authors loads with "
        "alad_hf.compression.published_minialbert.load_published_minialbert(...)."
    )


class MiniAlbertModel(MiniAlbertPreTrainedModel):
    """The MiniALBERT encoder, without pooler.

    The layer is stored once, whatever the number of recursions; adapters are stored for each.

    Args:
        config: The configuration.

    Example:
        >>> from alad_hf import MiniAlbertConfig, MiniAlbertModel
        >>> model = MiniAlbertModel(MiniAlbertConfig())
        >>> model.num_parameters()
        12072768
    """

    # The heads of this family: a bare encoder loads from any of their checkpoints without a word.
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^qa_outputs\.", r"^vocab_"]

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__(config)
        self.embeddings = MiniAlbertEmbeddings(config)
        self.layer = MiniAlbertLayer(config)
        self.attention_adapters = build_adapters(config) if config.use_adapter else None
        self.feed_forward_adapters = build_adapters(config) if config.use_adapter else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, `embedding_size` wide."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings."""
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Encode tokens.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); all 0 if omitted.
            position_ids: (batch, tokens); 0, 1, 2 and so on if omitted.
            inputs_embeds: (batch, tokens, embedding size) in place of `input_ids`.
            output_attentions: Also return the attention probabilities of every recursion, taken before dropout. Only
                the "eager" attention implementation has them.
            output_hidden_states: Also return the projected embeddings and the states behind every recursion.
            **kwargs: For the attention implementation.

        Returns:
            `last_hidden_state` (batch, tokens, hidden size); on request `hidden_states`, one more than recursions, and
            `attentions`, one (batch, heads, tokens, tokens) for each recursion.

        Raises:
            ValueError: Not exactly one of `input_ids` and `inputs_embeds` is given, the input is too long, or
                attentions are wanted of an implementation that has none.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass either input_ids or inputs_embeds, and not both.")
        wants_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        wants_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if wants_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"attn_implementation={self.config._attn_implementation!r} gives no attention probabilities. Load the "
                "model with attn_implementation='eager', or call set_attn_implementation('eager')."
            )
        states = self.embeddings(input_ids, token_type_ids, position_ids, inputs_embeds)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        every_state, attentions = [states], []
        for attention_adapter, feed_forward_adapter in self._adapters_by_recursion():
            adapters = {"attention_adapter": attention_adapter, "feed_forward_adapter": feed_forward_adapter}
            states, probabilities = self.layer(states, attention_mask=mask, **adapters, **kwargs)
            every_state.append(states)
            attentions.append(probabilities)
        return BaseModelOutput(
            last_hidden_state=states,
            hidden_states=tuple(every_state) if wants_states else None,
            attentions=tuple(attentions) if wants_attentions else None,
        )

    def _adapters_by_recursion(self) -> Iterator[tuple[BottleneckAdapter | None, BottleneckAdapter | None]]:
        if self.attention_adapters is None:
            yield from [(None, None)] * self.config.num_hidden_layers
        else:
            yield from zip(self.attention_adapters, self.feed_forward_adapters, strict=True)


class MiniAlbertForMaskedLM(MiniAlbertPreTrainedModel):
    """MiniALBERT that predicts masked tokens: linear map, GELU, layer norm, and a vocabulary matrix of its own.

    Args:
        config: The configuration.
    """

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__(config)
        self.model = MiniAlbertModel(config)
        self.vocab_transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.vocab_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.vocab_projector = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The vocabulary matrix."""
        return self.vocab_projector

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the vocabulary matrix."""
        self.vocab_projector = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Score the vocabulary for every token.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); all 0 if omitted.
            position_ids: (batch, tokens); 0, 1, 2 and so on if omitted.
            inputs_embeds: (batch, tokens, embedding size) in place of `input_ids`.
            labels: (batch, tokens) ids to predict, -100 where no loss is wanted.
            num_items_in_batch: Divisor of the loss, as the Trainer gives it; by default the labels that count.
            **kwargs: For `MiniAlbertModel.forward`, such as `output_attentions`.

        Returns:
            Logits of shape (batch, tokens, vocabulary), and the loss where labels are given.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
            return_dict=True,
        )
        states = self.vocab_layer_norm(functional.gelu(self.vocab_transform(outputs.last_hidden_state)))
        logits = self.vocab_projector(states)
        return MaskedLMOutput(
            loss=None if labels is None else token_loss(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MiniAlbertForTokenClassification(MiniAlbertPreTrainedModel):
    """MiniALBERT that tags tokens: dropout and one linear layer.

    Args:
        config: The configuration, with `id2label` for the tags.
    """

    task_head = "classifier"

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MiniAlbertModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
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
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Score the tags of every token.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); all 0 if omitted.
            position_ids: (batch, tokens); 0, 1, 2 and so on if omitted.
            inputs_embeds: (batch, tokens, embedding size) in place of `input_ids`.
            labels: (batch, tokens) tag ids, -100 where no loss is wanted.
            num_items_in_batch: Divisor of the loss, as the Trainer gives it; by default the labels that count.
            **kwargs: For `MiniAlbertModel.forward`, such as `output_attentions`.

        Returns:
            Logits of shape (batch, tokens, tags), and the loss where labels are given.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        return TokenClassifierOutput(
            loss=None if labels is None else token_loss(logits, labels, num_items_in_batch),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MiniAlbertForSequenceClassification(MiniAlbertPreTrainedModel):
    """MiniALBERT that classifies or scores texts: dropout and one linear layer on the first token, no pooler.

    Args:
        config: The configuration, with `id2label` or `num_labels`, and perhaps `problem_type`.
    """

    task_head = "classifier"

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = MiniAlbertModel(config)
        self.dropout = nn.Dropout(_classifier_dropout(config))
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
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Score the classes of every text.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); all 0 if omitted.
            position_ids: (batch, tokens); 0, 1, 2 and so on if omitted.
            inputs_embeds: (batch, tokens, embedding size) in place of `input_ids`.
            labels: (batch,) or (batch, 1) class ids; (batch, classes) of zeros and ones, as floats, where several
                classes can hold; or floats to come close to. `config.problem_type` says which, or else the labels'
                type. -100 is ignored.
            num_items_in_batch: Divisor of the loss, as the Trainer gives it; by default the labels that count.
            **kwargs: For `MiniAlbertModel.forward`, such as `output_attentions`.

        Returns:
            Logits of shape (batch, classes), and the loss where labels are given.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(outputs.last_hidden_state[:, 0]))
        loss = None
        if labels is not None:
            loss = text_loss(logits, labels, self.config.problem_type, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MiniAlbertForQuestionAnswering(MiniAlbertPreTrainedModel):
    """MiniALBERT that finds answers: one linear layer that scores every token as an answer's start and end.

    Args:
        config: The configuration.
    """

    task_head = "qa_outputs"
    # The Trainer counts token labels, and the items of this loss are examples: a mean over the batch, which it divides
    # by the number of accumulated batches itself.
    accepts_loss_kwargs = False

    def __init__(self, config: MiniAlbertConfig) -> None:
        super().__init__(config)
        self.model = MiniAlbertModel(config)
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
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Score every token as the start and the end of the answer.

        The loss is a mean over the examples. Padding is no candidate for an answer, so an example's loss does not
        depend on the others in its batch.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); all 0 if omitted.
            position_ids: (batch, tokens); 0, 1, 2 and so on if omitted.
            inputs_embeds: (batch, tokens, embedding size) in place of `input_ids`.
            start_positions: (batch,) index of the answer's first token; one that is no real token is ignored.
            end_positions: (batch,) index of its last token.
            **kwargs: For `MiniAlbertModel.forward`, such as `output_attentions`.

        Returns:
            `start_logits` and `end_logits` of shape (batch, tokens), and the loss where positions are given.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,
            return_dict=True,
        )
        logits = self.qa_outputs(outputs.last_hidden_state)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(logits, start_positions, end_positions, attention_mask)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=logits[..., 0].contiguous(),
            end_logits=logits[..., 1].contiguous(),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _classifier_dropout(config: MiniAlbertConfig) -> float | int:
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout


__all__ = [
    "MiniAlbertForMaskedLM",
    "MiniAlbertForQuestionAnswering",
    "MiniAlbertForSequenceClassification",
    "MiniAlbertForTokenClassification",
    "MiniAlbertModel",
    "MiniAlbertPreTrainedModel",
]
