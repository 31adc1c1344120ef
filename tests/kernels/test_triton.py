"""What the contracts do not see of the fused kernel: its tiles, its slabs, its other precisions."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from tests.cases import FAMILIES, Case, drawn
from tests.kernels.common import agrees, fits_as_dense
from torchgmm import EM, InputError
from torchgmm.errors import MissingExtraError
from torchgmm.kernels import Dense, Triton, as_kernel, base

pytest.importorskip("triton", reason="Triton is not installed")
pytestmark = pytest.mark.usefixtures("launchable")

CASE = Case("ragged", 5, 0, 4, 10, k=3, n=300)


@pytest.fixture
def compiled_tiles(monkeypatch):
    """Tiles as on a GPU, whose kernels still run in the interpreter where there is none."""
    from torchgmm.kernels import triton_run, triton_tiles

    for module in (triton_run, triton_tiles):
        monkeypatch.setattr(module, "interpreted", lambda: False)


def compare(family, d, k, n, device, batch=(), kernel=None, rtol=1e-5, dtype=torch.float32):
    p = drawn(family, k, d, batch)
    g = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(n, d, generator=g, dtype=torch.float64)).to(dtype)
    w = torch.rand(n, generator=g, dtype=torch.float64).to(dtype)
    fused, q = kernel or Triton(), p.to(device=device)
    agrees(fused.accumulate(x.to(device), w.to(device), q), Dense().accumulate(x, w, p), rtol)
    scored = fused.log_prob(x.to(device), q).cpu()
    torch.testing.assert_close(scored, Dense().log_prob(x, p), rtol=rtol, atol=10 * rtol)


@pytest.mark.parametrize(
    ("family", "d", "k", "n"),
    # rows and components past whole tiles, features past whole steps of a product
    [("full", 19, 3, 139), ("tied", 70, 3, 33), ("diagonal", 19, 5, 29), ("spherical", 70, 40, 5)],
)
def test_tiles_of_a_gpu_give_the_same(family, d, k, n, compiled_tiles, device):
    compare(family, d, k, n, device)


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_slabs_and_chunks_add_up(family, monkeypatch, device):
    from torchgmm.kernels import triton_run, triton_tiles

    for module in (triton_run, triton_tiles):
        monkeypatch.setattr(module, "INTERPRETED_ROWS", 32)
    monkeypatch.setitem(triton_run._SLAB_ROWS, torch.float32, (32, 64))
    compare(family, 3, 2, 390, device, batch=(2,), kernel=Triton(budget=8_000))


@pytest.mark.parametrize("precision", ["tf32x3", "tf32", "bf16"])
def test_other_precisions_have_names(precision, device):
    kernel = as_kernel(f"triton:{precision}")
    assert kernel.ran == f"triton:{precision}"
    if precision == "bf16" and device.type == "cpu":
        pytest.skip("the interpreter has no bfloat16 products")
    # the interpreter knows float32 for both tf32s; on a GPU they keep 10 bits of a product
    rough = {"tf32x3": 1e-5, "tf32": 1e-2, "bf16": 5e-2}[precision]
    p = drawn("full", 2, 4, condition=2.0)
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    got = kernel.accumulate(x.to(device), None, p.to(device=device))
    agrees(got, Dense().accumulate(x, None, p), rough)


def test_float32_itself_is_what_the_plain_name_means(device):
    assert as_kernel("triton").ran == "triton"
    assert as_kernel("triton").precision == "ieee"


@pytest.mark.parametrize("kernel", ["triton:fp8", "dense:tf32", "triton:ieee:more"])
def test_unknown_precisions_are_refused(kernel):
    with pytest.raises(InputError, match="has no precision"):
        EM(kernel=kernel)


def test_a_matrix_too_large_for_registers_goes_to_dense(device):
    p = drawn("full", 2, 129)
    x = torch.randn(40, 129, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = Triton().accumulate(x.to(device), None, p.to(device=device))
    agrees(got, Dense().accumulate(x, None, p), 1e-10)


def test_a_fit_by_name_is_the_fit_of_dense(device):
    fits_as_dense("triton", CASE, device)


def test_rows_on_the_cpu_are_refused_unless_interpreted(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(InputError, match="runs on CUDA devices, the rows are on cpu"):
        Triton().accumulate(CASE.rows(), None, CASE.start("full"))


def test_its_absence_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"gpu"):
        Triton().accumulate(CASE.rows(), None, CASE.start("full"))


def test_auto_leaves_it_alone_on_the_cpu():
    kernel = as_kernel("auto")
    kernel.accumulate(CASE.rows(), None, CASE.start("full"))
    assert kernel.ran != "triton"


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_products_by_tiles_and_slabs(add, batch, device):
    from torchgmm.kernels import triton_product

    g = torch.Generator().manual_seed(0)
    left = torch.randn(*batch, 19, 1100, generator=g)
    right = torch.randn(*batch, 5, 1100, generator=g).mT  # columns that lie in one piece
    out = torch.randn(*batch, 19, 5, generator=g)
    expected = left.double() @ right.double()
    found = out.clone().to(device)
    triton_product.into(left.to(device), right.to(device), found, "tf32x3", add=add)
    before = out.double() if add else 0
    torch.testing.assert_close(found.cpu().double(), before + expected, rtol=1e-4, atol=1e-4)
    sums = triton_product.summed(left.to(device), right.to(device), "tf32x3")
    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["full", "tied", "diagonal", "spherical"])
def test_quadratic_takes_its_products_from_tensor_cores_by_name(family, device):
    p, kernel = drawn(family, 3, 4, condition=2.0), as_kernel("quadratic:tf32x3")
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    w = torch.rand(300, generator=torch.Generator().manual_seed(1))
    got = kernel.accumulate(x.to(device), w.to(device), p.to(device=device))
    agrees(got, Dense().accumulate(x, w, p), 1e-5)
    assert kernel.ran == "quadratic:tf32x3"


@pytest.mark.parametrize("shape", [(5, 70), (1, 3), (2, 19, 200)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_soft_max_in_one_launch(shape, dtype, device):
    from torchgmm.kernels import triton_soft

    g = torch.Generator().manual_seed(0)
    joint = 30 * torch.randn(*shape, generator=g, dtype=torch.float64)
    if shape[-2] > 1:
        joint[..., 0, :] = -torch.inf  # a component of weight zero
    joint = joint.to(dtype)
    least = base._LEAST_EXPONENT[dtype]
    got, log_prob = triton_soft.soft_assign(joint.clone().to(device), least)
    expected = joint.softmax(-2)
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-30)
    torch.testing.assert_close(log_prob.cpu(), joint.logsumexp(-2))
    assert bool((got.cpu()[joint < joint.amax(-2, keepdim=True) - 90] == 0).all()) or least < -90


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_all_products_of_two_coordinates_in_one_launch(batch, device):
    from torchgmm.kernels import triton_soft

    d, n = 5, 140
    i, j = torch.triu_indices(d, d, dtype=torch.int32).unbind()
    phi = torch.zeros(*batch, len(i) + d, n)
    linear = phi[..., len(i) :, :]
    linear.copy_(torch.randn(*batch, d, n, generator=torch.Generator().manual_seed(0)))
    phi, expected = phi.to(device), linear[..., i.long(), :] * linear[..., j.long(), :]
    triton_soft.multiply(phi[..., len(i) :, :], phi, i.to(device), j.to(device))
    assert torch.equal(phi[..., : len(i), :].cpu(), expected)
    assert torch.equal(phi[..., len(i) :, :].cpu(), linear)


@pytest.mark.slow
@pytest.mark.parametrize("which", [("--once",), ("--only", "D=64")], ids=" ".join)
def test_every_kernel_compiles_for_a_gpu_that_is_not_here(which):
    """Triton's compiler and assembler need no device; what does not fit into one they refuse."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu.compile", "--check", *which],
        capture_output=True, text=True, timeout=600, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_places_in_32_bits_are_found():
    from benchmarks.gpu.compile import narrow_offsets

    code = """
    %program = tt.get_program_id x : i32 loc(#loc1)
    %wide = arith.extsi %n_rows : i32 to i64 loc(#loc2)
    %good = arith.addi %wide, %tiles : i64 loc(#loc2)
    %part = arith.muli %start, %n_features : i32 loc(#loc2)
    %same = tt.splat %stride_xn : i32 -> tensor<64x1xi32> loc(#loc2)
    %tiles = arith.addi %n_rows, %c63_i32 : i32 loc(#loc3)
    %at = arith.muli %d, %same : tensor<64x1xi32> loc(#loc4)
    %rows = arith.muli %program, %c128_i32 : i32 loc(#loc5)
    """
    assert [line.split(" = ")[0] for line in narrow_offsets(code)] == ["%tiles", "%at", "%rows"]


@pytest.mark.parametrize("family", ["full", "tied_diagonal"])
def test_an_operator_for_graphs_gives_the_same(family, device):
    from torchgmm.kernels.triton_ops import fused_log_prob
    from torchgmm.kernels.triton_run import Launcher

    x, p = CASE.rows(torch.float32).to(device), CASE.start(family).to(device=device)
    made = Launcher(p, x, "ieee", 2**20)._tensors()
    torch.library.opcheck(fused_log_prob, (x, *made), test_utils=("test_schema", "test_faketensor"))
    assert torch.equal(fused_log_prob(x, *made).squeeze(0), Triton().log_prob(x, p))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch", [(), (2,)])
def test_an_operator_for_an_e_step_gives_the_same(family, batch, device):
    from torchgmm.kernels.triton_ops import fused_moments
    from torchgmm.kernels.triton_run import Launcher

    p = drawn(family, 3, 5, batch).to(device=device, dtype=torch.float32)
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)).to(device)
    w = torch.rand(300, generator=torch.Generator().manual_seed(1)).to(device)
    given = (x, w, p.logits, p.means, p.scale, p.family.name)
    torch.library.opcheck(fused_moments, given, test_utils=("test_schema", "test_faketensor"))
    expected = Launcher(p, x, "ieee", 2**27).moments(x, w, None)
    names = ("weight", "first", "second", "log_prob", "rows")
    for name, got in zip(names, fused_moments(*given), strict=True):
        assert torch.equal(got, getattr(expected, name)), name


@pytest.mark.slow
def test_an_exported_graph_holds_the_operators_or_their_kernels():
    code = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._functorch.aot_autograd import aot_export_module
from torchgmm.kernels.triton_ops import fused_log_prob, fused_moments

class Score(torch.nn.Module):
    def forward(self, x, centre, factor, log_norm):
        return fused_log_prob(x, centre, None, factor, log_norm)

class Step(torch.nn.Module):
    def forward(self, x, logits, means, scale):
        return fused_moments(x, None, logits, means, scale, "full")

def told(graph):
    print([str(node.target) for node in graph.nodes if node.op == "call_function"])

with FakeTensorMode():  # a GPU that is not there
    shapes = ((100, 4), (1, 3, 4), (1, 3, 4, 4), (1, 3))
    program = torch.export.export(Score(), tuple(torch.empty(s, device="cuda") for s in shapes))
    told(program.graph)
    shapes = ((100, 4), (3,), (3, 4), (3, 4, 4))
    told(torch.export.export(Step(), tuple(torch.empty(s, device="cuda") for s in shapes)).graph)
    with torch.no_grad():  # what a compiler is given to compile, on whatever device
        given = tuple(torch.empty(s) for s in shapes)
        told(aot_export_module(Step(), given, trace_joint=False)[0].graph)
"""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=env
    )
    assert done.returncode == 0, done.stderr
    score, step, inside = done.stdout.strip().splitlines()[-3:]
    assert "torchgmm.fused_log_prob" in score
    assert "torchgmm.fused_moments" in step
    assert "torchgmm.fused_moments" not in inside
    assert inside.count("triton_kernel_wrapper") == 2
