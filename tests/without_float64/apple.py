"""A device without float64, stood in for by tensors that keep their numbers on the CPU.

They say that they are elsewhere, and refuse what Apple's GPUs refuse: float64, and tensors of two
devices in one operation. What they compute is computed on the CPU, so that answers can be compared.
"""

import contextlib
import copy
from dataclasses import dataclass, field

import torch
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from torchgmm import exact
from torchgmm.data import Checked
from torchgmm.mixture.tensors import MixtureTensors

# the one device beside the CPU that every build of torch has, and autograd takes part in
THERE = torch.device("meta")
_aten = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.copy_}
# operations that a GPU makes with tensors of both sides: copies, and row numbers of the CPU
_BETWEEN = {*_COPIES, _aten.index, _aten.index_put_, _aten.index_put}


@dataclass
class Told:
    """What the device has done.

    Attributes:
        operations: those that it made.
        brought: how many numbers were copied from it to the CPU.
    """

    operations: set = field(default_factory=set)
    brought: int = 0


_told = Told()


class There(torch.Tensor):
    """A tensor on that device, and the one on the CPU that holds its numbers."""

    @staticmethod
    def __new__(cls, held):
        if held.dtype == torch.float64:
            raise TypeError("this device has no float64")
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        kind = {"dtype": held.dtype, "device": THERE}
        own = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, **kind)
        own.held = held
        return own

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _made(op, args, kwargs or {})

    def tolist(self):
        return self.held.tolist()

    def __repr__(self):
        return f"There({self.held})"


class _Device(TorchDispatchMode):
    """Makes tensors there that are asked for by the name of the device."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors(args, kwargs)
        if _place(kwargs) == THERE.type or any(isinstance(t, There) for t in given):
            return _made(op, args, kwargs)
        return op(*args, **kwargs)


def _place(kwargs):
    place = kwargs.get("device")
    return None if place is None else torch.device(place).type


def _tensors(args, kwargs):
    return [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]


def _made(op, args, kwargs):
    """The operation, made with the numbers, if it is one that such a device makes."""
    given, packet = _tensors(args, kwargs), op.overloadpacket
    strangers = [t for t in given if not isinstance(t, There)]
    if packet not in _BETWEEN and any(t.dim() for t in strangers):
        raise RuntimeError(f"{op}: tensors of two devices")
    if packet not in _COPIES and any(t.dtype == torch.float64 for t in strangers):
        raise TypeError(f"{op}: a number in float64 for a device that has none")
    leaves, dtype = False, None
    if packet is _aten._to_copy:
        leaves, dtype = _place(kwargs) == "cpu", kwargs.get("dtype") or given[0].dtype
    elif packet is _aten.copy_:
        leaves, dtype = not isinstance(given[0], There), given[0].dtype
    if leaves:
        if dtype != given[-1].dtype:
            raise TypeError(f"{op}: it is the device that would change the dtype")
        _told.brought += given[-1].numel()
    elif packet not in _COPIES:
        _told.operations.add(op)
    if _place(kwargs) == THERE.type:
        kwargs = kwargs | {"device": "cpu"}
    known = {id(t.held): t for t in given if isinstance(t, There)}
    out = op(*tree_map(_held, args), **tree_map(_held, kwargs))
    return out if leaves else tree_map(lambda t: _wrapped(t, known), out)


def _held(t):
    return t.held if isinstance(t, There) else t


def _wrapped(t, known):
    if not isinstance(t, torch.Tensor):
        return t
    return known[id(t)] if id(t) in known else There(t)  # what is changed in place stays itself


def there(x):
    """A copy on the device, in float32 if it was in float64."""
    return There(x.detach().float().clone() if x.is_floating_point() else x.clone())


def here(x):
    """The numbers of a tensor, wherever it is."""
    return _held(x.detach())


def placed(mixture):
    """A copy of the mixture on the device; `.to` makes tensors of no subclass."""
    copied = copy.copy(mixture)
    own = {n: t for n, t in mixture._parameters.items() if not is_lazy(t)}
    placed = {n: torch.nn.Parameter(there(_held(t))) for n, t in own.items()}
    copied._parameters = mixture._parameters | placed
    return copied


@contextlib.contextmanager
def device(monkeypatch):
    """The device, and torchgmm told what it lacks; what it does meanwhile."""
    _told.operations, _told.brought = set(), 0
    autocast = torch.autocast  # which knows no such device
    with monkeypatch.context() as patch, _Device():
        patch.setattr(exact, "_WITHOUT", {THERE.type})
        patch.setattr(Checked, "_pays_ahead", lambda self: False)  # a mode is one thread's
        patch.setattr(torch, "autocast", lambda kind, **options: autocast("cpu", **options))
        _build_there(patch)
        yield _told


def _build_there(patch):
    """Mixtures can be built on the device; torch's own way makes tensors of no subclass."""
    init, materialize = MixtureTensors.__init__, MixtureTensors.materialize

    def built(self, *sizes, device=None, **options):
        self.far = device is not None and torch.device(device) == THERE
        init(self, *sizes, device=None if self.far else device, **options)
        if self.far:
            self._parameters = placed(self)._parameters

    def materialized(self, n_features):
        materialize(self, n_features)
        if self.__dict__.get("far"):
            self._parameters = placed(self)._parameters

    patch.setattr(MixtureTensors, "__init__", built)
    patch.setattr(MixtureTensors, "materialize", materialized)
