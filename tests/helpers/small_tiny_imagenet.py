"""A miniature of Tiny ImageNet, in the layout of its distribution."""

import pathlib

import numpy as np
import PIL.Image

# In the order of wnids.txt, which is not sorted.
WORDS = {"n02124075": "Egyptian cat", "n01443537": "goldfish, Carassius auratus", "n04067472": "reel"}
IDENTIFIERS = tuple(sorted(WORDS))


def write(root, per_class=3, validation_images=4, test_images=0):
    """Writes photographs of noise, every third one gray; returns the folder."""
    root = pathlib.Path(root)
    generator = np.random.default_rng(0)
    number = 0

    def write_image(path):
        nonlocal number
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (64, 64) if number % 3 == 2 else (64, 64, 3)
        PIL.Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path, "JPEG")
        number += 1

    for name in WORDS:
        for place in range(per_class):
            write_image(root / "train" / name / "images" / f"{name}_{place}.JPEG")
        (root / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t62\t62\n")
    lines = []
    for place in range(validation_images):
        write_image(root / "val" / "images" / f"val_{place}.JPEG")
        lines.append(f"val_{place}.JPEG\t{list(WORDS)[place % len(WORDS)]}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    for place in range(test_images):
        write_image(root / "test" / "images" / f"test_{place}.JPEG")
    (root / "wnids.txt").write_text("".join(f"{name}\n" for name in WORDS))
    others = ["n00001740\tentity\n", "n00001930\tphysical entity\n"]
    (root / "words.txt").write_text("".join(others + [f"{name}\t{words}\n" for name, words in WORDS.items()]))
    return root
