"""The row "neighbours": the searches that it compares return the same neighbors."""

import numpy as np
import small_features

from alexnet_tf import config
from alexnet_tf.benchmarks import measuring
from alexnet_tf.benchmarks import report
from alexnet_tf.benchmarks import retrieval
from alexnet_tf.evaluation import feature_index


@small_features.needs_faiss
def test_searches_that_are_compared_find_the_same(tmp_path, monkeypatch):
    for name, value in (("UNITS", 160), ("QUERIES", (1, 3)), ("_CLASSES", 20), ("_BATCH", 300), ("_BLOCK", 300)):
        monkeypatch.setattr(retrieval, name, value)
    request = measuring.Request(config.Config(), rounds=1, seconds=0.0)
    found = retrieval.nearest_images(request, counts=(400, 700), scratch=tmp_path).to_dict()
    assert len(found["rates"]) == 12 and all(rate > 0 for rates in found["rates"].values() for rate in rates)
    assert [each["value"] for each in found["values"] if each["name"].startswith("recall")] == [1.0, 1.0]
    assert report.lines("neighbours", found) and not list(tmp_path.iterdir())
    features = np.concatenate(list(retrieval.clustered(700, 0)))
    index = feature_index.open_index(small_features.write(tmp_path, features))
    (queries,) = retrieval.clustered(9, 1)
    true = small_features.sorted_neighbors(np.asarray(index.features), queries, retrieval.K)[1]
    np.testing.assert_array_equal(retrieval._search_by_faiss(index.features, queries), true)
