"""Measures ours against others, side by side, and says what was to be reached.

python tools/benchmark.py --data_dir=prepared,prepared_raw --json=benchmark.json --markdown=benchmark.md

Rows with the same settings are measured in one process, each batch size of the row growth in one of its own. P9 and P10
need a prepared data set; without one, --photographs=DIR (train/CLASS/*) is prepared for the time of the measurement.
"""

import dataclasses
import os
import pathlib
import tempfile

import program
from absl import flags

flags.DEFINE_list("rows", [], "what to measure, such as P1,P9; empty for everything")
flags.DEFINE_string("photographs", "", "a folder train/CLASS/* that is prepared first, where no data_dir is given")
flags.DEFINE_string("json", "", "a file for every figure")
flags.DEFINE_string("markdown", "", "also a file for the table")
flags.DEFINE_string("plot", "", "also a file for a diagram of the row growth, as PNG; needs matplotlib")
flags.DEFINE_integer("rounds", 7, "in which sides take turns, and of which medians are taken", lower_bound=1)
flags.DEFINE_boolean("quick", False, "one short round, batches of 8: to see that it works")
flags.DEFINE_boolean("here", False, "measure in this process, whatever its settings")

OWN_FLAGS = ["rows", "photographs", "json", "markdown", "plot", "rounds", "quick", "here"]


def main(config):
    from alexnet_tf.benchmarks import measuring
    from alexnet_tf.benchmarks import report
    from alexnet_tf.benchmarks import rows

    own = flags.FLAGS
    wanted = rows.choose(own.rows)
    paths = [pathlib.Path(path) for path in (program.require("json"), own.markdown, own.plot) if path]
    if own.plot:
        report.check_plot(own.plot, wanted)
    for path in paths:
        if not path.absolute().parent.is_dir():
            # Before minutes of measuring.
            expected = "Expected --json, --markdown and --plot in a directory that is there"
            raise FileNotFoundError(f"{expected}. Received: {path}")
    data_dirs = tuple(part.strip() for part in config.data_dir.split(",") if part.strip())
    with tempfile.TemporaryDirectory(prefix="alexnet_benchmark_") as scratch:
        if not data_dirs and own.photographs:
            data_dirs = _prepare(config, own.photographs, scratch)
        if own.here:
            request = measuring.Request(config, data_dirs, own.rounds)
            if own.quick:
                request = request._replace(rounds=1, seconds=0.1)
            figures = ((name, rows.measure_here(name, request)) for name in wanted)
        else:
            options = [f"--data_dir={','.join(data_dirs)}", "--photographs="]
            options += ["--batch_size=8"] if own.quick and config.batch_size == 128 else []
            figures = rows.measure_in_processes(wanted, scratch, options, own.quick)
        found = {}
        for name, row in figures:
            found[name] = row
            print(*report.lines(name, row), sep="\n", flush=True)
    report.write(found, own.json, own.markdown)
    if own.plot:
        report.plot(found["growth"], own.plot)
    print(f"figures in {' and '.join(map(str, paths))}")


def _prepare(config, photographs, scratch):
    """Writes photographs as JPEG and as raw records; where."""
    import rich.console

    from alexnet_tf.data import prepare
    from alexnet_tf.runs import dataset

    written = []
    for storage in prepare.STORAGES:
        directory = os.path.join(scratch, storage)
        request = dataclasses.replace(config, source=f"folder:{photographs}", data_dir=directory)
        dataset.prepare_data_dir(request, prepare.Options(storage), rich.console.Console(quiet=True))
        written.append(directory)
    return tuple(written)


if __name__ == "__main__":
    program.run(main, __doc__, OWN_FLAGS)
