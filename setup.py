"""Installation: ``pip install -e '.[cpu]'``, or ``.[cuda]`` on a machine with GPUs."""

import pathlib
import re
import shutil

import setuptools
from setuptools.command import build_py

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (ROOT / "alexnet_tf" / "__init__.py").read_text(), flags=re.M)[1]


class BuildWithFlagfiles(build_py.build_py):
    """Copies flags/ into an installed package, where it is ``alexnet_tf/_flags``."""

    def run(self):
        super().run()
        if not self.editable_mode:
            directory = pathlib.Path(self.build_lib, "alexnet_tf", "_flags")
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            for path in sorted((ROOT / "flags").glob("*.flags")):
                self.copy_file(str(path), str(directory / path.name))


# TensorFlow's and Keras's lower bounds are the versions that the tests passed with; older ones are untested.
setuptools.setup(
    name="alexnet-tf",
    version=VERSION,
    description="AlexNet (Krizhevsky, Sutskever, Hinton 2012) in TensorFlow and Keras, on two devices or one",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["alexnet", "imagenet", "convolutional neural network", "image classification", "tensorflow", "keras"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11",
    packages=setuptools.find_packages(include=["alexnet_tf", "alexnet_tf.*"]),
    package_data={"alexnet_tf.weights": ["*.safetensors"], "alexnet_tf.serving": ["page/*"]},
    cmdclass={"build_py": BuildWithFlagfiles},
    entry_points={"console_scripts": ["alexnet-tf = alexnet_tf.commands.__main__:main"]},
    install_requires=[
        "absl-py>=2.1",
        "google-crc32c>=1.5",
        "grpcio>=1.74",
        "keras>=3.15",
        "numpy>=1.26",
        "protobuf>=6.33.5",
        "psutil>=5.9",
        "rich>=13.7",
        "safetensors>=0.5",
        "tensorboard>=2.20",
        "tensorflow-datasets>=4.9.9",
        # tensorflow-datasets requires it without declaring it.
        "importlib_resources>=6.4",
    ],
    extras_require={
        "cpu": ["tensorflow-cpu>=2.21"],
        "cuda": ["tensorflow[and-cuda]>=2.21"],
        "quickstart": ["elpv-dataset>=1.0", "matplotlib>=3.8"],
        "ilsvrc2010": ["scipy>=1.11"],
        # OpenCV has SIFT, scikit-image Fisher vectors.
        "baseline": ["opencv-python-headless>=4.10", "scikit-image>=0.26", "scikit-learn>=1.8"],
        "figures": ["matplotlib>=3.8"],
        "neighbours": ["faiss-cpu>=1.15"],
        "weights": ["onnx>=1.17", "scipy>=1.11"],
        "profile": ["tensorboard-plugin-profile>=2.24", "xprof>=2.24"],
        # Another implementation for tests to compare with; they are skipped without it. It installs gigabytes.
        "torch": ["torch>=2.4"],
        "test": [
            "elpv-dataset>=1.0",
            "faiss-cpu>=1.15",
            "matplotlib>=3.8",
            "onnx>=1.17",
            "onnxruntime>=1.20",
            # Version 5 has no reader of Caffe models.
            "opencv-python-headless>=4.10,<5",
            "openvino>=2025.4",
            "pillow>=10",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "pyyaml>=6",
            "ruff==0.17.6",
            "scikit-image>=0.26",
            "scikit-learn>=1.8",
            "scipy>=1.11",
            "xprof>=2.24",
        ],
    },
)
