"""Installation: ``pip install -e '.[cpu]'``, or ``.[cuda]`` on a machine with GPUs."""

import setuptools

# TensorFlow's and Keras's lower bounds are the versions that the tests passed with; older ones are untried.
setuptools.setup(
    name="alexnet-tf",
    version="0.1.0",
    description="AlexNet (Krizhevsky, Sutskever, Hinton 2012) in TensorFlow and Keras, on two devices or one",
    python_requires=">=3.10",
    packages=setuptools.find_packages(include=["alexnet_tf", "alexnet_tf.*"]),
    install_requires=[
        "absl-py>=2.1",
        "google-crc32c>=1.5",
        "grpcio>=1.74",
        "keras>=3.15; python_version >= '3.11'",
        "keras>=3.12.1; python_version < '3.11'",
        "numpy>=1.26",
        "protobuf>=6.33.5",
        "psutil>=5.9",
        "rich>=13.7",
        "tensorboard>=2.20",
        "tensorflow-datasets>=4.9.9",
        # tensorflow-datasets needs it and does not say so.
        "importlib_resources>=6.4",
    ],
    extras_require={
        "cpu": ["tensorflow-cpu>=2.21"],
        "cuda": ["tensorflow[and-cuda]>=2.21"],
        "quickstart": ["elpv-dataset>=1.0", "matplotlib>=3.8"],
        "ilsvrc2010": ["scipy>=1.11"],
        "figures": ["matplotlib>=3.8"],
        "neighbours": ["faiss-cpu>=1.15"],
        "profile": ["tensorboard-plugin-profile>=2.24", "xprof>=2.24"],
        # The second implementation that tests compare with; skipped without it. It brings gigabytes along.
        "torch": ["torch>=2.4"],
        "test": [
            "elpv-dataset>=1.0",
            "faiss-cpu>=1.15",
            "matplotlib>=3.8",
            "openvino>=2025.4",
            "pillow>=10",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "pyyaml>=6",
            "ruff==0.17.6",
            "scipy>=1.11",
            "xprof>=2.24",
        ],
    },
)
