"""`alad-hf demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from .application import console, verb


@verb(reports=False)
def demo(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a tagger or a question answerer.")],
    compare: Annotated[
        list[str] | None, typer.Option(help="Another model, side by side with it; repeat for more.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="The teacher, whose time the others are compared with.")] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="Address to listen at; 0.0.0.0 is every network of this machine, without a password.",
            show_default="127.0.0.1",
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen at.", min=1, max=65535, show_default="7860")] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Open a public address at gradio's server, which then sees the texts.")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that lies beside the models.")
    ] = False,
    write_space: Annotated[
        Path | None,
        typer.Option(help="Serve nothing; write the page into this folder, new or the clone of a new Space."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help='Where the models run, such as "cpu" or "cuda".', show_default="cpu")
    ] = None,
) -> None:
    """Open a page that shows what models find in a text, side by side, with their sizes and times."""
    from ..demo import launch_demo
    from ..demo import write_space as write

    models = [model, *(compare or [])]
    served: dict[str, Any] = {"host": host, "port": port, "share": share or None, "device": device}
    served = {name: value for name, value in served.items() if value is not None}
    if write_space is not None:
        if served:
            flags = " and ".join(f"--{name}" for name in served)
            raise ValueError(f"--write-space serves nothing, so {flags} would do nothing: leave it out.")
        write(write_space, models, teacher=teacher, trust_remote_code=trust_remote_code)
        for name in (*models, *([] if teacher is None else [teacher])):
            if not Path(name).is_dir():
                console.print(f"{name} is no folder here: the Space will load it from the Hub by that name.")
        console.print(f"Wrote the Space to {write_space}. Try it there with `python app.py`; publish it with")
        command = ["hf", "upload", "NAME", str(write_space), "--repo-type", "space"]
        console.print(shlex.join(command), soft_wrap=True, highlight=False)  # whole, since it is there to be copied
        return
    page = launch_demo(models, teacher=teacher, trust_remote_code=trust_remote_code, block=False, **served)
    address = page.local_url if page.share_url is None else f"{page.local_url} and {page.share_url}"
    console.print(f"The page is at {address}; Ctrl-C ends it.", highlight=False)
    page.block_thread()
