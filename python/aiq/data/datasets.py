"""Fashion-MNIST and CIFAR-10 from disk, and the sample of Fashion-MNIST that aiq ships.

Nothing is downloaded and nothing is unpickled. Every data set has three splits. ``test`` is as
published. Of the published training images, ``val`` has the last 500 of every class and ``train``
the others. The images that choose a plan (``val``), calibrate it (``train``) and report its
accuracy (``test``) therefore never overlap, and the splits are the same in every run.
"""

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor
from torch.nn.functional import one_hot, pad

from aiq.data.imagefiles import CLASSES, read_cifar10, read_fashion_mnist
from aiq.errors import DataError, InputError

SIDE = 32
"""Height and width of the images that the built-in networks read."""

SPLITS = ("train", "val", "test")
VAL_PER_CLASS = 500

# Mean and standard deviation of the published training images, per channel.
FASHION_STATISTICS = (0.2860,), (0.3530,)
CIFAR_STATISTICS = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

SAMPLE_FILE = "fashion_mnist_sample.safetensors.xz"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Labelled images.

    Attributes
    ----------
    name
        Name of the data set and the split, for example ``fashion_mnist/val``.
    images
        The images: uint8, (N, C, H, W), with C 1 or 3 and H, W at most 32.
    labels
        The classes: int64, (N,).
    mean, std
        Mean and standard deviation, for each channel, of the pixels of the training images on the
        scale 0 to 1.
    """

    name: str
    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        fits = len(shape) == 4 and shape[1] in {1, 3} and max(shape[2:]) <= SIDE
        if self.images.dtype != torch.uint8 or not fits:
            raise DataError(
                f"{self.name}: images are {self.images.dtype} of shape {shape}; give uint8 of "
                f"shape (N, 1 or 3, H, W) with H and W at most {SIDE}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            raise DataError(
                f"{self.name}: labels are {self.labels.dtype} of shape "
                f"{tuple(self.labels.shape)}; give int64 of shape ({shape[0]},)."
            )
        if not len(self.mean) == len(self.std) == shape[1]:
            raise DataError(
                f"{self.name}: give one mean and one std for each of {shape[1]} channels."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, per_class: int) -> "Dataset":
        """Return the first `per_class` images of every class, in the same order.

        Raises
        ------
        DataError
            If a class has fewer images.
        """
        counts = torch.bincount(self.labels)
        fewest = min(counts[counts > 0].tolist(), default=0)
        if not 0 < per_class <= fewest:
            raise DataError(
                f"{self.name}: cannot take {per_class} images of every class; give a positive "
                f"number, at most {fewest}, the size of the smallest class."
            )
        return self.where(_rank_in_class(self.labels) < per_class)

    def where(self, mask: Tensor) -> "Dataset":
        """Return the images for which the bool `mask`, (N,), is true."""
        return Dataset(self.name, self.images[mask], self.labels[mask], self.mean, self.std)

    def inputs(self, images: Tensor) -> Tensor:
        """Return the inputs of a network for `images`.

        Parameters
        ----------
        images
            Images of this data set or made from them: uint8, (N, C, H, W).

        Returns
        -------
        Tensor
            Images padded with black to 32 x 32 and normalised to mean 0 and standard deviation 1,
            with grey repeated in three channels: float32, (N, 3, 32, 32).
        """
        rows, columns = SIDE - images.shape[2], SIDE - images.shape[3]
        margins = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.mean).view(shape) * 255
        scale = 1 / (torch.tensor(self.std).view(shape) * 255)
        return ((pad(images, margins) - mean) * scale).expand(-1, 3, -1, -1).contiguous()


@dataclass(frozen=True, slots=True)
class Batches:
    """A data set in batches, which can be iterated several times.

    Yields
    ------
    inputs
        Inputs of a network: float32, (batch size, 3, 32, 32).
    targets
        Classes: int64, (batch size,).
    """

    dataset: Dataset
    batch_size: int

    def __len__(self) -> int:
        return (len(self.dataset) + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        data = self.dataset
        for start in range(0, len(data), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            yield data.inputs(data.images[chosen]), data.labels[chosen]


def batches(dataset: Dataset, batch_size: int = 250) -> Batches:
    """Return `dataset` in batches, in its own order; the last batch may be smaller.

    Raises
    ------
    InputError
        If the batch size is not a positive integer.
    DataError
        If the data set is empty.
    """
    if type(batch_size) is not int or batch_size < 1:
        raise InputError(f"The batch size is {batch_size!r}; give a positive integer.")
    if not len(dataset):
        raise DataError(f"{dataset.name}: has no images; give a data set with at least one.")
    return Batches(dataset, batch_size)


def load(name: str, split: str, folder: Path | str | None = None) -> Dataset:
    """Return a split of a data set by name.

    Parameters
    ----------
    name
        ``fashion_mnist`` (Xiao et al. 2017), ``cifar10`` (Krizhevsky 2009), or ``sample``, the
        part of Fashion-MNIST that aiq ships.
    split
        ``train``, ``val`` or ``test``.
    folder
        Folder of the files; without it, `aiq.data.imagefiles.image_folders` are searched.

    Raises
    ------
    InputError
        If there is no such data set or split.
    DataError
        If the files are missing or corrupt.
    """
    readers = {
        "fashion_mnist": lambda: fashion_mnist(split, folder),
        "cifar10": lambda: cifar10(split, folder),
        "sample": lambda: sample(split),
    }
    if name not in readers:
        raise InputError(f"There is no data set {name!r}; use one of {', '.join(readers)}.")
    return readers[name]()


def fashion_mnist(split: str, folder: Path | str | None = None) -> Dataset:
    """Return ``train`` (55,000 images), ``val`` (5,000) or ``test`` (10,000); see `load`."""
    images, labels = read_fashion_mnist(_published(split), folder)
    name = f"fashion_mnist/{split}"
    return _part(Dataset(name, *_tensors(images, labels), *FASHION_STATISTICS), split)


def cifar10(split: str, folder: Path | str | None = None) -> Dataset:
    """Return ``train`` (45,000 images), ``val`` (5,000) or ``test`` (10,000); see `load`."""
    images, labels = read_cifar10(_published(split), folder)
    name = f"cifar10/{split}"
    return _part(Dataset(name, *_tensors(images, labels), *CIFAR_STATISTICS), split)


def sample(split: str) -> Dataset:
    """Return the sample of Fashion-MNIST that aiq ships, the first images of every class.

    Parameters
    ----------
    split
        ``train`` (500 images to calibrate with), ``val`` (2,000 to choose a plan with) or ``test``
        (2,000 to report).

    Raises
    ------
    InputError
        If there is no such split.
    DataError
        If the package is damaged.
    """
    _published(split)
    asset = resources.files("aiq") / "assets" / SAMPLE_FILE
    try:
        tensors = load_safetensors(lzma.decompress(asset.read_bytes()))
        images, labels = tensors[f"{split}.images"], tensors[f"{split}.labels"]
    except (OSError, lzma.LZMAError, SafetensorError, KeyError):
        raise DataError(f"{asset}: is missing or damaged; install aiq again.") from None
    return Dataset(f"sample/{split}", images, labels.long(), *FASHION_STATISTICS)


def _published(split: str) -> str:
    """Return the published part, ``train`` or ``test``, that contains the images of `split`."""
    if split not in SPLITS:
        raise InputError(f"There is no split {split!r}; use one of {', '.join(SPLITS)}.")
    return "test" if split == "test" else "train"


def _tensors(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def _part(published: Dataset, split: str) -> Dataset:
    """Return the images of the published part that belong to `split`."""
    if split == "test" or not len(published):
        return published
    counts = torch.bincount(published.labels, minlength=CLASSES)
    # A data set with fewer than 5,000 images of a class gives a tenth of them to ``val``.
    kept = counts - (counts // 10).clamp(max=VAL_PER_CLASS)
    is_train = _rank_in_class(published.labels) < kept[published.labels]
    return published.where(is_train if split == "train" else ~is_train)


def _rank_in_class(labels: Tensor) -> Tensor:
    """Return, for each label, the number of earlier labels that are equal to it."""
    member = one_hot(labels)
    return (member.cumsum(0) * member).sum(1) - 1
