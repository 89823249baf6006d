"""Code blocks of Markdown pages, and how one page is run: all its blocks in order, in one folder and one namespace."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer
from typer.testing import CliRunner

from alad_hf.cli import app

RUN = ("python", "bash")
WRITTEN = ("yaml", "json", "text")
"""Kept where they name a file; else they show what comes out, and are not run."""

_BLOCK = re.compile(
    r"^(?:<!-- (?P<directive>not run|file): (?P<value>[^\n]*?) -->\n+)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
_NOT_RUN = re.compile(r"<!--\s*not[ -]run", flags=re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """One fenced block, and what the HTML comment in front of it says.

    `<!-- not run: reason -->` keeps it from being run; `<!-- file: name -->` saves it under that name first.
    """

    language: str
    code: str
    line: int
    """Where the page has the first line of the code, from 1."""
    reason: str | None = None
    file: str | None = None


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page.

    Raises:
        ValueError: A fence or a comment is not where it is understood, so that a block would be passed over.
    """
    text = page.read_text(encoding="utf-8")
    blocks, comments = [], 0
    for match in _BLOCK.finditer(text):
        directives = {match["directive"]: match["value"].strip()} if match["directive"] else {}
        comments += "not run" in directives
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(match["language"], match["code"], line, directives.get("not run"), directives.get("file"))
        if block.language not in (*RUN, *WRITTEN):
            raise ValueError(f"{page}:{line}: say what the block holds, one of {(*RUN, *WRITTEN)}.")
        if block.reason is not None and len(block.reason.split()) < 3:
            raise ValueError(f"{page}:{line}: a block that is not run needs a reason, got {block.reason!r}.")
        blocks.append(block)
    if text.count("```") != 2 * len(blocks) or len(_NOT_RUN.findall(text)) != comments:
        raise ValueError(f"{page}: a fence is indented or open, or a comment does not stand in front of a block.")
    return blocks


def run_page(page: Path, folder: Path) -> None:
    """Run the blocks of a page; the working folder must be `folder` already.

    Of a block that is not run, imports and options of `alad-hf` are checked nevertheless.

    Args:
        page: The page.
        folder: Where its files go.
    """
    names: dict[str, object] = {"__name__": "docs"}
    for block in read_blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.code, encoding="utf-8")
        if block.language == "python":
            # Blank lines in front, so that a traceback has the page's line numbers.
            tree = ast.parse("\n" * (block.line - 1) + block.code, str(page))
            if block.reason is not None:
                tree.body = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
            exec(compile(tree, str(page), "exec", dont_inherit=True), names)
        elif block.language == "bash":
            for command in read_commands(block.code):
                run_command(command, page, is_run=block.reason is None)


@dataclass(frozen=True)
class Command:
    """One call of `alad-hf`, what is piped into it and where its output goes."""

    arguments: list[str]
    stdin: bytes
    output: str | None


def read_commands(code: str) -> list[Command]:
    """The calls of `alad-hf` in a block of shell; other programs are passed over.

    Understood are comments, continued lines, `echo TEXT |`, `cat FILE |`, `< FILE` and `> FILE`.
    """
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>")
        lexer.whitespace_split = True
        words = list(lexer)
        if "alad-hf" not in words:
            continue
        start = words.index("alad-hf")
        before, arguments, redirected = words[:start], words[start + 1 :], {}
        for sign in "<>":
            if sign in arguments:
                place = arguments.index(sign)
                redirected[sign] = arguments[place + 1]
                del arguments[place : place + 2]
        stdin = b""
        if "<" in redirected:
            stdin = Path(redirected["<"]).read_bytes()
        elif before:
            program, *parts, pipe = before
            assert pipe == "|" and program in ("echo", "cat"), f"not understood: {line}"
            stdin = (" ".join(parts) + "\n").encode() if program == "echo" else Path(parts[0]).read_bytes()
        commands.append(Command(arguments, stdin, redirected.get(">")))
    return commands


def run_command(command: Command, page: Path, *, is_run: bool) -> None:
    """Run it in this process, or only see to it that it has such a verb with such options."""
    called = f"{page.name}: alad-hf {shlex.join(command.arguments)}"
    if is_run:
        result = CliRunner().invoke(app, command.arguments, input=command.stdin)
        assert result.exit_code == 0, f"{called}\n{result.output}\n{result.exception!r}"
        if command.output is not None:
            Path(command.output).write_text(result.stdout, encoding="utf-8")
        return
    verb, *arguments = command.arguments
    group = typer.main.get_command(app)
    known = group.get_command(group.make_context("alad-hf", [], resilient_parsing=True), verb)
    assert known is not None, f"{called}\nno such verb"
    known.make_context(verb, list(arguments))


def main(page: str, folder: str) -> None:
    """Run one page in a process of its own, whose working folder is `folder`."""
    run_page(Path(page), Path(folder))
