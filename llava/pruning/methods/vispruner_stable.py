"""VisPruner with rounds that rounding hardly moves: the list keeps the order of the picture.

In VisPruner (Zhang et al., arXiv 2412.01818, section 3.3) the order of the list, hence which patches are compared in a
round, depends on the scores of all rounds before it, so that one patch dropped in place of another changes all that
follows. Here the patches that are left stay in raster order, and one drop moves only its neighbours. The rest is the
paper's; docs/selection.md has what was measured. The method is this package's own: no paper describes it.
"""

from llava.pruning.methods.vispruner import VisPruner

METHOD = VisPruner(in_raster_order=True)
