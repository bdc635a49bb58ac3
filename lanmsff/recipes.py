"""Training recipes as data: each line with its reason."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Patience counts epochs without a new lowest validation loss."""

    augmentation: str  # "offline" or "online", see lanmsff.augment
    epochs: int
    batch_size: int
    learning_rate: float
    adam_eps: float
    plateau_factor: float
    plateau_patience: int
    plateau_min_delta: float
    stop_patience: int


# The authors' protocol (their Keras code), with one change: both callbacks watch the validation
# split. In their code they watch the very fold that is scored in the end.
PAPER = Recipe(
    augmentation="offline",  # four images a face in every epoch
    epochs=100,  # at most
    batch_size=32,
    learning_rate=1e-3,  # Adam, the other constants as PyTorch and Keras have them
    adam_eps=1e-7,  # Keras' default; PyTorch adds it after the bias correction, Keras before
    plateau_factor=0.1,
    plateau_patience=8,  # Keras' 9: PyTorch reduces when the count exceeds its patience
    plateau_min_delta=1e-4,  # absolute, as in Keras
    stop_patience=14,
)

RECIPES = {
    "paper": PAPER,
    # For a machine without a GPU: an epoch a quarter as long, one image a face.
    "short": replace(PAPER, augmentation="online", epochs=12),
}
