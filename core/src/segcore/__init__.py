"""What five semantic-segmentation papers share: data sets, backbones, training, evaluation.

    model = segcore.create_model("cgrseg-t-ade20k")
    names = segcore.list_models("*-ade20k")
    predict = segcore.Predictor.from_pretrained("user/name")

What is not here lies in the rooms: `segcore.backbones`, `segcore.evaluation`, ... (docs/architecture.md).
"""

from typing import TYPE_CHECKING

from segcore.lazy import given_by

if TYPE_CHECKING:
    from segcore.errors import InputError
    from segcore.memory import keep_freed_memory
    from segcore.models import create_model, parameter_groups
    from segcore.paper import list_models
    from segcore.predictor import Predictor
    from segcore.segmentor import StepInfo, Target

__version__ = "0.2.0"
__all__ = [
    "InputError",
    "Predictor",
    "StepInfo",
    "Target",
    "create_model",
    "keep_freed_memory",
    "list_models",
    "parameter_groups",
]

__getattr__ = given_by(
    "segcore",
    {
        "segcore.errors": ["InputError"],
        "segcore.memory": ["keep_freed_memory"],
        "segcore.models": ["create_model", "parameter_groups"],
        "segcore.paper": ["list_models"],
        "segcore.predictor": ["Predictor"],
        "segcore.segmentor": ["StepInfo", "Target"],
    },
)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
