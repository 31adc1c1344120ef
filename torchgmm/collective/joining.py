"""How a process finds the others: a group that exists, torchrun's or SLURM's environment, none."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import InputError
from .group import ALONE, Group
from .meeting import name_of_attempt

if TYPE_CHECKING:
    from .processes import Processes

__all__ = ["alone", "among", "current", "restarts", "together"]

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE = 1800.0  # seconds, as torch has it
_CURRENT: ContextVar[Group | None] = ContextVar("torchgmm_group", default=None)
_numbers: dict[Any, int] = {}  # calls made so far, of every process group


def current() -> Group:
    """The processes that work on the call under way; outside of any, a process alone."""
    return _CURRENT.get() or ALONE


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, whatever job it is part of.

    Example:
        >>> import torch, torchgmm as tg
        >>> with tg.alone():
        ...     result = tg.GaussianMixture(1).fit(torch.randn(100, 2), generator=0)
    """
    token = _CURRENT.set(ALONE)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def among(process_group: Any) -> Iterator[None]:
    """Inside, the processes of this torch.distributed group work together, and no others.

    Example:
        >>> import torch.distributed as dist
        >>> half = dist.new_group([0, 1])  # doctest: +SKIP
        >>> with among(half):  # doctest: +SKIP
        ...     mixture.fit(x)
    """
    group = _begun(process_group)
    token = _CURRENT.set(group)
    try:
        with _telling(group):
            yield
    finally:
        _CURRENT.reset(token)


def together(call: Callable[P, R]) -> Callable[P, R]:
    """Decorator: the processes of the job make this call together, if there are several.

    An error in one of them ends it in all: the others raise a `PeerError` that shows it.
    """

    @functools.wraps(call)
    def wrapped(*args: P.args, **options: P.kwargs) -> R:
        if _CURRENT.get() is not None or not _several():
            return call(*args, **options)
        with among(None):
            return call(*args, **options)

    return wrapped


def restarts() -> int:
    """How often `torchrun --max-restarts` has begun this job anew."""
    return _number(os.environ, "TORCHELASTIC_RESTART_COUNT")


def _several() -> bool:
    """Whether this process is one of several; makes the group that the environment speaks of."""
    dist: Any = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return int(dist.get_world_size()) > 1
    found = _environment(os.environ)
    if found is None:
        return False
    os.environ.update(found)
    _make_group()
    return True


def _environment(given: Mapping[str, str]) -> dict[str, str] | None:
    """Variables of torch for a job of several processes; None if this is none."""
    if _number(given, "WORLD_SIZE") > 1 and "RANK" in given:
        return {}
    # of the step, not of the job: a script that sbatch runs without srun is one process
    size = _number(given, "SLURM_STEP_NUM_TASKS")
    if size < 2 or "SLURM_PROCID" not in given:
        return None
    job = _number(given, "SLURM_JOB_ID") + _number(given, "SLURM_STEP_ID")
    nodes = given.get("SLURM_STEP_NODELIST") or given.get("SLURM_NODELIST", "localhost")
    found = {
        "WORLD_SIZE": str(size),
        "RANK": given["SLURM_PROCID"],
        "LOCAL_RANK": given.get("SLURM_LOCALID", "0"),
        "MASTER_ADDR": first_node(nodes),
        "MASTER_PORT": str(20_000 + job % 20_000),
    }
    return {name: given.get(name, value) for name, value in found.items()}


def _number(given: Mapping[str, str], name: str) -> int:
    text = given.get(name, "")
    return int(text) if text.isdecimal() else 0


def first_node(nodes: str) -> str:
    """The first of a SLURM list of nodes.

    Example:
        >>> first_node("gpu[007-010,12],login1"), first_node("node3,node4")
        ('gpu007', 'node3')
    """
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return nodes if found is None else "".join(part or "" for part in found.groups())


def _make_group() -> None:
    import atexit

    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        # NCCL takes one process for each device
        torch.cuda.set_device(_number(os.environ, "LOCAL_RANK") % torch.cuda.device_count())
    # a minute more: who is missing should be said by us, who know
    timeout = timedelta(seconds=_patience() + 60)
    torch_dist: Any = dist  # it exports more than its types say
    store, rank, world = next(torch_dist.rendezvous("env://", timeout=timeout))
    name = name_of_attempt(store, rank, world, _patience())
    own = torch_dist.PrefixStore(f"torchgmm/{name}", store)
    dist.init_process_group(backend, store=own, rank=rank, world_size=world, timeout=timeout)
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized() and not _numbers.get("failed"):
        dist.destroy_process_group()


def _begun(process_group: Any) -> Processes:
    from .processes import Processes

    number = _numbers[process_group] = _numbers.get(process_group, 0) + 1
    return Processes(process_group, _patience(), number)


@contextmanager
def _telling(group: Processes) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        _numbers["failed"] = 1
        group.news.failed(error)
        raise


def _patience() -> float:
    said = os.environ.get("TORCHGMM_TIMEOUT", str(_PATIENCE))
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise InputError(f"TORCHGMM_TIMEOUT must be seconds above 0, got {said!r}")
    return seconds
