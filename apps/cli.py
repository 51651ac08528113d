"""The command line: `cnnkit VERB …`. Starts without TensorFlow; each verb imports what it needs."""

from __future__ import annotations

import gc
import io
import os
import re
import sys
from collections.abc import Callable
from collections.abc import Sequence
from typing import Annotated

import typer

import cnnkit
from apps import console
from apps.commands.ablate import ablate
from apps.commands.bench import bench
from apps.commands.check import check
from apps.commands.compare import compare
from apps.commands.compress import compress
from apps.commands.doctor import doctor
from apps.commands.ensemble import ensemble
from apps.commands.evaluate import evaluate
from apps.commands.explain import explain
from apps.commands.export import export
from apps.commands.init import init
from apps.commands.list import list_names
from apps.commands.lr_find import lr_find
from apps.commands.predict import predict
from apps.commands.report import report
from apps.commands.resume import resume
from apps.commands.run import run
from apps.commands.serve import serve
from apps.commands.show import show
from apps.commands.train import train
from apps.commands.tune import tune
from apps.commands.verify import verify
from cnnkit import registry
from cnnkit.errors import CnnkitError
from cnnkit.errors import LostError

VERBS: dict[str, Callable[..., None]] = {
    "run": run,
    "check": check,
    "init": init,
    "train": train,
    "resume": resume,
    "lr-find": lr_find,
    "tune": tune,
    "ablate": ablate,
    "ensemble": ensemble,
    "compare": compare,
    "compress": compress,
    "export": export,
    "verify": verify,
    "report": report,
    "serve": serve,
    "eval": evaluate,
    "bench": bench,
    "predict": predict,
    "explain": explain,
    "list": list_names,
    "show": show,
    "doctor": doctor,
}
_INTERRUPTED = 130
# As many are made before Python looks for garbage, instead of 700: importing TensorFlow makes over
# a million that stay, and looking through them takes a second.
_NEW_OBJECTS = 50_000

app = typer.Typer(
    name="cnnkit",
    help="From a folder of labelled pictures to small, verified CNN files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _verb in VERBS.items():
    app.command(_name)(_verb)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cnnkit {cnnkit.__version__}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print results only.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print tracebacks and the libraries' logs.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Sets what every verb prints."""
    console.settings.quiet, console.settings.verbose = quiet, verbose
    if not verbose:  # before the first import of TensorFlow
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns its exit code (0, 1, 2, 3, 4, 5 or 130)."""
    if argv is None:  # the process is ours
        gc.set_threshold(_NEW_OBJECTS)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's encoding lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(args=None if argv is None else list(argv), standalone_mode=False)
        if code == _INTERRUPTED:  # what typer makes of Ctrl-C; older ones raise Abort
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except CnnkitError as error:
        console.error(str(error))
        if isinstance(error, LostError):
            # The libraries would wait for minutes for the one that is gone, and then abort.
            sys.stdout.flush()
            os._exit(error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.error("Interrupted. Nothing half-written is left under a final name.")
        return _INTERRUPTED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # usage, by click
            if message := error.format_message():  # none where the help has been printed instead
                console.error(_usage(message))
            return int(error.exit_code)
        if console.settings.verbose:
            raise
        first = (str(error) or "no message").splitlines()[0]
        console.error(f"Internal error: {type(error).__name__}: {first}. See it with `cnnkit -v`.")
        return 1


def _usage(message: str) -> str:
    """Returns what is wrong with the arguments, with the closest verbs if it is the verb."""
    if verb := re.match("No such command '(.*?)'", message):
        try:
            registry.known("verb", verb[1], VERBS)
        except CnnkitError as error:
            return str(error)
    return message
