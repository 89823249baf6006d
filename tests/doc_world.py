"""The folders that README and docs/ speak of: tiny models with random weights, the built-in corpus cut small."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny import VOCABULARY, tiny_config, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from alad_hf import AlAdForTokenClassification
from alad_hf.data.builtin import BUILTIN_TAGS, load_builtin_corpus
from alad_hf.hub import write_model_card

SENTENCES = {"train": 16, "validation": 4, "test": 4}


def make_world(folder: Path) -> None:
    """Write models, tokenizers, corpora and text.

    `student` is an encoder, `encoder` one with its head for masked words, `teacher` a tagger and `answerer` a question
    answerer of twice the student's width; `other-teacher` is a tagger that splits words into letters, and `tagger` a
    finished AlAd model.
    """
    corpus = load_builtin_corpus()
    rows = {split: corpus[split].select(range(count)) for split, count in SENTENCES.items()}
    words = sorted({word.lower() for part in rows.values() for words in part["tokens"] for word in words})
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*VOCABULARY, *words]))}
    tokenizer = tiny_tokenizer(vocabulary=vocabulary)
    letters = [token for token in VOCABULARY if token.startswith("[") or len(token.removeprefix("##")) == 1]
    other_tokenizer = tiny_tokenizer(vocabulary={token: index for index, token in enumerate(letters)})
    tokenizer.model_max_length = other_tokenizer.model_max_length = 512
    tags = dict(enumerate(BUILTIN_TAGS))

    def save(name: str, auto_class: type, tokenizer: PreTrainedTokenizerBase, width: int, **changes: object) -> None:
        torch.manual_seed(len(name))
        config = tiny_config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=96,
            max_position_embeddings=512,
            **changes,
        )
        model: PreTrainedModel = auto_class.from_config(config)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

    labels = {"id2label": tags, "label2id": {tag: index for index, tag in tags.items()}}
    save("student", AutoModel, tokenizer, 24)
    save("encoder", AutoModelForMaskedLM, tokenizer, 48)
    save("teacher", AutoModelForTokenClassification, tokenizer, 48, **labels)
    save("other-teacher", AutoModelForTokenClassification, other_tokenizer, 48, **labels)
    save("answerer", AutoModelForQuestionAnswering, tokenizer, 48)
    tagger = AlAdForTokenClassification.from_student_pretrained(
        str(folder / "student"), teacher=str(folder / "teacher"), freeze_student=True
    )
    tagger.save_pretrained(folder / "tagger")
    tokenizer.save_pretrained(folder / "tagger")
    write_model_card(tagger, folder / "tagger", task="ner", dataset_name="builtin", metrics={"f1": 0.5})

    (folder / "corpus").mkdir()
    (folder / "questions").mkdir()
    texts = {split: [" ".join(words) for words in part["tokens"]] for split, part in rows.items()}
    for split, part in rows.items():
        name = {"validation": "dev"}.get(split, split)
        lines = [
            "".join(f"{word}\t{tags[tag]}\n" for word, tag in zip(words, ids, strict=True))
            for words, ids in zip(part["tokens"], part["tags"], strict=True)
        ]
        (folder / "corpus" / f"{name}.conll").write_text("\n".join(lines), encoding="utf-8")
        paragraphs = [
            {
                "context": text,
                "qas": [
                    {
                        "id": f"{split}-{number}",
                        "question": "Who?",
                        "answers": [{"text": text.split()[0], "answer_start": 0}],
                    }
                ],
            }
            for number, text in enumerate(texts[split])
        ]
        squad = {"version": "1.1", "data": [{"title": split, "paragraphs": paragraphs}]}
        (folder / "questions" / f"{name}.json").write_text(json.dumps(squad), encoding="utf-8")
    (folder / "text.txt").write_text("\n".join(texts["train"] + texts["validation"]) + "\n", encoding="utf-8")
