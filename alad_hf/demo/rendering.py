"""HTML of the page. Text, labels and names come from strangers: all of them pass through `shown`."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from .comparison import Disagreement, DisagreementKind, Span, find_disagreements
from .shown_models import Reading, ShownModel

LISTED_DISAGREEMENTS = 100
_GOLDEN_ANGLE = 137.508
_FIRST_HUE = 210
# Characters without a picture of their own, and those that turn around the direction of the text behind them.
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]")
# gradio fills templates in the browser, where these open an expression.
_TEMPLATE_MARKS = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;", "@": "&#64;"})
_KINDS: dict[DisagreementKind, str] = {
    "missing": "not found by all",
    "label": "labels differ",
    "borders": "borders differ",
}


def shown(text: str) -> str:
    """Escape text for HTML, attributes included; what cannot be seen is named by its code point."""
    text = _INVISIBLE.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", text.replace("\r\n", "\n"))
    return html.escape(text).translate(_TEMPLATE_MARKS)


def render_message(text: str, *, is_error: bool = False) -> str:
    """A note in place of a result."""
    return f'<div class="alad-note{" alad-error" if is_error else ""}" role="status">{shown(text)}</div>'


def render_legend(models: Sequence[ShownModel]) -> str:
    """The labels with their colours, and what the marks mean."""
    labels = (
        f'<mark class="alad-span" style="--hue:{hue}">{shown(label)}</mark>' for label, hue in _hues(models).items()
    )
    marks = ""
    if len(models) > 1:
        marks = (
            '<span class="alad-key"><mark class="alad-span alad-differs" style="--hue:0">dashed</mark> the models '
            'differ here</span><span class="alad-key"><span class="alad-gap">dotted</span> another model found '
            "something here</span>"
        )
    return f'<div class="alad-legend">{" ".join(labels)}{marks}</div>'


def render_readings(text: str, readings: Sequence[Reading]) -> str:
    """Panels side by side, and under them a table of the disagreements.

    Args:
        text: What was read.
        readings: One for each model; those with a problem take no part in the comparison.
    """
    done = [reading for reading in readings if not reading.problem]
    disagreements = find_disagreements([reading.spans for reading in done])
    hues = _hues([reading.model for reading in readings])
    reference = next((reading for reading in done if reading.model.is_teacher), None)
    panels = []
    for reading in readings:
        if reading.problem:
            body = render_message(f"This model could not read the text. {reading.problem}", is_error=True)
        else:
            body = _marked_text(text, reading, done, disagreements, hues)
        panels.append(f'<section class="alad-panel">{_panel_head(reading, reference)}{body}</section>')
    table = _disagreement_table(text, done, disagreements, hues) if len(done) > 1 else ""
    return f'<div class="alad-result"><div class="alad-panels">{"".join(panels)}</div>{table}</div>'


def _hues(models: Iterable[ShownModel]) -> dict[str, int]:
    """An angle of the colour wheel for each label, far from those of the labels before."""
    labels = dict.fromkeys(label for model in models for label in model.labels)
    return {label: round(_FIRST_HUE + index * _GOLDEN_ANGLE) % 360 for index, label in enumerate(labels)}


def _panel_head(reading: Reading, reference: Reading | None) -> str:
    model = reading.model
    facts = [f"<b>{model.stored_megabytes:.1f} MB</b> stored"]
    if model.parameters is not None:
        facts.append(f"<b>{model.parameters / 1e6:.1f} M</b> parameters")
    time = ""
    if not reading.problem:
        runs = "one run" if reading.runs == 1 else f"median of {reading.runs} runs"
        ratio = ""
        if reference is not None and reference is not reading:
            times = reference.milliseconds / reading.milliseconds
            faster = " alad-faster" if times > 1 else ""
            ratio = f' <span class="alad-ratio{faster}">{times:.1f} x as fast as the teacher</span>'
        time = (
            f'<div class="alad-time"><b class="alad-ms">{_in_words(reading.milliseconds)}</b> '
            f"<span>{runs}</span>{ratio}</div>"
        )
        facts.append(f"<b>{len(reading.spans):,}</b> found")
    badge = ' <span class="alad-badge">teacher</span>' if model.is_teacher else ""
    return (
        f'<header><div class="alad-name">{shown(model.name)}{badge}</div>{time}'
        f'<div class="alad-facts">{" · ".join(facts)}</div></header>'
    )


def _in_words(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.1f} ms"


def _marked_text(
    text: str, reading: Reading, readings: Sequence[Reading], disagreements: list[Disagreement], hues: dict[str, int]
) -> str:
    index = next(position for position, other in enumerate(readings) if other is reading)
    differing: set[Span] = set()
    pieces: list[tuple[int, int, str]] = []
    for one in disagreements:
        differing.update(one.found[index])
        if not one.found[index]:
            others = [other.model.name for other, spans in zip(readings, one.found, strict=True) if spans]
            opening = f'<span class="alad-gap" title="found by {shown(", ".join(others))}">'
            pieces.append((one.start, one.end, f"{opening}{shown(text[one.start : one.end])}</span>"))
    for span in reading.spans:
        pieces.append((span.start, span.end, _mark(text, span, hues, span in differing)))
    parts, end = [], 0
    for start, next_end, piece in sorted(pieces):
        parts += [shown(text[end:start]), piece]
        end = next_end
    parts.append(shown(text[end:]))
    note = "" if reading.spans else render_message("Nothing found in this text.")
    return f'{note}<div class="alad-text" dir="auto" tabindex="0">{"".join(parts)}</div>'


def _mark(text: str, span: Span, hues: dict[str, int], differs: bool) -> str:
    return (
        f'<mark class="alad-span{" alad-differs" if differs else ""}" style="--hue:{hues[span.label]}" '
        f'title="{shown(span.label)}, score {span.score:.2f}">{shown(text[span.start : span.end])}'
        f"<small>{shown(span.label)}</small></mark>"
    )


def _disagreement_table(
    text: str, readings: Sequence[Reading], disagreements: list[Disagreement], hues: dict[str, int]
) -> str:
    if not disagreements:
        return '<div class="alad-note alad-agree" role="status">The models agree on this text.</div>'
    rows = []
    for one in disagreements[:LISTED_DISAGREEMENTS]:
        cells = (
            " ".join(_mark(text, span, hues, False) for span in spans) or '<span class="alad-none">nothing</span>'
            for spans in one.found
        )
        rows.append(f"<tr><td>{_KINDS[one.kind]}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    count = f"{len(disagreements):,} disagreement{'s' if len(disagreements) > 1 else ''}"
    if len(disagreements) > LISTED_DISAGREEMENTS:
        count += f", the first {LISTED_DISAGREEMENTS} of them listed"
    heads = "".join(f"<th>{shown(reading.model.name)}</th>" for reading in readings)
    return (
        f'<h3 class="alad-count">{count}</h3><div class="alad-scroll"><table class="alad-table"><thead><tr><th></th>'
        f"{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


__all__ = ["render_legend", "render_message", "render_readings", "shown"]
