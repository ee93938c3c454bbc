"""The page about the networks has the tables of the registry."""

import pytest
import source_code

from alexnet_tf.models import registry
from alexnet_tf.reporting import figures
from alexnet_tf.runs import networks

PAGE = (source_code.ROOT / "docs" / "networks.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("num_classes", [1000, 10])
def test_page_has_the_tables_of_the_registry(num_classes):
    assert f"\n\n{networks.table(num_classes)}\n" in PAGE


def test_every_network_is_in_one_table():
    lines = [line for num_classes in (1000, 10) for line in networks.table(num_classes).splitlines()[2:]]
    assert sorted(line.split("`")[1] for line in lines) == sorted(registry.NETWORKS)


def test_numbers_of_a_row():
    text = networks.table(1000)
    assert "| `alexnet` | 2012 | 8 | 60,965,224 | 1.45 | 40.7 / 18.2 (ten views) |" in text
    assert "| `googlenet` | 2014 | 22 | 6,998,552 | 3.17 | - / 9.15 (ten views) |" in text
    years = [int(line.split(" | ")[1]) for line in text.splitlines()[2:]]
    assert years == sorted(years)
    assert "| `cifar10_plain_56` | 2015 | 56 | 853,018 | 0.251 | - |" in networks.table(10)


def test_figure_has_every_network_with_an_error(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: drawn.append(figure))
    networks.draw(tmp_path / "networks.png")
    top1, top5 = drawn[0].axes
    assert (top1.get_title(), top5.get_title()) == ("top-1 error", "top-5 error")
    names = [{text.get_text() for text in axes.texts} for axes in (top1, top5)]
    assert names[0] | names[1] == {name for name, network in registry.NETWORKS.items() if network.num_classes == 1000}
    assert "googlenet" not in names[0] and "resnet_18" not in names[1]
    points = {tuple(point) for line in top1.lines for point in line.get_xydata().round(3).tolist()}
    assert (1.449, 40.7) in points and len(points) == 12
