"""LANMSFF in PyTorch: the library behind the tutorial on multi-view facial expression recognition."""

from lanmsff.model import LANMSFF

__version__ = "0.1.0"
__all__ = ["LANMSFF", "__version__"]
