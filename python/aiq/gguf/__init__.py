"""Decoders as GGUF files, which llama.cpp and OpenVINO GenAI run."""
