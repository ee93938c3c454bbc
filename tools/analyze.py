"""Runs ``alexnet-tf analyze`` of this checkout."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from alexnet_tf.commands import analyze  # noqa: E402

if __name__ == "__main__":
    analyze.main(sys.argv)
