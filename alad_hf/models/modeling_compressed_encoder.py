"""Compressed encoders: stock encoders with a smaller token embedding or layers of their own width, and their heads."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, QuestionAnsweringModelOutput, TokenClassifierOutput
from transformers.utils import can_return_tuple

from .compressed_embeddings import CompressedEmbedding, build_embedding, check_embeddings, freeze_codes
from .configuration_compressed_encoder import CompressedEncoderConfig
from .layer_widths import set_layer_widths
from .own_encoders import own_task_models
from .shard_names import check_shard_names
from .student import build_student
from .teacher import accepted_arguments, without_cache

STOCK_MODELS = {
    "token-classification": MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    "question-answering": MODEL_FOR_QUESTION_ANSWERING_MAPPING,
}

ANSWER_LABELS = {0: "start", 1: "end"}
"""What the outputs of a question answerer's head stand for; stock heads are as wide as their model has labels."""

OPTIONAL_INPUTS = ("token_type_ids", "position_ids")
"""What tokenizers and users give to every encoder, also to those that have no use for it."""


class CompressedEncoderPreTrainedModel(PreTrainedModel):
    """What the bare compressed encoder and its task models share: loading, resizing and the materialised table."""

    config_class = CompressedEncoderConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # The wrapper has no attention of its own: the stock encoder decides, and refuses what it cannot do.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(
        cls, *args: Any, materialize_embeddings: bool = False, output_loading_info: bool = False, **kwargs: Any
    ) -> CompressedEncoderPreTrainedModel:
        """`PreTrainedModel.from_pretrained`, and a check of the compressed embedding that was loaded.

        Embeddings with long binary codes come frozen, for which `freeze_codes` has the reason. Weights are read as
        safetensors only, unless the caller says otherwise.

        Args:
            *args: For `PreTrainedModel.from_pretrained`.
            materialize_embeddings: Keep the decoded table in memory; see `materialize_embeddings`.
            output_loading_info: Return the model and a dictionary of the keys that did not fit.
            **kwargs: For `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: Tensors of the embedding are damaged, the checkpoint lacks some of the encoder's, or its index
                names a file outside its folder.
        """
        from_files = kwargs.get("state_dict") is None
        if from_files:
            kwargs.setdefault("use_safetensors", True)
            name_or_path = args[0] if args else kwargs.get("pretrained_model_name_or_path")
            check_shard_names(name_or_path, kwargs.get("subfolder", ""))
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        check_embeddings(model, missing=info["missing_keys"])
        lost = sorted(name for name in info["missing_keys"] if name.removeprefix("model.").startswith("encoder."))
        if lost and from_files:
            raise ValueError(
                f"{model.name_or_path!r} lacks {len(lost)} tensors of the encoder, such as {lost[:3]}, which would be "
                "random ones: it is damaged or of another shape."
            )
        freeze_codes(model)  # loading replaces every parameter
        if materialize_embeddings:
            model.materialize_embeddings()
        return (model, info) if output_loading_info else model

    def materialize_embeddings(self, wanted: bool = True) -> None:
        """Keep the decoded token embeddings in memory, or drop them again with False.

        Lookup then costs what it costs in a stock encoder, and the memory is a stock encoder's too, and that of the
        compressed form besides; `save_pretrained` goes on to store the compressed form alone. See
        `CompressedEmbedding.materialize`. A stock embedding is left as it is.
        """
        embedding = self.get_input_embeddings()
        if isinstance(embedding, CompressedEmbedding):
            embedding.materialize(wanted)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """`PreTrainedModel.resize_token_embeddings` of a stock embedding; a compressed one cannot be resized.

        Raises:
            ValueError: The embedding is compressed and has another size.
        """
        embedding = self.get_input_embeddings()
        if isinstance(embedding, CompressedEmbedding):
            embedding.refuse_resizing(new_num_tokens)
            return embedding
        return super().resize_token_embeddings(new_num_tokens, *args, **kwargs)


class CompressedEncoderModel(CompressedEncoderPreTrainedModel):
    """A stock encoder, without pooler, whose token embedding is compressed or whose layers have their own widths.

    Args:
        config: The configuration; its `text_config` describes the stock encoder.
        encoder: The stock encoder where it is there already, of ordinary widths; it becomes part of this model.

    Raises:
        ValueError: The configuration's embedding or widths do not fit the encoder.

    Example:
        >>> from transformers import AutoModel
        >>> model = AutoModel.from_pretrained("path/to/compressed")
        >>> model(**inputs).last_hidden_state.shape  # (batch, tokens, hidden size)
    """

    # The heads of this family, whatever they are called, and a stock encoder's pooler.
    _keys_to_ignore_on_load_unexpected = [r"^(?!(model\.)?encoder\.)"]

    def __init__(self, config: CompressedEncoderConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = build_student(config.text_config) if encoder is None else encoder
        if config.embedding is not None:
            embedding = build_embedding(config.embedding)
            _check_same_shape(embedding, self.encoder.get_input_embeddings())
            embedding.init_weights()
            self.encoder.set_input_embeddings(embedding)
            freeze_codes(self)
        if config.layer_widths is not None:
            set_layer_widths(self.encoder, config.layer_widths)
        self._encoder_arguments = accepted_arguments(self.encoder)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, compressed or not."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings by compressed or stock ones; the configuration follows."""
        self.encoder.set_input_embeddings(value)
        self.config.embedding = value.specification() if isinstance(value, CompressedEmbedding) else None

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """The stock encoder's forward.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for encoders without token types.
            position_ids: (batch, tokens); left out for encoders that take none.
            inputs_embeds: (batch, tokens, width of the embedding) in place of `input_ids`.
            **kwargs: Passed on, such as `output_hidden_states`.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
        }
        known = {name: value for name, value in given.items() if value is not None and name in self._encoder_arguments}
        kwargs = {**without_cache(self._encoder_arguments), **with_defaults(self.config, kwargs)}
        return self.encoder(**known, **{**kwargs, "return_dict": True})


class CompressedEncoderTaskModel(CompressedEncoderPreTrainedModel):
    """A stock task model over a compressed encoder: the same head modules, run by the stock class's own forward.

    The head's tensors keep their stock names beside `model`, the bare compressed encoder.
    """

    task: str
    # Stock losses are means that ignore `num_items_in_batch`: the Trainer has to average over accumulated steps.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [r"(^|\.)pooler\."]

    def __init__(self, config: CompressedEncoderConfig) -> None:
        super().__init__(config)
        stock = build_stock_model(config, self.task)
        self.num_labels = len(ANSWER_LABELS) if self.task == "question-answering" else config.num_labels
        self.model = CompressedEncoderModel(config, encoder=stock.base_model)
        self._stock_class = type(stock)
        self._stock_arguments = accepted_arguments(stock)
        self._stock_encoder_name = stock.base_model_prefix
        # Some stock heads (BigBird's, Splinter's) also read numbers that their __init__ noted.
        for name, value in vars(stock).items():
            if isinstance(value, int | float | str) and name[0] != "_" and name not in self.__dict__:
                setattr(self, name, value)
        for name, head in stock.named_children():
            if head is not stock.base_model:
                setattr(self, name, head)
        self.post_init()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as in nn.Module
        """The encoder also under its stock name (`bert`, `mpnet`, ...), and methods that the stock forward calls."""
        if name != "model" and name == self.__dict__.get("_stock_encoder_name"):
            return self.model.encoder
        stock = self.__dict__.get("_stock_class")
        method = None if stock is None else inspect.getattr_static(stock, name, None)
        if isinstance(method, FunctionType | staticmethod):
            return method.__get__(self)
        return super().__getattr__(name)

    def _run_stock_head(self, **inputs: Any) -> Any:  # noqa: ANN401 - the stock class's output
        known = {
            name: value
            for name, value in inputs.items()
            if value is not None and (name in self._stock_arguments or name not in OPTIONAL_INPUTS)
        }
        return self._stock_class.forward(self, **with_defaults(self.config, known))

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings, compressed or not."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings by compressed or stock ones; the configuration follows."""
        self.model.set_input_embeddings(value)


class CompressedEncoderForTokenClassification(CompressedEncoderTaskModel):
    """A tagger: a compressed encoder and the head of the stock tagger.

    Args:
        config: The configuration; `id2label` is its own, `text_config` describes the stock encoder.
    """

    task = "token-classification"

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput | tuple:
        """Score every token; see the stock tagger.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for encoders without token types.
            position_ids: (batch, tokens); left out for encoders that take none.
            inputs_embeds: (batch, tokens, width of the embedding) in place of `input_ids`.
            labels: (batch, tokens), -100 where no loss is wanted.
            **kwargs: Passed on, such as `output_hidden_states`.
        """
        return self._run_stock_head(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            **kwargs,
        )


class CompressedEncoderForQuestionAnswering(CompressedEncoderTaskModel):
    """A reader: a compressed encoder and the head of the stock reader, which scores starts and ends of answers.

    Args:
        config: The configuration; its `text_config` describes the stock encoder.
    """

    task = "question-answering"

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
    ) -> QuestionAnsweringModelOutput | tuple:
        """Score every token as start and end of the answer; see the stock reader.

        Args:
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens), 1 for real tokens; all real if omitted.
            token_type_ids: (batch, tokens); left out for encoders without token types.
            position_ids: (batch, tokens); left out for encoders that take none.
            inputs_embeds: (batch, tokens, width of the embedding) in place of `input_ids`.
            start_positions: (batch,) index of the answer's first token.
            end_positions: (batch,) index of its last token.
            **kwargs: Passed on, such as `output_hidden_states`.
        """
        return self._run_stock_head(
            input_ids=input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            start_positions=start_positions,
            end_positions=end_positions,
            **kwargs,
        )


def build_stock_model(config: CompressedEncoderConfig, task: str) -> PreTrainedModel:
    """The stock task model of ordinary widths, with random weights and the labels of `config`.

    Raises:
        ValueError: transformers has no such model of this architecture.
    """
    inner: Any = config.text_config
    kind: Any = own_task_models(task).get(inner.model_type) or STOCK_MODELS[task].get(type(inner), None)
    if kind is None:
        raise ValueError(f"There is no stock model for {task} of model_type={inner.model_type!r}.")
    labels = inner.id2label, inner.label2id
    try:
        # The labels are the outer configuration's; the inner one lends itself, since its identity must stay.
        inner.id2label = dict(ANSWER_LABELS) if task == "question-answering" else dict(config.id2label or {})
        return kind(inner) if isinstance(kind, type) else kind[0](inner)
    finally:
        inner.id2label, inner.label2id = labels


def with_defaults(config: CompressedEncoderConfig, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs, and `output_hidden_states` and `output_attentions` where the outer configuration asks for them."""
    wanted = {name: True for name in ("output_hidden_states", "output_attentions") if getattr(config, name)}
    return {**wanted, **inputs}


def _check_same_shape(embedding: CompressedEmbedding, stock: nn.Embedding) -> None:
    shape = (embedding.num_embeddings, embedding.embedding_dim)
    if tuple(stock.weight.shape) != shape:
        raise ValueError(f"The embedding is {shape}, the encoder's own {tuple(stock.weight.shape)}: they must agree.")


__all__ = [
    "ANSWER_LABELS",
    "CompressedEncoderForQuestionAnswering",
    "CompressedEncoderForTokenClassification",
    "CompressedEncoderModel",
    "CompressedEncoderPreTrainedModel",
    "CompressedEncoderTaskModel",
]
