"""Pruning where users already are: other libraries' models. Each package here imports its host lazily."""
