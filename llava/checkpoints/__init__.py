"""Checkpoints as files: folders, weights, configs, tokenizers, and the layout of transformers' own classes in `hf`."""
