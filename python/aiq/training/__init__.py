"""Training of the fake-quantised network of a plan."""

from aiq.training.alternate import Round, TrainedSearch, finetune_search
from aiq.training.finetune import Finetuned, finetune
from aiq.training.options import TrainingOptions

__all__ = [
    "Finetuned",
    "Round",
    "TrainedSearch",
    "TrainingOptions",
    "finetune",
    "finetune_search",
]
