"""The command line: `torchgmm fit | select | score | predict | sample | show | plot`.

This file knows the names of the commands and what an exit status means, and imports no torch: a
command is imported when it is called for.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

from .. import __version__
from ..errors import ConvergenceWarning, TorchGMMError

__all__ = ["UsageError", "main"]

# Exit statuses: 0 all that was asked is done and on disk, 1 an error, 2 a line that cannot be
# understood (as argparse), 130 Ctrl-C, 141 the reader of the output went away (as a shell has it).
FAILED, MISUSED, INTERRUPTED, UNHEARD = 1, 2, 130, 141

_COMMANDS = {
    "fit": ("fit", "fit a mixture to rows, from a YAML config or from options alone"),
    "score": ("ask", "mean log-likelihood and BIC of rows under a mixture"),
    "predict": ("ask", "the likeliest component of every row"),
    "sample": ("ask", "draw rows from a mixture"),
    "show": ("ask", "what a mixture file holds"),
    "plot": ("plot", "draw a mixture, the course of a fit, or a search"),
    "select": ("select", "choose the number of components and the covariance family"),
}

_EXAMPLES = """examples:
  torchgmm fit configs/faithful.yaml --out runs/faithful
  torchgmm fit --data rows.npy --mixture.n_components 5 --out runs/rows
  torchgmm score runs/faithful/mixture.safetensors --data configs/data/faithful.csv
  torchgmm predict runs/rows/mixture.safetensors --data rows.npy --out labels.npy
  torchgmm sample runs/rows/mixture.safetensors 1000 --out drawn.npy
  torchgmm show runs/rows/mixture.safetensors
  torchgmm plot runs/rows/mixture.safetensors pairs --data rows.npy --out pairs.png

Exit status: 0 when all that was asked is on disk, 1 after an error, 2 after a line that cannot be
understood, 130 after Ctrl-C (a fit then leaves what it had computed in --out)."""


class UsageError(Exception):
    """The line cannot be understood; the message says what of it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status.

    Args:
        argv: the words after `torchgmm`; those of this process if not given.

    Example:
        >>> main(["--version"])
        torchgmm ...
        0
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with _warnings_as_lines():
        try:
            status = _run(words)
            sys.stdout.flush()  # what cannot be written must not pass for success
            return status
        except SystemExit as end:  # --help and --version of argparse
            return end.code if isinstance(end.code, int) else FAILED
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return UNHEARD
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            status, line = _verdict(error)
            say(line)
            return status


def say(line: str) -> None:
    """One line to standard error, whatever line breaks it came with."""
    number = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else ""
    who = f"torchgmm[{number}]" if number else "torchgmm"
    print(f"{who}: {' '.join(line.split())}", file=sys.stderr, flush=True)


def _run(words: list[str]) -> int:
    given = _parser().parse_args(words)
    if given.command is None:
        _parser().print_help(sys.stderr)
        return MISUSED
    if given.command not in _COMMANDS:
        known = ", ".join(_COMMANDS)
        raise UsageError(f"no command {given.command!r}: choose from {known}")
    room, _ = _COMMANDS[given.command]
    command: Callable[[list[str]], int] = getattr(
        import_module(f"{__name__}.{room}"), given.command
    )
    return command(given.words)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<10}{purpose}" for name, (_, purpose) in _COMMANDS.items()]
    parser = _Parser(
        prog="torchgmm",
        usage="torchgmm [-h] [--version] [--debug] COMMAND ...",
        description="Gaussian mixtures for PyTorch.\n\ncommands:\n" + "\n".join(lines) + "\n\n"
        "torchgmm COMMAND --help says more about each.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"torchgmm {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _verdict(error: BaseException) -> tuple[int, str]:
    """Exit status and line of an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, UsageError):
        return MISUSED, f"error: {error}"
    if isinstance(error, (TorchGMMError, OSError)):
        return FAILED, f"error: {error}"
    return FAILED, f"error: {type(error).__name__}: {error} (--debug shows where)"


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Warnings as one readable line each, without the source line that Python prints."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.showwarning = show
        yield
