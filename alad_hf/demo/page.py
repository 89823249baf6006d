"""The page itself, of gradio's parts. Nothing else of the package imports gradio."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported, and before each report
try:
    import gradio
except ImportError as error:
    raise ImportError(f'gradio cannot be imported ({error}): pip install "alad_hf[demo]".') from error

from ..data.text_lines import check_characters
from .rendering import render_legend, render_message, render_readings
from .shown_models import ShownModel, read_and_time

LONGEST_TEXT = 200_000
"""Characters; the page keeps a text and its marks in the browser, which a book would choke."""
_TAGGER_EXAMPLES = [
    "Ingrid Solberg left Halden Robotics in Oslo after the Northern Light Festival.",
    "Just saw Beyoncé at Madison Square Garden in New York, now watching Stranger Things on my iPhone!",
    "Angela Merkel met the board of Siemens in Munich before flying to the World Cup in Brazil.",
]
_ANSWERER_EXAMPLES = [
    ["Ada Lovelace wrote the first published program for Babbage's machine in 1843.", "Who wrote the first program?"],
    ["The Northern Light Festival began in Oslo and moved to Bergen in 1998.", "Where did the festival begin?"],
]


class Page(gradio.Blocks):
    """Blocks that bring their looks along, so that a plain `launch()`, as on a Space, shows them."""

    def launch(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - gradio's own signature
        """Serve the page; the arguments are those of gradio's `Blocks.launch`."""
        style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
        # The default theme takes its fonts from Google.
        theme = gradio.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )
        kwargs.setdefault("theme", theme)
        kwargs.setdefault("head", f"<style>{style}</style>")
        kwargs.setdefault("footer_links", [])
        kwargs.setdefault("ssr_mode", False)
        return super().launch(*args, **kwargs)


def build_page(models: list[ShownModel]) -> Page:
    """Lay out the page for models of one kind."""
    answers = models[0].kind == "answerer"
    title = "Question answerers" if answers else "Taggers"
    title += " side by side" if len(models) > 1 else " at work"
    with Page(title=f"alad_hf: {title.lower()}", analytics_enabled=False) as page:
        gradio.HTML(
            f'<div class="alad-title"><h1>{title}</h1><p>Every model reads the whole text, however long it is. Times '
            "are those of this machine, from the text to what is found in it.</p></div>",
            elem_classes="alad-flush",
        )
        text = gradio.Textbox(
            label="Text", placeholder="Type or paste a text", lines=4, max_lines=12, elem_id="alad-text"
        )
        question = gradio.Textbox(label="Question", visible=answers, elem_id="alad-question")
        button = gradio.Button("Answer" if answers else "Tag", variant="primary", elem_id="alad-run")
        gradio.HTML(render_legend(models), elem_classes="alad-flush")
        result = gradio.HTML(elem_id="alad-output", elem_classes=["alad-flush", "alad-output"])
        gradio.Examples(
            _ANSWERER_EXAMPLES if answers else [[example] for example in _TAGGER_EXAMPLES],
            [text, question] if answers else [text],
        )
        gradio.on(
            [button.click, text.submit, question.submit],
            reader(models),
            [text, question],
            result,
            # Models that run at the same time would measure each other.
            concurrency_limit=1,
            api_visibility="private",
        )
    return page


def reader(models: list[ShownModel]) -> Callable[[str, str], str]:
    """What the button does: from a text and a question to HTML."""

    def read(text: str, question: str = "") -> str:
        problem = _problem_with(text or "", question or "", models[0].kind == "answerer")
        if problem:
            return render_message(problem)
        return render_readings(text, [read_and_time(model, text, question) for model in models])

    return read


def _problem_with(text: str, question: str, answers: bool) -> str:
    if not text:
        return "There is no text yet. Type or paste some above."
    if not text.strip():
        return "The text is only white space: there is no word to read."
    if len(text) > LONGEST_TEXT:
        return (
            f"The text has {len(text):,} characters, and this page takes {LONGEST_TEXT:,}. Nothing was read. "
            "`alad-hf predict MODEL FILE` reads files of any length."
        )
    try:
        check_characters(text + question)
    except ValueError:
        return "The text holds half of a character (a lone surrogate), which no model can read. Paste it anew."
    if answers and not question.strip():
        return "There is no question yet. Type one above."
    return ""


__all__ = ["Page", "build_page", "reader"]
