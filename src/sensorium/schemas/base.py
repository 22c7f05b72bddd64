"""What all requests and results share."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensorium.errors import InvalidRequest
from sensorium.media.draw import Mark
from sensorium.media.source import Source

if TYPE_CHECKING:
    from sensorium.media.image import Image

Model = TypeVar("Model", bound=BaseModel)

Score = Annotated[float, Field(ge=0, le=1)]
"""How sure an engine is: 0 to 1."""


TRUSTED = {"trusted": True}
"""What validators are told of fields that come from whoever runs this process."""

PLAIN = (str, int, float, type(None))
"""What holds no source."""


class Frozen(BaseModel):
    """A value that is checked when it is made and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def altered(self, **changes: Any) -> Self:
        """The same value with other fields, which are not checked: what `model_copy` does, in a third of the time."""
        kind, put = type(self), object.__setattr__
        twin = kind.__new__(kind)
        put(twin, "__dict__", {**self.__dict__, **changes})
        put(twin, "__pydantic_fields_set__", {*self.__pydantic_fields_set__, *changes})
        put(twin, "__pydantic_extra__", None)
        put(twin, "__pydantic_private__", None)
        return twin


class Skipped(Frozen):
    """A model that was tried first and did not answer, and why."""

    engine: str = Field(examples=["resnet50@1"])
    code: str = Field(examples=["engine_failed"])
    message: str


class Usage(Frozen):
    """What an answer took of a model that is paid by its words. Numbers are the model's own tokens."""

    input_tokens: int = Field(default=0, ge=0, examples=[812])
    output_tokens: int = Field(default=0, ge=0, examples=[42])
    image_tokens: int | None = Field(default=None, ge=0)
    """How many of `input_tokens` the pictures were, where that is told or known."""
    cached_tokens: int = Field(default=0, ge=0)
    """How many of `input_tokens` the provider had in its own cache, and charges less for."""
    cost: float | None = Field(default=None, ge=0, examples=[0.0021])
    """In US dollars; absent where no price is known."""
    estimated: bool = False
    """Whether these are an estimate, because the provider did not say."""


class Meta(Frozen):
    """How an answer came about. Everything that may differ between two equal answers is here."""

    engine: str = Field(default="", examples=["efficientnet_lite0@1"])
    """What answered, as model@version; of a composed task, the task's name."""
    seconds: float = Field(default=0.0, ge=0, examples=[0.012])
    """From the request's arrival to the answer."""
    loading_seconds: float = Field(default=0.0, ge=0)
    """How much of that went into loading the model, which only the first requests wait for."""
    cached: bool = False
    """Whether the answer was remembered rather than worked out."""
    skipped: tuple[Skipped, ...] = ()
    """Models that were asked before the one that answered. Empty: no fallback happened."""
    trace: str = Field(default="", examples=["4bf92f3577b34da6a3ce929d0e0e4736"])
    """The id to look for in logs."""
    usage: Usage | None = None
    """What the answer took, of models that count it; of one from the cache, what it took then."""


class Result(Frozen):
    """The whole answer to a request."""

    meta: Meta = Meta()

    def stamped(self, **meta: Any) -> Self:
        """The same answer with another account of how it came about: fields of Meta."""
        return self.altered(meta=self.meta.altered(**meta))

    @property
    def whole(self) -> bool:
        """Whether this is all that there was to say, and so worth remembering."""
        return True

    @property
    def words(self) -> str:
        """The answer as a stream of words tells it; empty where it is none."""
        return ""

    def marks(self) -> tuple[Mark, ...]:
        """What to draw on the picture that the answer is about."""
        return ()


class Request(Frozen):
    """One thing to be done. Holds where pictures are, never their pixels; serialises to JSON."""

    task: ClassVar[str]
    """The task's name."""
    answer: ClassVar[type[Result]]
    """The result's type."""
    positional: ClassVar[tuple[str, ...]] = ()
    """Fields that a caller in Python or at the command line may give by place, after the sources."""
    gathers: ClassVar[str | None] = None
    """The field that takes all pictures given by place, of a task that is about several at once."""

    model: str | None = Field(default=None, max_length=200, examples=["efficientnet_lite0"])
    """The model to ask, as name or name@version. Absent: the one that the settings name for the task."""

    def sources(self) -> Iterator[Source]:
        """Every source that the request holds, in the order of its fields."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not isinstance(value, PLAIN):  # most are: looking into each would take ten times as long
                yield from _sources_in(value)

    def moved(self, move: Callable[[Source], Source]) -> Self:
        """The same request with each of its sources moved, wherever in it they are."""
        moved: Self = _moved(self, move)
        return moved

    @classmethod
    @functools.cache
    def source_fields(cls) -> tuple[str, ...]:
        """The names of the fields that hold a source, in order."""
        return tuple(name for name, field in cls.model_fields.items() if field.annotation in (Source, Source | None))

    def essence(self) -> dict[str, Any]:
        """What is asked, whoever is to answer it: of two ways to ask the same, both have the same essence."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "model"}

    @classmethod
    @functools.cache
    def source_lists(cls) -> tuple[str, ...]:
        """The names of the fields that hold any number of sources, in order."""
        return tuple(name for name, field in cls.model_fields.items() if field.annotation == tuple[Source, ...])

    @classmethod
    @functools.cache
    def needs_source(cls) -> bool:
        """Whether it must be told a source by its first such field."""
        fields = (*cls.source_fields(), *cls.source_lists())
        return bool(fields) and cls.model_fields[fields[0]].is_required()

    def patience(self) -> float:
        """How many times as long as others it may take, where nobody says how long."""
        return 1.0

    async def fingerprint(self) -> str:
        """A sha256 that equal questions about equal bytes share, however the bytes were handed in.

        Pictures at URLs are fetched for it.
        """
        essence = self.essence()
        digests = iter([await source.digest() for source in _sources_in(list(essence.values()))])
        fields = {name: _without_bytes(value, digests) for name, value in essence.items()}
        words = json.dumps([self.task, fields], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(words.encode()).hexdigest()


class ImageRequest(Request):
    """A request about one picture."""

    image: Source
    """The picture: over HTTP an http(s) URL or a data URL; in Python also a path, bytes or an open file."""


class ImageInfo(Frozen):
    """The picture that an answer is about, as a person sees it: upright."""

    width: int = Field(ge=1, examples=[640])
    """Pixels across, of the picture as sent, upright."""
    height: int = Field(ge=1, examples=[480])
    """Pixels down, of the picture as sent, upright."""
    format: str = Field(examples=["jpeg"])
    """What its content says it is, whatever its name says."""
    scale: float = Field(default=1.0, gt=0, le=1, examples=[1.0])
    """How large it was decoded: 1, or 1/2, 1/4 or 1/8 for a JPEG of more pixels than the limit or than needed."""

    @classmethod
    def of(cls, image: Image) -> ImageInfo:
        return cls(width=image.width, height=image.height, format=image.format, scale=image.scale)

    def times_to(self, other: ImageInfo) -> tuple[float, float]:
        """How many times as wide and as high the other is."""
        return other.width / self.width, other.height / self.height


class ImageResult(Result):
    """An answer about one picture. Coordinates are pixels of the picture as sent, upright."""

    # Beside the fields: pydantic's private attributes cost 30 us for each result.
    __slots__ = ("_source",)

    image: ImageInfo

    def attach(self, source: Source) -> None:
        """Remember which picture this is about, so that a notebook can draw on it. Not part of the value."""
        object.__setattr__(self, "_source", source)

    def moved_to(self, image: ImageInfo) -> Self:
        """The same answer about the picture from which the one asked about was made, smaller or larger.

        Results that hold coordinates have them scaled.
        """
        return self.altered(image=image)

    def _repr_html_(self) -> str | None:
        """The answer drawn on its picture, for notebooks."""
        source = getattr(self, "_source", None)
        if source is None:
            return None
        from sensorium.media.draw import html_of

        return html_of(source, self.marks())


def checked(model: type[Model], fields: Mapping[str, Any], what: str, *, trusted: bool = False) -> Model:
    """The fields as a value of the model; `what` is what they ask for. Only of `trusted` ones a source may be a path.

    Raises InvalidRequest, naming the fields that are wrong.
    """
    try:
        # The validator itself: `model_validate` looks first which of its many options are used.
        return cast(
            "Model", model.__pydantic_validator__.validate_python(dict(fields), context=TRUSTED if trusted else None)
        )
    except ValidationError as error:
        raise InvalidRequest(f"This is no request for {what}", why=wrong_fields(error, model)) from error


def wrong_fields(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with which field, for a message: the first five, without what was given."""
    parts = error.errors(include_url=False, include_context=False, include_input=False)
    # Of a list whose parts are wrong, pydantic also says that too few are left.
    inner = {part["loc"][:-1] for part in parts}
    told = [part for part in parts if part["type"] != "too_short" or part["loc"] not in inner]
    return "; ".join(_wrong_field(part["loc"], part["type"], part["msg"], model) for part in told[:5])


def _wrong_field(place: tuple[int | str, ...], kind: str, message: str, model: type[BaseModel]) -> str:
    name = ".".join(map(str, place))[:60]
    # pydantic's own words before ours; and JSON knows no tuples
    message = message.removeprefix("Value error, ").replace("valid tuple", "list")
    if not name:
        return message  # of several fields together: it names them itself
    if kind != "extra_forbidden":
        return f"`{name}`: {message[:1].lower()}{message[1:]}"
    near = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"`{name}`: there is no such field" + (f"; did you mean `{near[0]}`?" if near else "")


def _sources_in(value: Any) -> Iterator[Source]:
    if isinstance(value, Source):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _sources_in(part)
    elif isinstance(value, Frozen):
        for name in type(value).model_fields:
            yield from _sources_in(getattr(value, name))


def _moved(value: Any, move: Callable[[Source], Source]) -> Any:
    """The same with every source in it moved; what holds none is left as it is."""
    if isinstance(value, Source):
        return move(value)
    if isinstance(value, tuple):
        return tuple(_moved(part, move) for part in value)
    if isinstance(value, Frozen):
        before = {name: getattr(value, name) for name in type(value).model_fields}
        after = {name: _moved(part, move) for name, part in before.items()}
        changed = {name: part for name, part in after.items() if part is not before[name] and part != before[name]}
        return value.altered(**changed) if changed else value
    return value


def _without_bytes(value: Any, digests: Iterator[str]) -> Any:
    if isinstance(value, Source):
        return {"sha256": next(digests)}
    if isinstance(value, (tuple, list)):
        return [_without_bytes(part, digests) for part in value]
    if isinstance(value, BaseModel):
        return {name: _without_bytes(getattr(value, name), digests) for name in type(value).model_fields}
    return value
