"""A type of Python in place of a JSON schema: what is asked for is what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from sensorium.errors import InvalidRequest, UnstructuredAnswer
from sensorium.schemas.ask import Answer


@dataclass(frozen=True, slots=True)
class Typed:
    """What a caller wants an answer to be."""

    json_schema: Mapping[str, Any]
    adapter: TypeAdapter[Any] | None = None
    """What makes the value of JSON; None where the caller gave a JSON schema, and wants JSON."""

    @classmethod
    def of(cls, schema: Any) -> Typed:
        """Of a pydantic model, a dataclass, any other type that pydantic knows, or a JSON schema.

        Raises InvalidRequest for anything else.
        """
        if isinstance(schema, Mapping):
            return cls(schema)
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(schema)
            return cls(adapter.json_schema(), adapter)
        except PydanticUserError as error:
            why = str(error).partition("\n")[0]
            fix = "Give a pydantic model, a dataclass or a JSON schema"
            raise InvalidRequest("`schema` cannot be used", why=why, fix=fix) from error

    def fitted(self, outcome: Any) -> Any:
        """An answer with its `data` as a value of the type; anything else as it is.

        Raises UnstructuredAnswer where the type wants more than its JSON schema says.
        """
        if self.adapter is None or not isinstance(outcome, Answer):
            return outcome
        try:
            return outcome.altered(data=self.adapter.validate_json(json.dumps(outcome.data)))
        except ValidationError as error:
            told = error.errors(include_url=False, include_context=False, include_input=False)
            why = "; ".join(f"`{'.'.join(map(str, part['loc']))}`: {part['msg']}" for part in told[:5])
            raise UnstructuredAnswer(
                "The answer keeps the JSON schema, and yet does not fit the type", why=why, text=outcome.text
            ) from error
