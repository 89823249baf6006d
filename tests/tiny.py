"""Tiny models and tokenizers for the fast tests: random weights, no network."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModelForTokenClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from alad_hf import AlAdConfig

WORDS = (
    "the a in of and to new york london berlin smith jones acme works for visited played ##s ##ing ##ed un ##able . ,"
)
LETTERS = [letter for plain in "abcdefghijklmnopqrstuvwxyz0123456789" for letter in (plain, "##" + plain)]
VOCABULARY = {
    token: index
    for index, token in enumerate(
        dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split(), *LETTERS])
    )
}
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]

_SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}

STUDENT_CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**_SIZES),
    "distilbert": DistilBertConfig(
        vocab_size=len(VOCABULARY),
        dim=16,
        n_layers=2,
        n_heads=2,
        hidden_dim=24,
        max_position_embeddings=64,
        pad_token_id=0,
    ),
    "roberta": RobertaConfig(**{**_SIZES, "max_position_embeddings": 66, "type_vocab_size": 1}),
    "electra": ElectraConfig(**_SIZES, embedding_size=8),
    "mpnet": MPNetConfig(**{**_SIZES, "max_position_embeddings": 66}),
    "albert": AlbertConfig(**_SIZES, embedding_size=8),
    "deberta-v2": DebertaV2Config(
        **_SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, norm_rel_ebd="layer_norm"
    ),
    "modernbert": ModernBertConfig(
        **_SIZES, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, global_attn_every_n_layers=2
    ),
}


def tiny_config(model_type: str = "bert", **changes: object) -> PreTrainedConfig:
    """A fresh tiny configuration of an architecture."""
    config = STUDENT_CONFIGS[model_type]
    return type(config).from_dict({**config.to_dict(), **changes})


def tiny_alad_config(student: str = "bert", hidden_size: int = 32, **changes: object) -> AlAdConfig:
    """A tiny AlAd model over a student of some architecture, under a teacher of another width."""
    return AlAdConfig(
        text_config=tiny_config(student),
        hidden_size=hidden_size,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
        **{"adapter_size": 6, **changes},
    )


def tiny_tokenizer(lowercase: bool = True, vocabulary: dict[str, int] | None = None) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer over a few words and all letters."""
    vocabulary = vocabulary or VOCABULARY
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_teacher(hidden_size: int = 32, tags: list[str] = TAGS, seed: int = 1) -> PreTrainedModel:
    """A BERT tagger, wider than the students by default, without dropout surprises: it is in eval mode."""
    torch.manual_seed(seed)
    config = tiny_config("bert", hidden_size=hidden_size, num_hidden_layers=3)
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: index for index, tag in enumerate(tags)}
    return AutoModelForTokenClassification.from_config(config).eval()


def random_batch(batch: int = 3, tokens: int = 9, seed: int = 0, padded: bool = True) -> dict[str, torch.Tensor]:
    """Random ids of different lengths, right-padded, with labels for every second real token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(VOCABULARY), (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        for row in range(batch):
            mask[row, tokens - row :] = 0
    ids = ids * mask
    labels = torch.randint(0, len(TAGS), ids.shape, generator=generator)
    labels[:, ::2] = -100
    labels = labels.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
