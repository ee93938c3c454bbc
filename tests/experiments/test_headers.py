"""Headers of flagfiles, and the difference between an experiment and its base."""

import pytest
import small_experiments as small

from alexnet_tf.experiments import headers
from alexnet_tf.experiments import plan


def test_header_is_read_by_key(flagfile):
    flagfile.write_text(
        small.HEADER.replace("# Cost: a second.", "# Cost: a second.\n#\n# Note that: this is free.") + small.FLAGS
    )
    header = headers.read_header(flagfile)
    assert header == headers.Header(
        claim="a small net learns.",
        command="python tools/train.py --flagfile=flags/small.flags --source=folder:DIR --workdir=DIR",
        data="pictures",
        cost="a second.",
        expectation="30 / 10",
        expected=(30.0, 10.0),
        band=(5.0, 2.0),
        views="center",
    )


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("# Cost: a second.\n", "", "Expected Cost in the header. Received: Claim"),
        ("# Claim: a small net\n#   learns.\n", "", "Expected Claim in the header"),
        ("# Cost", "# Price", "Expected keys among Claim, .* Received: Price"),
        ("# Cost", "# Data: other\n# Cost", "Expected Data once in the header, but it is repeated"),
        ("# Cost: a second.", "# Cost:", "Expected a value for Cost, but it is empty"),
        ("# Cost", "# Any words.\n# Cost", "Expected Cost before other comments, but it follows them"),
        ("# Views: center", "# Views: five", r"Expected Views to be center \| ten. Received: 'five'"),
        ("# Views", "# Changes: momentun\n# Views", "Expected Changes to be flags of the configuration.*momentun"),
        ("# Expected: 30 / 10", "# Expected: few", "Expected Expected to begin with errors in percent"),
        ("# Band: 5 / 2", "# Band: 5", "Expected Band to have as many numbers as Expected"),
        ("# Band: 5 / 2\n", "", "Expected Band in the header"),
        ("# Expected: 30 / 10\n", "", "Expected Expected in the header"),
        ("# Band: 5 / 2", "# Band: none", "Expected Band to have as many numbers as Expected"),
        ("# Expected: 30 / 10", "# Expected: nonesuch", "Expected Expected to begin with .* or with none"),
    ],
)
def test_invalid_header_error_names_file_and_key(flagfile, before, after, message):
    assert before in small.HEADER
    flagfile.write_text(small.HEADER.replace(before, after) + small.FLAGS)
    with pytest.raises(ValueError, match=f"small.flags: {message}") as caught:
        headers.read_header(flagfile)
    assert "\n" not in str(caught.value)


def test_old_spelling_of_views_is_accepted(flagfile):
    flagfile.write_text(small.HEADER.replace("Views: center", "Views: centre") + small.FLAGS)
    assert headers.read_header(flagfile).views == "center"


def test_unrecorded_errors_are_kept_as_text(flagfile):
    header = small.HEADER.replace("Expected: 30 / 10", "Expected: none (but more).").replace("5 / 2", "none")
    flagfile.write_text(header + small.FLAGS)
    found = headers.read_header(flagfile)
    assert (found.expected, found.band, found.expectation) == ((), (), "none (but more).")


def test_unreadable_flagfile_error_names_the_file(flagfile, tmp_path):
    flagfile.write_bytes(b"# Claim: \xff\n")
    for path in (flagfile, tmp_path / "none.flags", tmp_path):
        with pytest.raises(ValueError, match=f"Expected a flagfile. Received: {path} "):
            plan.plan([path], [0])


def test_base_difference_compares_all_fields(flagfile, variant):
    assert headers.base_difference(flagfile) == []
    assert headers.base_difference(variant) == ["dropout", "epochs"]
    # The data's location and the seed don't count; values that the recipe implies do.
    variant.write_text(variant.read_text() + "--source=elpv\n--seed=3\n--report_steps=1\n--recipe=paper\n")
    found = headers.base_difference(variant)
    assert {"recipe", "report_steps", "bias_learning_rate_factor", "input_divisor"} <= set(found)
    assert not {"source", "seed"} & set(found)


def test_missing_base_error_names_the_base(flagfile, variant):
    flagfile.rename(flagfile.with_name("other.flags"))
    variant.write_text(variant.read_text().replace("small.flags\n--epochs", "other.flags\n--epochs"))
    with pytest.raises(ValueError, match="variant.flags: Base: Expected a flagfile. Received: small.flags; searched "):
        headers.base_difference(variant)
