"""Open the page on this machine, or build it for a server that launches it itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .page import Page


def build_demo(
    models: list[str], *, teacher: str | None = None, trust_remote_code: bool = False, device: str = "cpu"
) -> Page:
    """Load models and build the page that shows what they find in a text.

    Args:
        models: Folders or Hub ids of taggers or of question answerers; an ONNX folder of `export_onnx` is one, too.
        teacher: Another one, whose time the others are compared with.
        trust_remote_code: Whether code that lies beside the models may be run.
        device: Where they run.

    Returns:
        A `gradio.Blocks`; its `launch()` serves the page. On a Space that is all there is to do.

    Raises:
        ImportError: gradio is not installed.
        ValueError: A model neither tags nor answers, or some tag and some answer.
        OSError: There is no such model.

    Example:
        >>> build_demo(["runs/quickstart/alad"], teacher="runs/quickstart/teacher").launch()  # doctest: +SKIP
    """
    # gradio first: without it, loading the models is time lost.
    from .page import build_page
    from .shown_models import load_shown_models

    return build_page(load_shown_models(models, teacher, trust_remote_code=trust_remote_code, device=device))


def launch_demo(
    models: list[str],
    *,
    teacher: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    trust_remote_code: bool = False,
    device: str = "cpu",
    block: bool = True,
) -> Page:
    """Serve the page, to this machine alone unless told otherwise.

    Args:
        models: See `build_demo`.
        teacher: See `build_demo`.
        host: Address to listen at; "0.0.0.0" is every network of this machine, without a password.
        port: Port to listen at.
        share: Whether to open a public address at gradio's server, which then sees the texts.
        trust_remote_code: See `build_demo`.
        device: See `build_demo`.
        block: Whether to print the address and return only when the server is stopped, as by Ctrl-C.

    Returns:
        The page; `local_url` is its address, and `close()` ends it.

    Raises:
        OSError: The port is taken, this machine has no such address, or there is no such model.
        ImportError: See `build_demo`.
        ValueError: See `build_demo`.
    """
    page = build_demo(models, teacher=teacher, trust_remote_code=trust_remote_code, device=device)
    try:
        page.launch(server_name=host, server_port=port, share=share, quiet=not block, prevent_thread_lock=True)
    except OSError as error:
        raise OSError(
            f"No page can be served at {host}, port {port}: the port is taken, or the address is none of this "
            f"machine. Name another port, such as {port + 1}, or host, such as 127.0.0.1."
        ) from error
    if block:
        page.block_thread()
    return page


__all__ = ["build_demo", "launch_demo"]
