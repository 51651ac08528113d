"""`cnnkit serve`: a bundle behind TF Serving's REST interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apps import console
from cnnkit.errors import UsageError


def serve(
    bundle: Annotated[Path, typer.Argument(help="A bundle.", metavar="BUNDLE", exists=True)],
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8501,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other machines reach 0.0.0.0.")
    ] = "127.0.0.1",
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Which file answers. [default: the .tflite file that was fastest in the export]",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that compute. [default: one a core]", min=1)
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Pictures in one call of onnx and savedmodel.", min=1)
    ] = 32,
    batch_wait: Annotated[
        float, typer.Option(help="Milliseconds that a picture waits for others.", min=0)
    ] = 1.0,
    max_body: Annotated[int, typer.Option(help="MiB of the longest request.", min=1)] = 16,
    max_megapixels: Annotated[int, typer.Option(help="Of the largest picture file.", min=1)] = 50,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.", min=0.1)] = 30,
) -> None:
    """Serves a model for development, as TF Serving would: same paths, same JSON."""
    from export.bundle import Bundle

    try:
        from apps.rest import Limits
        from apps.rest.served import cores
        from apps.serve import choose
        from apps.serve import listen
        from apps.serve import open_served
        from apps.serve import run
    except ImportError:
        raise UsageError(
            "Serving needs the packages starlette and uvicorn",
            todo="`pip install 'cnnkit[serve]'`",
        ) from None
    opened = Bundle.open(bundle)
    row = choose(opened, form)
    with listen(host, port) as at, console.hushed():
        model = open_served(opened, row, workers or cores())
        address, found = at.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{found}"
        console.out.print(
            f"serving {model.name} ({row.name}: {bundle / row.path(model.name)}) on "
            f"{url}/v1/models/{model.name}. Ctrl-C ends it.",
            markup=False,
        )
        limits = Limits(
            body_bytes=max_body * 2**20,
            held_bytes=16 * max_body * 2**20,
            pixels=max_megapixels * 10**6,
            seconds=timeout,
            idle_s=min(timeout, Limits.idle_s),
            batch=batch_size,
            batch_wait_s=batch_wait / 1000,
        )
        run(model, limits, at)
