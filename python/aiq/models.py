"""The networks of the paper: ResNet-20 and MobileNetV2 for 32 x 32 images, with trained weights.

They are written in plain modules, so that they do not need torchvision, and every convolution,
batch norm and addition has a name in the layer graph.
"""

from collections.abc import Callable
from importlib import resources

from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from aiq.errors import DataError, InputError


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution if the shape changes.

    It is the block of He et al. 2016, figure 2, with option B.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


class ResNet20(nn.Module):
    """ResNet-20 for 3 x 32 x 32 images: 16, 32, 64 channels, three blocks each."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(16, 16, stride=1)
        self.layer2 = self._stage(16, 32, stride=2)
        self.layer3 = self._stage(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(64, num_classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(inputs, outputs, stride),
            BasicBlock(outputs, outputs, 1),
            BasicBlock(outputs, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, num_classes)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.flatten(self.pool(x)))
        return logits


def _conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, relu: bool = True
) -> nn.Sequential:
    """Return convolution, batch norm and, unless `relu` is false, ReLU6."""
    block = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )
    if relu:
        block.append(nn.ReLU6())
    return block


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; add the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential()
        if expansion != 1:
            self.body.append(_conv_bn(inputs, hidden, 1))
        self.body.append(_conv_bn(hidden, hidden, 3, stride, groups=hidden))
        self.body.append(_conv_bn(hidden, outputs, 1, relu=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        y: Tensor = self.body(x)
        return x + y if self.residual else y


MOBILENET_V2_STAGES = (
    # expansion, channels, blocks, stride at 224 (Sandler et al. 2018, table 2)
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

MOBILENET_V2_STRIDES = {
    # image size -> strides of the first convolution and of the stages
    224: (2, *(stride for *_, stride in MOBILENET_V2_STAGES)),
    32: (2, 1, 2, 1, 2, 1, 1, 1),
}


class MobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018) of width 1, with given strides.

    Parameters
    ----------
    num_classes
        Number of logits.
    strides
        Strides of the first convolution and of the seven stages.
    """

    def __init__(self, num_classes: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.features = nn.Sequential(_conv_bn(3, 32, 3, strides[0]))
        channels = 32
        for (expansion, outputs, blocks, _), stride in zip(
            MOBILENET_V2_STAGES, strides[1:], strict=True
        ):
            for block in range(blocks):
                step = stride if block == 0 else 1
                self.features.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        self.features.append(_conv_bn(channels, 1280, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, num_classes)."""
        x = self.flatten(self.pool(self.features(x)))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits


def resnet20(num_classes: int = 10) -> ResNet20:
    """Return an untrained ResNet-20 (He et al. 2016, section 4.2) with convolution shortcuts.

    It has 270,906 weights in convolution and linear layers, and takes 81,626,368 FLOPs for a
    3 x 32 x 32 image.
    """
    return ResNet20(num_classes)


def mobilenet_v2(num_classes: int = 10, image_size: int = 32) -> MobileNetV2:
    """Return an untrained MobileNetV2 of width 1.

    Parameters
    ----------
    num_classes
        Number of logits.
    image_size
        224 for the strides of the paper, 32 in total; or 32 for a total stride of 8, with which
        images of 32 x 32 end as 4 x 4.

    Raises
    ------
    InputError
        If the image size is not 32 or 224.
    """
    if image_size not in MOBILENET_V2_STRIDES:
        raise InputError(f"MobileNetV2 has no strides for images of {image_size!r}; use 32 or 224.")
    return MobileNetV2(num_classes, MOBILENET_V2_STRIDES[image_size])


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "mobilenet_v2": mobilenet_v2,
}
"""The built-in networks; ``benches/train.py`` trains them on Fashion-MNIST."""


def load(name: str, *, pretrained: bool = True) -> nn.Module:
    """Return a built-in network in eval mode, with the weights that aiq ships.

    Parameters
    ----------
    name
        ``resnet20`` or ``mobilenet_v2``.
    pretrained
        Whether to load the trained weights; otherwise weights are random.

    Raises
    ------
    InputError
        If there is no such network.
    DataError
        If the weights are missing or damaged.
    """
    if name not in NETWORKS:
        raise InputError(
            f"There is no built-in network {name!r}; use one of {', '.join(NETWORKS)}, or "
            "torchvision:NAME, or package.module:callable."
        )
    model = NETWORKS[name]()
    if pretrained:
        asset = resources.files("aiq") / "assets" / f"{name}.safetensors"
        if not asset.is_file():
            raise DataError(
                f"{asset}: aiq was installed without these weights; train them with `python "
                f"benches/train.py --network {name}`, or ask for random ones (pretrained=False)."
            )
        try:
            model.load_state_dict(load_safetensors(asset.read_bytes()))
        except (OSError, SafetensorError, RuntimeError):
            raise DataError(f"{asset}: is damaged; install aiq again.") from None
    return model.eval()
