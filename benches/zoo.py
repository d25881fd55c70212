"""Small networks of torchvision, timm and transformers with random weights.

Each is built by `build`, with inputs for one call. Images have 64 x 64 pixels where a network takes
any size; transformers have two narrow blocks.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

BATCH, CLASSES = 2, 10
WIDTH = 64  # of images
TOKENS, VOCABULARY = 16, 100

Inputs = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
Network = tuple[nn.Module, Inputs]


def _torchvision_transformers() -> Mapping[str, Callable[[], nn.Module]]:
    """Return a narrow classifier of each family with attention."""
    from torchvision import models  # noqa: PLC0415 - only these rows need it
    from torchvision.models.swin_transformer import (  # noqa: PLC0415
        PatchMergingV2,
        SwinTransformerBlockV2,
    )

    small: Any = {"num_classes": CLASSES}
    swin: Any = {
        "patch_size": [4, 4],
        "embed_dim": 32,
        "depths": [2, 2],
        "num_heads": [2, 4],
        "window_size": [4, 4],
    }
    return {
        "maxvit": lambda: models.MaxVit(
            (WIDTH, WIDTH),
            stem_channels=16,
            partition_size=4,
            block_channels=[16, 32],
            block_layers=[1, 1],
            head_dim=8,
            stochastic_depth_prob=0.0,
            **small,
        ),
        "swin": lambda: models.SwinTransformer(**swin, **small),
        "swin_v2": lambda: models.SwinTransformer(
            **swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2, **small
        ),
        "vit": lambda: _random_head(models.VisionTransformer(WIDTH, 16, 2, 2, 64, 128, **small)),
    }


def _torchvision() -> Mapping[str, Callable[[], nn.Module]]:
    """Return a classifier of each family, a narrow one if its constructor allows."""
    from torchvision import models  # noqa: PLC0415 - only these rows need it
    from torchvision.models.convnext import CNBlockConfig  # noqa: PLC0415
    from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig  # noqa: PLC0415
    from torchvision.models.mobilenetv3 import InvertedResidualConfig  # noqa: PLC0415
    from torchvision.models.regnet import BlockParams  # noqa: PLC0415
    from torchvision.models.resnet import BasicBlock, Bottleneck  # noqa: PLC0415

    small: Any = {"num_classes": CLASSES}
    mobile = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 3, 72, 24, False, "RE", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 96, 40, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(40, 5, 240, 40, True, "HS", 1, 1, 1.0),
    ]
    networks = {
        "alexnet": lambda: _headed(models.AlexNet(**small), 256 * 6 * 6),
        "convnext": lambda: models.ConvNeXt(
            [CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 2)], **small
        ),
        "densenet": lambda: models.DenseNet(8, (2, 2, 2, 2), 16, **small),
        "efficientnet": lambda: models.EfficientNet(
            [
                MBConvConfig(1, 3, 1, 16, 16, 1),
                MBConvConfig(6, 3, 2, 16, 24, 2),
                MBConvConfig(6, 5, 2, 24, 40, 2),
            ],
            0.2,
            **small,
        ),
        "efficientnet_v2": lambda: models.EfficientNet(
            [
                FusedMBConvConfig(1, 3, 1, 16, 16, 1),
                FusedMBConvConfig(4, 3, 2, 16, 32, 2),
                MBConvConfig(4, 3, 2, 32, 48, 2),
            ],
            0.2,
            last_channel=128,
            **small,
        ),
        "googlenet": lambda: models.GoogLeNet(aux_logits=False, init_weights=False, **small),
        "inception": lambda: _calm(
            models.Inception3(aux_logits=False, init_weights=False, **small)
        ),
        "mnasnet": lambda: models.MNASNet(0.25, **small),
        "mobilenet_v2": lambda: models.MobileNetV2(width_mult=0.25, **small),
        "mobilenet_v3": lambda: models.MobileNetV3(mobile, 128, **small),
        "regnet": lambda: models.RegNet(
            BlockParams.from_init_params(
                depth=6, w_0=16, w_a=16, w_m=2, group_width=8, se_ratio=0.25
            ),
            **small,
        ),
        "resnet": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], **small),
        "resnext": lambda: models.ResNet(
            Bottleneck, [1, 1, 1, 1], groups=8, width_per_group=4, **small
        ),
        "shufflenet": lambda: models.ShuffleNetV2([2, 2, 2], [16, 32, 64, 128, 256], **small),
        "squeezenet": lambda: models.SqueezeNet("1_1", **small),
        "vgg": lambda: _headed(
            models.VGG(models.vgg.make_layers([16, "M", 32, "M", 64, "M", 64, "M"])), 64 * 7 * 7
        ),
        "wide_resnet": lambda: models.ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=16, **small),
        **_torchvision_transformers(),
    }
    return dict(sorted(networks.items()))


def _headed(model: nn.Module, features: int) -> nn.Module:
    """Return a network with fewer than its 100 million weights behind the convolutions."""
    model.classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, CLASSES)
    )
    return model


def _calm(model: nn.Module) -> nn.Module:
    """Return a network whose batch norms shift most values above zero.

    With random weights and no shifts, 48 layers of batch norm and ReLU in a row amplify any
    rounding error until the output is noise: a change of its input by 1 % changes the output of
    Inception by 96 %. With these shifts it changes by 7 %.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 1.0)
    return model


def _random_head(model: nn.Module) -> nn.Module:
    """Return a network whose head does not begin with weights of zero, which answer nothing."""
    nn.init.xavier_uniform_(model.heads.head.weight)
    return model


TORCHVISION = (
    *("alexnet", "convnext", "densenet", "efficientnet", "efficientnet_v2", "googlenet"),
    *("inception", "maxvit", "mnasnet", "mobilenet_v2", "mobilenet_v3", "regnet", "resnet"),
    *("resnext", "shufflenet", "squeezenet", "swin", "swin_v2", "vgg", "vit", "wide_resnet"),
)
"""Families of classifiers."""

_SIZED: Mapping[str, Any] = {"img_size": WIDTH}
_NARROW: Mapping[str, Any] = {**_SIZED, "embed_dim": 64, "depth": 2, "num_heads": 2}
TIMM: Mapping[str, Mapping[str, Any]] = {
    "beit_base_patch16_224": _NARROW,
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64)},
    "deit_tiny_patch16_224": _NARROW,
    "dla46_c": {},
    "edgenext_xx_small": {"depths": (1, 1, 1, 1)},
    "fastvit_t8": {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 64)},
    "ghostnet_050": {},
    "mobilenetv4_conv_small_050": {},
    "mobilevit_xxs": {},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 80, 64)},
    "starnet_s050": {},
    "test_byobnet": {},
    "test_mambaout": {},
    "test_nfnet": {},
    "tinynet_e": {},
}
"""Architectures -> arguments that make them small."""


def _vision(name: str) -> Network:
    width = 80 if name == "inception" else WIDTH
    return _torchvision()[name](), (torch.randn(BATCH, 3, width, width),)


def _timm(name: str) -> Network:
    import timm  # noqa: PLC0415 - only these rows need it

    model = timm.create_model(name, pretrained=False, num_classes=CLASSES, **TIMM[name])
    return model, (torch.randn(BATCH, 3, WIDTH, WIDTH),)


def _tokens() -> Inputs:
    ids = torch.randint(3, VOCABULARY, (BATCH, TOKENS))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _images() -> Inputs:
    return {"pixel_values": torch.randn(BATCH, 3, WIDTH, WIDTH)}


_WIDTHS: Mapping[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
_BERT: Mapping[str, Any] = {**_WIDTHS, "vocab_size": VOCABULARY}
_DECODER: Mapping[str, Any] = {**_BERT, "num_key_value_heads": 2, "use_cache": False}
_SMALL_GPT2: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
_SMALL_T5: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
}
_SMALL_WAV2VEC2: Mapping[str, Any] = {
    **_BERT,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_SMALL_WHISPER: Mapping[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 64,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "num_mel_bins": 16,
    "max_source_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}

_Configured = tuple[str, str, Mapping[str, Any], Callable[[], Inputs]]
TRANSFORMERS: Mapping[str, _Configured] = {
    "albert": (
        "AlbertConfig",
        "AlbertForSequenceClassification",
        {**_BERT, "embedding_size": 32},
        _tokens,
    ),
    "bert": ("BertConfig", "BertForSequenceClassification", _BERT, _tokens),
    "clip": (
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        {**_WIDTHS, "image_size": WIDTH, "projection_dim": 32},
        _images,
    ),
    "deberta_v2": (
        "DebertaV2Config",
        "DebertaV2ForSequenceClassification",
        {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        _tokens,
    ),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
        _tokens,
    ),
    "electra": (
        "ElectraConfig",
        "ElectraForSequenceClassification",
        {**_BERT, "embedding_size": 32},
        _tokens,
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", _SMALL_GPT2, _tokens),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _DECODER, _tokens),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", _DECODER, _tokens),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", _BERT, _tokens),
    "t5_encoder": ("T5Config", "T5EncoderModel", _SMALL_T5, _tokens),
    "vit": ("ViTConfig", "ViTForImageClassification", {**_WIDTHS, "image_size": WIDTH}, _images),
    "wav2vec2": (
        "Wav2Vec2Config",
        "Wav2Vec2ForCTC",
        _SMALL_WAV2VEC2,
        lambda: {"input_values": torch.randn(BATCH, 800)},
    ),
    "whisper_encoder": (
        "WhisperConfig",
        "WhisperForAudioClassification",
        _SMALL_WHISPER,
        lambda: {"input_features": torch.randn(BATCH, 16, 64)},
    ),
}
"""Name -> class of its configuration, of the model, arguments of the former, inputs of a call."""


def _transformer(name: str) -> Network:
    import transformers  # noqa: PLC0415 - only these rows need it

    configuration, model, options, inputs = TRANSFORMERS[name]
    config = getattr(transformers, configuration)(**options)
    return getattr(transformers, model)(config), inputs()


NETWORKS: Mapping[str, Callable[[], Network]] = {
    **{f"torchvision/{name}": partial(_vision, name) for name in TORCHVISION},
    **{f"timm/{name}": partial(_timm, name) for name in TIMM},
    **{f"transformers/{name}": partial(_transformer, name) for name in TRANSFORMERS},
}


SEEN = 32
"""Images whose mean and variance batch norms take."""


def build(name: str, seed: int) -> Network:
    """Return a network in evaluation mode, and inputs.

    Batch norms have the statistics of their inputs, as after training, so that activations keep
    their scale from layer to layer.
    """
    torch.manual_seed(seed)
    model, inputs = NETWORKS[name]()
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:  # of a batch large enough for the last maps, which hold a few positions each
        (images,) = inputs
        with torch.no_grad():
            model(torch.randn(SEEN, *images.shape[1:]))
    return model.eval(), inputs
