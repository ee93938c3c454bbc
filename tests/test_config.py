"""Hyperparameters: the paper's values, ranges, and conversion to flags and flagfiles and back."""

import dataclasses
import math
import pathlib

import pytest
from absl import flags

from alexnet_tf import config
from alexnet_tf import flagfiles
from alexnet_tf.models import registry

FIELDS = dataclasses.fields(config.Config)
NAMES = [field.name for field in FIELDS]
each_field = pytest.mark.parametrize("field", FIELDS, ids=NAMES)

# A space, a comma, quotation marks and the start of a comment, all of which must be kept.
AWKWARD_TEXT = 'folder:/photographs, "all" #1 //2'


def another(field):
    """Returns a valid value other than the default, derived from the field's metadata."""
    metadata = field.metadata
    if field.name == "bottleneck":
        return 18
    if field.name == "crop_size":
        return 32
    if field.name == "freeze":
        return ("conv2", "conv3")
    if field.name == "layer_rates":
        return ("conv1:0.25", "fc8:2")
    if metadata["choices"]:
        return next(choice for choice in metadata["choices"] if choice != field.default)
    if metadata["kind"] is float:
        # Not a short decimal: all its digits must be kept.
        return metadata["low"] + (metadata["high"] - metadata["low"]) / 3
    values = {bool: not field.default, int: (metadata["low"] or 0) + 17, str: AWKWARD_TEXT}
    values |= {tuple: ("/GPU:0", "/GPU:1"), list: (0.1 + 0.2, 25.0, 51.5)}
    return values[metadata["kind"]]


# Values of other fields that a value other than the default requires.
REQUIRED = {
    "image_size": {"network": "cifar10_18", "crop_size": 8},
    "crop_size": {"network": "cifar10_18"},
    "validation_fraction": {"schedule": "epochs"},
    "data_service": {"data_dir": "prepared"},
    "mean_image": {"initialize_from": "runs/before"},
    "width": {"network": "resnet_18"},
    "shortcuts": {"network": "resnet_18"},
}


def with_value(field, value):
    """Returns configurations with a field at its default and at a value, and otherwise defaults where possible."""
    required = REQUIRED.get(field.name, {})
    return config.Config(**required), config.Config(**required, **{field.name: value})


# Options of networks other than AlexNet.
OF_OTHERS = registry.refused_options("alexnet")
# One tower excludes two devices and communication between towers; a network for CIFAR-10 excludes all of these. A data
# service excludes balanced sampling and a part of the training images, and center crops exclude padding.
EVERYTHING_ELSE = config.Config(
    **{field.name: another(field) for field in FIELDS}
    | {"network": "alexnet", "towers": "two", "image_size": 96, "distribute": "none", "sampling": "uniform", "pad": 0}
    | {"training_images": 0, "compile": "islands"}
    | {name: getattr(config.Config(), name) for name in OF_OTHERS}
)
BALANCED = dataclasses.replace(EVERYTHING_ELSE, sampling="balanced", data_service="", training_images=17)
REPLICAS = dataclasses.replace(EVERYTHING_ELSE, distribute="mirrored", devices=(), steps_per_call=1)
ONE_TOWER = dataclasses.replace(EVERYTHING_ELSE, towers="half", communication="paper", devices=())
SMALL_NET = dataclasses.replace(
    EVERYTHING_ELSE,
    network="cifar10_19",
    **{name: getattr(config.Config(), name) for name in registry.refused_options("cifar10_19")},
)
RESIDUAL = config.Config(network="resnet_18", width=0.25, shortcuts="B", pad=4)


def invalid_values(field):
    """Yields invalid values of every kind for a field: None, of another type, out of range."""
    metadata = field.metadata
    kind = metadata["kind"]
    if field.default is not None:
        yield None
    yield from {
        str: [3, ("paper",)],
        int: [1.5, "1", True, (1,)],
        float: ["0.1", True, math.nan, math.inf, -math.inf],
        bool: [1, 0, "true"],
        tuple: ["/GPU:0", ["/GPU:0", "/GPU:1"], (0, 1)],
        list: [25, "25", [25.0], ("25",), (math.nan,), (1.0, math.inf)],
    }[kind]
    if metadata["choices"]:
        yield from ("", "Paper", "nonsense")
    if metadata["low"] is not None:
        yield metadata["low"] - (1 if kind is int else 1e-9)
    if metadata["high"] is not None:
        yield metadata["high"] + (1 if kind is int else 1e-9)


INVALID = [(field, value) for field in FIELDS for value in invalid_values(field)]


def read(tmp_path, text):
    path = tmp_path / "some.flags"
    path.write_text(text, encoding="utf-8")
    return flagfiles.read_flagfile(path)


def parsed(*arguments):
    flag_values = flags.FlagValues()
    flagfiles.define_flags(flag_values)
    flag_values(["program", *flagfiles.expand(arguments, flag_values)])
    return flagfiles.from_flags(flag_values)


@each_field
def test_every_field_has_a_help_text_a_source_and_a_range(field):
    assert field.metadata["help"]
    assert field.metadata["section"] in ("network", "data", "augmentation", "training", "distribution", "run")
    assert field.metadata["source"].startswith(("paper", "original", "ours"))
    assert config.describe_range(field)


def test_defaults_are_those_of_the_paper():
    paper = {
        "recipe": "paper",
        "dropout": 0.5,
        "crops": "random",
        "flips": "horizontal",
        "color_noise": 0.1,
        "batch_size": 128,
        "epochs": 90,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0005,
        "schedule": "plateau",
        "drop_factor": 0.1,
        "max_drops": 3,
    }
    assert {name: getattr(config.Config(), name) for name in paper} == paper


@pytest.mark.parametrize(
    "recipe, expected",
    [
        # The text: one rate and one decay for all, a mean per pixel ("aligned"), and no divisor.
        ("paper", (1.0, 0.0005, 3, "aligned", 1.0, 1, True)),
        # The code as run: biases at twice the rate, without decay, dropped once; the center of the mean; a divisor of
        # 1.1; one crop for 32 images; a constant order.
        ("original", (2.0, 0.0, 1, "center", 1.1, 32, False)),
    ],
)
def test_recipe_fills_in_missing_values(recipe, expected):
    names = (
        *("bias_learning_rate_factor", "bias_weight_decay", "max_bias_drops", "mean_crop", "input_divisor"),
        *("images_per_draw", "reshuffle"),
    )
    resolved = config.Config(recipe=recipe).resolved()
    assert tuple(getattr(resolved, name) for name in names) == expected
    # None is a value of its own in these fields.
    kept = ("shortcuts", "conv1_stddev", "new_layers", "dense_weight_decay")
    assert [name for name in NAMES if getattr(resolved, name) is None] == list(kept)
    assert [name for name in NAMES if getattr(config.Config(recipe=recipe), name) is None] == [
        name for name in NAMES if name in (*names, "input_scale", *kept)
    ]
    assert resolved.resolved() == resolved


def test_input_scale_is_open_only_until_a_run_that_starts_from_another_has_started():
    alone, started = config.Config(), config.Config(initialize_from="runs/before")
    assert alone.resolved().input_scale == started.resolved().input_scale == 1.0
    assert alone.resolved(before_start=True).input_scale == 1.0
    waiting = started.resolved(before_start=True)
    assert waiting.input_scale is None and waiting.mean_crop == "aligned"
    inherited = dataclasses.replace(waiting, input_scale=0.02)
    assert waiting.differences(inherited) == inherited.differences(waiting) == []
    assert inherited.differences(started.resolved()) == ["input_scale"]
    given = dataclasses.replace(started, input_scale=0.02)
    assert given.resolved().input_scale == given.resolved(before_start=True).input_scale == 0.02


def test_auto_is_open_until_a_run_starts():
    names = ["initialize_from", "freeze", "precision", "batch_size", "epochs", "learning_rate"]
    given = parsed(*(f"--{name}=auto" for name in names), "--schedule=linear")
    assert given.auto_fields() == given.resolved(before_start=True).auto_fields() == names
    default = config.Config(schedule="linear").resolved()
    assert given.resolved() == default
    waiting = given.resolved(before_start=True)
    assert waiting.differences(default) == default.differences(waiting) == []
    assert set(given.open_fields()) == {*names, "split_rule", "new_layers"}
    for flag in ("--momentum=auto", "--epochs=automatic", "--batch_size=1.5", "--learning_rate=-1"):
        with pytest.raises((flags.Error, ValueError)):
            parsed(flag)
    with pytest.raises(ValueError, match="^Expected learning_rate_scaling=none for learning_rate=auto"):
        config.Config(learning_rate="auto", learning_rate_scaling="linear")


@pytest.mark.parametrize("network, layer", [("alexnet", "fc8"), ("cifar10_18", "fc10"), ("resnet_18", "fc")])
def test_the_last_layer_is_new_unless_others_are_named(network, layer):
    started = config.Config(network=network, initialize_from="runs/before")
    assert started.resolved().new_layers == started.resolved(before_start=True).new_layers == (layer,)
    assert dataclasses.replace(started, new_layers=()).resolved().new_layers == ()
    # Runs without other initial weights recorded fc8 before.
    recorded = config.Config(network=network, new_layers=("fc8",)).resolved()
    assert recorded.differences(config.Config(network=network).resolved()) == []
    with pytest.raises(ValueError, match=f"^Expected freeze and new_layers .* Received: {layer} in both$"):
        dataclasses.replace(started, freeze=(layer,))


def test_layer_rates_are_factors_by_layer():
    assert parsed("--layer_rates=conv1:0.1, fc8:2").layer_rate_factors() == {"conv1": 0.1, "fc8": 2.0}
    assert config.Config().layer_rate_factors() == {}


def test_recipe_keeps_given_values():
    given = config.Config(recipe="original", bias_weight_decay=0.25, mean_crop="aligned").resolved()
    assert (given.bias_weight_decay, given.mean_crop, given.input_divisor) == (0.25, "aligned", 1.1)


def test_configuration_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().seed = 1


@each_field
def test_flagfile_of_one_changed_value_round_trips(field, tmp_path):
    default, changed = with_value(field, another(field))
    assert changed != default
    assert read(tmp_path, flagfiles.to_text(changed)) == changed


@pytest.mark.parametrize(
    "value",
    [
        config.Config(),
        config.Config().resolved(),
        config.Config(recipe="original").resolved(),
        EVERYTHING_ELSE,
        BALANCED,
        REPLICAS,
        ONE_TOWER,
        SMALL_NET,
        RESIDUAL,
        dataclasses.replace(EVERYTHING_ELSE, deterministic=True, devices=(), drop_epochs=(), new_layers=()),
    ],
    ids=[
        "default",
        "paper",
        "original",
        "everything_else",
        "balanced",
        "replicas",
        "one_tower",
        "small_net",
        "residual",
        "empty",
    ],
)
def test_flagfile_round_trips(value, tmp_path):
    assert read(tmp_path, flagfiles.to_text(value)) == value


@pytest.mark.parametrize(
    "source",
    [
        "folder:/pictures/mine ",
        "folder: mine",
        "folder:/a\nb",
        "folder:/a\x1b[31m",
        'folder:"mine"',
        '"folder:/mine"',
        '"',
        "folder:/a=b",
        "folder:/a # b",
        "folder:/caf\u00e9\u2028",
    ],
)
def test_flagfile_keeps_every_character_of_a_path(source, tmp_path):
    value = config.Config(source=source)
    assert read(tmp_path, flagfiles.to_text(value)) == value
    assert len(flagfiles.to_text(value).split("\n")) == len(flagfiles.to_text(config.Config()).split("\n"))


def test_values_in_a_flagfile_may_have_quotes(tmp_path):
    assert read(tmp_path, '--source="folder:/mine "\n--batch_size="8"\n').source == "folder:/mine "
    # Not a complete JSON string: taken as it is.
    assert read(tmp_path, '--source="a\\x"\n').source == '"a\\x"'


def test_round_trips_cover_every_field():
    def differing(other):
        return {name for name in NAMES if getattr(other, name) != getattr(config.Config(), name)}

    others = {"network", "pad", *OF_OTHERS}
    unless_balanced = {"sampling", "training_images"}
    assert set(NAMES) - differing(EVERYTHING_ELSE) == {*others, "towers", "distribute", *unless_balanced}
    assert set(NAMES) - differing(BALANCED) == {*others, "towers", "distribute", "data_service"}
    assert set(NAMES) - differing(REPLICAS) == {*others, "towers", "steps_per_call", *unless_balanced}
    assert set(NAMES) - differing(ONE_TOWER) == {*others, "communication", "distribute", *unless_balanced}
    assert differing(RESIDUAL) == others
    assert set(NAMES) - differing(SMALL_NET) == {
        *registry.refused_options("cifar10_19"),
        "pad",
        "distribute",
        *unless_balanced,
    }


def test_replicas_take_single_steps():
    with pytest.raises(ValueError, match="^Expected steps_per_call to be 1 for distribute=mirrored. Received: 2$"):
        config.Config(distribute="mirrored", steps_per_call=2)


def test_flagfile_names_every_field_of_a_resolved_configuration():
    given = config.Config(dense_weight_decay=3.0, conv1_stddev=0.02, new_layers=("fc8",))
    first, *lines = flagfiles.to_text(given.resolved()).splitlines()
    assert first.startswith("#")
    # AlexNet has no shortcuts.
    assert [line.removeprefix("--").partition("=")[0] for line in lines] == [
        name for name in NAMES if name != "shortcuts"
    ]


def test_there_is_a_flag_for_every_field():
    flag_values = flags.FlagValues()
    before = set(flag_values)
    flagfiles.define_flags(flag_values)
    assert set(flag_values) - before == set(NAMES)
    for field in FIELDS:
        assert field.metadata["help"] in flag_values[field.name].help
        assert field.metadata["source"] in flag_values[field.name].help


def test_without_flags_values_are_defaults():
    assert parsed() == config.Config()


@pytest.mark.parametrize("arguments, expected", [(["--deterministic"], True), (["--nodeterministic"], False)])
def test_boolean_flags_can_be_negated(arguments, expected):
    assert parsed(*arguments).deterministic is expected


def test_lists_may_contain_spaces():
    assert parsed("--devices=/GPU:0, /GPU:1", "--drop_epochs=25, 51,79.5").devices == ("/GPU:0", "/GPU:1")
    assert parsed("--drop_epochs=25, 51,79.5").drop_epochs == (25, 51, 79.5)


@pytest.mark.parametrize("field, value", INVALID, ids=[f"{field.name}-{value!r}" for field, value in INVALID])
def test_invalid_value_is_reported_with_field_and_range(field, value):
    with pytest.raises(ValueError) as caught:
        config.Config(**{field.name: value})
    message = f"Expected {field.name} to be {config.describe_range(field)}. Received: {value!r}"
    assert str(caught.value) == message


@each_field
def test_range_in_messages_has_every_choice_and_bound(field):
    metadata = field.metadata
    text = config.describe_range(field)
    for choice in metadata["choices"] or ():
        assert choice in text.split(" | ")
    assert [bound for bound in (metadata["low"], metadata["high"]) if bound is not None] == [
        float(word) for word in text.split() if word.replace(".", "").isdigit()
    ]


@each_field
def test_bounds_are_inclusive(field):
    for bound in (field.metadata["low"], field.metadata["high"]):
        if bound is not None:
            assert getattr(with_value(field, bound)[1], field.name) == bound


@pytest.mark.parametrize(
    "values, message",
    [
        (
            {"schedule": "epochs", "drop_epochs": (51.0, 25.0)},
            r"Expected drop_epochs to increase\. Received: \(51\.0, 25",
        ),
        ({"schedule": "steps", "drop_steps": (5, 4)}, r"Expected drop_steps to increase\. Received: \(5, 4\)"),
        ({"pad": 4, "crops": "center"}, r"Expected crops=random for pad=4\. Received: crops=center"),
        ({"pad": 4, "crops": "area"}, r"Expected crops=random for pad=4\. Received: crops=area"),
        (
            {"mean_crop": "center", "crops": "area"},
            r"Expected mean_crop=aligned for crops=area, .*\. Received: mean_crop=center",
        ),
        ({"devices": ("/GPU:0",)}, r"Expected devices to be auto, empty or two devices\. Received: /GPU:0"),
        ({"devices": ("a", "b", "c")}, r"Expected devices to be auto, empty or two devices\. Received: a,b,c"),
        ({"schedule": "linear", "epochs": 0}, r"Expected epochs above 0 for schedule=linear\. Received: 0"),
        (
            {"schedule": "exponential_steps", "epochs": 0},
            r"Expected epochs above 0 for schedule=exponential_steps\. Received: 0",
        ),
        (
            {"towers": "one", "devices": ("/GPU:0", "/GPU:1")},
            r"Expected towers=two for two devices\. Received: towers=one",
        ),
        (
            {"towers": "half", "communication": "fc8"},
            r"Expected towers=two for communication=fc8\. Received: towers=half",
        ),
        (
            {"validation_fraction": 0.0, "schedule": "epochs", "stop_after": 3},
            r"Expected validation_fraction above 0 to choose an epoch, .*\. Received: 0 with stop_after=3",
        ),
        (
            {"validation_fraction": 0.0, "schedule": "epochs", "checkpoint": "best"},
            r"Expected validation_fraction above 0 to choose an epoch, .*\. Received: 0 with checkpoint=best",
        ),
        ({"class_weights": ""}, r"Expected class_weights to be none, balanced or a file\. Received: an empty name"),
        (
            {"sampling": "balanced", "class_weights": "balanced"},
            r"Expected either sampling=balanced or class_weights=balanced, .*\. Received: both",
        ),
        (
            {"sampling": "balanced", "reshuffle": False},
            r"Expected reshuffle=true for sampling=balanced, .*\. Received: reshuffle=false",
        ),
        (
            {"sampling": "balanced", "data_dir": "prepared", "data_service": "grpc://HOST:5050"},
            r"Expected no data_service for sampling=balanced, .*\. Received: data_service=grpc://HOST:5050",
        ),
        (
            {"training_images": 100, "data_dir": "prepared", "data_service": "grpc://HOST:5050"},
            r"Expected no data_service for training_images, .*\. Received: data_service=grpc://HOST:5050",
        ),
        ({"bottleneck": 2047}, r"Expected bottleneck to be even\. Received: 2047"),
        (
            {"network": "cifar10_26", "image_size": 32, "crop_size": 33},
            r"Expected crop_size to be at most image_size, 32\. Received: 33",
        ),
        ({"image_size": 223}, r"Expected crop_size to be at most image_size, 223\. Received: 224"),
        ({"crop_size": 225}, r"Expected crop_size to be 224, 227, 56 or 32 for network=alexnet\. Received: 225"),
        ({"recipe": "caffe"}, r"Expected crop_size to be 227, 56 or 32 for recipe=caffe\. Received: 224"),
        (
            {"validation_fraction": 0.0},
            r"Expected a schedule that does not depend on the validation error, such as epochs, for "
            r"validation_fraction=0\. Received: schedule=plateau",
        ),
        (
            {"mean_image": "initialize_from"},
            r"Expected initialize_from for mean_image=initialize_from\. Received: none",
        ),
        (
            {"initialize_from": "runs/before", "freeze": ("conv1", "fc8")},
            r"Expected freeze and new_layers to name different layers, .*\. Received: fc8 in both",
        ),
        (
            {"layer_rates": ("conv1:0.1", "fc8:2"), "freeze": ("conv2", "conv1")},
            r"Expected freeze and layer_rates to name different layers, .*\. Received: conv1 in both",
        ),
        *(
            (
                {"layer_rates": rates},
                r"Expected layer_rates to be a LAYER:FACTOR for each layer, .* name it in freeze\. Received: "
                + ",".join(rates),
            )
            for rates in (("conv1",), ("conv1:",), (":1",), ("conv1:fast",), ("conv1:0",), ("conv1:-1",))
            + (("conv1:nan",), ("conv1:inf",), ("conv1:1001",), ("conv1:1", "conv1:2"))
        ),
    ],
)
def test_contradictory_values_are_rejected(values, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        config.Config(**values)
    assert "\n" not in str(caught.value)


def test_a_program_without_a_schedule_accepts_every_validation_fraction():
    flag_values = flags.FlagValues()
    flagfiles.define_flags(flag_values)
    flag_values(["prepare", "--validation_fraction=0", "--stop_after=3", "--checkpoint=best"])
    assert flagfiles.from_flags(flag_values, ["source", "validation_fraction"]).validation_fraction == 0
    with pytest.raises(ValueError, match="Expected a schedule"):
        flagfiles.from_flags(flag_values, ["schedule", "validation_fraction"])


def test_an_open_split_rule_does_not_differ_from_others():
    old, new, either = (config.Config(split_rule=rule) for rule in ("shuffle", "hash", "auto"))
    assert old.differences(new) == ["split_rule"]
    assert either.differences(old) == either.differences(new) == new.differences(either) == []


@pytest.mark.parametrize(
    "values",
    [
        {"towers": "one", "devices": ()},
        {"towers": "half", "devices": ("auto",)},
        {"communication": "fc8", "devices": ("/GPU:0", "/GPU:1")},
        {"bottleneck": 2048},
        {"image_size": 224},
        {"image_size": 32, "crop_size": 32},
        {"network": "cifar10_26", "image_size": 32, "crop_size": 32},
        {"network": "cifar10_26", "image_size": 32, "crop_size": 24},
        *({"schedule": schedule, "validation_fraction": 0} for schedule in ("epochs", "exponential_steps", "linear")),
    ],
)
def test_values_that_barely_fit_together_are_accepted(values):
    made = config.Config(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    "text, message",
    [
        ("--sead=3", "sead"),
        ("--seed=three", "--seed=three"),
        ("--seed", "seed"),
        ("--learning_rate=high", "--learning_rate=high"),
        ("--deterministic=perhaps", "--deterministic=perhaps"),
        ("--drop_epochs=25,later", "Expected drop_epochs to be numbers separated by commas. Received: 'later'"),
        ("--recipe=vgg", "Expected recipe to be paper | original | caffe | caffenet. Received: 'vgg'"),
        ("--dropout=1.5", "Expected dropout to be 0 to 0.99. Received: 1.5"),
        # absl stops parsing at the first word that is not a flag.
        ("--seed=3\nepochs=4\n--patience=5", "Expected --flag=value on each line. Received: 'epochs=4'"),
        ("--flagfile=nowhere.flags", "Expected a flagfile. Received: nowhere.flags; searched /"),
    ],
)
def test_invalid_flagfile_is_rejected_in_one_line(text, message, tmp_path):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe--seed=3"], ids=["missing", "not_text"])
def test_unreadable_flagfile_is_named(content, tmp_path):
    path = tmp_path / "run.flags"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"run\.flags"):
        flagfiles.read_flagfile(path)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
MARKS = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old_mac"])
def test_flagfiles_of_other_systems_are_read(encoding, end, tmp_path):
    text = end.join(["--source=folder:/größe", "# Comment", "--batch_size=8", ""])
    included, including = tmp_path / "included.flags", tmp_path / "including.flags"
    included.write_bytes(MARKS.get(encoding, b"") + text.encode(encoding))
    including.write_text("\ufeff--flagfile=included.flags\r\n--seed=3\r\n", encoding="utf-8", newline="")
    assert flagfiles.read_flagfile(included) == config.Config(source="folder:/größe", batch_size=8)
    assert flagfiles.read_flagfile(including) == config.Config(source="folder:/größe", batch_size=8, seed=3)
    assert parsed(f"--flagfile={including}").batch_size == 8


def test_joined_flagfiles_may_have_byte_order_marks_inside(tmp_path):
    path = tmp_path / "joined.flags"
    path.write_bytes("\ufeff--batch_size=8\n\ufeff--seed=3\n".encode())
    assert flagfiles.read_flagfile(path) == config.Config(batch_size=8, seed=3)


@pytest.mark.parametrize(
    "content, received",
    [
        ("--batch_size=8\n".encode("utf-16-le"), "with zero bytes"),
        ("--source=folder:/größe\n".encode("latin-1"), "('utf-8' codec can't decode byte 0xf6"),
        (b"\xff\xfe-\0-", "('utf-16-le' codec can't decode byte"),
    ],
    ids=["utf_16_without_mark", "latin_1", "half_a_character"],
)
def test_flagfile_in_an_unknown_encoding_names_the_remedy(content, received, tmp_path):
    path = tmp_path / "run.flags"
    path.write_bytes(content)
    for read_it in (lambda: flagfiles.read_flagfile(path), lambda: parsed(f"--flagfile={path}")):
        with pytest.raises(ValueError) as caught:
            read_it()
        message = str(caught.value)
        assert f"{path} {received}" in message and message.endswith("save it as UTF-8") and "\n" not in message


@each_field
def test_differences_are_fields_that_must_not_change_within_a_run(field):
    default, changed = with_value(field, another(field))
    may_change = {
        "devices",
        "source",
        "data_dir",
        "cache",
        "epochs",
        "report_steps",
        "steps_per_call",
        "compile",
        "summary_epochs",
        "checkpoint_steps",
        "keep_checkpoints",
        "deterministic",
        "intra_op_threads",
        "inter_op_threads",
        "tf32",
        "distribute",
        "data_service",
        "stop_after",
        "checkpoint",
    }
    if field.name == "split_rule":
        # Its default is open; see `test_an_open_split_rule_does_not_differ_from_others`.
        default = dataclasses.replace(default, split_rule="shuffle")
    if field.name == "input_scale":
        default = dataclasses.replace(default, input_scale=1.0)
    if field.name == "new_layers":
        default = dataclasses.replace(default, new_layers=("fc8",))
    assert default.differences(changed) == ([] if field.name in may_change else [field.name])


def test_all_differences_are_listed():
    # 19 may change; network, towers, sampling, training_images, pad and the options of others have their defaults.
    default = config.Config(split_rule="shuffle", input_scale=1.0, new_layers=("fc8",))
    assert len(default.differences(EVERYTHING_ELSE)) == len(FIELDS) - 19 - 5 - len(OF_OTHERS)
    assert set(EVERYTHING_ELSE.differences(ONE_TOWER)) == {"towers", "communication"}


def test_help_is_a_table_of_at_most_100_columns():
    lines = flagfiles.help_table().splitlines()
    assert max(len(line) for line in lines) <= 100
    (header,) = {line for line in lines if line.startswith("  flag")}
    first, second, third = (header.index(title) for title in ("default", "range", "meaning"))
    rows = {}
    for line in lines:
        if line.startswith("  --"):
            name = line.split()[0].removeprefix("--")
            assert name not in rows
            rows[name] = []
        if line.startswith("  ") and not line.startswith("  flag"):
            # Columns do not run together.
            assert all(line[start - 2 : start].strip() == "" for start in (first, second, third))
            rows[name].append((line[first:second].strip(), line[second:third].strip(), line[third:].strip()))
    assert list(rows) == NAMES
    for field in FIELDS:
        defaults, ranges, meaning = (" ".join(cell for cell in cells if cell) for cells in zip(*rows[field.name]))
        assert meaning == f"{field.metadata['help']} [{field.metadata['source']}]"
        assert ranges == config.describe_range(field).replace(" | ", " " if field.metadata["choices"] else " | ")
        if field.default is None:
            assert defaults == ("by recipe" if field.name in config.RECIPE_DEFAULTS["paper"] else "(none)")
        elif field.default not in ("", ()):
            default = field.default[0] if isinstance(field.default, tuple) else field.default
            assert defaults == (str(default).lower() if isinstance(default, bool) else str(default))


VERSION_0_1 = pathlib.Path(__file__).parent / "data" / "version_0_1" / "run" / "config.flags"


def test_old_spellings_are_aliases(tmp_path):
    old = ["--left_out=conv3", "--most_drops=2", "--most_bias_drops", "1", "-mean_crop=central", "--seed=4"]
    current = ["--removed_layer=conv3", "--max_drops=2", "--max_bias_drops=1", "--mean_crop=center", "--seed=4"]
    expected = parsed(*current)
    assert (expected.removed_layer, expected.max_drops, expected.mean_crop) == ("conv3", 2, "center")
    assert parsed(*old) == expected
    assert parsed("--mean_crop", "central", *current[:3], "--seed=4") == expected
    lines = "\n".join(old).replace("--most_bias_drops\n1", "--most_bias_drops=1")
    assert read(tmp_path, lines) == read(tmp_path, "\n".join(current)) == expected
    # Aliases belong to flags and files; Python has one spelling.
    with pytest.raises(ValueError, match="Expected mean_crop to be aligned | center. Received: 'central'"):
        config.Config(mean_crop="central")
    # The one alias that is not a field belongs to `alexnet-tf experiments`.
    assert set(flagfiles.ALIASES.values()) - set(NAMES) == {"collect"}
    assert not set(flagfiles.ALIASES) & set(NAMES)
    assert flagfiles.current_value("views", "centre") == "center"


def test_configuration_of_version_0_1_reads_as_the_same_values():
    old = flagfiles.read_flagfile(VERSION_0_1)
    text = VERSION_0_1.read_text()
    assert "--most_drops=" in text and "--left_out=" in text and "--mean_crop=central" in text
    for name in (*flagfiles.ALIASES, "central"):
        assert name not in flagfiles.to_text(old)
    assert old.mean_crop == "center" and old.removed_layer == "none"
    assert (old.max_drops, old.max_bias_drops) == (3, 1)
    # A run that resumes with the same flags, in either spelling, has the same configuration.
    assert old.differences(parsed(*text.splitlines()[1:])) == []


def test_words_after_the_flags_are_not_expanded():
    flag_values = flags.FlagValues()
    flagfiles.define_flags(flag_values)
    arguments = ["--source", "--left_out", "--seed=1", "photograph.jpg", "--left_out=conv3", "--flagfile=nowhere"]
    assert flagfiles.expand(arguments, flag_values)[-3:] == arguments[-3:]
    assert flagfiles.expand(["--", "--most_drops=1"], flag_values) == ["--", "--most_drops=1"]


@pytest.fixture
def directories(tmp_path, monkeypatch):
    """The current directory, one with a flagfile of the user's, and the package's own flagfiles."""
    here, mine, package = (tmp_path / name for name in ("here", "mine", "package"))
    for directory in (here, mine, package):
        directory.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(flagfiles, "FLAGFILE_DIRECTORIES", (str(tmp_path / "none"), str(package)))
    return here, mine, package


def test_flagfiles_are_found_from_anywhere(directories):
    here, mine, package = directories
    (package / "base.flags").write_text("--seed=1\n")
    for name in ("base", "base.flags", "flags/base.flags", "flags/base"):
        assert parsed(f"--flagfile={name}").seed == parsed("--flagfile", name).seed == 1
    (mine / "own.flags").write_text("--flagfile=flags/base.flags\n--patience=7\n")
    assert parsed(f"--flagfile={mine}/own.flags") == config.Config(seed=1, patience=7)
    # The current directory comes before the package, the including file's before the current one.
    (here / "flags").mkdir()
    (here / "flags" / "base.flags").write_text("--seed=2\n")
    assert parsed("--flagfile=flags/base.flags").seed == parsed(f"--flagfile={mine}/own.flags").seed == 2
    assert parsed("--flagfile=base").seed == 1
    (mine / "flags").mkdir()
    (mine / "flags" / "base.flags").write_text("--seed=3\n")
    assert parsed(f"--flagfile={mine}/own.flags").seed == 3
    # What follows an included file overrides it.
    assert parsed(f"--flagfile={mine}/own.flags", "--seed=4").seed == 4


def test_flagfile_in_flags_includes_its_sibling_from_anywhere(directories, tmp_path):
    here, mine, package = directories
    for place, seed in ((mine, 5), (here, 2)):
        (place / "flags").mkdir()
        (place / "flags" / "base.flags").write_text(f"--seed={seed}\n")
    (package / "base.flags").write_text("--seed=1\n")
    (mine / "flags" / "own.flags").write_text("--flagfile=flags/base.flags\n")
    assert parsed(f"--flagfile={mine}/flags/own.flags").seed == 5
    assert parsed("--flagfile=../mine/flags/own.flags").seed == 5


@pytest.mark.parametrize(
    "name, searched",
    [
        ("nothere", "nothere, {package}/nothere.flags"),
        ("flags/nothere.flags", "flags/nothere.flags, {package}/nothere.flags"),
        # Another directory's file is not replaced by one of the same name.
        ("other/base.flags", "other/base.flags"),
        ("/other/base.flags", "/other/base.flags"),
    ],
)
def test_missing_flagfile_is_reported_with_the_places_searched(directories, name, searched):
    here, mine, package = directories
    (package / "base.flags").write_text("--seed=1\n")
    message = f"Expected a flagfile. Received: {name}; searched {searched.format(package=package)}"
    with pytest.raises(ValueError) as caught:
        parsed(f"--flagfile={name}")
    assert str(caught.value) == message
    (here / "including.flags").write_text(f"--flagfile={name}\n")
    (mine / "including.flags").write_text(f"--flagfile={name}\n")
    with pytest.raises(ValueError) as caught:
        flagfiles.read_flagfile(mine / "including.flags")
    first = [] if name.startswith("/") else [f"{mine}/{name}"]
    assert ", ".join([*first, searched.format(package=package)]) in str(caught.value)


@pytest.mark.parametrize(
    ("options", "received"),
    [({"devices": ("/GPU:0", "/GPU:1")}, "step, devices='/GPU:0,/GPU:1'"), ({"distribute": "mirrored"}, "step")],
)
def test_one_program_of_xla_is_for_one_device(options, received):
    with pytest.raises(ValueError, match=f"^Expected compile to be auto or islands for .*Received: {received}$"):
        config.Config(compile="step", **options)
    config.Config(compile="islands", **options)
