from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset

from alad_hf.evaluation import SquadScore, answer_candidates, best_answers

NO = (-1, -1)
# One context, "ab cd ef gh", in two windows that share "cd ef"; the second is shorter than the logits are wide.
CONTEXT = "ab cd ef gh"
OFFSETS = [[NO, NO, NO, (0, 2), (3, 5), (6, 8), NO], [NO, NO, NO, (3, 5), (6, 8), (9, 11)]]
FEATURES = [{"example_id": "q", "offset_mapping": window, "cls_index": 0} for window in OFFSETS]
EXAMPLES = [{"id": "q", "context": CONTEXT}]


def logits(seed):
    rng = np.random.default_rng(seed)
    start, end = 3 * rng.standard_normal((2, 2, 8))
    # The best of all, were they not outside of the context.
    start[:, [1, 6]], end[:, [2, 6, 7]] = 90.0, 90.0
    return start, end


def softmax_over_context(values, extra=()):
    chosen = [values[window][i] for window, spans in enumerate(OFFSETS) for i, span in enumerate(spans) if span != NO]
    return lambda value: np.exp(value) / np.exp([*chosen, *extra]).sum()


def brute_force(start, end, longest, null=None):
    """Every span of the context as (text, start, end) -> (logit, score), the best of its windows."""
    start_share = softmax_over_context(start, [] if null is None else [start[null, 0]])
    end_share = softmax_over_context(end, [] if null is None else [end[null, 0]])
    found = {}
    for window, spans in enumerate(OFFSETS):
        for first, (begin, _) in enumerate(spans):
            for last, (_, stop) in enumerate(spans):
                if begin >= 0 and stop >= 0 and first <= last < first + longest:
                    one, other = start[window, first], end[window, last]
                    value = (one + other, start_share(one) * end_share(other))
                    found[begin, stop] = max(found.get((begin, stop), value), value)
    return sorted(found.items(), key=lambda item: -item[1][0])


@pytest.mark.parametrize("longest", [1, 2, 3, 30])
@pytest.mark.parametrize("seed", range(6))
def test_candidates_equal_brute_force(seed, longest):
    start, end = logits(seed)
    expected = brute_force(start, end, longest)
    for count in (1, 3, 100):
        spans, no_answer = answer_candidates(start, end, OFFSETS, [0, 0], count=count, max_answer_length=longest)
        assert no_answer is None
        assert [(span.start, span.end) for span in spans] == [place for place, _ in expected[:count]]
        assert [span.logit for span in spans] == pytest.approx([value[0] for _, value in expected[:count]])
        assert [span.score for span in spans] == pytest.approx([value[1] for _, value in expected[:count]])


@pytest.mark.parametrize("seed", range(6))
def test_no_answer_takes_the_lowest_cls_score_and_joins_the_softmax(seed):
    start, end = logits(seed)
    null = int(np.argmin(start[:, 0] + end[:, 0]))
    spans, no_answer = answer_candidates(start, end, OFFSETS, [0, 0], allow_no_answer=True)
    (_, expected), *_ = brute_force(start, end, 30, null)
    assert (spans[0].logit, spans[0].score) == pytest.approx(expected)
    assert (no_answer.start, no_answer.end) == (0, 0)
    assert no_answer.logit == pytest.approx(start[null, 0] + end[null, 0])
    start_share = softmax_over_context(start, [start[null, 0]])(start[null, 0])
    assert no_answer.score == pytest.approx(start_share * softmax_over_context(end, [end[null, 0]])(end[null, 0]))


def test_the_cls_token_may_stand_anywhere():
    start, end = logits(0)
    start[:, 2] = end[:, 2] = [-4.0, 5.0]
    assert answer_candidates(start, end, OFFSETS, [2, 2], allow_no_answer=True)[1].logit == -8.0


def test_large_logits_do_not_overflow():
    start, end = logits(0)
    plain, _ = answer_candidates(start, end, OFFSETS, [0, 0])
    shifted, _ = answer_candidates(start + 1e4, end + 1e4, OFFSETS, [0, 0])
    assert shifted[0].score == pytest.approx(plain[0].score)


def test_best_answers_are_texts_of_the_context_in_the_order_of_the_examples():
    start, end = np.zeros((2, 3, 8))
    start[0, 4] = end[0, 5] = 4.0  # "cd ef" in the first window of q
    start[2, 3] = end[2, 3] = 4.0
    other = {"example_id": "p", "offset_mapping": [NO, NO, NO, (1, 3), NO], "cls_index": 0}
    examples = [{"id": "p", "context": " Xé"}, *EXAMPLES]
    answers = best_answers(start, end, [*FEATURES, other], examples)
    assert [(row["id"], row["prediction_text"]) for row in answers] == [("p", "Xé"), ("q", "cd ef")]
    assert answers[0]["score"] == pytest.approx(1.0)  # the only token of its context
    columns = Dataset.from_list([*FEATURES, other]), Dataset.from_list(examples)
    assert best_answers(start, end, *columns) == answers
    references = [
        {"id": "p", "answers": {"text": ["Xé"], "answer_start": [1]}},
        {"id": "q", "answers": {"text": ["cd ef"], "answer_start": [3]}},
    ]
    assert SquadScore().compute(predictions=answers, references=references)["exact_match"] == 100.0


def test_null_threshold_is_a_difference_of_logits():
    start, end = np.zeros((2, 2, 8))
    start[:, 0], start[0, 4], end[0, 4] = 5.0, 1.0, 1.0  # no answer 5, best span 2

    def text(**options):
        return best_answers(start, end, FEATURES, EXAMPLES, **options)[0]["prediction_text"]

    assert text() == "cd"
    assert text(version_2=True) == ""
    assert text(version_2=True, null_threshold=2.9) == ""
    assert text(version_2=True, null_threshold=3.1) == "cd"
    start[1, 0] = 0.0  # "no answer" must hold in every window
    assert text(version_2=True) == "cd"


def test_a_context_without_tokens_has_no_answer():
    features = [{"example_id": "q", "offset_mapping": [NO, NO], "cls_index": 0}]
    assert best_answers(np.zeros((1, 2)), np.zeros((1, 2)), features, [{"id": "q", "context": " "}]) == [
        {"id": "q", "prediction_text": "", "score": 0.0}
    ]


def test_inputs_that_do_not_belong_together_are_refused():
    start, end = logits(0)
    with pytest.raises(ValueError, match=r"start_logits \(1, 8\) .* do not belong to 2 features of up to 7 tokens"):
        best_answers(start[:1], end[:1], FEATURES, EXAMPLES)
    with pytest.raises(ValueError, match=r"\(2, 6\) and end_logits \(2, 6\) do not belong"):
        best_answers(start[:, :6], end[:, :6], FEATURES, EXAMPLES)
    with pytest.raises(ValueError, match=r"2 examples and features of 1 examples .*differing ids: \['r'\]"):
        best_answers(start, end, FEATURES, [*EXAMPLES, {"id": "r", "context": ""}])
    with pytest.raises(ValueError, match="some repeat"):
        best_answers(start, end, FEATURES, EXAMPLES * 2)
    start[0, 4] = np.nan
    with pytest.raises(ValueError, match="contain NaN"):
        best_answers(start, end, FEATURES, EXAMPLES)
