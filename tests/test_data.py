"""Data sets: what the shipped sample holds, reading idx and CIFAR files, refusing bad ones."""

import gzip
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aiq import data
from aiq.data import Batches, Dataset, datasets, imagefiles
from aiq.errors import DataError, InputError


def dataset(n=10, shape=(1, 28, 28), name="made"):
    images = torch.arange(n * np.prod(shape)).view(n, *shape).to(torch.uint8)
    stats = (0.5,) * shape[0]
    return Dataset(name, images, torch.arange(n) % 10, stats, stats)


def idx(array):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_fashion(folder, images, labels, part="train", compress=gzip.compress):
    folder.mkdir(parents=True, exist_ok=True)
    suffix = ".gz" if compress is gzip.compress else ""
    (folder / f"{part}-images-idx3-ubyte{suffix}").write_bytes(compress(idx(images)))
    (folder / f"{part}-labels-idx1-ubyte{suffix}").write_bytes(compress(idx(labels)))


def small(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10


def write_cifar(folder, names, per_file=20, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    files = []
    for name in names:
        records = rng.integers(0, 256, (per_file, 3073), np.uint8)
        records[:, 0] = np.arange(per_file) % 10
        (folder / name).write_bytes(records.tobytes())
        files.append(records)
    return np.concatenate(files)


TRAIN_FILES = [f"data_batch_{i}.bin" for i in range(1, 6)]


# The shipped sample


@pytest.mark.parametrize(("split", "per_class"), [("train", 50), ("val", 200), ("test", 200)])
def test_sample_is_balanced(split, per_class):
    sample = data.sample(split)
    assert sample.images.shape == (10 * per_class, 1, 28, 28)
    assert torch.bincount(sample.labels).tolist() == [per_class] * 10


def test_splits_of_the_sample_share_no_image():
    seen = [image.numpy().tobytes() for split in data.SPLITS for image in data.sample(split).images]
    assert len(set(seen)) == len(seen) == 4_500


@pytest.mark.parametrize("content", [None, b"", b"\xfd7zXZ\x00broken"])
def test_sample_says_when_the_package_is_damaged(content, tmp_path, monkeypatch):
    (tmp_path / "assets").mkdir()
    if content is not None:
        (tmp_path / "assets" / data.SAMPLE_FILE).write_bytes(content)
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="install aiq again"):
        data.sample("test")


# Batches and normalisation


@settings(deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_batches_give_every_image_once_in_order_and_again(n, batch_size):
    source = dataset(n)
    loader = data.batches(source, batch_size)
    first, second = list(loader), list(loader)
    assert len(loader) == len(first) == len(second)
    assert all(len(y) == batch_size for _, y in first[:-1])
    for run in first, second:
        inputs = torch.cat([x for x, _ in run])
        targets = torch.cat([y for _, y in run])
        assert inputs.dtype == torch.float32
        assert targets.dtype == torch.int64
        assert torch.equal(inputs, source.inputs(source.images))
        assert torch.equal(targets, source.labels)


def test_inputs_are_centred_padded_with_black_normalised_and_repeated():
    source = dataset(3)
    x = source.inputs(source.images)
    assert x.shape == (3, 3, 32, 32)
    pixels = (x.double() * 0.5 + 0.5) * 255
    assert torch.equal(pixels[:, 0], pixels[:, 2])
    torch.testing.assert_close(pixels[:, :1, 2:30, 2:30], source.images.double(), atol=1e-4, rtol=0)
    pixels[:, :, 2:30, 2:30] = 0
    assert pixels.abs().max() < 1e-4


def test_inputs_normalise_each_colour_by_its_own_statistics():
    images = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    source = Dataset("made", images, torch.zeros(1).long(), (0.0, 0.5, 0.75), (1.0, 0.5, 0.125))
    x = source.inputs(images)
    torch.testing.assert_close(x[0, :, 0, 0], torch.tensor([1.0, 1.0, 2.0]))


def test_training_images_of_the_sample_are_normalised_to_about_mean_0_and_std_1():
    sample = data.sample("train")
    inside = sample.inputs(sample.images)[:, :, 2:30, 2:30]
    assert inside.mean().abs() < 0.05
    assert (inside.std() - 1).abs() < 0.05


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", None, True])
def test_batches_refuse_bad_sizes(size):
    with pytest.raises(InputError, match="positive integer"):
        data.batches(dataset(), size)


def test_batches_refuse_an_empty_data_set():
    with pytest.raises(DataError, match="made: has no images"):
        data.batches(dataset(0))


@pytest.mark.parametrize(
    ("images", "labels", "stats", "message"),
    [
        (torch.zeros(2, 1, 28, 28), torch.zeros(2).long(), (1.0,), "give uint8"),
        (torch.zeros(2, 28, 28).byte(), torch.zeros(2).long(), (1.0,), "give uint8"),
        (torch.zeros(2, 2, 28, 28).byte(), torch.zeros(2).long(), (1.0,) * 2, "give uint8"),
        (torch.zeros(2, 1, 33, 28).byte(), torch.zeros(2).long(), (1.0,), "at most 32"),
        (torch.zeros(2, 1, 28, 28).byte(), torch.zeros(3).long(), (1.0,), "give int64"),
        (torch.zeros(2, 1, 28, 28).byte(), torch.zeros(2), (1.0,), "give int64"),
        (torch.zeros(2, 3, 28, 28).byte(), torch.zeros(2).long(), (1.0,), "each of 3 channels"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(images, labels, stats, message):
    with pytest.raises(DataError, match=message):
        Dataset("made", images, labels, stats, stats)


def test_take_keeps_order_and_balance():
    source = dataset(95)
    taken = source.take(3)
    assert torch.equal(taken.images, source.images[:30])
    assert isinstance(data.batches(taken), Batches)


@pytest.mark.parametrize("per_class", [0, -1, 10])
def test_take_refuses_what_a_class_does_not_have(per_class):
    with pytest.raises(DataError, match="at most 9, the size"):
        dataset(95).take(per_class)


def test_take_refuses_an_empty_data_set():
    with pytest.raises(DataError, match="at most 0"):
        dataset(0).take(1)


# Fashion-MNIST from idx files


@pytest.mark.parametrize("compress", [gzip.compress, bytes], ids=["gz", "plain"])
@pytest.mark.parametrize("inside", ["", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_round_trip(compress, inside, tmp_path, monkeypatch):
    images, labels = small()
    write_fashion(tmp_path / inside, images, labels, "t10k", compress)
    monkeypatch.setenv("AIQ_DATA", str(tmp_path))
    for got in (
        data.fashion_mnist("test"),
        data.load("fashion_mnist", "test", tmp_path),
        data.load("fashion_mnist", "test"),
    ):
        assert np.array_equal(got.images.squeeze(1).numpy(), images)
        assert np.array_equal(got.labels.numpy(), labels)


def test_validation_images_are_the_last_500_of_every_class(tmp_path):
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.arange(60_000) % 10)
    images = np.zeros((60_000, 28, 28), np.uint8)
    numbers = np.arange(60_000, dtype=np.uint16)
    images[:, 0, :2] = numbers.view(np.uint8).reshape(-1, 2)
    write_fashion(tmp_path, images, labels, compress=bytes)
    parts = {}
    for split in ("train", "val"):
        part = data.fashion_mnist(split, tmp_path)
        first_pixels = part.images[:, 0, 0, :2].contiguous().numpy()
        parts[split] = first_pixels.view(np.uint16).ravel()
        assert np.array_equal(labels[parts[split]], part.labels.numpy())
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), numbers)
    expected = np.concatenate([np.flatnonzero(labels == c)[-500:] for c in range(10)])
    assert np.array_equal(parts["val"], np.sort(expected))


def damage(raw, how):
    whole = gzip.decompress(raw)
    return {
        "empty": b"",
        "not gzip": b"hello",
        "truncated gzip": raw[: len(raw) // 2],
        "flipped bits": raw[:200] + bytes(b ^ 255 for b in raw[200:260]) + raw[260:],
        "no header": gzip.compress(whole[:3]),
        "truncated idx": gzip.compress(whole[:-1]),
        "an image short": gzip.compress(whole[:-784]),
        "bytes after the end": gzip.compress(whole + b"\0"),
        "wrong magic": gzip.compress(b"\1" + whole[1:]),
        "wrong rows": gzip.compress(whole[:11] + b"\x1d" + whole[12:]),
        "more than 60,000": gzip.compress(idx(np.zeros((60_001, 28, 28), np.uint8)), 1),
        "a bomb": gzip.compress(bytes(60_000_000), 1),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "not gzip",
        "truncated gzip",
        "flipped bits",
        "no header",
        "truncated idx",
        "an image short",
        "bytes after the end",
        "wrong magic",
        "wrong rows",
        "more than 60,000",
        "a bomb",
    ],
)
def test_damaged_idx_files_are_refused(how, tmp_path):
    write_fashion(tmp_path, *small(), part="t10k")
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes(), how))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz: .*get the file again"):
        data.fashion_mnist("test", tmp_path)


def test_images_without_labels_are_refused(tmp_path):
    images, labels = small()
    write_fashion(tmp_path, images, labels[:-1], "t10k")
    with pytest.raises(DataError, match="40 test images but 39 labels"):
        data.fashion_mnist("test", tmp_path)


def test_impossible_labels_are_refused(tmp_path):
    images, labels = small()
    labels[7] = 10
    write_fashion(tmp_path, images, labels, "t10k")
    with pytest.raises(DataError, match="a label is 10, not 0 to 9"):
        data.fashion_mnist("test", tmp_path)


def test_missing_data_says_where_it_looked_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(imagefiles, "image_folders", lambda: (tmp_path / "one", tmp_path / "two"))
    with pytest.raises(DataError) as fashion:
        data.fashion_mnist("test")
    for part in (str(tmp_path / "one"), str(tmp_path / "two"), "AIQ_DATA", "dataset-fashion-mnist"):
        assert part in str(fashion.value)
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
        data.cifar10("test")


def test_named_folders_come_first(monkeypatch, tmp_path):
    monkeypatch.setenv("AIQ_DATA", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert imagefiles.image_folders()[:2] == (tmp_path / "a", tmp_path / "b")
    assert len(imagefiles.image_folders()) == 5


# CIFAR-10


def test_cifar10_round_trip(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    test = write_cifar(folder, ["test_batch.bin"])
    train = write_cifar(folder, TRAIN_FILES, seed=1)
    got = data.load("cifar10", "test", tmp_path)
    assert np.array_equal(got.images.numpy().reshape(-1, 3072), test[:, 1:])
    assert np.array_equal(got.labels.numpy(), test[:, 0])
    assert got.inputs(got.images).shape == (20, 3, 32, 32)
    # Files of 100 images keep a tenth of each class for validation, here the last.
    parts = [data.cifar10(split, folder) for split in ("train", "val")]
    assert np.array_equal(
        torch.cat([p.images for p in parts]).numpy().reshape(-1, 3072), train[:, 1:]
    )
    assert [len(p) for p in parts] == [90, 10]


def test_pickled_cifar10_is_never_opened_and_the_error_names_the_binary_version(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('unpickled')",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{i}" for i in range(1, 6))):
        (folder / name).write_bytes(pickle.dumps(Trap()))
    for place in (tmp_path, folder):
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz.*is pickled"):
            data.cifar10("train", place)


@pytest.mark.parametrize("content", [b"", bytes(3072), bytes(3074), bytes(3073 * 10_001)])
def test_damaged_cifar10_files_are_refused(content, tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch\.bin: .*get the file again"):
        data.cifar10("test", tmp_path)


def test_impossible_cifar10_labels_are_refused(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(b"\xc8" + bytes(3072))
    with pytest.raises(DataError, match="a label is 200"):
        data.cifar10("test", tmp_path)


# Names


@pytest.mark.parametrize("read", [data.sample, data.fashion_mnist, data.cifar10])
def test_unknown_splits_are_refused(read):
    with pytest.raises(InputError, match="'dev'; use one of train, val, test"):
        read("dev")


def test_unknown_data_sets_are_refused():
    with pytest.raises(InputError, match="'mnist'; use one of fashion_mnist, cifar10, sample"):
        data.load("mnist", "test")
    assert data.load("sample", "test").name == "sample/test"
