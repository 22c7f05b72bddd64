"""Compare pictures: what they have in common, what sets them apart, and which to take."""

from __future__ import annotations

from typing import Any

from sensorium.engine import Call
from sensorium.errors import UnstructuredAnswer
from sensorium.schemas.ask import Answer, AskRequest
from sensorium.schemas.compare import CompareRequest, Comparison

Request = CompareRequest
ASKS = "ask"

SENTENCES = {"type": "array", "items": {"type": "string"}}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "similarities": {**SENTENCES, "description": "What all pictures have in common, a sentence each"},
        "differences": {**SENTENCES, "description": "What sets them apart, a sentence each, naming the picture"},
        "recommendation": {**SENTENCES, "description": "Which picture to take, and why, a sentence each"},
    },
    "required": ["similarities", "differences", "recommendation"],
    "additionalProperties": False,
}
"""What a model is asked for; providers that keep schemas by themselves want all three named and nothing else."""

PROMPT = "Compare these {count} pictures. They are in order: picture 1 comes first."
QUESTION = "Compare them for this question, and answer in its language: {question}"


async def run(request: CompareRequest, call: Call) -> Comparison:
    """One question to one model, filled in by its schema."""
    words = PROMPT.format(count=len(request.images))
    asked = AskRequest(
        model=request.model,
        images=request.images,
        prompt=f"{words} {QUESTION.format(question=request.question)}" if request.question else words,
        detail=request.detail,
        max_tokens=request.max_tokens,
        json_schema=SCHEMA,
    )
    try:
        answer: Answer = await call.run(asked)
    except UnstructuredAnswer as error:
        raise _without_schema(error) from error
    return Comparison(**answer.data, answered_by=answer.answered_by, meta=answer.meta)


def _without_schema(error: UnstructuredAnswer) -> UnstructuredAnswer:
    """The same for who gave no schema that could be loosened."""
    fix = "Ask again, or name another model by `model`"
    told = UnstructuredAnswer(error.what, why=error.why, fix=fix, text=error.text)
    told.usage = error.usage
    return told
