"""A tokenizer for files that are only timed, as llama.cpp opens none without a tokenizer."""

from typing import Any


def tokenizer() -> Any:  # noqa: ANN401
    """Return a tokenizer of all bytes and one pair of them, an object of transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    words = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]
    inner = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [("t", "h")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>")
