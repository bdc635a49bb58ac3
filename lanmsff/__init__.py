"""LANMSFF in PyTorch: the library behind the tutorial on multi-view facial expression recognition."""

from lanmsff.model import LANMSFF
from lanmsff.weights import load_pretrained

__version__ = "0.1.0"
__all__ = ["LANMSFF", "__version__", "load_pretrained"]
