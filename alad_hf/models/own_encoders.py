"""Encoders of this package: found by model type also where only their files are, beside a checkpoint."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel


def own_configurations() -> dict[str, type[PreTrainedConfig]]:
    """Configuration classes by model type."""
    from .configuration_compressed_encoder import CompressedEncoderConfig
    from .configuration_minialbert import MiniAlbertConfig

    return {"compressed_encoder": CompressedEncoderConfig, "minialbert": MiniAlbertConfig}


def own_encoders() -> dict[str, type[PreTrainedModel]]:
    """Bare model classes by model type; imported on call, since some of them hold other encoders themselves."""
    from .modeling_compressed_encoder import CompressedEncoderModel
    from .modeling_minialbert import MiniAlbertModel

    return {"compressed_encoder": CompressedEncoderModel, "minialbert": MiniAlbertModel}


def own_task_models(task: str) -> dict[str, type[PreTrainedModel]]:
    """Classes of this package with a head for "token-classification" or "question-answering", by model type.

    Those of compressed encoders are not among them: one wraps a stock model or any that is here, never another one.
    """
    from .modeling_minialbert import MiniAlbertForQuestionAnswering, MiniAlbertForTokenClassification

    if task == "token-classification":
        return {"minialbert": MiniAlbertForTokenClassification}
    return {"minialbert": MiniAlbertForQuestionAnswering}


def build_configuration(model_type: str, **fields: object) -> PreTrainedConfig:
    """A configuration of one of this package's encoders, or of any that `AutoConfig` knows.

    Raises:
        ValueError: Nobody knows the model type.
    """
    if not isinstance(model_type, str):
        raise ValueError(f"text_config has model_type={model_type!r}, expected a name such as 'bert'.")
    if model_type in own_configurations():
        return own_configurations()[model_type](**fields)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except ValueError as error:
        raise ValueError(
            f"text_config has model_type={model_type!r}, which this version of transformers does not know. "
            "Import the package that registers it, or upgrade transformers."
        ) from error


__all__ = ["build_configuration", "own_configurations", "own_encoders", "own_task_models"]
