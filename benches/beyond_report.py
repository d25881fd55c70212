"""The tables of `docs/beyond_the_paper.md`, from the summaries of their benchmarks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

CHANNELS = (
    *("network", "groups", "bits of a weight", "FLOP/byte", "plan next to it: divergence"),
    *("layers split", "index", "drop on test images"),
)
KINDS = ("memory alone", "sensitivity alone", "shuffled")
SHARES = ("network", "layers", "rank correlation (95 %)", "all known", *KINDS, "divergence")
SPLIT = ("convolutions", "batch 1", "batch 16")
NAMES = {"resnet20": "ResNet-20", "mobilenet_v2": "MobileNetV2", "vit": "ViT"}
ORDER = ("resnet20", "mobilenet_v2", "vgg", "vit", "minilm", "smollm2")


def channels(networks: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield for each network and number of groups what plans by channels save and lose."""
    for network, found in networks.items():
        for groups, row in found["groups"].items():
            equal, plan = row["at_equal_divergence"], row["nearest"]
            yield [
                NAMES[network],
                groups,
                f"{equal['weight_bits']:.2f} ± {equal['deviation']:.2f}",
                f"{equal['intensity']:.2f}",
                f"{plan['kl']:.3f}",
                f"{plan['split_layers']} of {found['layers']}",
                f"{plan['index_bytes']:,} bytes",
                f"{100 * plan['drop_test']:.2f} ± {100 * plan['drop_test_error']:.2f} pp",
            ]


def split(stopwatch: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the speed-ups of whole and split convolutions over whole ones in float32."""
    for kind in ("whole, w8a8", "split, w8a8", "split, half w8a8", "split, fp32"):
        found = (stopwatch[batch]["candidates"][kind]["speedup"] for batch in ("1", "16"))
        yield [kind, *("{value:.2f} ({low:.2f} - {high:.2f})".format(**x) for x in found)]


def shares(rows: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield for each network what plans save that know memory or sensitivities alone."""
    for name in (name for name in ORDER if name in rows):
        row, saved = rows[name], rows[name]["saved"]
        measured = row["divergence"]
        yield [
            name,
            str(row["layers"]),
            f"{row['spearman']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})",
            f"{100 * saved['all']:.1f} %",
            *(f"{100 * saved[k]:.1f} %, {100 * row['share_of_gain'][k]:.0f} %" for k in KINDS),
            " / ".join(f"{measured[k]:.3g}" for k in ("uniform", "all", "memory alone")),
        ]


def memory_share(rows: Mapping[str, Any]) -> str:
    """Return the table of `shares` in Markdown."""
    lines: list[Sequence[str]] = [SHARES, ["---"] * len(SHARES), *shares(rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
