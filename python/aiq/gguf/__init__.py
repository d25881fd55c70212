"""Decoders as GGUF files, which llama.cpp runs."""
