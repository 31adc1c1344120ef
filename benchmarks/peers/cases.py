"""What is measured: single steps from a common start, whole fits, and curves of cost."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["CURVES", "Case", "cases", "curves", "flops", "sized"]

FULL, DIAGONAL, TIED, SPHERICAL = "full", "diagonal", "tied", "spherical"


@dataclass(frozen=True)
class Case:
    """Rows, a model and what is timed on them.

    Attributes:
        data: `blobs`, `patches` (of a photograph, N x 64) or `digits` (1797 x 20).
        kind: `steps` (EM steps from a common start) or `fit` (from raw rows).
        steps: EM steps; the first is not counted.
        repeats: fits, with the seeds 0, 1, ...
        curve: the letter that varies, where the case is a point of a curve.
    """

    n: int
    d: int
    k: int
    family: str
    data: str = "blobs"
    kind: str = "steps"
    steps: int = 6
    repeats: int = 1
    curve: str = ""

    @property
    def name(self) -> str:
        """As in the table; unique among the cases of a run."""
        curve = f" along {self.curve}" if self.curve else ""
        return f"{self.kind} {self.family} {self.n}x{self.d}-{self.k} {self.data}{curve}"

    @property
    def slug(self) -> str:
        """A name for a folder."""
        return self.name.replace(" ", "-")


def flops(case: Case) -> float:
    """Operations of one step in the plain dense form, as GEMMs would do them; see the README.

    full: whitening 2NKD² and the scatter 2NKD². Diagonal: two products over [x², x], 4NKD each.
    Spherical: two products over x, 2NKD each. Tied: whitening the rows once, 2ND², and the same.
    """
    n, d, k = case.n, case.d, case.k
    if case.family == FULL:
        return 4.0 * n * k * d * d
    if case.family == DIAGONAL:
        return 8.0 * n * k * d
    return 4.0 * n * k * d + (2.0 * n * d * d if case.family == TIED else 0.0)


# Where steps are long, fewer of them: still three that count.
_STEPS = (
    Case(200_000, 2, 8, FULL, steps=12),
    Case(200_000, 16, 32, FULL, steps=8),
    Case(100_000, 64, 64, FULL, steps=5),
    Case(100_000, 64, 64, FULL, "patches", steps=5),
    Case(100_000, 32, 512, FULL, steps=4),
    Case(200_000, 2, 8, DIAGONAL, steps=12),
    Case(200_000, 16, 32, DIAGONAL, steps=12),
    Case(100_000, 64, 64, DIAGONAL, steps=8),
    Case(100_000, 64, 64, TIED, steps=8),
)
_FITS = (
    Case(1_000, 2, 3, FULL, kind="fit", repeats=15),
    Case(1_797, 20, 10, FULL, "digits", kind="fit", repeats=15),
    Case(10_000, 8, 4, FULL, kind="fit", repeats=9),
    Case(200_000, 2, 8, FULL, kind="fit", repeats=3),
    Case(200_000, 16, 32, FULL, kind="fit", repeats=3),
    Case(100_000, 64, 64, DIAGONAL, kind="fit", repeats=3),
)
_QUICK = (
    Case(20_000, 16, 16, FULL),
    Case(20_000, 16, 16, DIAGONAL),
    Case(1_000, 2, 3, FULL, kind="fit", repeats=7),
)

# The point where the three curves of one family meet, and the values along each.
_MEET = Case(50_000, 16, 16, FULL, steps=4)
CURVES = {
    "N": (12_500, 25_000, 50_000, 100_000, 200_000, 400_000),
    "D": (2, 4, 8, 16, 32, 64),
    "K": (4, 8, 16, 32, 64, 128, 256),
}
_QUICK_MEET = Case(8_000, 8, 8, FULL, steps=4)
_QUICK_CURVES = {"N": (4_000, 8_000, 16_000, 32_000), "D": (2, 4, 8, 16), "K": (4, 8, 16, 32)}


def cases(quick: bool) -> list[Case]:
    """The cases of steps and of whole fits."""
    return list(_QUICK if quick else _STEPS + _FITS)


def sized(sizes: list[str], families: list[str], kind: str = "steps") -> list[Case]:
    """Cases on blobs of sizes of one's own, written `NxDxK`."""
    made = []
    for size in sizes:
        n, d, k = (int(part) for part in size.lower().split("x"))
        made += [Case(n, d, k, family, kind=kind, repeats=5) for family in families]
    return made


def curves(quick: bool, families: list[str], letters: str = "NDK") -> list[list[Case]]:
    """One list of cases per family and letter, in rising order of cost."""
    meet, values = (_QUICK_MEET, _QUICK_CURVES) if quick else (_MEET, CURVES)
    return [
        [replace(meet, family=family, curve=letter, **{letter.lower(): v}) for v in along]
        for family in families
        for letter, along in values.items()
        if letter in letters
    ]
