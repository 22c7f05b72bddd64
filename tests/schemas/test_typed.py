"""Types of Python in place of JSON schemas."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import BaseModel, field_validator

from sensorium.errors import InvalidRequest, UnstructuredAnswer
from sensorium.schemas.ask import Answer
from sensorium.schemas.typed import Typed


class Price(BaseModel):
    amount: float
    currency: str

    @field_validator("currency")
    @classmethod
    def _known(cls, currency: str) -> str:
        if currency not in ("EUR", "CNY"):
            raise ValueError("no such currency")
        return currency


@dataclass
class Size:
    width: int


def test_a_model_goes_in_and_its_instance_comes_out() -> None:
    typed = Typed.of(Price)
    assert set(typed.json_schema["properties"]) == {"amount", "currency"}
    fitted = typed.fitted(Answer(text="", data={"amount": 3, "currency": "EUR"}))
    assert fitted.data == Price(amount=3, currency="EUR")
    assert Typed.of(Size).fitted(Answer(text="", data={"width": 3})).data == Size(3)


def test_a_json_schema_gives_json() -> None:
    schema = {"type": "object"}
    typed = Typed.of(schema)
    assert typed.json_schema is schema
    assert typed.fitted(Answer(text="", data={"a": 1})).data == {"a": 1}


def test_what_only_the_type_knows_to_be_wrong_is_told_with_the_words() -> None:
    with pytest.raises(UnstructuredAnswer, match="no such currency") as caught:
        Typed.of(Price).fitted(Answer(text="{...}", data={"amount": 3, "currency": "XXX"}))
    assert caught.value.text == "{...}"


@pytest.mark.parametrize("schema", [17, "Price", open, object()])
def test_what_is_no_type_is_refused(schema: object) -> None:
    with pytest.raises(InvalidRequest, match="`schema`"):
        Typed.of(schema)
