"""The networks that came after AlexNet in torch, written from their papers' tables; layers are named as ours.

They take float32 ``[batch, 3, side, side]`` and return logits. Layers with weights are in `layers` by name.
"""

from collections.abc import Callable
from typing import Any

import torch

_VGG_STAGES = {
    "vgg_a": (1, 1, 2, 2, 2),
    "vgg_a_lrn": (1, 1, 2, 2, 2),
    "vgg_b": (2, 2, 2, 2, 2),
    "vgg_d": (2, 2, 3, 3, 3),
    "vgg_e": (2, 2, 4, 4, 4),
}
_RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
# Kernels of 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5 and of the projection (Szegedy et al. 2014, table 1).
_INCEPTION = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def has(name: str) -> bool:
    """Returns whether `build` knows a network by its name in the registry."""
    return (
        name in _VGG_STAGES
        or name == "googlenet"
        or name.startswith(("plain_", "resnet_", "cifar10_plain_", "cifar10_resnet_"))
    )


def build(name: str, num_classes: int, image_size: int, *, width: float = 1.0) -> torch.nn.Module:
    """Builds a network by its name in the registry.

    Args:
      name: of a network that `has` knows.
      num_classes: int.
      image_size: side of the images.
      width: a factor of the number of kernels and hidden units.
    """
    scaled = lambda count: max(1, round(count * width))
    if name in _VGG_STAGES:
        return VGG(_VGG_STAGES[name], num_classes, image_size, scaled, normalization=name == "vgg_a_lrn")
    if name == "googlenet":
        return GoogLeNet(num_classes, scaled)
    depth, residual = int(name.rpartition("_")[2]), "resnet" in name
    if name.startswith("cifar10_"):
        kernels = [(scaled(each),) * 2 for each in (16, 32, 64)]
        return ResNet(num_classes, kernels, (depth // 6,) * 3, residual, is_small=True)
    factors = (1, 1, 4) if depth == 50 else (1, 1)
    kernels = [tuple(scaled(each * factor) for factor in factors) for each in (64, 128, 256, 512)]
    return ResNet(num_classes, kernels, _RESNET_BLOCKS[depth], residual, projects=depth == 50)


class VGG(torch.nn.Module):
    """Simonyan and Zisserman 2014, table 1. Units of fc6 are in our order: rows, columns and maps."""

    def __init__(self, stages, num_classes, image_size, scaled, *, normalization):
        super().__init__()
        self.stages, self.normalization = stages, normalization
        self.layers = torch.nn.ModuleDict()
        maps = 3
        for stage, (count, kernels) in enumerate(zip(stages, (64, 128, 256, 512, 512)), start=1):
            for layer in range(1, count + 1):
                self.layers[f"conv{stage}_{layer}"] = torch.nn.Conv2d(maps, scaled(kernels), 3, padding=1)
                maps = scaled(kernels)
        sizes = [maps * (image_size // 32) ** 2, scaled(4096), scaled(4096), num_classes]
        for number, (inputs, outputs) in enumerate(zip(sizes, sizes[1:]), start=6):
            self.layers[f"fc{number}"] = torch.nn.Linear(inputs, outputs)
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, x):
        for stage, count in enumerate(self.stages, start=1):
            for layer in range(1, count + 1):
                x = self.layers[f"conv{stage}_{layer}"](x).relu()
            if stage == 1 and self.normalization:
                x = _response_normalization(x)
            x = torch.nn.functional.max_pool2d(x, 2)
        x = x.permute(0, 2, 3, 1).flatten(1)
        for number in (6, 7):
            x = self.dropout(self.layers[f"fc{number}"](x).relu())
        return self.layers["fc8"](x)


class ResNet(torch.nn.Module):
    """He et al. 2015, tables 1 and section 4.2: residual networks and, without shortcuts, plain ones.

    Shortcuts are of kind A, or where `projects`, B. Strides are in the first convolution of a block.
    """

    def __init__(self, num_classes, kernels, blocks, residual, *, is_small=False, projects=False):
        super().__init__()
        self.blocks, self.residual, self.is_small, self.projects = blocks, residual, is_small, projects
        self.lengths = [len(each) for each in kernels]
        self.layers = torch.nn.ModuleDict()
        size, stride = (3, 1) if is_small else (7, 2)
        inputs = kernels[0][0]
        self._convolution("1", 3, inputs, size, stride)
        for stage, (of_block, count) in enumerate(zip(kernels, blocks), start=2):
            for block in range(1, count + 1):
                stride = 2 if stage > 2 and block == 1 else 1
                if projects and inputs != of_block[-1]:
                    self._convolution(f"{stage}_{block}_shortcut", inputs, of_block[-1], 1, stride)
                for number, outputs in enumerate(of_block, start=1):
                    size = 3 if len(of_block) == 2 or number == 2 else 1
                    self._convolution(f"{stage}_{block}_{number}", inputs, outputs, size, stride if number == 1 else 1)
                    inputs = outputs
        self.layers["fc"] = torch.nn.Linear(inputs, num_classes)

    def _convolution(self, place, inputs, outputs, size, stride):
        self.layers[f"conv{place}"] = torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        # Our moving statistics keep 0.9 of their value at each step.
        self.layers[f"norm{place}"] = torch.nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1)

    def _normalized(self, place, x):
        return self.layers[f"norm{place}"](self.layers[f"conv{place}"](x))

    def _shortcut(self, place, x, like):
        if f"conv{place}_shortcut" in self.layers:
            return self._normalized(f"{place}_shortcut", x)
        stride = x.shape[2] // like.shape[2]
        return torch.nn.functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, like.shape[1] - x.shape[1]))

    def forward(self, x):
        x = self._normalized("1", x).relu()
        if not self.is_small:
            x = torch.nn.functional.max_pool2d(x, 3, 2, padding=1)
        for stage, (count, length) in enumerate(zip(self.blocks, self.lengths), start=2):
            for block in range(1, count + 1):
                place, before = f"{stage}_{block}", x
                for number in range(1, length + 1):
                    x = self._normalized(f"{place}_{number}", x)
                    x = x.relu() if number < length else x
                x = (x + self._shortcut(place, before, x) if self.residual else x).relu()
        return self.layers["fc"](x.mean(dim=(2, 3)))


class GoogLeNet(torch.nn.Module):
    """Szegedy et al. 2014, table 1, without auxiliary heads."""

    def __init__(self, num_classes, scaled):
        super().__init__()
        self.layers = torch.nn.ModuleDict()
        self._convolution("1", 3, scaled(64), 7, stride=2)
        self._convolution("2_reduce", scaled(64), scaled(64), 1)
        self._convolution("2", scaled(64), scaled(192), 3)
        inputs = scaled(192)
        for name, kernels in _INCEPTION.items():
            one, three_reduce, three, five_reduce, five, projection = map(scaled, kernels)
            self._convolution(f"{name}_1x1", inputs, one, 1)
            self._convolution(f"{name}_3x3_reduce", inputs, three_reduce, 1)
            self._convolution(f"{name}_3x3", three_reduce, three, 3)
            self._convolution(f"{name}_5x5_reduce", inputs, five_reduce, 1)
            self._convolution(f"{name}_5x5", five_reduce, five, 5)
            self._convolution(f"{name}_projection", inputs, projection, 1)
            inputs = one + three + five + projection
        self.layers["fc"] = torch.nn.Linear(inputs, num_classes)
        self.dropout = torch.nn.Dropout(0.4)

    def _convolution(self, place, inputs, outputs, size, *, stride=1):
        self.layers[f"conv{place}"] = torch.nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)

    def _module(self, name, x):
        apply = lambda place, x: self.layers[f"conv{name}_{place}"](x).relu()
        pooled = torch.nn.functional.max_pool2d(x, 3, 1, padding=1)
        paths = [apply("1x1", x), apply("3x3", apply("3x3_reduce", x)), apply("5x5", apply("5x5_reduce", x))]
        return torch.cat([*paths, apply("projection", pooled)], 1)

    def forward(self, x):
        halve = lambda x: torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)
        apply = lambda place, x: self.layers[f"conv{place}"](x).relu()
        x = _response_normalization(halve(apply("1", x)))
        x = halve(_response_normalization(apply("2", apply("2_reduce", x))))
        for name in _INCEPTION:
            x = self._module(name, x)
            x = halve(x) if name in ("3b", "4e") else x
        return self.layers["fc"](self.dropout(x.mean(dim=(2, 3))))


def _response_normalization(x):
    # torch divides alpha by the size of the window, 5.
    return torch.nn.functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)


def predict(model: torch.nn.Module) -> Callable[[Any], Any]:
    """Returns a function of images that waits for the logits in inference."""
    model.eval()

    def compute(images):
        with torch.inference_mode():
            # The copy to the CPU waits for a GPU.
            return model(images).cpu()

    return compute
