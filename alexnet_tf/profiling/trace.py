"""A profile of training steps, read without a browser: where the time of a step goes, and what to do about it.

A trace says when each operation ran in which thread, under the name that it has in the executed graph. What names
do not tell is taken from the graph that the step was traced into, which is written beside the trace (`describe`): the
layer of a convolution that was fused and bears its ReLU's name, or of a gradient without a scope, and the size of what
crosses between devices, which no trace of a CPU says.
"""

import functools
import importlib
import importlib.util
import json
import math
import pathlib
import re
import statistics
import textwrap
from typing import NamedTuple

from alexnet_tf.profiling import placement_report
from alexnet_tf.utils import messages

# Beside a trace: what `describe` returns.
DESCRIPTION = "step.json"
# What the training loop calls its marks.
STEP, INPUT = "train", "input"
TRACES = "plugins/profile/*/*.xplane.pb"
# Shares of a step that waits for input from which on TensorBoard's profiler, too, calls it input-bound.
MODERATE, HIGH = 0.05, 0.2
MOST_FINDINGS = 5
# Of the time of all operations, for a line of its own.
_LEAST_SHARE = 0.002

_OPERATION = re.compile(r"([\w./-]+):(\w+)")
_TOWER = re.compile(r"_([ab])$")
_ASYNCHRONOUS = "ExecutorState::ProcessAsync::Start"
_EXECUTOR = "ExecutorState::"
_TRANSFERS = ("_Send", "_Recv", "_HostSend", "_HostRecv")
# What grappler looks through when it fuses a product with what follows it.
_FUSED = ("BiasAdd", "Add", "AddV2", "Identity", "IdentityN", "Relu", "Tanh")
_SENDING = re.compile(r"device:(\w+:\d+);\w+;.*device:(\w+:\d+);")
# Threads of a GPU's part of a trace that show its work by the operation that ordered it.
_GPU_THREADS = re.compile(r"(TensorFlow|Framework) Ops$")


class Piece(NamedTuple):
    """A stretch of time in which a thread worked at one operation and at none that this one called."""

    start: float  # microseconds, since the trace began
    end: float
    kind: str  # the operation's type
    phase: str  # one of `placement_report.PHASES`, or "transfer"
    layer: str  # such as "conv1_a"; outside every layer its scope, or ""
    tower: str  # "a", "b"; "" for what belongs to neither


class Timeline(NamedTuple):
    """A trace of training steps."""

    path: str
    steps: dict  # by number: (start, end) in microseconds
    inputs: list  # of (start, end), waiting for a batch
    pieces: list  # of `Piece`
    crossings: dict  # by (source, destination) such as ("CPU:0", "CPU:1"): names of the tensors of a step
    sizes: dict  # by name: bytes; empty if no description was beside the trace


def describe(graph):
    """What the operations of a traced step stand for.

    Args:
      graph: ``tf.Graph`` of a concrete `trainer.Trainer.step`.

    Returns:
      A dict ready for JSON: for each operation's name its "phase" and "layer"; where it is of known shape the "bytes"
      of its first output; where it was placed the "device", such as "CPU:1"; where it follows a product that it may
      be fused with, that one's layer as "fused".
    """
    described = {}
    for operation in graph.get_operations():
        phase, layer = _phase_and_layer(operation, described)
        facts = {"phase": phase, "layer": layer, "bytes": _size(operation), "fused": _fused(operation)}
        facts["device"] = operation.device.rpartition("device:")[2]
        described[operation.name] = {name: value for name, value in facts.items() if value or name == "layer"}
    return described


def _phase_and_layer(operation, described):
    """Of an operation without a scope that reads gradients: backward, and the layer whose gradient it is.

    Operations stand behind those that they read, so that these are `described`.
    """
    phase = placement_report.phase_of_name(operation.name, operation.type)
    layer = placement_report.layer_of_name(operation.name)
    makers = [tensor.op for tensor in operation.inputs]
    gradients = [described[maker.name]["layer"] for maker in makers if described[maker.name]["phase"] == "backward"]
    if phase != "other" or layer or not gradients:
        return phase, layer
    # A gradient of our own reads what its layer read; a sum of gradients is of the layer that they come from.
    readers = [
        placement_report.layer_of_name(reader.name)
        for maker in makers
        for tensor in maker.outputs
        for reader in tensor.consumers()
        if reader.type == operation.type and placement_report.phase_of_name(reader.name, reader.type) == "forward"
    ]
    return "backward", (readers or gradients)[0]


def _size(operation):
    if not operation.outputs or not operation.outputs[0].shape.is_fully_defined():
        return 0
    return operation.outputs[0].shape.num_elements() * operation.outputs[0].dtype.size


def _fused(operation):
    """The layer of the product before a bias and an activation, "" where there is none."""
    while operation.type in _FUSED and operation.inputs:
        operation = operation.inputs[0].op
        if placement_report.is_product(operation.type):
            return placement_report.layer_of_name(operation.name)
    return ""


def newest(path):
    """The newest trace of a run.

    Args:
      path: a trace itself, or a directory with TensorBoard's files in it or in its "tensorboard".

    Returns:
      The trace's path, a str.

    Raises:
      FileNotFoundError: if there is none.
    """
    path = pathlib.Path(path)
    if path.is_file():
        return str(path)
    # Directories of traces are named by date and time.
    found = sorted([*path.glob(TRACES), *path.glob(f"tensorboard/{TRACES}")], key=lambda each: each.parent.name)
    if not found:
        raise FileNotFoundError(
            f"Expected a profile, as tools/train.py --profile_steps=10,20 writes, in {path}. Received: none"
        )
    return str(found[-1])


def read(path):
    """Reads a trace with xprof's converter.

    Args:
      path: of a file ``*.xplane.pb``.

    Returns:
      A `Timeline`.

    Raises:
      FileNotFoundError: if it is not there.
      ModuleNotFoundError: without xprof.
      ValueError: if it is cut short, or has no marks of training steps.
    """
    if importlib.util.find_spec("xprof") is None:
        raise ModuleNotFoundError("Expected xprof to read a profile: pip install -e '.[profile]'. Received: none")
    # It is optional, and loads a library of 60 MB.
    converter = importlib.import_module("xprof.convert.raw_to_tool_data")
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"Expected a profile. Received: {path}, which is not there")
    text, _ = converter.xspace_to_tool_data([str(path)], "trace_viewer", {})
    if text is None:
        raise ValueError(f"Expected a whole profile. Received: {path}, which is cut short or damaged")
    timeline = timeline_of(json.loads(text)["traceEvents"], _read_description(pathlib.Path(path).parent), str(path))
    if not timeline.steps:
        raise ValueError(f"Expected a profile of training steps. Received: {path}, which marks none")
    return timeline


def _read_description(directory):
    path = directory / DESCRIPTION
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected JSON in {path}. Received: {messages.first_line(error)}") from None


def timeline_of(events, description, path=""):
    """The timeline of a trace.

    Args:
      events: list of dicts, Chrome's trace events, times in microseconds.
      description: of `describe`, or an empty dict.
      path: of the trace.

    Returns:
      A `Timeline`, of what lies within the marked steps.
    """
    spans = [event for event in events if event.get("ph") == "X"]
    steps = {
        int(event["args"]["step_num"]): _interval(event)
        for event in spans
        if event["name"].startswith(f"{STEP} ") and "step_num" in event.get("args", {})
    }
    window = _merged(steps.values())
    inputs = [_interval(event) for event in spans if event["name"] == INPUT]
    threads = {}
    working = _working_threads(events)
    for event in spans:
        if working is None or (event["pid"], event["tid"]) in working:
            threads.setdefault((event["pid"], event["tid"]), []).append(event)
    layers = {facts["layer"] for facts in description.values()} - {""}
    classify = functools.partial(_classify, description, layers, _first_device(description))
    pieces = [piece for thread in threads.values() for piece in _pieces(thread, classify)]
    crossings = {}
    for event in spans:
        sent = _sent(event)
        if sent and _common([_interval(event)], window):
            crossings.setdefault(sent[0], set()).add(sent[1])
    sizes = {name: facts.get("bytes", 0) for name, facts in description.items()}
    inside = [piece for piece in pieces if _common([piece[:2]], window)]
    return Timeline(path, dict(sorted(steps.items())), _common(inputs, window), inside, crossings, sizes)


def _interval(event):
    return event["ts"], event["ts"] + event.get("dur", 0.0)


def _working_threads(events):
    """Where a GPU's operations are shown; None for a trace without one, in which they are where they were executed."""
    names = {
        (event["name"], event["pid"], event.get("tid")): event["args"]["name"]
        for event in events
        if event.get("ph") == "M" and event["name"] in ("process_name", "thread_name")
    }
    gpus = {pid for (what, pid, _), name in names.items() if what == "process_name" and "/device:GPU" in name}
    if not gpus:
        return None
    return {
        (pid, tid)
        for (what, pid, tid), name in names.items()
        if what == "thread_name" and pid in gpus and _GPU_THREADS.search(name)
    }


def _first_device(description):
    """The first tower's home; "" for a step on one device."""
    devices = sorted({facts["device"] for facts in description.values() if "device" in facts})
    return devices[0] if len(devices) > 1 else ""


def _classify(description, layers, first_device, event):
    """Kind, phase, layer and tower of an event's operation; None for one that is none, or none of the step."""
    arguments = event.get("args", {})
    if event["name"] == _ASYNCHRONOUS and "kernel_type" in arguments:
        name, kind = arguments["name"], arguments["kernel_type"]
    else:
        found = _OPERATION.fullmatch(arguments.get("long_name", event["name"]))
        if found is None or "::" in found[0]:
            return None
        name, kind = found.groups()
    if kind in _TRANSFERS:
        return kind, "transfer", "", ""
    facts = description.get(name, {})
    if description and not facts and placement_report.layer_of_name(name) not in layers:
        # Of the input pipeline, which works in threads of its own.
        return None
    phase = facts.get("phase") or placement_report.phase_of_name(name, kind)
    layer = facts["layer"] if facts else placement_report.layer_of_name(name)
    if placement_report.is_product(kind) and phase == "forward":
        layer = facts.get("fused") or layer
    return kind, phase, layer, _tower(layer, facts.get("device", ""), first_device)


def _tower(layer, device, first_device):
    letter = _TOWER.search(layer)
    if letter:
        return letter[1]
    return ("a" if device == first_device else "b") if first_device and device else ""


def _pieces(events, classify):
    """A `Piece` for each stretch of one thread in which one operation had no other above it."""
    # What the executor does is no operation's time, though it may go on inside one's.
    marks = [
        (*_interval(event), classify(event))
        for event in events
        if event["name"].startswith(_EXECUTOR) or classify(event)
    ]
    open_marks = []
    now = -math.inf

    def advance(until):
        nonlocal now
        if open_marks and open_marks[-1][1] and until > now:
            yield Piece(now, until, *open_marks[-1][1])
        now = until

    for start, end, what in sorted(marks, key=lambda mark: (mark[0], -mark[1])):
        while open_marks and open_marks[-1][0] <= start:
            yield from advance(open_marks[-1][0])
            open_marks.pop()
        yield from advance(start)
        open_marks.append((min(end, open_marks[-1][0]) if open_marks else end, what))
    while open_marks:
        yield from advance(open_marks[-1][0])
        open_marks.pop()


def _sent(event):
    """Between which devices an event sends which tensor; None if it is no sending."""
    arguments = event.get("args", {})
    devices = _SENDING.search(arguments.get("key", ""))
    if devices is None or not arguments.get("long_name", "").endswith("Send"):
        return None
    return devices.groups(), arguments.get("from", "")


def _merged(intervals):
    """Intervals that do not touch each other, ascending."""
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged


def _common(first, second):
    """What two lists of intervals share."""
    first, second = _merged(first), _merged(second)
    shared = []
    here = there = 0
    while here < len(first) and there < len(second):
        start, end = max(first[here][0], second[there][0]), min(first[here][1], second[there][1])
        if end > start:
            shared.append((start, end))
        if first[here][1] < second[there][1]:
            here += 1
        else:
            there += 1
    return shared


def _without(first, second):
    """What of the first intervals is outside the second."""
    outside = []
    edge = -math.inf
    for start, end in [*_merged(second), (math.inf, math.inf)]:
        outside.append((edge, start))
        edge = end
    return _common(first, outside)


def _length(intervals):
    return sum(end - start for start, end in _merged(intervals))


class Finding(NamedTuple):
    """Something that takes time."""

    what: str
    share: float  # of the steps' time
    advice: str


def measure(timeline):
    """Where the time of the profiled steps went.

    Shares are of the steps' time from their first instant to their last, so a share is what a step would at most gain;
    those of things that happen at the same time add up to more than one.

    Args:
      timeline: a `Timeline`.

    Returns:
      A dict ready for JSON. "step_ms" by step; "layers": by "layer phase", ms a step of all threads together;
      "input": ms a step and share waiting, and the verdict; "towers": what each is busy, ms a step, both at once, and
      "overlap", their common time over that of the one less busy, None with fewer than two; "crossing": ms a step in
      sends and receives, and bytes a step, in all, of the images and by direction, None without a description;
      "idle": share without any operation and without waiting for input; "findings": what takes most of the step, the
      first first.
    """
    window = _merged(timeline.steps.values())
    whole, count = _length(window), len(timeline.steps)
    pieces = [(_common([piece[:2]], window), piece) for piece in timeline.pieces]
    times = {}
    for inside, piece in pieces:
        key = f"{piece.layer or 'unnamed'} {piece.phase}"
        times[key] = times.get(key, 0.0) + _length(inside) / count / 1e3
    # Not only their sum: what two threads do at once takes a step no longer than what one does.
    spans = functools.partial(_spans, pieces)
    busy = spans(lambda piece: True)
    waiting = _without(timeline.inputs, busy)
    idle = _length(_without(window, [*busy, *timeline.inputs])) / whole
    found = {
        "trace": timeline.path,
        "steps": list(timeline.steps),
        "step_ms": [(end - start) / 1e3 for start, end in timeline.steps.values()],
        "layers": dict(sorted(times.items(), key=lambda each: -each[1])),
        "input": _input(timeline, _length(waiting) / whole, count),
        "towers": _towers(spans, count),
        "crossing": _crossing(timeline, spans, count),
        "idle": idle,
    }
    findings = _findings(pieces, spans, whole, _length(waiting) / whole, idle)
    return {**found, "findings": [finding._asdict() for finding in findings[:MOST_FINDINGS]]}


def _spans(pieces, is_wanted):
    return _merged([interval for inside, piece in pieces if is_wanted(piece) for interval in inside])


def _input(timeline, share, count):
    verdict = "highly input-bound" if share >= HIGH else "moderately input-bound" if share >= MODERATE else None
    return {
        "ms": _length(timeline.inputs) / count / 1e3,
        "share": share,
        "verdict": verdict or "not input-bound",
    }


def _towers(spans, count):
    a, b = (spans(lambda piece, tower=tower: piece.tower == tower) for tower in "ab")
    shorter = min(_length(a), _length(b))
    both = _length(_common(a, b))
    return {
        "a_ms": _length(a) / count / 1e3,
        "b_ms": _length(b) / count / 1e3,
        "both_ms": both / count / 1e3,
        "overlap": both / shorter if shorter else None,
    }


def _crossing(timeline, spans, count):
    names = timeline.crossings
    is_known = bool(timeline.sizes)
    sent = {name for way in names.values() for name in way}
    prepared = [timeline.sizes.get(name, 0) for name in sent if placement_report.layer_of_name(name) == "prepare"]
    sizes = {
        f"{source} to {destination}": sum(timeline.sizes.get(name, 0) for name in names[source, destination])
        for source, destination in sorted(names)
    }
    return {
        "ms": _length(spans(lambda piece: piece.phase == "transfer")) / count / 1e3,
        "tensors": sum(bool(timeline.sizes.get(name)) or not is_known for way in names.values() for name in way),
        "bytes": sum(sizes.values()) if is_known else None,
        "input_bytes": sum(prepared) if is_known else None,
        "by_direction": sizes if is_known else None,
    }


_OUTSIDE = {
    "update": "a pass over all weights: a larger batch makes it rarer; measured alone by tools/benchmark.py --rows=P11",
    "prepare": "the first work on the device: look whether the other tower waits for it",
    "loss": "of the size of batch x classes, on one device",
    "transfer": "let the towers meet less often, --communication=fc8, if the experiment may; else devices with a link",
}
_WAITS = "the other one is at {work} then: a thread for each tower (--intra_op_threads=1), or what it does made lighter"
_IDLE = "the program between operations: a larger batch; profile more steps if the first of a process is among them"
_INPUT_ADVICE = "prepare the data (tools/prepare.py), as raw records or on a faster disk; more cores for reading"


def _findings(pieces, spans, whole, input_share, idle):
    """Everything that a step could be rid of, the largest first."""
    found = [Finding("waiting for input", input_share, _INPUT_ADVICE), Finding("no operation runs", idle, _IDLE)]
    for stage, phase in {_stage(piece) for _, piece in pieces}:
        wanted = lambda piece, key=(stage, phase): _stage(piece) == key
        share = _length(spans(wanted)) / whole
        found.append(Finding(f"{stage} {phase}".strip(), share, _advice(pieces, stage, phase, wanted)))
    for tower, other in ("ab", "ba"):
        own = spans(lambda piece, other=other: piece.tower != other)
        alone = _without(spans(lambda piece, other=other: piece.tower == other), own)
        if alone and spans(lambda piece, tower=tower: piece.tower == tower):
            what = f"tower {tower} stands still while the other works"
            advice = _WAITS.format(work=_work_in(pieces, alone, other))
            found.append(Finding(what, _length(alone) / whole, advice))
    return sorted(found, key=lambda finding: (-finding.share, finding.what))


def _work_in(pieces, intervals, tower):
    """What a tower does in some of the time, most of it."""
    times = {}
    for inside, piece in pieces:
        if piece.tower == tower:
            what = " ".join(_stage(piece)).strip()
            times[what] = times.get(what, 0.0) + _length(_common(inside, intervals))
    what, time = max(times.items(), key=lambda each: each[1])
    return f"{what} (in {100 * time / (sum(times.values()) or 1):.0f} % of it)"


def _stage(piece):
    """What of the step a piece belongs to: a layer of both towers and its pass, or what is outside the network."""
    if piece.phase in ("update", "transfer"):
        return piece.phase, ""
    if piece.phase == "other":
        return piece.layer or "counting errors and other operations without a name", ""
    return _TOWER.sub("", piece.layer) or "gradients without a layer's name,", piece.phase


def _advice(pieces, stage, phase, is_wanted):
    if not phase:
        return _OUTSIDE.get(stage, "look at it in the trace viewer")
    kinds = {}
    for inside, piece in pieces:
        if is_wanted(piece):
            kinds[piece.kind] = kinds.get(piece.kind, 0.0) + _length(inside)
    kind, time = max(kinds.items(), key=lambda each: each[1])
    what = f"{100 * time / (sum(kinds.values()) or 1):.0f} % of it {kind}"
    if placement_report.is_product(kind):
        return f"{what}: arithmetic; --precision=bfloat16 where the machine has it (tools/benchmark.py --rows=P7)"
    if stage.startswith("norm"):
        return f"{what}: the normalisation; tools/benchmark.py --rows=P3,P4 measures it alone"
    return f"{what}: no arithmetic to speak of, bound by memory or by the operation's own threads"


def text(found):
    """What `measure` found as text of at most 120 columns."""
    steps, times = found["steps"], found["step_ms"]
    lines = [
        f"Profile {found['trace']}",
        f"{len(steps)} steps, {steps[0]} to {steps[-1]}: {statistics.median(times):.2f} ms a step (median; "
        f"{min(times):.2f} to {max(times):.2f})",
        "",
        *_layer_table(found["layers"]),
        "",
        *_input_lines(found["input"]),
        *_tower_lines(found["towers"]),
        *_crossing_lines(found["crossing"]),
        "",
        "What to fix first (share of the step in which it happens):",
    ]
    for number, finding in enumerate(found["findings"], 1):
        lines.append(f"{number}. {100 * finding['share']:5.1f} %  {finding['what']}")
        lines += textwrap.wrap(finding["advice"], 108, initial_indent=12 * " ", subsequent_indent=12 * " ")
    return "\n".join(lines)


def _layer_table(times):
    """Time a step by layer and pass, of all threads together; one line for all that takes next to nothing."""
    whole = sum(times.values()) or 1.0
    rows = {}
    for key, time in times.items():
        layer, _, phase = key.rpartition(" ")
        name = phase if phase in ("update", "transfer") else layer
        rows.setdefault(name, dict.fromkeys(("forward", "backward", "neither"), 0.0))
        rows[name][phase if phase in rows[name] else "neither"] += time
    small = [name for name, row in rows.items() if sum(row.values()) < _LEAST_SHARE * whole]
    rest = [rows.pop(name) for name in small]
    table = sorted(rows.items(), key=lambda each: -sum(each[1].values()))
    if rest:
        table.append((f"{len(rest)} more", {phase: sum(row[phase] for row in rest) for phase in rest[0]}))
    lines = [f"{'ms a step, all threads together':<34}{'forward':>10}{'backward':>10}{'neither':>10}{'share':>9}"]
    for name, row in table:
        cells = "".join(f"{time:>10.2f}" if time else f"{'':>10}" for time in row.values())
        lines.append(f"{name:<34}{cells}{100 * sum(row.values()) / whole:>7.1f} %")
    return lines


def _input_lines(waiting):
    return [
        f"Input: the loop waits {waiting['ms']:.2f} ms a step for its batch, in {100 * waiting['share']:.1f} % of the "
        "step with no operation at work:",
        f"          {waiting['verdict']} (moderately from {100 * MODERATE:.0f} % on, highly from {100 * HIGH:.0f} %)",
    ]


def _tower_lines(towers):
    if towers["overlap"] is None:
        return ["Towers: one"]
    return [
        f"Towers: a works {towers['a_ms']:.2f} ms a step, b {towers['b_ms']:.2f} ms, both at once "
        f"{towers['both_ms']:.2f} ms: overlap {100 * towers['overlap']:.1f} % of the one less busy"
    ]


def _crossing_lines(crossing):
    if not crossing["tensors"]:
        return ["Crossing: one device, nothing crosses"]
    line = f"Crossing: {crossing['tensors']} tensors, {crossing['ms']:.2f} ms a step in sends and receives"
    if crossing["bytes"] is None:
        return [f"{line}; bytes unknown: {DESCRIPTION} is not beside the trace"]
    directions = ", ".join(f"{way} {size / 1e6:.3f}" for way, size in crossing["by_direction"].items())
    return [
        f"{line}, {crossing['bytes'] / 1e6:.3f} MB a step ({directions})",
        f"          {crossing['input_bytes'] / 1e6:.3f} of them images; by the shapes in the step's graph, for want of "
        "bytes in the trace",
    ]
