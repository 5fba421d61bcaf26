"""The registry of formats: one line each."""

from specialization.export import gguf, hf, mlx, stablehlo
from specialization.export.package import Format, Package, Reader

FORMATS: dict[str, Format] = {
  "hf": hf.FORMAT,
  "gguf": gguf.FORMAT,
  "mlx": mlx.FORMAT,
  "stablehlo": stablehlo.FORMAT,
}

__all__ = ["FORMATS", "Format", "Package", "Reader"]
