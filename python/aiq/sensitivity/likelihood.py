"""Functions of the network's output whose derivatives weight errors.

Targets are drawn from the network's own softmax rather than taken from labels. Then the mean square
of the gradient is the Fisher information, half of which is the divergence per squared error
(Kunstner et al. 2019, arXiv 1905.12558). A random projection of the output has the same mean square
and varies less, since a confident network seldom draws the classes that carry the information.
"""

from collections.abc import Iterable
from types import MappingProxyType

import torch
from torch import Tensor

from aiq.evaluate.metrics import main_output
from aiq.formats import DType
from aiq.graph.batch import samples_first
from aiq.graph.export import Inputs
from aiq.quantize.simulate import Formats, Simulator
from aiq.sensitivity.context import relative_error, usual_class_axis

_TINY = torch.finfo(torch.float64).tiny


class Graph:
    """A run that can be differentiated.

    Parameters
    ----------
    simulator
        Runs the network.
    batch
        Inputs of the network.
    nodes
        Names of the nodes whose values to differentiate by.
    weights
        Names of the layers whose weights to differentiate by.
    output_dim
        Dimension of the output that counts samples; ``None`` if one call is one sample.
    formats
        Layer name -> format; layers that are not named stay float32.

    Attributes
    ----------
    activations
        Node name -> value of the node.
    weights
        Layer name -> weight of the layer.
    logits
        Output of the network, with the samples as its first dimension.
    """

    def __init__(
        self,
        simulator: Simulator,
        batch: Inputs,
        nodes: Iterable[str],
        weights: Iterable[str] = (),
        output_dim: int | None = 0,
        formats: Formats = MappingProxyType({}),
    ) -> None:
        program, wanted = simulator.program, frozenset(nodes)
        self.activations: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}
        heads = {}
        for layer in simulator.layers:
            if layer.name in frozenset(weights):
                names = simulator.operands[layer.name]
                weight = program.constants[names.weight].clone().requires_grad_()
                heads[layer.nodes[0]] = {names.weight: weight}
                self.weights[layer.name] = weight
        with torch.enable_grad():
            values, dtypes = program.start(batch), dict[str, DType]()
            for name in wanted & values.keys():
                values[name] = self._leaf(name, values[name])
            for index, step in enumerate(program.steps):
                value = simulator.step(index, formats, values, dtypes, heads.get(step.name))
                values[step.name] = self._leaf(step.name, value) if step.name in wanted else value
                for name in step.dead:
                    del values[name]
            self.logits = samples_first(main_output(program.finish(values)), output_dim)

    def _leaf(self, name: str, value: Tensor) -> Tensor:
        """Keep a value to differentiate by; if it has no gradient yet, let it require one."""
        if not value.requires_grad and value.is_floating_point():
            value = value.detach().requires_grad_()
        self.activations[name] = value
        return value

    def projection(self, classes: bool, generator: torch.Generator) -> Tensor:
        """Return random multiples of the output, whose mean square for an error is twice its harm.

        With `classes`, an error e of a position's logits has the harm ``(e F e) / 2``, the
        divergence to second order, with ``F = diag(q) - q q'`` for the probabilities q. The
        multiples are ``L r`` with random signs r, where ``F = L L'``. The harm of a sample is the
        mean over its positions. Without classes, harm is the relative squared error of the output.
        """
        logits = self.logits.detach().double()
        if not classes:
            power = (logits - logits.mean(-1, keepdim=True)).square().sum() / len(logits)
            multiples = _signs(logits, generator) * (2 / power.clamp(min=_TINY)) ** 0.5
        else:
            axis = usual_class_axis(logits)
            positions = logits[0].numel() // logits.shape[axis]
            draws = _fisher_draw(logits.movedim(axis, -1).softmax(-1), generator)
            multiples = draws.movedim(-1, axis) / positions**0.5
        return (self.logits * multiples.to(self.logits.dtype)).sum()

    def divergence(self, exact: Tensor, classes: bool) -> Tensor:
        """Return the divergence from the outputs `exact`, a sum over samples.

        It is the mean over the positions of a sample, or without `classes` the relative squared
        error of the output.
        """
        if not classes:
            return relative_error(self.logits, exact).sum()
        axis = usual_class_axis(exact)
        log_p, log_q = exact.double().log_softmax(axis), self.logits.double().log_softmax(axis)
        positions = exact[0].numel() // exact.shape[axis]
        return (log_p.exp() * (log_p - log_q)).sum() / positions

    def log_likelihood(self, classes: bool, generator: torch.Generator) -> Tensor:
        """Return the log-likelihood of targets drawn from the network's output, a sum over samples.

        With `classes`, a class is drawn for each position; the sum over the P positions of a sample
        is divided by the square root of P, so that squared gradients are means over positions.
        Without, the result is the projection of the output on a random direction, scaled so that
        half the mean square is the relative squared error.
        """
        logits = self.logits
        axis = usual_class_axis(logits)
        if not classes:
            exact = logits.detach().double()
            power = (exact - exact.mean(-1, keepdim=True)).square().sum() / len(logits)
            direction = torch.randn(logits.shape, generator=generator)
            projected: Tensor = (logits * (direction * (2 / power) ** 0.5)).sum()
            return projected
        log_p = logits.movedim(axis, -1).flatten(0, -2).log_softmax(-1)
        drawn = _drawn(log_p.detach(), generator)
        likelihood: Tensor = log_p.gather(1, drawn).sum() * (len(logits) / len(log_p)) ** 0.5
        return likelihood


def _fisher_draw(q: Tensor, generator: torch.Generator) -> Tensor:
    """Return ``L r`` for probabilities q, (..., C), with random signs r.

    L is the Cholesky factor of ``diag(q) - q q'``, with the classes in the order of their
    probability. Where only two classes are probable, it has a single column that is not near zero,
    so that squares of projections on ``L r`` hardly depend on the signs.
    """
    q, order = q.sort(dim=-1, descending=True, stable=True)
    left = q.flip(-1).cumsum(-1).flip(-1)  # probability of a class and of those after it
    zero = torch.zeros_like(q[..., :1])
    after = torch.cat([left[..., 1:], zero], -1)
    root = _signs(q, generator) * (q / left.clamp(min=_TINY)).sqrt()
    below = (root / after.clamp(min=_TINY).sqrt()).cumsum(-1)
    found = root * after.sqrt() - q * torch.cat([zero, below[..., :-1]], -1)
    return torch.empty_like(q).scatter_(-1, order, found)


def _drawn(log_p: Tensor, generator: torch.Generator) -> Tensor:
    """Return one class for each row of logarithms of probabilities, (rows, 1).

    It is the first class up to which the sum of probabilities exceeds a random part of the whole.
    `torch.multinomial` draws a random number for each class, which is slow for a vocabulary.
    """
    total = log_p.exp().cumsum_(-1)
    level = torch.rand(len(total), 1, generator=generator) * total[:, -1:]
    return torch.searchsorted(total, level, right=True).clamp_(max=total.shape[1] - 1)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return random signs, of the shape of a tensor."""
    return torch.randint(2, like.shape, generator=generator) * 2.0 - 1
