"""``azureml.contrib.functions``: a model as a Function App."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...models.model import Model
from ...packaging.specification import FUNCTIONS, STANDALONE
from ..core.inference_config import InferenceConfig, check_has_environment, specification_of
from ..core.model_package import ModelPackage, create_package
from ..exceptions import WebserviceException

BLOB_TRIGGER = "blob"
SERVICE_BUS_QUEUE_TRIGGER = "service_bus_queue"
HTTP_TRIGGER = "http"

# By trigger: its name in SCORING_TRIGGERS, and its options with the packager's names for them.
_TRIGGERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    BLOB_TRIGGER: ("blob", {"input_path": "input_path", "output_path": "output_path"}),
    SERVICE_BUS_QUEUE_TRIGGER: (
        "service_bus",
        {"input_queue_name": "input_queue", "output_queue_name": "output_queue"},
    ),
    HTTP_TRIGGER: ("http", {"auth_level": "auth_level"}),
}


def package(
    workspace: object,
    models: Sequence[Model],
    inference_config: InferenceConfig,
    generate_dockerfile: bool = False,
    functions_enabled: bool = False,
    trigger: str | None = None,
    **kwargs: Any,
) -> ModelPackage:
    """Package models, as an image or as a folder to build it from.

    Args:
        workspace: where the folder is made.
        models: those of the package; it may be empty.
        inference_config: script and environment.
        generate_dockerfile: only the folder.
        functions_enabled: for Azure Functions. Without it the package is for the standalone host,
            and neither ``trigger`` nor its options count.
        trigger: ``http``, ``blob`` or ``service_bus_queue``.
        kwargs: the trigger's options; None is as none given. Of ``http``: ``auth_level``,
            anonymous, function or admin; of ``blob``: ``input_path`` and ``output_path``; of
            ``service_bus_queue``: ``input_queue_name`` and ``output_queue_name``.

    Raises:
        WebserviceException: no such trigger, an option that it does not have, no environment, or
            as :func:`scoring_runtime.azureml.core.model_package.create_package`; what goes wrong
            afterwards is raised by the package's ``wait_for_creation``.
    """
    check_has_environment(inference_config)
    if functions_enabled:
        name, options = _checked(trigger, kwargs)
        wanted = specification_of(models, inference_config, FUNCTIONS, (name,))
        wanted = replace(wanted, **options)
    else:
        wanted = specification_of(models, inference_config, STANDALONE)
    environment = inference_config.environment
    return create_package(workspace, wanted, environment, generate_dockerfile=generate_dockerfile)


package_http = partial(package, functions_enabled=True, trigger=HTTP_TRIGGER)
package_blob = partial(package, functions_enabled=True, trigger=BLOB_TRIGGER)
package_service_bus_queue = partial(
    package, functions_enabled=True, trigger=SERVICE_BUS_QUEUE_TRIGGER
)


def _checked(trigger: str | None, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The trigger's name in SCORING_TRIGGERS, and the options by the packager's names."""
    if trigger is None or trigger not in _TRIGGERS:
        raise WebserviceException(
            f"Invalid trigger '{trigger}', valid options are [{','.join(_TRIGGERS)}]"
        )
    name, options = _TRIGGERS[trigger]
    for option in given:
        if option not in options:
            raise WebserviceException(
                f"Invalid option '{option}' for trigger '{trigger}', valid options are "
                f"[{','.join(options)}]"
            )
    return name, {options[key]: value for key, value in given.items() if value is not None}
