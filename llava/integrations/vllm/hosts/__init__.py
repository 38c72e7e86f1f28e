"""vLLM's own models with pruned pictures, a file each; each is vLLM's class and processor with what is shared here."""
