"""Law 7: extra memory is O(chunk K + statistics), never O(N K). Peaks of processes of their own."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

MIB = 2**20
# The peak is reset before the step that is measured (Linux), so rows and imports do not count.
MEASURE = """
import json, re, sys, torch, torchgmm as tg, warnings
warnings.simplefilter("ignore")
torch.manual_seed(0)

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def extra(step):
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    step()
    return status("VmHWM") - before

N, D, K = {n}, {d}, {k}
x = torch.randn(N, D)
x += 4 * torch.randint(8, (N, 1))
w = torch.rand(N)
start = tg.GaussianMixture(K, D, {family!r})
start.fit(x[:20_000], tg.EM(max_iter=1), generator=0)  # threads, libraries, buffers of a first call
found = {{}}
{steps}
print(json.dumps(found))
"""


def measured(steps, n=1_000_000, d=16, k=32, family="full"):
    """Bytes that each step added to the resident memory at its peak."""
    code = MEASURE.format(n=n, d=d, k=k, family=family, steps=steps)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print({name: f"{size / MIB:.0f} MiB" for name, size in found.items()})
    return found


@pytest.fixture(autouse=True)
def _linux():
    if sys.platform != "linux":
        pytest.skip("the peak of a process can be reset on Linux only")


@pytest.mark.parametrize("family", ["full", "diagonal", "tied"])
def test_a_fit_of_a_million_rows_adds_less_than_300_mb(family):
    found = measured(
        "mixture = tg.GaussianMixture(K, covariance=start.family)\n"
        "found['fit'] = extra(lambda: mixture.fit(x, tg.EM(max_iter=3), generator=0))\n"
        "found['weighted'] = extra(lambda: mixture.fit(x, tg.EM(max_iter=2), init='current',\n"
        "                                              weights=w))\n",
        family=family,
    )
    # the bound; N x K in float32 alone would be 128 MB, N x K x D 2 GB
    assert max(found.values()) < 300e6, found


def test_scoring_a_million_rows_adds_less_than_300_mb():
    found = measured(
        "with torch.no_grad():\n"
        "    for name in ('log_prob', 'predict', 'score', 'bic', 'aic', 'icl'):\n"
        "        found[name] = extra(lambda: getattr(start, name)(x))\n"
        "    found['weighted score'] = extra(lambda: start.score(x, w))\n"
    )
    assert max(found.values()) < 300e6, found


SEEDINGS = ["kmeans", "k-means++", "random_from_data", "random"]


@pytest.mark.parametrize("init", [*SEEDINGS, "labels"])
def test_no_seeding_needs_rows_times_components(init):
    labels = "torch.randint(K, (N,))" if init == "labels" else repr(init)
    found = measured(
        f"init = {labels}\n"
        "mixture = tg.GaussianMixture(K, covariance='diagonal')\n"
        "found['start'] = extra(lambda: mixture.fit(x, tg.EM(max_iter=0), init=init,\n"
        "                                           generator=0))\n",
        n=2_000_000,
        d=2,
        k=128,
    )
    # N x K in float32 is 1 GB here; a block of rows is 32 MB and comes in float64 too
    assert max(found.values()) < 300e6, found


def test_memory_does_not_grow_with_the_rows():
    steps = "found['fit'] = extra(lambda: start.fit(x, tg.EM(max_iter=2), init='current'))\n"
    few, many = (measured(steps, n=n)["fit"] for n in (300_000, 1_500_000))
    # five times the rows: N float64 numbers would be 10 MB more, N x K float32 150 MB
    assert many < few + 40e6


def test_many_components_in_many_dimensions_do_not_multiply():
    found = measured(
        "found['fit'] = extra(lambda: start.fit(x, tg.EM(max_iter=2), init='current'))\n"
        "with torch.no_grad():\n"
        "    found['log_prob'] = extra(lambda: start.log_prob(x))\n",
        n=50_000,
        d=32,
        k=256,
    )
    # N x K x D in float32 is 1.6 GB; the statistics of all components are 2 MB
    assert max(found.values()) < 300e6, found
