"""The console command: ``alexnet-tf PROGRAM [FLAGS]``, or ``python -m alexnet_tf.commands PROGRAM [FLAGS]``."""

import os
import sys
from collections.abc import Sequence

if not __package__:
    # Run as a file, by another process of this package, which may not be installed.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from alexnet_tf.commands import analyze  # noqa: E402
from alexnet_tf.commands import baseline  # noqa: E402
from alexnet_tf.commands import benchmark  # noqa: E402
from alexnet_tf.commands import data_service  # noqa: E402
from alexnet_tf.commands import demo  # noqa: E402
from alexnet_tf.commands import evaluate  # noqa: E402
from alexnet_tf.commands import experiments  # noqa: E402
from alexnet_tf.commands import explain  # noqa: E402
from alexnet_tf.commands import export  # noqa: E402
from alexnet_tf.commands import features  # noqa: E402
from alexnet_tf.commands import figures  # noqa: E402
from alexnet_tf.commands import neighbours  # noqa: E402
from alexnet_tf.commands import networks  # noqa: E402
from alexnet_tf.commands import placement  # noqa: E402
from alexnet_tf.commands import predict  # noqa: E402
from alexnet_tf.commands import prepare  # noqa: E402
from alexnet_tf.commands import profile_report  # noqa: E402
from alexnet_tf.commands import program  # noqa: E402
from alexnet_tf.commands import train  # noqa: E402
from alexnet_tf.commands import weights  # noqa: E402

PROGRAMS = {
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "weights": weights,
    "predict": predict,
    "neighbours": neighbours,
    "features": features,
    "explain": explain,
    "demo": demo,
    "figures": figures,
    "analyze": analyze,
    "networks": networks,
    "placement": placement,
    "profile_report": profile_report,
    "experiments": experiments,
    "baseline": baseline,
    "benchmark": benchmark,
    "data_service": data_service,
}
HELP = ("--help", "-h", "help")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program that the first argument names."""
    _, *arguments = argv or sys.argv
    name = arguments[0] if arguments else ""
    if name in HELP:
        program.print_help(_overview())
    elif name in PROGRAMS:
        PROGRAMS[name].main([f"alexnet-tf {name}", *arguments[1:]])
    else:
        print(
            f"alexnet-tf: Expected one of {', '.join(PROGRAMS)}, or --help. Received: {name or 'no program'}",
            file=sys.stderr,
        )
        sys.exit(program.USAGE_STATUS)


def _overview():
    lines = [f"  {name:<16}{module.__doc__.splitlines()[0]}" for name, module in PROGRAMS.items()]
    return "\n".join(["alexnet-tf PROGRAM [FLAGS]; alexnet-tf PROGRAM --help lists the flags.", "", *lines])


if __name__ == "__main__":
    main()
