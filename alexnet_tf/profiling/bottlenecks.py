"""Finds what limits a profiled training step, and advises what to do about it."""

import functools
import statistics
import textwrap
from typing import Any
from typing import NamedTuple

from alexnet_tf.profiling import intervals
from alexnet_tf.profiling import operation_names
from alexnet_tf.profiling import trace
from alexnet_tf.utils import messages

# Input waits as fractions of a step from which TensorBoard's profiler, too, calls the step input-bound.
MODERATE, HIGH = 0.05, 0.2
MAX_FINDINGS = 5
# Layers with less of the time of all operations share one line.
_MIN_SHARE = 0.002


class Finding(NamedTuple):
    """Something that takes time."""

    what: str
    share: float  # of the steps' time
    advice: str


def measure(timeline: trace.Timeline) -> dict[str, Any]:
    """Measures where the time of the profiled steps went.

    Shares are fractions of the time from the start of the first step to the end of the last, so a share bounds what a
    step would gain. Shares of things that happen at the same time add up to more than one.

    Args:
      timeline: the trace.

    Returns:
      A dict for JSON:
        "step_ms": by step.
        "layers": by "layer phase", ms per step summed over all threads.
        "input": ms per step and share spent waiting, and the verdict.
        "towers": ms per step that each tower is busy, that both are, and "overlap", their common time relative to that
          of the less busy one; None with fewer than two towers.
        "crossing": ms per step in sends and receives, and bytes per step: all, of the input images, and by direction;
          None without a description of the step.
        "idle": share without any operation and without waiting for input.
        "findings": what takes most of the step, in descending order.
    """
    window = intervals.merge(timeline.steps.values())
    total, count = intervals.total_length(window), len(timeline.steps)
    pieces = [(intervals.intersect([piece[:2]], window), piece) for piece in timeline.pieces]
    times = {}
    for inside, piece in pieces:
        key = f"{piece.layer or 'unnamed'} {piece.phase}"
        times[key] = times.get(key, 0.0) + intervals.total_length(inside) / count / 1e3
    # Unions of intervals, besides these sums: work that two threads do at the same time counts once.
    spans = functools.partial(_spans, pieces)
    busy = spans(lambda piece: True)
    waiting = intervals.total_length(intervals.subtract(timeline.inputs, busy)) / total
    idle = intervals.total_length(intervals.subtract(window, [*busy, *timeline.inputs])) / total
    findings = _findings(pieces, spans, total, waiting, idle)
    return {
        "trace": timeline.path,
        "steps": list(timeline.steps),
        "step_ms": [(end - start) / 1e3 for start, end in timeline.steps.values()],
        "layers": dict(sorted(times.items(), key=lambda each: -each[1])),
        "input": _input(timeline, waiting, count),
        "towers": _towers(spans, count),
        "crossing": _transfers(timeline, spans, count),
        "idle": idle,
        "findings": [finding._asdict() for finding in findings[:MAX_FINDINGS]],
    }


def _spans(pieces, is_wanted):
    return intervals.merge([interval for inside, piece in pieces if is_wanted(piece) for interval in inside])


def _input(timeline, share, count):
    verdict = "highly input-bound" if share >= HIGH else "moderately input-bound" if share >= MODERATE else None
    return {
        "ms": intervals.total_length(timeline.inputs) / count / 1e3,
        "share": share,
        "verdict": verdict or "not input-bound",
    }


def _towers(spans, count):
    a, b = (spans(lambda piece, tower=tower: piece.tower == tower) for tower in "ab")
    shorter = min(intervals.total_length(a), intervals.total_length(b))
    both = intervals.total_length(intervals.intersect(a, b))
    return {
        "a_ms": intervals.total_length(a) / count / 1e3,
        "b_ms": intervals.total_length(b) / count / 1e3,
        "both_ms": both / count / 1e3,
        "overlap": both / shorter if shorter else None,
    }


def _transfers(timeline, spans, count):
    names = timeline.transfers
    is_known = bool(timeline.sizes)
    sent = {name for direction in names.values() for name in direction}
    inputs = [
        timeline.sizes.get(name, 0)
        for name in sent
        if operation_names.is_input_scope(operation_names.layer_of_name(name))
    ]
    sizes = {
        f"{source} to {destination}": sum(timeline.sizes.get(name, 0) for name in names[source, destination])
        for source, destination in sorted(names)
    }
    return {
        "ms": intervals.total_length(spans(lambda piece: piece.phase == "transfer")) / count / 1e3,
        "tensors": sum(
            bool(timeline.sizes.get(name)) or not is_known for direction in names.values() for name in direction
        ),
        "bytes": sum(sizes.values()) if is_known else None,
        "input_bytes": sum(inputs) if is_known else None,
        "by_direction": sizes if is_known else None,
    }


_OUTSIDE_ADVICE = {
    "update": "one pass over all weights per step: use a larger batch; {benchmark} --rows=P11 measures it alone",
    "preprocess": "the first work on the device: check whether the other tower waits for it",
    "loss": "proportional to batch size x classes, on one device",
    "transfer": "let the towers exchange less often (--communication=fc8) if the experiment allows it, "
    "or use devices with a direct link",
}
_WAIT_ADVICE = (
    "the other tower runs {work} meanwhile: use one thread for each tower (--intra_op_threads=1), or speed up that work"
)
_IDLE_ADVICE = (
    "overhead between operations: use a larger batch; profile later steps if the first ones of the process are included"
)
_INPUT_ADVICE = "prepare the data ({prepare}), store raw records or use a faster disk; use more cores for reading"


def _findings(pieces, spans, total, input_share, idle):
    """Returns everything that takes time, in descending order."""
    found = [
        Finding("waiting for input", input_share, _INPUT_ADVICE.format(prepare=messages.program("prepare"))),
        Finding("no operation runs", idle, _IDLE_ADVICE),
    ]
    for stage, phase in {_stage(piece) for _, piece in pieces}:
        wanted = lambda piece, key=(stage, phase): _stage(piece) == key
        share = intervals.total_length(spans(wanted)) / total
        found.append(Finding(f"{stage} {phase}".strip(), share, _advice(pieces, stage, phase, wanted)))
    for tower, other in ("ab", "ba"):
        own = spans(lambda piece, other=other: piece.tower != other)
        alone = intervals.subtract(spans(lambda piece, other=other: piece.tower == other), own)
        if alone and spans(lambda piece, tower=tower: piece.tower == tower):
            what = f"tower {tower} is idle while the other runs"
            advice = _WAIT_ADVICE.format(work=_work_in(pieces, alone, other))
            found.append(Finding(what, intervals.total_length(alone) / total, advice))
    return sorted(found, key=lambda finding: (-finding.share, finding.what))


def _work_in(pieces, within, tower):
    """Names what takes most of a tower's time within intervals."""
    times = {}
    for inside, piece in pieces:
        if piece.tower == tower:
            what = " ".join(_stage(piece)).strip()
            times[what] = times.get(what, 0.0) + intervals.total_length(intervals.intersect(inside, within))
    what, time = max(times.items(), key=lambda each: each[1])
    return f"{what} ({100 * time / (sum(times.values()) or 1):.0f}% of that time)"


def _stage(piece):
    """Returns the part of the step that a piece belongs to: (layer of both towers, pass), or (scope, "")."""
    if piece.phase in ("update", "transfer"):
        return piece.phase, ""
    if piece.phase == "other":
        return piece.layer or "error counts and other operations without a name", ""
    layer = piece.layer.removesuffix("_a").removesuffix("_b")
    return layer or "gradients without a layer's name,", piece.phase


def _advice(pieces, stage, phase, is_wanted):
    benchmark = messages.program("benchmark")
    if not phase:
        return _OUTSIDE_ADVICE.get(stage, "inspect it in the trace viewer").format(benchmark=benchmark)
    kinds = {}
    for inside, piece in pieces:
        if is_wanted(piece):
            kinds[piece.kind] = kinds.get(piece.kind, 0.0) + intervals.total_length(inside)
    kind, time = max(kinds.items(), key=lambda each: each[1])
    what = f"{100 * time / (sum(kinds.values()) or 1):.0f}% of it {kind}"
    if operation_names.is_product(kind):
        return f"{what}: arithmetic; try --precision=bfloat16 if the machine supports it ({benchmark} --rows=P7)"
    if stage.startswith("norm"):
        return f"{what}: the normalization; {benchmark} --rows=P3,P4 measures it alone"
    return f"{what}: hardly any arithmetic; limited by memory bandwidth or by the operation's own threads"


def to_text(measured: dict[str, Any]) -> str:
    """Formats the result of `measure` as text of at most 120 columns."""
    steps, times = measured["steps"], measured["step_ms"]
    lines = [
        f"Profile {measured['trace']}",
        f"{len(steps)} steps, {steps[0]} to {steps[-1]}: {statistics.median(times):.2f} ms per step (median; "
        f"{min(times):.2f} to {max(times):.2f})",
        "",
        *_layer_table(measured["layers"]),
        "",
        *_input_lines(measured["input"]),
        *_tower_lines(measured["towers"]),
        *_transfer_lines(measured["crossing"]),
        "",
        "What to fix first (share of the step in which it happens):",
    ]
    for number, finding in enumerate(measured["findings"], 1):
        lines.append(f"{number}. {100 * finding['share']:5.1f}%  {finding['what']}")
        lines += textwrap.wrap(finding["advice"], 108, initial_indent=12 * " ", subsequent_indent=12 * " ")
    return "\n".join(lines)


def _layer_table(times):
    """Formats the times by layer and pass; layers that take next to no time share one line."""
    total = sum(times.values()) or 1.0
    rows = {}
    for key, time in times.items():
        layer, _, phase = key.rpartition(" ")
        name = phase if phase in ("update", "transfer") else layer
        rows.setdefault(name, dict.fromkeys(("forward", "backward", "neither"), 0.0))
        rows[name][phase if phase in rows[name] else "neither"] += time
    small = [name for name, row in rows.items() if sum(row.values()) < _MIN_SHARE * total]
    rest = [rows.pop(name) for name in small]
    table = sorted(rows.items(), key=lambda each: -sum(each[1].values()))
    if rest:
        table.append((f"{len(rest)} more", {phase: sum(row[phase] for row in rest) for phase in rest[0]}))
    lines = [f"{'ms per step, sum of all threads':<34}{'forward':>10}{'backward':>10}{'neither':>10}{'share':>9}"]
    for name, row in table:
        cells = "".join(f"{time:>10.2f}" if time else f"{'':>10}" for time in row.values())
        lines.append(f"{name:<34}{cells}{100 * sum(row.values()) / total:>7.1f}%")
    return lines


def _input_lines(waiting):
    return [
        f"Input: the loop waits {waiting['ms']:.2f} ms per step for its batch; {100 * waiting['share']:.1f}% of the "
        "step without any operation running:",
        f"          {waiting['verdict']} (moderately from {100 * MODERATE:.0f}%, highly from {100 * HIGH:.0f}%)",
    ]


def _tower_lines(towers):
    if towers["overlap"] is None:
        return ["Towers: one"]
    return [
        f"Towers: a is busy {towers['a_ms']:.2f} ms per step, b {towers['b_ms']:.2f} ms, both at once "
        f"{towers['both_ms']:.2f} ms: overlap {100 * towers['overlap']:.1f}% of the less busy one"
    ]


def _transfer_lines(transfers):
    if not transfers["tensors"]:
        return ["Transfers: none, all on one device"]
    line = f"Transfers: {transfers['tensors']} tensors per step, {transfers['ms']:.2f} ms in sends and receives"
    if transfers["bytes"] is None:
        return [f"{line}; bytes unknown, as there is no {trace.DESCRIPTION} next to the trace"]
    directions = ", ".join(f"{direction} {size / 1e6:.3f}" for direction, size in transfers["by_direction"].items())
    return [
        f"{line}, {transfers['bytes'] / 1e6:.3f} MB ({directions})",
        f"          {transfers['input_bytes'] / 1e6:.3f} MB of them images; computed from shapes in the step's graph",
    ]
