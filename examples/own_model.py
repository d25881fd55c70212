"""Choose formats for a model of your own, judged on your own data.

The model is any module that `torch.export` takes. The data is an iterable of `(inputs, targets)`
that can be read more than once, such as a list or a `DataLoader`.
"""

import torch
from torch import nn

import aiq


def network() -> nn.Module:
    """Return a small network; load your trained weights here."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 8 * 8, 10),
    ).eval()


def loader(batches: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return batches of inputs and classes; here, the classes are the answers in float32."""
    model = network()
    inputs = torch.randn(batches, 64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return [(x, model(x).argmax(1)) for x in inputs]


def main() -> None:
    """Search, save the plan, and print it."""
    model = network()
    data = loader()
    plan = aiq.search(model, "epyc_zen4_2vcpu", data, max_drop=0.02, confidence=0.9)
    plan.save("plan.json")
    print(plan)


if __name__ == "__main__":
    main()
