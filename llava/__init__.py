"""LLaVA with VisPruner inside: fewer visual tokens, no training."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Give `llava.LlavaLlamaForCausalLM` and its siblings on first use: importing them takes seconds."""
    if name.startswith("Llava"):
        from llava import model

        return getattr(model, name)
    raise AttributeError(f"module 'llava' has no attribute {name!r}")
