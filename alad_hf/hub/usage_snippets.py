"""The code in a model card that runs its model."""

from __future__ import annotations

import json
from collections.abc import Mapping

_EXAMPLES: dict[str, dict[str, str]] = {
    "ner": {"text": "Ingrid Solberg left Halden Robotics in Oslo."},
    "pos": {"text": "The small boat crossed the bay before sunset."},
    "question-answering": {
        "question": "Where does Ingrid live?",
        "context": "Ingrid Solberg lives in Oslo and builds boats.",
    },
}

_WITH_PACKAGE = {
    "ner": """\
import alad_hf
from transformers import pipeline

text = {text}
tagger = pipeline(
    "token-classification",
    model={name},
    aggregation_strategy="first",
    stride=32,
)
for entity in tagger(text):
    print(entity["entity_group"], round(float(entity["score"]), 2), text[entity["start"] : entity["end"]])""",
    "pos": """\
from alad_hf.tagging import tag_text
from transformers import AutoModelForTokenClassification, AutoTokenizer

model = AutoModelForTokenClassification.from_pretrained({name})
tokenizer = AutoTokenizer.from_pretrained({name})
for word in next(tag_text(model, tokenizer, [{text}])):
    print(word["text"], word["label"])""",
    "question-answering": """\
from alad_hf.question_answering import QuestionAnswerer

answerer = QuestionAnswerer.from_pretrained({name})
print(answerer(question={question}, context={context}))""",
}

_ALONE = {
    "ner": """\
from transformers import pipeline

tagger = pipeline(
    "token-classification",
    model={name},
    aggregation_strategy="first",
    stride=32,
    trust_remote_code=True,
)
print(tagger({text}))""",
    "pos": """\
from transformers import pipeline

# What does not fit one input is dropped.
tagger = pipeline("token-classification", model={name}, trust_remote_code=True)
print(tagger({text}))""",
    "question-answering": """\
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({name}, trust_remote_code=True)
model = AutoModelForQuestionAnswering.from_pretrained({name}, trust_remote_code=True)
inputs = tokenizer({question}, {context}, return_tensors="pt")
outputs = model(**inputs)
start = int(outputs.start_logits[0].argmax())
end = start + int(outputs.end_logits[0, start:].argmax())
print(tokenizer.decode(inputs["input_ids"][0, start : end + 1]))""",
}


def usage_snippets(task: str, name: str, example: Mapping[str, str] | None = None) -> tuple[str, str, dict[str, str]]:
    """Code that loads a model and prints its result.

    Args:
        task: "ner", "pos" or "question-answering".
        name: Hub id or folder of the model.
        example: The input, by the names that the task's own example has.

    Returns:
        The code with this package, the code without it, and the example used.

    Raises:
        ValueError: The example does not have what the task needs.
    """
    wanted = _EXAMPLES[task]
    example = dict(wanted if example is None else example)
    if set(example) != set(wanted) or not all(isinstance(text, str) and text.strip() for text in example.values()):
        raise ValueError(f"example must give {sorted(wanted)} as texts for task={task!r}, got {example!r}.")
    # A JSON string is a Python string as well, in double quotes.
    literals = {key: json.dumps(text, ensure_ascii=False) for key, text in {**example, "name": name}.items()}
    return _WITH_PACKAGE[task].format(**literals), _ALONE[task].format(**literals), example


__all__ = ["usage_snippets"]
