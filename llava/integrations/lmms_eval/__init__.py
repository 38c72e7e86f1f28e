"""Models for lmms-eval: `lmms_eval --model llava_vispruner`, see docs/lmms_eval.md.

lmms-eval finds `manifests` by the entry point of this package, and imports a model's class when it is asked for.
"""


def manifests() -> list:
    """A manifest for each model here. lmms-eval, which calls this, must be installed."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="llava_vispruner",
            simple_class_path="llava.integrations.lmms_eval.llava_vispruner.LlavaVisPruner",
        )
    ]
