"""Finds the training images that a run's network takes for the nearest to a photograph, by its last hidden layer.

python tools/neighbours.py --workdir=runs/quickstart --image=cat.jpg,dog.png --figure=neighbours.png
python tools/neighbours.py --workdir=runs/quickstart --query_split=validation --query=0,5,17

The first call makes an index of the data set's features, once for each checkpoint. Without a query that is all. The
run's own configuration counts; of the flags below only --source and --data_dir, where the data set has moved.
"""

import program
from absl import flags

flags.DEFINE_string("workdir", "", "a directory in which tools/train.py ran")
flags.DEFINE_string("index_split", "train", "train, validation or test: what is searched")
flags.DEFINE_string("index_dir", "", "where the index is; WORKDIR/neighbours/SPLIT if empty")
flags.DEFINE_enum(
    "dtype", "auto", ["auto", "float16", "float32"], "of the index; auto: as it is, float16 for a new one"
)
flags.DEFINE_list("image", [], "photographs to find the neighbours of")
flags.DEFINE_string("query_split", "test", "where --query and --random are from")
flags.DEFINE_list("query", [], "images of the query_split to find the neighbours of, by their numbers from 0")
flags.DEFINE_integer("random", 0, "how many more of the query_split to draw", lower_bound=0)
flags.DEFINE_integer("random_seed", 0, "seed of that draw", lower_bound=0)
flags.DEFINE_integer("k", 6, "neighbours of each", lower_bound=1)
flags.DEFINE_enum(
    "method", "auto", ["auto", "exact", "approximate"], "of the search; auto: exact in less than a million images"
)
flags.DEFINE_string("figure", "", "also a PNG as in the paper's Figure 4; needs matplotlib")
flags.DEFINE_string("json", "", "also a file with the answers")
flags.register_validator(
    "query", lambda values: all(value.isdecimal() for value in values), "Expected numbers with commas between"
)

OWN_FLAGS = (
    "workdir index_split index_dir dtype image query_split query random random_seed k method figure json".split()
)


def main(config):
    from alexnet_tf.runs import neighbours

    own = flags.FLAGS
    where = {"source": config.source, "data_dir": config.data_dir}
    workdir = program.require("workdir")
    if not (own.image or own.query or own.random):
        index = neighbours.index_run(workdir, own.index_split, own.index_dir, dtype=own.dtype, **where)
        print(f"{len(index)} {own.index_split} images are indexed in {index.directory}")
        return
    queries = neighbours.Queries(
        tuple(own.image), own.query_split, tuple(map(int, own.query)), own.random, own.random_seed
    )
    neighbours.query(
        workdir,
        queries,
        index_split=own.index_split,
        index_dir=own.index_dir,
        dtype=own.dtype,
        k=own.k,
        method=own.method,
        json_path=own.json,
        figure_path=own.figure,
        **where,
    )


if __name__ == "__main__":
    program.run(main, __doc__, OWN_FLAGS)
