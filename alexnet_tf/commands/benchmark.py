"""Measures this package against other implementations.

alexnet-tf benchmark --data_dir=prepared,prepared_raw --json=benchmark.json --markdown=benchmark.md

The result is a table of ratios and their targets. Rows with the same settings are measured in one
process, each batch size of the row growth and each of the networks in its own. P9 and P10 need
prepared data sets; without --data_dir, the images of --photographs=DIR (train/CLASS/*) are prepared
temporarily. --rows=gpu takes eight minutes on a GPU.
"""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_ROWS = flags.DEFINE_list(
    "rows", [], "rows to measure, such as P1,P9; defaults to all but gpu, layers and networks", flag_values=FLAGS
)
_NETWORKS = flags.DEFINE_list(
    "networks", [], "networks of the row networks, such as vgg_a,resnet_18; defaults to all", flag_values=FLAGS
)
_BATCHES = flags.DEFINE_list(
    "batches", [], "batch sizes of the row gpu; defaults to 128,256,512,1024", flag_values=FLAGS
)
_TORCH_PYTHON = flagfiles.define_path(
    "torch_python", "", "Python that has torch, for the row gpu; defaults to this one", flag_values=FLAGS
)
_PHOTOGRAPHS = flagfiles.define_path(
    "photographs", "", "folder train/CLASS/* to prepare temporarily if --data_dir is not given", flag_values=FLAGS
)
_JSON = flagfiles.define_path("json", "", "file for all measurements as JSON", flag_values=FLAGS)
_MARKDOWN = flagfiles.define_path("markdown", "", "file for the table as Markdown", flag_values=FLAGS)
_PLOT = flagfiles.define_path("plot", "", "PNG file for a plot of the row growth; needs matplotlib", flag_values=FLAGS)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 7, "rounds, in each of which every side is timed; medians are reported", lower_bound=1, flag_values=FLAGS
)
_QUICK = flags.DEFINE_boolean("quick", False, "one short round with batches of 8, as a smoke test", flag_values=FLAGS)
_HERE = flags.DEFINE_boolean("here", False, "measure in this process, whatever its settings", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run(lambda run_config: _measure(run_config, argv[1:]), argv, __doc__, FLAGS, required=[_JSON])


def _measure(run_config, arguments):
    from alexnet_tf.benchmarks import report
    from alexnet_tf.benchmarks import rows
    from alexnet_tf.models import registry

    names = rows.choose(_ROWS.value)
    if "networks" not in names:
        program.report_unused([_NETWORKS], "without --rows=networks")
    if "gpu" not in names:
        program.report_unused([_BATCHES, _TORCH_PYTHON], "without --rows=gpu")
    batches = program.integers(_BATCHES, "128,256")
    if 0 in batches:
        raise ValueError("Expected --batches of at least 1. Received: 0")
    for name in _NETWORKS.value:
        registry.find(name)
    paths = [pathlib.Path(path) for path in (_JSON.value, _MARKDOWN.value, _PLOT.value) if path]
    if _PLOT.value:
        report.check_plot(_PLOT.value, names)
    for path in paths:
        # Checked now rather than after minutes of measuring.
        if not path.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"Expected --json, --markdown and --plot in a directory that exists. Received: {path}"
            )
    measured = {}
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as scratch:
        for name, row in _measure_rows(names, run_config, arguments, scratch, batches):
            measured[name] = row
            print(*report.lines(name, row), sep="\n", flush=True)
    report.write(measured, _JSON.value, _MARKDOWN.value)
    if _PLOT.value:
        report.plot(measured["growth"], _PLOT.value)
    print(f"measurements in {' and '.join(map(str, paths))}")


def _measure_rows(names, run_config, arguments, scratch, batches):
    """Measures rows, in this process or in others; yields the name and the measurements of each."""
    from alexnet_tf.benchmarks import gpu
    from alexnet_tf.benchmarks import measuring
    from alexnet_tf.benchmarks import report
    from alexnet_tf.benchmarks import rows

    data_dirs = tuple(part.strip() for part in run_config.data_dir.split(",") if part.strip())
    if not data_dirs and _PHOTOGRAPHS.value:
        data_dirs = _prepare(run_config, _PHOTOGRAPHS.value, scratch)
    if _HERE.value:
        request = measuring.Request(run_config, data_dirs, _ROUNDS.value, batches=batches)
        if _QUICK.value:
            request = request._replace(rounds=1, seconds=0.1)
        keep = lambda name: lambda result: report.write({name: result.to_dict()}, _JSON.value)
        return ((name, rows.measure_here(name, request._replace(keep=keep(name)))) for name in names)
    options = [f"--data_dir={','.join(data_dirs)}", "--photographs="]
    options += ["--batch_size=8"] if _QUICK.value and run_config.batch_size == 128 else []
    command = [*program.command("benchmark"), *arguments]
    batches = sorted(batches) or (gpu.QUICK_BATCHES if _QUICK.value else gpu.BATCHES)
    gpu_options = gpu.Options(batches, data_dirs, _TORCH_PYTHON.value)
    return rows.measure_in_processes(names, command, scratch, options, _QUICK.value, _NETWORKS.value, gpu_options)


def _prepare(run_config, photographs, scratch):
    """Writes images as JPEG and as raw records; returns the directories."""
    from alexnet_tf.data import prepare
    from alexnet_tf.runs import dataset
    from alexnet_tf.utils import output

    directories = []
    for storage in prepare.STORAGES:
        directory = os.path.join(scratch, storage)
        request = dataclasses.replace(run_config, source=f"folder:{photographs}", data_dir=directory)
        dataset.prepare_data_dir(request, prepare.Options(storage), output.Console(quiet=True))
        directories.append(directory)
    return tuple(directories)
