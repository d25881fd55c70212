"""Change the budget: more accuracy, more speed, or a size, from one measurement of the layers."""

from own_model import loader, network

import aiq
from aiq import sensitivity
from aiq.evaluate import Evaluator

FORMATS = "fp32,w8,w4,w3"


def main() -> None:
    """Measure each layer once, then search with three budgets."""
    model = network()
    data = loader()
    drops = sensitivity.measure(Evaluator(model, data), FORMATS)
    drops.save("drops.json")  # the command line reads it too: --sensitivity drops.json
    for max_drop in (0.01, 0.05, 1.0):
        plan = aiq.search(
            model,
            "epyc_zen4_2vcpu",
            data,
            objective="intensity",
            formats=FORMATS,
            sensitivity=drops,
            max_drop=max_drop,
            confidence=0.5,  # take the measured drop at its word
        )
        print(f"{max_drop:.0%}: {[str(layer.format) for layer in plan.layers]}")
    print(plan.frontier())  # every budget at once, without a search


if __name__ == "__main__":
    main()
