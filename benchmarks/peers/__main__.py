"""This project against everyone, on the same rows from the same start.

python -m benchmarks.peers.environments                 # once: one environment per peer
python -m benchmarks.peers --out runs/bench             # everything, two to three hours
python -m benchmarks.peers --out runs/quick --quick     # under five minutes on two cores
python -m benchmarks.peers --out runs/gpu --device cuda  # on a GPU: other sizes, other systems

Leaves in --out: results.json (machine, versions, every figure), table.md and cost-*.png. They are
written anew after every case, so a run that is cut off leaves what it had. benchmarks/README.md
says what the columns mean.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

from . import cases as the_cases
from . import on_gpu
from .cases import Case
from .environments import DEFAULT_FOLDER
from .machine import describe, gemm_peak, has_gpu
from .measure import merged, one, several
from .pictures import draw
from .processes import Limits
from .systems import System, chosen
from .table import markdown

FAMILIES = ["full", "diagonal", "tied"]
ALL_FAMILIES = [*FAMILIES, "spherical"]


def say(record: dict) -> dict:
    """A line on the terminal as soon as something was measured."""
    if record["status"] == "ok":
        what = f"{record['median_seconds']:.4g} s, {record['log_likelihood']:.6f} nats"
    else:
        what = f"{record['status']}: {record['reason']}"
    print(f"{record['case']} | {record['system']} | {what}", flush=True)
    return record


class Report:
    """What was found so far, and the files that say so."""

    def __init__(self, out: Path, limits: Limits, arguments: dict) -> None:
        self.out = out
        self.machine = describe(limits)
        self.peak = gemm_peak(limits, out)
        self.arguments = arguments
        self.records: list[dict] = []

    def write(self) -> None:
        """The three kinds of files."""
        whole = {
            "machine": self.machine,
            "peak_flops": self.peak,
            "arguments": self.arguments,
            "results": self.records,
        }
        (self.out / "results.json").write_text(json.dumps(whole, indent=1, default=str))
        (self.out / "table.md").write_text(markdown(self.records, self.machine, self.peak))
        draw(self.records, self.out)


def main(arguments: list[str] | None = None) -> int:
    """Run it."""
    options = _parser().parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    # on a GPU a process holds all that the driver maps, and larger cases
    gib = options.limit_gib or (12 if options.device == "cpu" else 48)
    seconds = options.limit_seconds or (400 if options.device == "cpu" else 60)
    minutes = options.minutes or (math.inf if options.device == "cpu" else 9)
    until = time.monotonic() + 60 * minutes
    limits = Limits(seconds, gib, options.threads, device=options.device, until=until)
    environments = options.environments.expanduser().resolve()
    found = on_gpu.systems(options.quick) if limits.gpu else None
    systems = chosen(options.systems, options.dtype, options.quick, found)
    if not systems:
        print(f"no system matches {options.systems} {options.dtype or ''}", file=sys.stderr)
        return 2
    if limits.gpu and not has_gpu():
        print(f"--device {options.device}: torch sees no CUDA device", file=sys.stderr)
        return 2
    report = Report(out, limits, vars(options))
    if limits.gpu:
        for system in systems:
            asked = [case for case in _chosen_cases(options) if on_gpu.takes(system, case)]
            if asked:
                records = _rounds_of_one(system, asked, options.rounds, out, environments, limits)
                report.records += records
                report.write()
    for case in [] if limits.gpu else _chosen_cases(options):
        asked = [s for s in systems if s.fits or case.kind == "steps"]
        report.records += _rounds(asked, case, options.rounds, out, environments, limits)
        report.write()
    for curve in _chosen_curves(options):
        for system in systems:
            if system.in_curves:
                found = several(system, curve, out, environments, limits)
                report.records += [say(record) for record in found]
        report.write()
    if not options.keep:
        for folder in ("data", "jobs"):
            shutil.rmtree(out / folder, ignore_errors=True)
    print(f"{out / 'table.md'}")
    return 0


def _rounds(
    systems: list[System], case: Case, rounds: int, out: Path, environments: Path, limits: Limits
) -> list[dict]:
    """All systems, then all again: a slow minute of the machine meets each of them once."""
    found: dict[str, list[dict]] = {}
    for _ in range(rounds):
        for system in systems:
            before = found.setdefault(system.name, [])
            if not before or before[-1]["status"] == "ok":
                before.append(say(one(system, case, out, environments, limits)))
    return [merged(records) for records in found.values()]


def _rounds_of_one(
    system: System, cases: list[Case], rounds: int, out: Path, environments: Path, limits: Limits
) -> list[dict]:
    """All cases in one process, again and again: starting CUDA takes longer than most of them."""
    found = [several(system, cases, out, environments, limits) for _ in range(rounds)]
    return [say(merged(list(records))) for records in zip(*found, strict=True)]


def _chosen_cases(options: argparse.Namespace) -> list[Case]:
    if options.sizes:
        return the_cases.sized(options.sizes, options.families or FAMILIES, options.kind)
    found = (on_gpu if options.device != "cpu" else the_cases).cases(options.quick)
    if options.families:
        found = [c for c in found if c.family in options.families]
    if options.cases is not None:
        found = [c for c in found if any(fnmatch.fnmatch(c.name, p) for p in options.cases)]
    return found


def _chosen_curves(options: argparse.Namespace) -> list[list[Case]]:
    families = ["full"] if options.curves is None else options.curves
    aside = options.sizes or options.cases is not None or options.device != "cpu"
    if options.curves is None and aside:
        return []
    return the_cases.curves(options.quick, families, options.along)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for the results")
    add("--quick", action="store_true", help="small sizes, fewer systems, under five minutes")
    add("--sizes", nargs="+", metavar="NxDxK", help="blobs of these sizes, in place of the cases")
    add("--device", default="cpu", help="cpu, or cuda: other cases, other systems, its memory")
    add("--kind", choices=["steps", "fit"], default="steps", help="what to time at --sizes")
    add("--families", nargs="+", choices=ALL_FAMILIES, help="only these")
    add("--cases", nargs="*", metavar="PATTERN", help="only cases whose name matches")
    add("--curves", nargs="*", choices=FAMILIES, help="cost curves of these families; full")
    add("--along", default="NDK", metavar="LETTERS", help="only the curves along these; NDK")
    add("--systems", nargs="+", metavar="PATTERN", help="only these, as 'scikit*' 'torchgmm*64'")
    add("--dtype", nargs="+", choices=["float32", "float64"], help="only these")
    add("--rounds", type=int, default=1, help="times that every system runs every case")
    add("--threads", type=int, default=_threads(), help="of every system; OMP_NUM_THREADS or all")
    add("--limit-seconds", type=float, help="per process and case; 400, on a GPU 60")
    add("--minutes", type=float, help="end by then, with what there is; on a GPU 9")
    add("--limit-gib", type=float, help="resident memory per process; 12, on a GPU 48")
    add("--environments", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER")
    add("--keep", action="store_true", help="keep the rows and the jobs with their logs")
    add("--list", action=_List, nargs=0, help="list cases and systems, and stop")
    return parser


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


class _List(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for case in the_cases.cases(quick=False):
            print(case.name, asdict(case)["steps" if case.kind == "steps" else "repeats"])
        for system in chosen(None, None):
            print(system.name)
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
