"""Log–log pictures of the cost of a step against N, D and K."""

from __future__ import annotations

from pathlib import Path

__all__ = ["draw"]

_LABELS = {"N": "rows N", "D": "features D", "K": "components K"}
# Okabe & Ito's colours, told apart by colour-blind readers too; ours is the black line
_COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#8C6D31", "#7F7F7F"]
_MARKS = "osD^vP<>"


def draw(records: list[dict], out: Path) -> list[Path]:
    """One picture per family of the points that belong to curves."""
    along = [r for r in records if r["curve"]]
    return [
        _family(family, [r for r in along if r["family"] == family], out)
        for family in dict.fromkeys(r["family"] for r in along)
    ]


def _family(family: str, records: list[dict], out: Path) -> Path:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    letters = [letter for letter in "NDK" if any(r["curve"] == letter for r in records)]
    figure, axes = plt.subplots(
        1, len(letters), figsize=(5 * len(letters), 5.4), sharey=True, squeeze=False
    )
    styles = _styles(records)
    for axis, letter in zip(axes[0], letters, strict=True):
        mine = [r for r in records if r["curve"] == letter]
        for name, style in styles.items():
            points = sorted(
                (r[letter.lower()], r["median_seconds"])
                for r in mine
                if r["system"] == name and r["status"] == "ok" and r["median_seconds"] > 0
            )
            if points:
                axis.plot(*zip(*points, strict=True), label=name, **style)
        _dress(axis, letter, mine)
    axes[0][0].set_ylabel("seconds per EM step")
    handles = {}
    for axis in axes[0]:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.suptitle(f"Cost of one EM step, {family} covariances")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="lower center",
        ncols=4,
        frameon=False,
        handlelength=4,
    )
    rows = -(-len(handles) // 4)
    figure.tight_layout(rect=(0, 0.045 * rows + 0.02, 1, 1))
    path = out / f"cost-{family}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _styles(records: list[dict]) -> dict[str, dict]:
    """One style per system: a colour per label, dashes for float64, ours black and thick."""
    styles: dict[str, dict] = {}
    colours: dict[str, int] = {}
    for r in records:
        i = len(colours) if r["label"] not in colours and not r["ours"] else 0
        if not r["ours"]:
            i = colours.setdefault(r["label"], i)
        styles[r["system"]] = {
            "color": "black" if r["ours"] else _COLOURS[i % len(_COLOURS)],
            "linewidth": 2.4 if r["ours"] else 1.4,
            "linestyle": "--" if r["dtype"] == "float64" else "-",
            "markerfacecolor": "white" if r["dtype"] == "float64" else None,
            "marker": "*" if r["ours"] else _MARKS[i % len(_MARKS)],
            "markersize": 9 if r["ours"] else 5,
            "zorder": 3 if r["ours"] else 2,
        }
    return styles


def _dress(axis, letter: str, records: list[dict]) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    values = sorted({r[letter.lower()] for r in records})
    axis.xaxis.set_major_locator(FixedLocator(values))
    axis.xaxis.set_major_formatter(lambda v, _: f"{v / 1000:g}k" if v >= 1000 else f"{v:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
    fixed = ", ".join(
        f"{other} = {records[0][other.lower()]:,}" for other in "NDK" if other != letter
    )
    axis.set_xlabel(f"{_LABELS[letter]}   ({fixed})")
    axis.grid(True, which="major", linewidth=0.5, alpha=0.5)
    times = [
        r["median_seconds"] for r in records if r["status"] == "ok" and r["median_seconds"] > 0
    ]
    if times and len(values) > 1:
        # doubling the size doubles the time along this line
        low = 0.7 * max(min(times), 1e-6)
        axis.plot(
            [values[0], values[-1]],
            [low, low * values[-1] / values[0]],
            color="0.6",
            linestyle=":",
            label="time in proportion",
        )
