"""Rows that lie more than 2^31 numbers apart: offsets of 32 bits would read elsewhere.

The address space is large, the memory behind it is not: of what is mapped here, pages that nobody
touches do not exist. Rows begin in its middle, so that an offset which wrapped around reads zeros.
"""

import mmap
import sys

import pytest
import torch

from tests.cases import drawn
from tests.kernels.common import FIELDS
from torchgmm.kernels import Dense, Triton

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.usefixtures("launchable")

APART, MIDDLE = 2**30, 2**31
_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python knows since 3.13
TOTAL = MIDDLE + 2 * APART + 1024


@pytest.fixture
def apart(device):
    """A tensor `(3, m)` again, its rows or columns so far apart that two steps pass 2^31."""
    if device.type == "cuda":
        if torch.cuda.mem_get_info(device)[0] < 2 * 4 * TOTAL:  # others may run beside this
            pytest.skip("34 GB are not free on the device")
        flat = torch.empty(TOTAL, device=device)
    else:
        if sys.platform != "linux":
            pytest.skip("the system may want memory for all that is mapped")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        try:
            mapped = mmap.mmap(-1, 4 * TOTAL, flags=flags)
        except (OSError, OverflowError) as error:
            pytest.skip(f"no address space: {error}")
        flat = torch.frombuffer(mapped, dtype=torch.float32)

    def laid(t, dim=0):
        strides = (APART, 1) if dim == 0 else (1, APART)
        return flat[MIDDLE:].as_strided(t.shape, strides).copy_(t)

    yield laid
    if device.type == "cuda":
        flat.untyped_storage().resize_(0)
        torch.cuda.empty_cache()


@pytest.mark.parametrize("family", ["full", "diagonal"])
def test_an_e_step(family, apart, device):
    p, x = drawn(family, 2, 5), torch.randn(3, 5)
    far, q = apart(x), p.to(device=device)
    assert far.stride(0) * (len(x) - 1) >= 2**31
    got, expected = Triton().accumulate(far, None, q), Dense().accumulate(x, None, p)
    for field in FIELDS:
        a, b = getattr(got, field).cpu(), getattr(expected, field)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)  # of float32 sums of three rows
    scored = Triton().log_prob(far, q).cpu()
    torch.testing.assert_close(scored, Dense().log_prob(x, p), rtol=1e-5, atol=1e-5)


def test_features_far_apart(apart, device):
    """Of as many rows as there are between two numbers of one row, which lie column by column."""
    from torchgmm.kernels import triton_axes
    from torchgmm.kernels.triton_launch import Tile, launch

    p, x = drawn("diagonal", 2, 3), torch.randn(4, 3)
    rows, out = apart(x, dim=1), torch.empty(1, 4, device=device)
    q = p.to(device=device, dtype=torch.float32)
    factor, lowest = (-q.scale).exp(), torch.finfo(torch.float32).min
    norm = q.log_weights + factor.log().sum(-1) - 1.5 * torch.tensor(2 * torch.pi).log()
    tensors = (rows, q.means, q.means, factor, norm, out, out, 4, 2, 3)
    strides = (0, *rows.stride(), 0, 3, 0, 0, 0)
    flags = (1e30, lowest, False, False)
    launch(triton_axes.joint_axes, 1, rows.device, (*tensors, *strides, *flags), Tile((4, 2, 1)))
    torch.testing.assert_close(out[0].cpu(), Dense().log_prob(x, p))


@pytest.mark.parametrize("dim", [0, 1], ids=["rows", "features"])
def test_clusters(dim, apart, device):
    from torchgmm.kernels.triton_nearest import cluster_sums, nearest

    x, centres = torch.randn(3, 3), torch.randn(1, 2, 3)
    far = apart(x, dim)[None]
    label, _ = nearest(far, centres.to(device))
    assert torch.equal(label.cpu().long(), torch.cdist(x[None], centres).argmin(-1))
    _, sums = cluster_sums(far, None, label, 2)
    member = torch.nn.functional.one_hot(label[0].cpu().long(), 2).double()
    torch.testing.assert_close(sums[0].cpu(), member.T @ x.double())
