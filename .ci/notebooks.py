"""Execute every notebook from start to end: `python .ci/notebooks.py [--write] [NOTEBOOK ...]`.

Each runs in its own folder with the Python that runs this script, and fails on the first error or
after LIMIT seconds. With --write the outputs are stored in the file; without, nothing is changed.
"""

import asyncio
import os
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient

LIMIT = 300  # seconds per notebook; nbclient's own limit is per cell
ROOT = Path(__file__).resolve().parent.parent


class ThisPython(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernels the user's home has registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        # Quiet: the kernel warns of plain TCP, which here never leaves the machine.
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        command.append("--log-level=ERROR")
        return KernelSpec(argv=command, display_name="Python 3", language="python")


async def execute(path: Path, *, write: bool) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_manager_class=ThisPython,  # made by the client, hence shut down by it too
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": path.parent}},
    )
    # matplotlib's choice of the caller is not the notebook's: with Agg its pictures would be lost
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    await asyncio.wait_for(client.async_execute(env=env), LIMIT)
    if write:
        nbformat.write(notebook, path)


def main(arguments: list[str]) -> int:
    write = "--write" in arguments
    named = [Path(a).resolve() for a in arguments if a != "--write"]
    failed = 0
    for path in named or sorted(ROOT.glob("notebooks/*.ipynb")):
        start = time.perf_counter()
        try:
            asyncio.run(execute(path, write=write))
            verdict = ""
        except Exception as error:  # whatever a notebook raises is its verdict; the next still runs
            # At the limit the kernel is ended, which nbclient may report first, as a dead kernel.
            late = time.perf_counter() - start >= LIMIT
            verdict = f"  FAILED: not done after {LIMIT} s" if late else f"  FAILED\n{error}"
        failed += bool(verdict)
        print(f"{path.name} {time.perf_counter() - start:.1f} s{verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
