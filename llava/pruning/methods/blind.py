"""No picture at all: what a model answers from the question alone, the baseline that every use of a picture is above.

The placeholder of a picture and the line break that follows it leave the prompt, all else stays, and the vision tower
does not run. Chen et al., "Are We on the Right Way for Evaluating Large Vision-Language Models?", NeurIPS 2024,
arXiv 2403.20330, show how many questions of benchmarks are answered so.
"""

from llava.pruning.method import Method


class Blind(Method):
    blind = True


METHOD = Blind()
