"""CSV files of paths and labels: what is read, and one line for everything that is not."""

import os
import unicodedata

import mutations
import numpy as np
import pytest

from alexnet_tf.data import image_table
from alexnet_tf.data import sources


def write(root, text, *names, encoding="utf-8"):
    """Writes a table and empty files; returns the path of the table."""
    for name in names or ("a.jpg", "b.jpg", "c.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "set.csv").write_bytes(text.encode(encoding))
    return root / "set.csv"


def read(found, root, split="train"):
    paths, labels = found.splits[split]
    return [(os.path.relpath(path, root), found.class_names[label]) for path, label in zip(paths, labels, strict=True)]


ROWS = (("path", "label"), ("b.jpg", "dog, wet"), ("a.jpg", 'cat "x"'))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_delimiters_and_line_ends_of_spreadsheets_are_read(tmp_path, encoding, delimiter, end):
    cells = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in ROWS]
    text = end.join(delimiter.join(row) for row in cells)
    found = image_table.open_table(write(tmp_path, text, encoding=encoding))
    assert read(found, tmp_path) == [("a.jpg", 'cat "x"'), ("b.jpg", "dog, wet")]
    assert found.class_names == ('cat "x"', "dog, wet") and found.notes == ()


def test_columns_are_found_by_name_in_any_order(tmp_path):
    text = "\n Class ;width; FileName;SET;\ndog;3;x/a.jpg;Train;\n\n;;;;\ncat;;./b.jpg ;training;\ncat;;c.jpg;val;\n"
    found = image_table.open_table(write(tmp_path, text, "x/a.jpg", "b.jpg", "c.jpg"))
    assert read(found, tmp_path) == [("b.jpg", "cat"), ("x/a.jpg", "dog")]
    assert read(found, tmp_path, "validation") == [("c.jpg", "cat")] and set(found.splits) == {"train", "validation"}
    assert found.notes == (
        f"not read in {tmp_path}/set.csv: column 'width'",
        f"the validation set of {tmp_path}/set.csv has no images of some of the 2 classes: 'dog'",
    )


@pytest.mark.parametrize(
    "labels, names",
    [
        (("10", "9", "0"), ("0", "9", "10")),
        # As pandas and spreadsheets write a column with empty cells.
        (("10.0", "9", "9.0"), ("9", "10")),
        (("007", "010", "9"), ("007", "9", "010")),
        (("0.5", "2.5", "10"), ("0.5", "2.5", "10")),
        (("10", "9", "x"), ("10", "9", "x")),
        (("-1", "1", "0"), ("-1", "0", "1")),
        ((unicodedata.normalize("NFD", "é"), "é", "z"), ("z", "é")),
    ],
)
def test_labels_that_are_numbers_are_sorted_as_numbers(tmp_path, labels, names):
    rows = zip(("a.jpg", "b.jpg", "c.jpg"), labels)
    found = image_table.open_table(write(tmp_path, "path,label\n" + "".join(f"{a},{b}\n" for a, b in rows)))
    assert found.class_names == names
    assert [found.class_names[label] for label in found.splits["train"][1]][2] in (labels[2], names[0])


def test_paths_are_found_as_other_systems_write_them(tmp_path):
    other = tmp_path / "elsewhere" / "x.jpg"
    text = f"path,label\nsub\\a.jpg,1\n{unicodedata.normalize('NFD', 'é')}.jpg,2\n{other},2\n../up.jpg,1\n"
    table = write(tmp_path / "set", text, "sub/a.jpg", "é.jpg", "../up.jpg", "../elsewhere/x.jpg")
    found = image_table.open_table(table)
    assert {path for path, _ in read(found, tmp_path)} == {"set/sub/a.jpg", "set/é.jpg", "elsewhere/x.jpg", "up.jpg"}
    assert found.notes == ()


def test_lines_that_are_not_read_are_counted_and_named(tmp_path):
    text = "path,label\na.jpg,1\n./a.jpg,1\nno\x1b.jpg,1\nb.jpg,2\nb.jpg,2\n.,2\npipe.jpg,2\n"
    table = write(tmp_path, text)
    os.mkfifo(tmp_path / "pipe.jpg")
    found = image_table.open_table(table)
    assert read(found, tmp_path) == [("a.jpg", "1"), ("b.jpg", "2")]
    assert found.notes == (
        f"not read in {table}: 2 lines that repeat others, the first line 3",
        f"not read in {table}: 3 files that do not exist, the first {tmp_path}/no\\x1b.jpg on line 4",
    )


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "line 1: no column path, but nothing"),
        ("a.jpg,cat\nb.jpg,dog\n", "line 1: no column path, but 'a.jpg', 'cat'"),
        ("path;name\na.jpg;cat\n", "line 1: no column label, but 'path', 'name'"),
        ("path,label,Label\na.jpg,1,2\n", "line 1: two columns 'label', but only one may be the label"),
        ("path,label\n", "Expected lines with a path and a label in .*set.csv. Received: none"),
        ("path,label\na.jpg,1\nb.jpg\n", "line 3: 1 columns, not the 2 of the first line"),
        ("path,label\na.jpg,1,2\n", "line 2: 3 columns, not the 2"),
        ("path,label\n,1\n", "line 2: no path"),
        ("path,label\na.jpg, \n", "line 2: no label"),
        ("path,label,split\na.jpg,1,\n", "line 2: no split"),
        ("path,label,split\na.jpg,1,fold1\n", "line 2: the split 'fold1', not train, val or test"),
        ("path,label,split\na.jpg,1,test\n", "Expected lines of the split train in .*set.csv. Received: none"),
        ("path,label,split\na.jpg,1,train\nb.jpg,2,val\n", "line 3: the label '2', which no line of the split train"),
        ("path,label\na.jpg,1\nb.jpg,2\na.jpg,2\n", "line 4: .*a.jpg with label '2', but '1' on line 2"),
        ("path,label,split\na.jpg,1,train\na.jpg,1,val\n", "line 3: .*a.jpg with split 'validation', but 'train' on"),
        ('path,label\n"a.jpg,1\nb.jpg,2\n', "line 3: unexpected end of data"),
        ('path,label\n"a.jpg"x,1\n', "line 2: ',' expected after '\"'"),
        ("path,label\na.jpg,7\nb.jpg,07\n", "Expected each number among the labels of .* Received: 07 and 7"),
        ("path,label\na.jpg,1\n" + "x" * 200_000 + ",2\n", "line 3: field larger than field limit"),
        ("path,label\nx.jpg,1\ny.jpg,2\n", "relative to .*. Received: missing files only, the first .*x.jpg on line 2"),
        ("path,label\n../../../../etc/\n,2\n", "line 2: 1 columns"),
        ("path,label\n" + "d/" * 5000 + "a.jpg,1\n", "missing files only"),
        ("path,label\nx\0.jpg,1\n", "zero bytes; save it as UTF-8"),
    ],
)
def test_broken_tables_are_one_line(tmp_path, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        image_table.open_table(write(tmp_path, text))
    assert str(caught.value).startswith("Expected ") and "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_other_encodings_and_missing_files_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="Expected a CSV file .*set.csv .*; save it as UTF-8"):
        image_table.open_table(write(tmp_path, "path,label\nä.jpg,ä\n", encoding="latin-1"))
    with pytest.raises(FileNotFoundError, match=f"Received: the directory {tmp_path}$"):
        image_table.open_table(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"Received: .*none.csv$"):
        image_table.open_table(tmp_path / "none.csv")


def test_as_a_source_names_are_relative_to_the_folder_of_the_table(tmp_path):
    text = "path,label,split\nx/a.jpg,1,train\nb.jpg,0,train\nc.jpg,1,test\n"
    table = write(tmp_path, text, "x/a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "b.jpg").write_bytes(b"12345")
    source = sources.open_source(f"csv:{table}")
    assert source.class_names == ("0", "1") and list(source.splits) == ["train", "test"]
    train = source.splits["train"]
    assert train.names(source.root).tolist() == [b"b.jpg", b"x/a.jpg"] and train.labels.tolist() == [0, 1]
    assert train.sizes().tolist() == [5, 0] and train.read(0).numpy() == b"12345"
    part = sources.subset(train, np.array([1]))
    assert part.file_of(0) == str(tmp_path / "x" / "a.jpg")


def test_names_of_classes_with_line_breaks_are_rejected(tmp_path):
    table = write(tmp_path, 'path,label\na.jpg,"ca\nt"\nb.jpg,dog\n')
    with pytest.raises(ValueError, match=r"Expected the name of a class without control characters.*'ca\\nt'"):
        sources.open_source(f"csv:{table}")


def test_every_mutated_table_is_read_or_refused_with_one_line(tmp_path):
    content = b'\xef\xbb\xbfpath;label;split\n"a.jpg";"7.0";train\nb.jpg;8;train\nc.jpg;7;val\n'
    table = write(tmp_path, "")
    refused = 0
    for version in mutations.of_bytes(content, 400):
        table.write_bytes(version)
        try:
            found = sources.open_source(f"csv:{table}")
        except (ValueError, OSError) as error:
            assert str(error).startswith("Expected ") and "\n" not in str(error)
            refused += 1
        else:
            assert found.splits["train"].labels.max() < len(found.class_names)
            assert all(note.isprintable() for note in found.notes)
    assert 100 < refused < 400
