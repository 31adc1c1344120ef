"""The Markdown table: one per case, with ratios and what went wrong."""

from __future__ import annotations

from typing import Any

from .cases import Case, flops
from .on_gpu import PUBLISHED
from .systems import DEFAULT, HOST

__all__ = ["LOWER", "OTHER", "markdown", "ratios"]

# nats per row by which an answer after the same steps from the same start may differ: float32
# peers round by up to 1e-3 where covariances are nearly singular, as those of patches are
OTHER = 1e-2
# nats per row by which a whole fit may stay below scikit-learn's and still count as its like
LOWER = 1e-2
_SHARE = {False: "of GEMM peak", True: "of roofline"}
_FIELDS = ("n", "d", "k", "family", "data", "kind", "steps", "repeats", "curve")


def ratios(records: list[dict], peak: dict[str, float]) -> list[dict]:
    """The records of one case with what the columns show, in rising order of time."""
    done = [r for r in records if r["status"] == "ok"]
    truth = _reference(done)
    shown = []
    for r in records:
        row: dict[str, Any] = dict(r)
        if r["status"] == "ok":
            row["difference"] = r["log_likelihood"] - truth
            row["right"] = _right(row)
        shown.append(row)
    good = [r for r in shown if r["status"] == "ok" and r["right"]]
    default = next((r["median_seconds"] for r in good if r["system"] == DEFAULT), None)
    peers = [r["median_seconds"] for r in good if not r["ours"]]
    for row in shown:
        if row["status"] != "ok":
            continue
        seconds = row["median_seconds"]
        row["to_default"] = default / seconds if default else None
        row["to_best_peer"] = min(peers) / seconds if peers else None
        if row["kind"] == "steps" and row["dtype"] in peak:
            case = Case(**{name: row[name] for name in _FIELDS})
            row["of_peak"] = flops(case) / seconds / peak[row["dtype"]]
            if "memory" in peak:
                row["of_peak"] = _roofline(case, row["dtype"], peak) / seconds
            if f"{HOST} " in row["system"] and "host" in peak:
                row["from_host"] = case.n * case.d * 4 / seconds
                row["of_way"] = row["from_host"] / peak["host"]
    return sorted(shown, key=lambda row: row.get("median_seconds", float("inf")))


def _roofline(case: Case, dtype: str, peak: dict[str, float]) -> float:
    """Least seconds of a step: its operations at the peak, or one reading of the rows."""
    size = 4 if dtype == "float32" else 8
    return max(flops(case) / peak[dtype], case.n * case.d * size / peak["memory"])


def _reference(done: list[dict]) -> float:
    """What the answer should be: scikit-learn's in float64, else ours in float64, else any."""
    done = [r for r in done if not r.get("aside")]
    for wanted in (DEFAULT, "torchgmm dense float64", "torchgmm float64"):
        for r in done:
            if r["system"] == wanted:
                return float(r["log_likelihood"])
    return float(done[0]["log_likelihood"]) if done else float("nan")


def _right(row: dict) -> bool:
    # Whole fits start from seeds of their own: a higher optimum is no error, a lower one is told.
    if row.get("aside"):
        return True  # after fewer steps than the others
    if row["kind"] == "fit":
        return bool(row["difference"] >= -LOWER)
    return bool(abs(row["difference"]) <= OTHER)


def markdown(records: list[dict], machine: dict, peak: dict[str, float]) -> str:
    """The whole document."""
    lines = ["# Benchmark", "", *_head(machine, peak)]
    points = [r for r in records if not r["curve"]]
    lines += _summary(points, peak)
    for kind, title in (("steps", "Seconds per EM step"), ("fit", "Whole fits from raw rows")):
        named = list(dict.fromkeys(r["case"] for r in points if r["kind"] == kind))
        if named:
            lines += ["", f"## {title}"]
        for name in named:
            rows = ratios([r for r in points if r["case"] == name], peak)
            lines += ["", f"### {_title(rows[0])}", "", *_table(rows)]
    if "memory" in peak:
        lines += _published()
    along = [r for r in records if r["curve"]]
    for family in dict.fromkeys(r["family"] for r in along):
        lines += ["", f"## Cost curves, {family}", "", f"![cost](cost-{family}.png)", ""]
        lines += _growth([r for r in along if r["family"] == family])
    return "\n".join(lines) + "\n"


def _published() -> list[str]:
    lines = ["", "## Published elsewhere, not run here", ""]
    lines += ["| system | case | figure | on | source |", "|---|---|---|---|---|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in PUBLISHED)]


def _summary(points: list[dict], peak: dict[str, float]) -> list[str]:
    """One line per case: what `auto` takes in float32, and the best of the others."""
    lines = [
        "| case | torchgmm float32 | its fastest | best peer | ratio | to scikit-learn's default |",
        "|---|--:|---|---|--:|--:|",
    ]
    for name in dict.fromkeys(r["case"] for r in points):
        rows = ratios([r for r in points if r["case"] == name], peak)
        good = [r for r in rows if r["status"] == "ok" and r["right"]]
        auto = next((r for r in good if r["system"] == "torchgmm float32"), None)
        best = [next((r for r in good if r["ours"] is ours), None) for ours in (True, False)]
        fastest, peer = ("" if r is None else _named(r) for r in best)
        cells = ["", "", ""]
        if auto is not None:
            shown = (auto["to_best_peer"], auto["to_default"])
            cells = [_seconds(auto["median_seconds"]), *(_times(ratio) for ratio in shown)]
        what = f"{_title(rows[0])}, {'s per fit' if rows[0]['kind'] == 'fit' else 's per step'}"
        lines.append(f"| {what} | {cells[0]} | {fastest} | {peer} | {cells[1]} | {cells[2]} |")
    return ["", "## In short", "", *lines] if len(lines) > 2 else []


def _named(row: dict) -> str:
    return f"{row['system']}, {_seconds(row['median_seconds'])}"


def _head(machine: dict, peak: dict[str, float]) -> list[str]:
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items())
    rates = {name: rate for name, rate in peak.items() if name not in ("memory", "host")}
    gemm = ", ".join(f"{flop / 1e9:.0f} GFLOP/s {dtype}" for dtype, flop in rates.items())
    gpu = []
    if "memory" in peak:
        gpu = [
            f"{machine['gpu']}, Triton {machine['triton']}; memory {peak['memory'] / 1e9:.0f} "
            f"GB/s, from page-locked memory of the host {peak['host'] / 1e9:.1f} GB/s.",
        ]
    return [
        *gpu,
        f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB; "
        f"{machine['threads']} thread(s) each; load before {machine['load_before']:.2f}; "
        f"{machine['when']}.",
        f"Python {machine['python']}, {versions}; commit {machine['commit']}.",
        f"Peak of `torch.mm` in this run: {gemm}.",
        "",
        "What the columns mean is said in `benchmarks/README.md`.",
    ]


def _title(row: dict) -> str:
    return f"{row['n']:,}×{row['d']}→{row['k']} {row['family']}, {row['data']}"


def _table(rows: list[dict]) -> list[str]:
    fit = rows[0]["kind"] == "fit"
    unit = "s per fit" if fit else "s per step"
    last = "steps" if fit else _SHARE[any(r.get("on_gpu") for r in rows)]
    lines = [
        f"| system | {unit} | to scikit-learn's default | to the best peer | {last} | "
        "peak MB | above start MB | nats per row | difference | remark |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for r in rows:
        if r["status"] != "ok":
            lines.append(f"| {r['system']} | | | | | | | | | {r['status']}: {_cell(r['reason'])} |")
            continue
        steps = sorted(r["n_steps"])[len(r["n_steps"]) // 2] if fit else 0
        fourth = (str(steps) if steps else "") if fit else _percent(r.get("of_peak"))
        remark = _remark(r, fit)
        lines.append(
            f"| {r['system']} | {_seconds(r['median_seconds'])} | {_times(r['to_default'])} | "
            f"{_times(r['to_best_peer'])} | {fourth} | {r['peak_mb']:.0f} | "
            f"{max(0.0, r['peak_mb'] - r['rss_before_mb']):.0f} | {r['log_likelihood']:.6f} | "
            f"{r['difference']:+.1e} | {remark} |"
        )
    return lines


def _remark(row: dict, fit: bool) -> str:
    said = []
    if row.get("aside"):
        return "on the CPU, after two steps"
    if not row["right"]:
        said.append("**lower optimum**" if fit else "**other answer**")
    if not fit and row["n_steps"][0] < row["steps"]:
        said.append(f"stopped after {row['n_steps'][0]} of {row['steps']} steps")
    if "of_way" in row:
        said.append(f"{row['from_host'] / 1e9:.1f} GB/s, {row['of_way']:.0%} of the way's")
    return ", ".join([*said, *filter(None, [row.get("note")])])


def _growth(records: list[dict]) -> list[str]:
    """How the time grows where the size doubles, as the mean slope of the log–log curve."""
    import numpy as np

    lines = ["| system | N | D | K |", "|---|--:|--:|--:|"]
    for name in dict.fromkeys(r["system"] for r in records):
        cells = []
        for letter in "NDK":
            points = [
                (r[letter.lower()], r["median_seconds"])
                for r in records
                if r["system"] == name and r["curve"] == letter and r["status"] == "ok"
            ]
            points = [(v, s) for v, s in points if s > 0]
            if len(points) < 2:
                cells.append("")
                continue
            size, seconds = np.log2(np.array(points)).T
            cells.append(f"×{2 ** np.polyfit(size, seconds, 1)[0]:.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return ["Time when the size doubles (a straight line through the log–log curve):", "", *lines]


def _seconds(s: float) -> str:
    if s < 0.01:
        return f"{s:.5f}"
    return f"{s:.4f}" if s < 0.1 else f"{s:.3f}" if s < 10 else f"{s:.1f}"


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}×"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _cell(text: str) -> str:
    text = text if len(text) <= 120 else f"{text[:117]}..."
    return text.replace("|", "\\|").replace("\n", " ")
