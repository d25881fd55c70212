"""A classification task small enough to train a network on while a test waits."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Residual(nn.Module):
    """Two convolutions with a shortcut between them, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        y = self.conv1(x).relu()
        y = (self.conv2(y) + y).relu()
        return self.fc(y.mean((2, 3)))


class Plain(nn.Sequential):
    """Two convolutions and a linear layer, without a shortcut."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(32, 4),
        )  # fmt: skip


def batch(count=400, seed=0):
    """Images of 3 x 6 x 6 in four classes, told apart by the means of two channels."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(4, (count,), generator=generator)
    x = torch.randn(count, 3, 6, 6, generator=generator)
    x[:, 0] += y.view(-1, 1, 1) - 1.5
    x[:, 1] -= (y % 2).view(-1, 1, 1)
    return x, y


def train(network: type[nn.Module], count=400):
    """Return a network trained a little."""
    torch.manual_seed(0)
    model = network()
    x, y = batch(count)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()
