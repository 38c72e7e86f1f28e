"""Models for lmms-eval: `llava_vispruner` and `pruned_hf`, see docs/lmms_eval.md.

lmms-eval finds `manifests` by the entry point of this package, and imports a model's class when it is asked for.
"""


def manifests() -> list:
    """A manifest for each model here. lmms-eval, which calls this, must be installed."""
    from lmms_eval.models.registry_v2 import ModelManifest

    classes = {"llava_vispruner": "llava_vispruner.LlavaVisPruner", "pruned_hf": "pruned_hf.PrunedHf"}
    return [ModelManifest(model_id=name, simple_class_path=f"{__name__}.{path}") for name, path in classes.items()]
