"""A model from fields that are known to be right: what a hot path makes itself is not validated a second time.

`model_construct` does the same for all kinds of models, with aliases, defaults and private attributes, at 10 µs a model
of 18 fields; for the plain frozen models of this contract 1 µs is enough.
"""

from typing import Any, TypeVar

from pydantic import BaseModel

Model = TypeVar("Model", bound=BaseModel)


def trusted(model: type[Model], fields: dict[str, Any]) -> Model:
    """The instance with these fields: all fields of the model, in its order, each already of its type.

    Equal to what validation would make of them. The dictionary becomes the instance's own.
    """
    instance = model.__new__(model)
    set_attribute = object.__setattr__  # a frozen model has no other way in
    set_attribute(instance, "__dict__", fields)
    set_attribute(instance, "__pydantic_fields_set__", set(fields))
    set_attribute(instance, "__pydantic_extra__", None)
    set_attribute(instance, "__pydantic_private__", None)
    return instance
