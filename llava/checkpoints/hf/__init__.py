"""The layout of transformers' own LLaVA classes (llava-hf/...) <-> LLaVA's."""
