"""The options of a search: their names, defaults and meaning, and what is refused."""
# ruff: noqa: RUF009 - `_option` returns a field

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiq import cache, runtimes
from aiq.decoder_programs import decoder_opener
from aiq.drops import DropTable
from aiq.errors import InputError
from aiq.evaluate import journal, metrics
from aiq.evaluate.metrics import Metric
from aiq.formats import Format, WeightRounding, parse, parse_all
from aiq.graph import Decode
from aiq.hardware import Hardware
from aiq.hardware.sections import DECODERS, section
from aiq.planning import checks
from aiq.planning.objective import Method, Objective
from aiq.runtimes import Runtime, placement
from aiq.sensitivity import METHODS, CustomDrop

_FORMATS = ("fp32", "bf16", "w8a8", "w8a8bf16", "w4a8", "w8", "w4", "w4g64")


def _option(
    default: object, text: str, kind: type, names: Callable[[], Iterable[str]] = tuple
) -> Any:  # noqa: ANN401 - a field of any type
    """Return a field that is an option of the command line, too.

    Parameters
    ----------
    default
        The default value.
    text
        Text of the option in ``aiq search --help``.
    kind
        Type of the value on the command line: a text, a number, or ``bool`` for a switch.
    names
        Returns the names that the shell completes.
    """
    return field(default=default, metadata={"help": text, "kind": kind, "names": names})


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """The options of a search, which `aiq.search` explains.

    The command line makes the options of ``aiq search`` from the fields that have a help text.
    """

    objective: str = _option(
        "throughput",
        "throughput, intensity, weighted (the paper's), or accuracy (needs a budget).",
        str,
        lambda: Objective,
    )
    max_drop: float = _option(
        0.01, "Largest accuracy drop: 0.01 is 1 pp. Not used by --objective accuracy.", float
    )
    confidence: float = _option(
        0.95, "Confidence with which the measured plan must keep to --max-drop.", float
    )
    lam: float = _option(0.9, "Weight of the intensity in the weighted objective.", float)
    formats: str | Iterable[str | Format] | None = _option(
        None, "Formats to choose from, for example fp32,bf16,w8a8.", str, lambda: _FORMATS
    )
    runtime: str | Runtime | None = _option(
        "inductor",
        f"What will execute the plan: {', '.join(runtimes.names())}, or {placement.GGUF} for a "
        "language model.",
        str,
        runtimes.names,
    )
    method: str = _option("exact", "exact, greedy, coordinate, or exhaustive.", str, lambda: Method)
    sensitivity: str | CustomDrop | DropTable = _option(
        "auto", f"Source of the layers' drops: {', '.join(METHODS)}.", str, lambda: METHODS
    )
    pin: Mapping[str, str] | None = None
    max_size: int | None = _option(None, "Largest size of all weights in bytes.", int)
    max_seconds: float | None = _option(
        None, "With --objective accuracy: most predicted seconds of a batch.", float
    )
    min_intensity: float | None = _option(
        None, "With --objective accuracy: least FLOPs per byte.", float
    )
    time_limit: float | None = _option(None, "Seconds that one solve may take.", float)
    measure_top: int = _option(
        0, "Plans to time beside the uniform ones; the fastest is returned.", int
    )
    metric: str | Metric = _option(
        "top1",
        f"What accuracy is: {', '.join(metrics.NAMES)}, or package.module:function.",
        str,
        lambda: metrics.NAMES,
    )
    max_perplexity_ratio: float | None = _option(
        None, "Largest perplexity over that of float32, as 1.05; sets --metric perplexity.", float
    )
    workload: Decode | str | None = _option(
        None, "Of a decoder: tokens of a prompt + tokens that are written, as 512+128.", str
    )
    frontier: bool = _option(
        False,
        "Evaluate every layer alone and all uniform plans, too, where the answer needs neither: "
        "for the frontier and the heat map of `aiq report`.",
        bool,
    )
    rounding: str = _option(
        "nearest",
        f"How weights are rounded: {', '.join(WeightRounding)}.",
        str,
        lambda: WeightRounding,
    )
    cache: bool | str | Path = True
    seed: int = _option(0, "Seed of all random draws.", int)

    def __post_init__(self) -> None:
        if self.max_perplexity_ratio is not None:
            drop = checks.perplexity_ratio(self.max_perplexity_ratio)
            object.__setattr__(self, "max_drop", drop)
            object.__setattr__(self, "metric", "perplexity")

    @property
    def decode(self) -> Decode | None:
        """What a decoder does; ``None`` for models that run whole batches."""
        return None if self.workload is None else Decode.of(self.workload)

    @property
    def folder(self) -> Path | None:
        """Where evaluations are kept; ``None`` if they are not.

        A metric of the user's own may mean something else tomorrow under the same name, so its
        evaluations are kept only in a folder that the user names.
        """
        if not isinstance(self.cache, bool):
            return Path(self.cache)
        keeps = self.cache and isinstance(self.metric, str)
        return cache.usable(cache.EVALUATIONS) if keeps else None

    @property
    def goal(self) -> Objective:
        """The objective."""
        return Objective(self.objective)

    @property
    def prices_time(self) -> bool:
        """Whether the cost of a plan is its predicted time, and not the bytes that it moves."""
        accuracy = self.goal is Objective.ACCURACY and self.max_seconds is not None
        return self.goal is Objective.THROUGHPUT or accuracy

    @property
    def metric_name(self) -> str:
        """Name of the metric, which may be given as a function."""
        if isinstance(self.metric, str):
            return self.metric
        return str(getattr(self.metric, "__name__", "own"))

    @property
    def runtime_name(self) -> str | None:
        """Name of the runtime, which may be given as an object."""
        return checks.runtime_name(self.runtime)

    @property
    def section(self) -> str | None:
        """Name of the section of a profile that prices plans."""
        name = self.runtime_name
        return None if name is None else section(name, decodes=self.decode is not None)

    @property
    def times_plans(self) -> bool:
        """Whether the stopwatch chooses the plan."""
        return bool(self.measure_top) and self.runtime is not None

    @property
    def engine(self) -> Runtime | None:
        """The runtime that compiles and times whole batches; ``None`` where none are timed.

        It is ``None`` for decoders too, of which prompts and tokens are timed.
        """
        decodes = self.decode is not None or self.runtime == placement.GGUF
        if not self.times_plans or self.runtime is None or decodes:
            return None
        return runtimes.get(self.runtime) if isinstance(self.runtime, str) else self.runtime

    @property
    def pins(self) -> dict[str, str]:
        """Formats of pinned layers, by pattern."""
        return dict(self.pin or {})

    def measures_candidates(self, *, has_data: bool) -> bool:
        """Whether the search measures the accuracy of every candidate, as the paper's do."""
        walks = self.method in {Method.GREEDY, Method.COORDINATE}
        return has_data and walks and self.sensitivity in {"auto", "measured"}

    def validate(self, hardware: Hardware | None) -> None:
        """Raise an error of `aiq.errors` unless every option is what it should be.

        Nothing is computed before: a misspelled name costs no time.

        Parameters
        ----------
        hardware
            The profile, which may describe runtimes that aiq does not know; ``None`` before it is
            known.

        Raises
        ------
        InputError, FormatError
            If an option is not what it should be; the message says what to do.
        RuntimeUnavailableError
            If plans are to be timed in a runtime that is not installed.
        """
        checks.name("objective", self.objective, Objective)
        checks.name("method", self.method, Method)
        checks.name("rounding", self.rounding, WeightRounding)
        checks.max_drop(self.max_drop)
        checks.fraction("lam", self.lam)
        checks.confidence(self.confidence)
        checks.time_limit(self.time_limit)
        checks.seed(self.seed)
        checks.whole_number("measure_top", self.measure_top, "how many plans to time")
        if self.max_size is not None:
            checks.whole_number("max_size", self.max_size, "bytes")
        for budget in ("max_seconds", "min_intensity"):
            if getattr(self, budget) is not None:
                checks.positive(budget, getattr(self, budget))
        checks.cache_folder("cache", self.cache)
        if not (callable(self.sensitivity) or isinstance(self.sensitivity, DropTable)):
            checks.name("sensitivity", self.sensitivity, METHODS)
        if not callable(self.metric):
            checks.name("metric", self.metric, metrics.NAMES)
        name = checks.runtime_name(self.runtime)
        if isinstance(self.runtime, str):
            known = () if hardware is None else hardware.runtimes
            described = [name for name in known if name not in DECODERS.values()]
            checks.name("runtime", self.runtime, [*runtimes.names(), placement.GGUF, *described])
        _ = self.decode
        checks.pins(self.pin)
        for format_name in self.pins.values():
            parse(format_name)
        if isinstance(self.formats, str):
            parse_all(self.formats)
        self._validate_together(name)
        if not isinstance(self.cache, bool):
            journal.check_folder(self.cache)

    def _validate_together(self, runtime: str | None) -> None:
        """Raise an error if options exclude each other."""
        if self.goal is Objective.WEIGHTED and self.method == Method.EXHAUSTIVE:
            raise InputError(
                "The weighted objective is not enumerated; use method exact, it is exact."
            )
        limits = ("max_size", "max_seconds", "min_intensity")
        given = [limit for limit in limits if getattr(self, limit) is not None]
        if self.goal is Objective.ACCURACY:
            self._validate_accuracy(given)
        elif {*given} - {"max_size"}:
            raise InputError(
                f"{given[-1]} is a budget of objective accuracy, and the objective is {self.goal}; "
                "leave it out, or choose objective accuracy."
            )
        if self.measure_top and (self.goal is not Objective.THROUGHPUT or runtime is None):
            raise InputError(
                f"measure_top is {self.measure_top!r} for objective {self.goal} and runtime "
                f"{runtime}; the stopwatch needs objective throughput, a runtime, and at least 1 "
                "plan."
            )
        if self.times_plans and runtime == placement.GGUF and self.decode is None:
            raise InputError(
                "In llama.cpp, measure_top times prompts and the tokens after them; give a "
                "workload, such as aiq.Decode(prompt=512, tokens=128)."
            )
        if self.times_plans and self.decode is not None:
            decoder_opener(str(runtime))
        _ = self.engine

    def _validate_accuracy(self, budgets: list[str]) -> None:
        """Raise an error if the least drop within these budgets cannot be searched for."""
        if not budgets or {"max_seconds", "min_intensity"} <= {*budgets}:
            raise InputError(
                "Objective accuracy loses as little as a budget allows, which float32 would win "
                "without one; give max_size, max_seconds or min_intensity, not both of the last "
                "two."
            )
        if self.method != Method.EXACT:
            raise InputError(
                f"Objective accuracy is solved exactly, and the method is {self.method}; leave it "
                "out."
            )
