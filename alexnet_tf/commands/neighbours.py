"""Finds the images that are nearest to a query, by the features of a run.

alexnet-tf neighbours --workdir=runs/quickstart --image=cat.jpg,dog.png --figure=neighbours.png
alexnet-tf neighbours --workdir=runs/quickstart --query_split=validation --query=0,5,17

Features are the outputs of the last hidden layer. The first call builds an index of the data set's
features, once per checkpoint; without a query it does only that. Set --source or --data_dir only if
the run's data set has moved.
"""

from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import program

FLAGS = flags.FlagValues()
_WORKDIR = flagfiles.define_path("workdir", "", "directory of a trained run", flag_values=FLAGS)
_INDEX_SPLIT = flags.DEFINE_string(
    "index_split", "train", "split to search: train, validation or test", flag_values=FLAGS
)
_INDEX_DIR = flagfiles.define_path(
    "index_dir", "", "directory of the index; defaults to WORKDIR/neighbours/SPLIT", flag_values=FLAGS
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    "auto",
    ["auto", "float16", "float32"],
    "type of the index; auto: that of an existing one, float16 for a new one",
    flag_values=FLAGS,
)
_IMAGE = flagfiles.define_paths("image", [], "image files to find the neighbors of", flag_values=FLAGS)
_QUERY_SPLIT = flags.DEFINE_string("query_split", "test", "split of --query and --random", flag_values=FLAGS)
_QUERY = flags.DEFINE_list(
    "query", [], "indices, from 0, of images of the query split to find the neighbors of", flag_values=FLAGS
)
_RANDOM = flags.DEFINE_integer(
    "random", 0, "number of random images of the query split to add", lower_bound=0, flag_values=FLAGS
)
_RANDOM_SEED = flags.DEFINE_integer(
    "random_seed", 0, "seed of the choice of random images", lower_bound=0, flag_values=FLAGS
)
_K = flags.DEFINE_integer("k", 6, "number of neighbors per query", lower_bound=1, flag_values=FLAGS)
_METHOD = flags.DEFINE_enum(
    "method",
    "auto",
    ["auto", "exact", "approximate"],
    "search method; auto: exact below a million images",
    flag_values=FLAGS,
)
_FIGURE = flagfiles.define_path(
    "figure", "", "PNG file for a figure like the paper's Figure 4; needs matplotlib", flag_values=FLAGS
)
_JSON = flagfiles.define_path("json", "", "file for the answers as JSON", flag_values=FLAGS)


def main(argv: Sequence[str]) -> None:
    program.run(_find, argv, __doc__, FLAGS, fields=program.RUN_FIELDS, required=[_WORKDIR])


def _find(run_config):
    from alexnet_tf.runs import neighbours
    from alexnet_tf.runs import queries

    location = {name: getattr(run_config, name) for name in ("source", "data_dir", "checkpoint")}
    workdir = _WORKDIR.value
    indices = program.integers(_QUERY, "0,5,17")
    if not (indices or _RANDOM.value):
        program.report_unused([_QUERY_SPLIT], "without --query or --random")
    if not _RANDOM.value:
        program.report_unused([_RANDOM_SEED], "without --random")
    if not (_IMAGE.value or indices or _RANDOM.value):
        program.report_unused([_K, _METHOD, _JSON, _FIGURE], "without --image, --query or --random")
        index = neighbours.index_run(workdir, _INDEX_SPLIT.value, _INDEX_DIR.value, dtype=_DTYPE.value, **location)
        print(f"indexed {len(index)} {_INDEX_SPLIT.value} images in {index.directory}")
        return
    request = queries.Queries(tuple(_IMAGE.value), _QUERY_SPLIT.value, indices, _RANDOM.value, _RANDOM_SEED.value)
    neighbours.query(
        workdir,
        request,
        index_split=_INDEX_SPLIT.value,
        index_dir=_INDEX_DIR.value,
        dtype=_DTYPE.value,
        k=_K.value,
        method=_METHOD.value,
        json_path=_JSON.value,
        figure_path=_FIGURE.value,
        **location,
    )
