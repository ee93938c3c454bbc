"""Writes Caffe models with protobuf's own serializer, in each of the three forms that layers have had."""

import functools

import google.protobuf.descriptor_pb2
import google.protobuf.descriptor_pool
import google.protobuf.message_factory
import numpy as np

_SHAPED = [("pad", 3, "repeated uint32"), ("kernel_size", 4, "repeated uint32"), ("stride", 6, "repeated uint32")]
_FIELDS = {
    "BlobShape": [("dim", 1, "packed int64")],
    "BlobProto": [
        *[("num", 1, "int64"), ("channels", 2, "int64"), ("height", 3, "int64"), ("width", 4, "int64")],
        *[("data", 5, "packed float"), ("diff", 6, "packed float"), ("shape", 7, "BlobShape")],
        ("double_data", 8, "packed double"),
    ],
    # The same, with a tag for each number.
    "UnpackedBlob": [("data", 5, "repeated float"), ("shape", 7, "BlobShape")],
    "Convolution": [
        *[("num_output", 1, "uint32"), *_SHAPED, ("group", 5, "uint32"), ("pad_h", 9, "uint32")],
        *[("pad_w", 10, "uint32"), ("stride_h", 13, "uint32"), ("stride_w", 14, "uint32")],
    ],
    "Pooling": [("pool", 1, "uint32"), ("kernel_size", 2, "uint32"), ("stride", 3, "uint32"), ("pad", 4, "uint32")],
    "Lrn": [("local_size", 1, "uint32"), ("alpha", 2, "float"), ("beta", 3, "float"), ("k", 5, "float")],
    "Dropout": [("dropout_ratio", 1, "float")],
    "InnerProduct": [("num_output", 1, "uint32")],
    "Transformation": [("crop_size", 3, "uint32"), ("mean_value", 5, "repeated float")],
    "V0Layer": [
        *[("name", 1, "string"), ("type", 2, "string"), ("num_output", 3, "uint32"), ("pad", 7, "uint32")],
        *[("kernelsize", 8, "uint32"), ("group", 9, "uint32"), ("stride", 10, "uint32"), ("pool", 11, "uint32")],
        *[("dropout_ratio", 12, "float"), ("local_size", 13, "uint32"), ("alpha", 14, "float"), ("beta", 15, "float")],
        *[("k", 22, "float"), ("blobs", 50, "repeated BlobProto")],
    ],
    "V1Layer": [
        *[("layer", 1, "V0Layer"), ("bottom", 2, "repeated string"), ("top", 3, "repeated string")],
        *[("name", 4, "string"), ("type", 5, "uint32"), ("blobs", 6, "repeated BlobProto")],
        *[("convolution_param", 10, "Convolution"), ("dropout_param", 12, "Dropout")],
        *[("inner_product_param", 17, "InnerProduct"), ("lrn_param", 18, "Lrn"), ("pooling_param", 19, "Pooling")],
        ("transform_param", 36, "Transformation"),
    ],
    "Layer": [
        *[
            ("name", 1, "string"),
            ("type", 2, "string"),
            ("bottom", 3, "repeated string"),
            ("top", 4, "repeated string"),
        ],
        *[("blobs", 7, "repeated BlobProto"), ("transform_param", 100, "Transformation")],
        *[("convolution_param", 106, "Convolution"), ("dropout_param", 108, "Dropout")],
        *[("inner_product_param", 117, "InnerProduct"), ("lrn_param", 118, "Lrn"), ("pooling_param", 121, "Pooling")],
    ],
    "Net": [
        *[("name", 1, "string"), ("layers", 2, "repeated V1Layer"), ("input", 3, "repeated string")],
        *[("input_dim", 4, "repeated int64"), ("layer", 100, "repeated Layer")],
    ],
}
_V1_TYPES = {"Convolution": 4, "Dropout": 6, "InnerProduct": 14, "LRN": 15, "Pooling": 17, "ReLU": 18, "Softmax": 20}
_V0_TYPES = {"Convolution": "conv", "InnerProduct": "innerproduct", "Pooling": "pool"}

# A network of two groups with everything that AlexNet has: name, type, and the fields of its parameters.
LAYERS = [
    ("conv1", "Convolution", {"num_output": 8, "kernel_size": [5], "stride": [2]}),
    ("relu1", "ReLU", {}),
    ("norm1", "LRN", {"local_size": 5, "alpha": 0.01, "beta": 0.75}),
    ("pool1", "Pooling", {"pool": 0, "kernel_size": 3, "stride": 2}),
    ("conv2", "Convolution", {"num_output": 6, "kernel_size": [3], "pad": [1], "group": 2}),
    ("relu2", "ReLU", {}),
    ("fc3", "InnerProduct", {"num_output": 7}),
    ("drop3", "Dropout", {"dropout_ratio": 0.25}),
    ("prob", "Softmax", {}),
]
INPUT = [1, 3, 21, 21]


def _convolution(name, num_output, kernel_size, **parameters):
    own = {"num_output": num_output, "kernel_size": [kernel_size], **parameters}
    return [(name, "Convolution", own), (f"relu{name[-1]}", "ReLU", {})]


def _classifier(name, num_output):
    return [(name, "InnerProduct", {"num_output": num_output})]


_POOLING = {"pool": 0, "kernel_size": 3, "stride": 2}
_LRN = {"local_size": 5, "alpha": 0.0001, "beta": 0.75}


def alexnet(recipe, classes):
    """Returns the layers of Caffe's two AlexNets, "caffe" and "caffenet", in the form of `LAYERS`."""

    def both(number):
        found = [(f"norm{number}", "LRN", _LRN), (f"pool{number}", "Pooling", _POOLING)]
        return found if recipe == "caffe" else found[::-1]

    return [
        *_convolution("conv1", 96, 11, stride=[4]),
        *both(1),
        *_convolution("conv2", 256, 5, pad=[2], group=2),
        *both(2),
        *_convolution("conv3", 384, 3, pad=[1]),
        *_convolution("conv4", 384, 3, pad=[1], group=2),
        *_convolution("conv5", 256, 3, pad=[1], group=2),
        ("pool5", "Pooling", _POOLING),
        *_classifier("fc6", 4096),
        ("relu6", "ReLU", {}),
        ("drop6", "Dropout", {"dropout_ratio": 0.5}),
        *_classifier("fc7", 4096),
        ("relu7", "ReLU", {}),
        ("drop7", "Dropout", {"dropout_ratio": 0.5}),
        *_classifier("fc8", classes),
        ("prob", "Softmax", {}),
    ]


@functools.cache
def _classes():
    file = google.protobuf.descriptor_pb2.FileDescriptorProto(
        name="caffe_files.proto", package="caffe", syntax="proto2"
    )
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for own, number, kind in fields:
            field = message.field.add(name=own, number=number)
            label, _, kind = kind.rpartition(" ")
            field.label = field.LABEL_REPEATED if label else field.LABEL_OPTIONAL
            field.options.packed = label == "packed"
            if kind in _FIELDS:
                field.type, field.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = google.protobuf.descriptor_pool.DescriptorPool()
    pool.Add(file)
    make = google.protobuf.message_factory.GetMessageClass
    return {name: make(pool.FindMessageTypeByName(f"caffe.{name}")) for name in _FIELDS}


def message(name, /, **fields):
    """Returns a message of Caffe's."""
    return _classes()[name](**fields)


def blob(array, *, legacy=False, double=False):
    """Returns a BlobProto of an array."""
    fields = {"double_data" if double else "data": array.ravel()}
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        return message("BlobProto", **fields, **dict(zip(("num", "channels", "height", "width"), shape)))
    return message("BlobProto", shape={"dim": array.shape}, **fields)


def weights(seed=0):
    """Returns large kernels and biases for `LAYERS`, by name as the reader names them."""
    random = np.random.default_rng(seed)
    shapes = {
        "conv1": [(8, 3, 5, 5), (8,)],
        "conv2": [(6, 4, 3, 3), (6,)],
        "fc3": [(7, 96), (7,)],
    }
    return {
        f"{name}/{number}": random.normal(0, 3, shape).astype(np.float32)
        for name, both in shapes.items()
        for number, shape in enumerate(both)
    }


def arrays_of(layers):
    """Returns the arrays of layers from `onnx_alexnet.random_layers`, by name as the reader names them."""
    arrays = {}
    for name, (kernel, bias) in layers.items():
        arrays[f"{name}/0"] = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        arrays[f"{name}/1"] = bias
    return arrays


def model(form, arrays, layers=LAYERS, shape=INPUT):
    """Returns the bytes of a model.

    Args:
      form: "today", "v1" or "v0".
      arrays: as `weights` returns.
      layers: as `LAYERS`.
      shape: shape of the input, [batch, channels, height, width].
    """
    net = message("Net", name="small", input=["data"], input_dim=shape)
    bottom = "data"
    for name, kind, parameters in layers:
        blobs = [blob(array, legacy=form != "today") for key, array in arrays.items() if key.split("/")[0] == name]
        field = {"InnerProduct": "inner_product_param"}.get(kind, f"{kind.lower()}_param")
        own = {field: parameters} if parameters else {}
        if form == "today":
            net.layer.add(name=name, type=kind, bottom=[bottom], top=[name], blobs=blobs, **own)
        elif form == "v1":
            net.layers.add(name=name, type=_V1_TYPES[kind], bottom=[bottom], top=[name], blobs=blobs, **own)
        else:
            flat = {key: value[0] if isinstance(value, list) else value for key, value in parameters.items()}
            if "kernel_size" in flat:
                flat["kernelsize"] = flat.pop("kernel_size")
            old = message("V0Layer", name=name, type=_V0_TYPES.get(kind, kind.lower()), blobs=blobs, **flat)
            net.layers.add(layer=old, bottom=[bottom], top=[name])
        bottom = name
    return net.SerializeToString()


def description(layers=LAYERS, shape=INPUT):
    """Returns the text that Caffe and OpenCV read next to a `model`."""
    lines = ['name: "small"', 'input: "data"', *[f"input_dim: {size}" for size in shape]]
    bottom = "data"
    for name, kind, parameters in layers:
        field = {"InnerProduct": "inner_product_param"}.get(kind, f"{kind.lower()}_param")
        values = " ".join(f"{key}: {np.ravel(value)[0]}" for key, value in parameters.items())
        own = f"{field} {{ {values} }}" if values else ""
        lines.append(f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {own} }}')
        bottom = name
    return "\n".join(lines).encode()
