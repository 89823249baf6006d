"""Encoders of this package: found by model type also where only their files are, beside a checkpoint."""

from __future__ import annotations

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel


def own_configurations() -> dict[str, type[PreTrainedConfig]]:
    """Configuration classes by model type."""
    return {}


def own_encoders() -> dict[str, type[PreTrainedModel]]:
    """Bare model classes by model type; imported on call, since some of them hold other encoders themselves."""
    return {}


def build_configuration(model_type: str, **fields: object) -> PreTrainedConfig:
    """A configuration of one of this package's encoders, or of any that `AutoConfig` knows.

    Raises:
        ValueError: Nobody knows the model type.
    """
    if model_type in own_configurations():
        return own_configurations()[model_type](**fields)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except ValueError as error:
        raise ValueError(
            f"text_config has model_type={model_type!r}, which this version of transformers does not know. "
            "Import the package that registers it, or upgrade transformers."
        ) from error


__all__ = ["build_configuration", "own_configurations", "own_encoders"]
