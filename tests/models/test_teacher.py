"""Any teacher: how it is loaded, which states it gives, and how its signal moves to a student's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import STUDENT_CONFIGS, TAGS, VOCABULARY, random_batch, tiny_config, tiny_teacher, tiny_tokenizer
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    T5Config,
)

from alad_hf.data import DataCollatorForAlignment
from alad_hf.models.teacher import (
    TeacherSignal,
    linear_head,
    load_teacher,
    state_width,
    teacher_signal,
    tokenizes_alike,
)

_DECODER = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
DECODER_CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=len(VOCABULARY), n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=3
    ),
    "llama": LlamaConfig(**_DECODER),
    "qwen2": Qwen2Config(**_DECODER),
    "gemma2": Gemma2Config(**_DECODER, head_dim=8),
    # Its states leave the model narrower than config.hidden_size says.
    "opt": OPTConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=24,
        max_position_embeddings=64,
        word_embed_proj_dim=8,
        do_layer_norm_before=False,
        **_SPECIAL,
    ),
}
ENCODER_DECODER_CONFIGS: dict[str, PreTrainedConfig] = {
    "t5": T5Config(vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
    "bart": BartConfig(
        vocab_size=len(VOCABULARY),
        d_model=16,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
        forced_eos_token_id=3,
        decoder_start_token_id=2,
        **_SPECIAL,
    ),
}
CONFIGS = {**STUDENT_CONFIGS, **DECODER_CONFIGS}


def tokens() -> dict[str, torch.Tensor]:
    """Two rows of a teacher's tokens, the second one with padding."""
    ids = torch.randint(5, len(VOCABULARY), (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """Every parameter random, so that a norm that is left out changes the states."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def build(auto_class: type, family: str) -> PreTrainedModel:
    config = CONFIGS[family]
    return randomized(auto_class.from_config(type(config).from_dict(config.to_dict())))


class TestEveryFamily:
    @pytest.mark.parametrize("family", CONFIGS)
    def test_states_are_the_last_ones(self, family: str, tmp_path: Path) -> None:
        model = build(AutoModel, family)
        model.save_pretrained(tmp_path)
        teacher = load_teacher(str(tmp_path))
        with torch.no_grad():
            expected = model(**tokens()).last_hidden_state
        signal = teacher_signal(teacher, **tokens())
        assert torch.equal(signal.states, expected)
        assert signal.logits is None and signal.mask is None
        assert state_width(teacher) == expected.shape[-1]
        assert linear_head(teacher) is None

    @pytest.mark.parametrize("family", [family for family in CONFIGS if family != "opt"])
    def test_a_tagger_keeps_its_head(self, family: str, tmp_path: Path) -> None:
        model = build(AutoModelForTokenClassification, family)
        model.save_pretrained(tmp_path)
        teacher = load_teacher(str(tmp_path))
        with torch.no_grad():
            assert torch.equal(teacher_signal(teacher, **tokens()).logits, model(**tokens()).logits)
        head = linear_head(teacher)
        if family == "modernbert":
            assert head is None, "its head has a hidden layer"
        else:
            assert head.weight.shape == (2, 16)
            torch.testing.assert_close(head(teacher_signal(teacher, **tokens()).states), model(**tokens()).logits)
        assert linear_head(teacher, layers=[0]) is None

    @pytest.mark.parametrize("family", ["bert", "roberta", "electra", "gpt2", "llama"])
    def test_a_reader_keeps_its_head(self, family: str, tmp_path: Path) -> None:
        model = build(AutoModelForQuestionAnswering, family)
        model.save_pretrained(tmp_path)
        teacher = load_teacher(str(tmp_path))
        with torch.no_grad():
            outputs = model(**tokens())
        signal = teacher_signal(teacher, **tokens())
        assert torch.equal(signal.logits[..., 0], outputs.start_logits)
        assert torch.equal(signal.logits[..., 1], outputs.end_logits)
        assert linear_head(teacher) is teacher.qa_outputs

    @pytest.mark.parametrize(
        ("auto_class", "family"),
        [(AutoModelForMaskedLM, "bert"), (AutoModelForMaskedLM, "roberta")]
        + [(AutoModelForCausalLM, family) for family in DECODER_CONFIGS],
    )
    def test_a_language_model_has_no_task_head(self, auto_class: type, family: str, tmp_path: Path) -> None:
        model = build(auto_class, family)
        with torch.no_grad():
            expected = model(**tokens(), output_hidden_states=True).hidden_states[-1]
        model.get_output_embeddings().register_forward_hook(lambda *_: pytest.fail("the vocabulary head ran"))
        model.save_pretrained(tmp_path)
        for teacher in (model, load_teacher(str(tmp_path))):
            signal = teacher_signal(teacher, **tokens())
            assert signal.logits is None
            torch.testing.assert_close(signal.states, expected, atol=1e-6, rtol=1e-5)
        assert load_teacher(str(tmp_path)).get_output_embeddings() is None

    @pytest.mark.parametrize("family", ["gpt2", "llama"])
    def test_decoders_keep_no_cache(self, family: str) -> None:
        teacher = build(AutoModel, family)
        outputs = []
        teacher.register_forward_hook(lambda module, given, output: outputs.append(output))
        teacher_signal(teacher, **tokens())
        assert outputs[0].get("past_key_values") is None
        assert teacher(**tokens()).past_key_values is not None

    @pytest.mark.parametrize("family", ENCODER_DECODER_CONFIGS)
    def test_of_an_encoder_decoder_the_encoder(self, family: str, tmp_path: Path) -> None:
        model = randomized(AutoModel.from_config(ENCODER_DECODER_CONFIGS[family]))
        model.save_pretrained(tmp_path)
        teacher = load_teacher(str(tmp_path))
        with torch.no_grad():
            expected = model(**tokens(), decoder_input_ids=tokens()["input_ids"]).encoder_last_hidden_state
        assert torch.equal(teacher_signal(teacher, **tokens()).states, expected)
        assert state_width(teacher) == 16
        assert teacher.name_or_path == str(tmp_path)
        with pytest.raises(ValueError, match=r"encoder-decoder, whose last states.*get_encoder\(\)"):
            teacher_signal(model, **tokens())

    def test_one_verdict_on_a_text_is_no_task_head(self) -> None:
        assert teacher_signal(build(AutoModelForSequenceClassification, "bert"), **tokens()).logits is None


class TestLayers:
    def test_are_averaged(self) -> None:
        teacher = tiny_teacher()
        with torch.no_grad():
            hidden = teacher(**tokens(), output_hidden_states=True).hidden_states
        assert len(hidden) == 4
        for layers, expected in (
            (None, hidden[3]),
            ([-1], hidden[3]),
            ([0], hidden[0]),
            ([1, -2, 3], (hidden[1] + hidden[2] + hidden[3]) / 3),
            ([-4], hidden[0]),
        ):
            torch.testing.assert_close(teacher_signal(teacher, layers=layers, **tokens()).states, expected)

    @pytest.mark.parametrize("layers", [[4], [0, -5], []])
    def test_out_of_range_are_refused(self, layers: list[int]) -> None:
        with pytest.raises(ValueError, match=r"has 4 hidden states.*from -4 to 3, got \["):
            teacher_signal(tiny_teacher(), layers=layers, **tokens())

    def test_the_head_goes_with_its_layer(self) -> None:
        teacher = tiny_teacher()
        assert linear_head(teacher, [-1]) is linear_head(teacher, [3]) is teacher.classifier
        assert linear_head(teacher, [2]) is None
        assert linear_head(teacher, [2, 3]) is None


def many_to_many() -> torch.Tensor:
    """Five tokens of a student: one to one, two for one, one for two, none, and the second half of a shared one."""
    alignment = torch.zeros(2, 5, 7)
    alignment[0] = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0, 0],
            [0, 0.25, 0.75, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0.5, 0.2, 0.3, 0],
        ]
    )
    alignment[1, :3, :3] = torch.eye(3)
    return alignment


class TestAlignment:
    def test_identity_changes_nothing(self) -> None:
        identity = torch.eye(7).expand(2, 7, 7)
        plain, aligned = (
            teacher_signal(tiny_teacher(), alignment=alignment, **tokens()) for alignment in (None, identity)
        )
        assert torch.equal(aligned.states, plain.states)
        assert torch.equal(aligned.logits, plain.logits)
        assert aligned.mask.all()

    def test_states_and_tag_logits_are_weighted_means(self) -> None:
        alignment = many_to_many()
        plain = teacher_signal(tiny_teacher(), **tokens())
        aligned = teacher_signal(tiny_teacher(), alignment=alignment, **tokens())
        assert aligned.states.shape == (2, 5, 32) and aligned.logits.shape == (2, 5, len(TAGS))
        for row in range(2):
            for own in range(5):
                weights = alignment[row, own]
                assert aligned.mask[row, own] == bool(weights.any())
                for moved, given in ((aligned.states, plain.states), (aligned.logits, plain.logits)):
                    expected = sum(weights[teacher] * given[row, teacher] for teacher in range(7))
                    torch.testing.assert_close(moved[row, own], expected, atol=1e-6, rtol=1e-5)
        assert aligned.mask.tolist() == [[True, True, True, False, True], [True, True, True, False, False]]

    def test_a_row_without_a_token_is_no_nan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Some attention kernels answer a fully masked row with NaN, and 0 times NaN is NaN."""
        teacher = tiny_teacher()
        forward = type(teacher).forward

        def forward_with_nan(self, *args, **kwargs):
            outputs = forward(self, *args, **kwargs)
            unread = kwargs["attention_mask"].sum(1) == 0
            outputs.hidden_states[-1][unread], outputs.logits[unread] = float("nan"), float("nan")
            return outputs

        inputs, alignment = tokens(), many_to_many()
        expected = teacher_signal(teacher, alignment=alignment, **inputs)
        inputs["attention_mask"][1], alignment[1] = 0, 0
        monkeypatch.setattr(type(teacher), "forward", forward_with_nan)
        monkeypatch.setattr("alad_hf.models.teacher.accepted_arguments", lambda _: {"input_ids", "attention_mask"})
        signal = teacher_signal(teacher, alignment=alignment, **inputs)
        assert not signal.states[1].any() and not signal.logits[1].any() and not signal.mask[1].any()
        torch.testing.assert_close(signal.states[0], expected.states[0])

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    @pytest.mark.parametrize("others", [[], [[5, 6, 7]]], ids=["all empty", "one with tokens"])
    def test_rows_of_a_tokenizer_without_special_tokens(self, implementation: str, others: list[list[int]]) -> None:
        """Such a tokenizer makes no token of an empty text."""
        rows = [
            {"input_ids": [2, 3], "teacher_input_ids": ids, "teacher_alignment": [[0, 0, 1.0]] if ids else []}
            for ids in [[], *others]
        ]
        batch = DataCollatorForAlignment(tiny_tokenizer())(rows)
        teacher = AutoModelForTokenClassification.from_config(tiny_config(), attn_implementation=implementation)
        signal = teacher_signal(
            teacher,
            alignment=batch["teacher_alignment"],
            input_ids=batch["teacher_input_ids"],
            attention_mask=batch["teacher_attention_mask"],
        )
        assert signal.states.shape == (len(rows), 2, 16)
        assert not signal.states[0].any() and not signal.logits[0].any() and not signal.mask[0].any()
        assert all(row.isfinite().all() and row[0].any() for row in signal.states[1:])

    def test_autocast_does_not_round_it(self) -> None:
        teacher, batch = tiny_teacher(), random_batch()
        alignment = torch.rand(3, 4, 9).softmax(dim=-1)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.autocast("cpu", torch.bfloat16):
            signal = teacher_signal(teacher, alignment=alignment, **inputs)
        assert signal.states.dtype == signal.logits.dtype == torch.float32

    def test_layers_and_half_precision(self) -> None:
        teacher = tiny_teacher().to(torch.bfloat16)
        signal = teacher_signal(teacher, layers=[1], alignment=many_to_many(), **tokens())
        plain = teacher_signal(teacher, layers=[1], **tokens())
        assert signal.states.dtype == torch.float32 and plain.states.dtype == torch.bfloat16
        assert torch.equal(signal.states[0, 0], plain.states[0, 0].float())

    def read(self, alignment: torch.Tensor | None) -> TeacherSignal:
        return teacher_signal(build(AutoModelForQuestionAnswering, "bert"), alignment=alignment, **tokens())

    def test_answers_move_as_probability(self) -> None:
        alignment = many_to_many()
        torch.manual_seed(0)
        plain = self.read(None).logits
        torch.manual_seed(0)
        moved = self.read(alignment).logits
        for row, length in ((0, 7), (1, 5)):
            for side in range(2):
                p = plain[row, :length, side].double().softmax(-1)
                for own in range(5):
                    q = sum(
                        p[teacher] * alignment[row, own, teacher] / alignment[row, :, teacher].sum()
                        for teacher in range(length)
                        if alignment[row, own, teacher]
                    )
                    assert moved[row, own, side].exp().item() == pytest.approx(float(q), rel=1e-5)
        assert moved[0, 3].tolist() == [-torch.inf] * 2
        # In row 0 only the teacher's last token has no counterpart.
        lost = plain[0].softmax(0)[6]
        torch.testing.assert_close(moved[0].exp().sum(0), 1 - lost)

    def test_padding_of_the_teacher_gets_no_probability(self) -> None:
        teacher = build(AutoModelForQuestionAnswering, "bert")
        with torch.no_grad():
            teacher.qa_outputs.weight.zero_()
        alignment = torch.eye(7).repeat(2, 1, 1)
        alignment[1, 5:] = 0
        moved = teacher_signal(teacher, alignment=alignment, **tokens()).logits.exp()
        torch.testing.assert_close(moved[0], torch.full((7, 2), 1 / 7))
        torch.testing.assert_close(moved[1, :5], torch.full((5, 2), 1 / 5))

    def test_a_sure_teacher_leaves_finite_logits(self) -> None:
        """All of its probability is on a token without a counterpart; the rest still compare."""
        teacher = build(AutoModelForQuestionAnswering, "bert")
        with torch.no_grad():
            teacher.qa_outputs.weight.mul_(1e4)
        moved = teacher_signal(teacher, alignment=many_to_many(), **tokens()).logits
        covered = many_to_many().any(-1)
        assert moved[covered].isfinite().all()
        assert moved[~covered].isneginf().all()

    @pytest.mark.parametrize("shape", [(2, 5, 6), (1, 5, 7), (5, 7)])
    def test_of_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"\(batch, teacher tokens\) = \(2, 7\), got shape"):
            teacher_signal(tiny_teacher(), alignment=torch.zeros(shape), **tokens())


class TestTokenizersAlike:
    def test_another_vocabulary(self) -> None:
        vocabulary = dict(tiny_tokenizer().get_vocab())
        vocabulary["york"], vocabulary["new"] = vocabulary["new"], vocabulary["york"]
        other = tiny_tokenizer(vocabulary=vocabulary)
        assert not tokenizes_alike(tiny_tokenizer(), other)

    def test_another_behaviour(self) -> None:
        other = tiny_tokenizer(lowercase=False)
        assert not tokenizes_alike(tiny_tokenizer(), other)

    def test_the_same(self) -> None:
        assert tokenizes_alike(tiny_tokenizer(), tiny_tokenizer())


def test_arguments_that_the_teacher_does_not_take_are_left_out() -> None:
    teacher = AutoModel.from_config(tiny_config("distilbert")).eval()
    types = torch.zeros_like(tokens()["input_ids"])
    signal = teacher_signal(teacher, **tokens(), token_type_ids=types, position_ids=None)
    assert torch.equal(signal.states, teacher_signal(teacher, **tokens()).states)


def test_a_teacher_runs_in_eval_mode_without_gradients() -> None:
    teacher = tiny_teacher().train()
    assert isinstance(teacher.dropout, nn.Dropout)
    first, second = (teacher_signal(teacher, **tokens()).states for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad and not teacher.training
