"""Sections of a model card that are read off the model and its training, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedConfig, TrainingArguments

from ..evaluation.efficiency import stored_bytes
from ..models.modeling_alad import AlAdPreTrainedModel
from .markdown_tables import MISSING, code, number, plain, table
from .public_names import hub_id, public_name, without_paths

_RECORDED_ARGUMENTS = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "seed",
)


def overview(config: PreTrainedConfig, task: str, labels: Sequence[str], language: str | list[str] | None) -> str:
    """What the model consists of, as a table."""
    rows = [["task", task]]
    if language:
        rows.append(["language", plain(language if isinstance(language, str) else ", ".join(language))])
    if labels:
        rows.append(["labels", ", ".join(map(code, labels))])
    rows += [
        ["student", _described(config.student_name_or_path, config.text_config)],
        *_compression(config.text_config),
        ["teacher", _described(config.teacher_name_or_path)],
        ["adapter", f"{config.adapter_type}, window size {config.window_size}, {_inner_width(config)}"],
        ["student's weights", _trained(config)],
    ]
    return table(["", ""], rows).replace("| --: |", "| :-- |")


def _trained(config: PreTrainedConfig) -> str:
    if config.freeze_student:
        return "frozen (plug-and-play)"
    kept = ", all but its token embeddings" if config.freeze_embeddings else ""
    return f"trained with the adapter (joint){kept}"


def _compression(config: PreTrainedConfig) -> list[list[str]]:
    """How the student was made smaller, where its configuration says so (`config.compression`)."""
    record = getattr(config, "compression", None) or {}
    rows = []
    if "layer_map" in record:
        groups = record.get("stands_for", record["layer_map"])
        layers = ", ".join(f"{group[0]} to {group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)
        rows.append(["student's layers", f"by {record['method']} of the original's layers {layers}; the first is 0"])
    if record.get("method") == "grafting":
        counts = [
            " + ".join(f"{sum(layer == one for layer, _ in heads)} of layer {one}" for one in group)
            for group, heads in zip(record["layer_map"], record["heads"], strict=True)
            if len(group) > 1
        ]
        rows.append(["heads of merged layers", "; ".join(counts)])
    if record.get("importance"):
        shares = enumerate(record["importance"]["heads"])
        listed = ", ".join(f"layer {layer}: {share:.2g}" for layer, share in shares)
        rows.append(["importance of the original's heads, added up", listed])
    if "embedding" in record:
        made = record["embedding"]
        size = f"{made['bytes'] / 1e6:.2f} MB, {made['ratio']:.1f} times smaller than in float32"
        rows.append(["student's token embeddings", f"by {made['method']}: {size}"])
    return rows


def _inner_width(config: PreTrainedConfig) -> str:
    if config.adapter_type == "linear":
        return "full rank" if config.adapter_size is None else f"rank {config.adapter_size}"
    return f"inner width {config.adapter_size}"


def _described(name: str | None, config: PreTrainedConfig | None = None) -> str:
    known = hub_id(name)
    if known:
        link = f"[{known}](https://huggingface.co/{known})"
    else:
        link = code(public_name(name)) if name else "not recorded"
    if config is None:
        return link
    layers = getattr(config, "num_hidden_layers", None)
    size = [f"{layers} layers"] if layers else []
    return f"{link} ({', '.join([config.model_type, *size, f'{config.hidden_size} wide'])})"


def method(config: PreTrainedConfig) -> dict[str, str]:
    """The adapter, the student's part in training and the loss, in words; variables of the template."""
    window = "each token alone" if config.window_size == 1 else f"a window of {config.window_size} tokens"
    if config.adapter_type == "mlp":
        adapter = (
            f"The adapter is the published one: a perceptron with one hidden layer ({config.adapter_size} wide, GELU) "
            f"over the student's states; it sees {window}."
        )
    elif config.adapter_type == "linear":
        rank = "" if config.adapter_size is None else f" of rank {config.adapter_size}"
        adapter = f"The adapter is one linear map{rank} of the student's states; it sees {window}."
    else:
        adapter = (
            "The adapter is a linear map of the student's state of each token plus a low-rank correction "
            f"({config.adapter_size} wide, GELU) that sees {window}."
        )
    if config.mix_student_layers:
        adapter += " It reads a learned mix of all the student's layers."
    terms = {
        "squared error between adapted and teacher states (a mean over the width)": config.alignment_mse_weight,
        "one minus the cosine of adapted and teacher states": config.alignment_cosine_weight,
        f"divergence of the logits from the teacher's (temperature {config.distillation_temperature:g})": (
            config.distillation_weight
        ),
    }
    weights = [[term, f"{weight:g}"] for term, weight in terms.items() if weight]
    loss = "No term of the loss came from the teacher."
    if weights:
        loss = (
            "Terms of the loss beside the task's own, where the teacher's signal was given, over real tokens:\n\n"
            + table(["term", "weight"], weights)
        )
    if config.freeze_student:
        student_training = "The student's own weights were kept as they were."
    else:
        kept = ", all but its token embeddings," if config.freeze_embeddings else ""
        student_training = f"The student's own weights{kept} were trained together with adapter and head."
    return {
        "adapter": adapter,
        "aligned_width": str(config.hidden_size),
        "student_training": student_training,
        "loss": loss,
    }


def hyper_parameters(training: Mapping[str, object]) -> str:
    """A table with a column a stage; "" if there are none.

    Args:
        training: Values by name, or by stage a mapping or `TrainingArguments`.
    """
    if not training:
        return ""
    stages = {
        stage: _recorded(value) if isinstance(value, TrainingArguments) else value for stage, value in training.items()
    }
    by_stage = {title.replace("_", " "): stage for title, stage in stages.items() if isinstance(stage, Mapping)}
    flat = {name: value for name, value in stages.items() if not isinstance(value, Mapping)}
    columns = {**({"all stages" if by_stage else "value": flat} if flat else {}), **by_stage}
    names = list(dict.fromkeys(name for stage in columns.values() for name in stage))
    rows = [
        [name.replace("_", " "), *(_setting(stage[name]) if name in stage else MISSING for stage in columns.values())]
        for name in names
    ]
    return table(["hyper-parameter", *map(plain, columns)], [[*map(plain, row)] for row in rows])


def _recorded(arguments: TrainingArguments) -> dict[str, object]:
    values = {name: getattr(arguments, name) for name in _RECORDED_ARGUMENTS}
    # A positive number of steps overrides the epochs; otherwise it means nothing.
    values.pop("num_train_epochs" if arguments.max_steps > 0 else "max_steps")
    return values


def _setting(value: object) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    # An enumeration of transformers writes itself as its class and name.
    return without_paths(str(getattr(value, "value", value)))


def sizes(model: AlAdPreTrainedModel) -> dict[str, str]:
    """Parameters by part, stored megabytes and the adapter's share; variables of the template."""
    parts = model.num_parameters_by_part()
    parts["all"] = sum(parts.values())
    return {
        "sizes": table(["part", "parameters"], [[part, f"{count:,}"] for part, count in parts.items()]),
        "stored_megabytes": number(stored_bytes(model) / 1e6),
        "overhead": f"{100 * parts['adapter'] / parts['student']:.1f}",
    }


__all__ = ["hyper_parameters", "method", "overview", "sizes"]
