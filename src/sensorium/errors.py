"""Every way sensorium can fail: what happened, why, and what to do.

    SensoriumError
    ├── InvalidInput             what was handed in cannot be used as it stands
    │   ├── InvalidRequest       a field of the request is missing or wrong
    │   │   ├── UnknownTask      no task of that name
    │   │   ├── UnknownModel     no model of that name, or not one for this task
    │   │   ├── UnknownStream    no stream of that id, or not one of this key's
    │   │   ├── UnknownJob       no job of that id, or not one of this key's
    │   │   ├── UnknownFile      no uploaded file of that id, or not one of this key's
    │   │   └── IdempotencyConflict  another job came with the same idempotency key
    │   ├── FileMissing          the path leads nowhere, or to something unreadable
    │   ├── InvalidBase64        the text is not base64
    │   ├── InputTooLarge        more bytes or more pixels than the limits allow
    │   │   └── FilesFull        the caller's uploaded files are as many bytes as are allowed
    │   ├── UnidentifiedMedia    the bytes are no kind of media that is known
    │   ├── UnsupportedMedia     the bytes are known, but not accepted here
    │   ├── CorruptMedia         the right kind, but damaged or cut short
    │   ├── ForbiddenAddress     the URL leads where it must not
    │   ├── FetchFailed          the URL did not give what was asked for
    │   ├── UploadIncomplete     the sender stopped before the end of the body
    │   ├── Unseeing             pictures for a model that takes none
    │   ├── NoFace               a picture without a face, where one is needed
    │   ├── ContextTooLong       more words and pictures than the model takes
    │   ├── ContentFiltered      the provider's filter refused the question
    │   └── ProviderRefused      the provider says that the request is wrong
    ├── Unauthenticated          no key or token, or one that is not good
    ├── Forbidden                the caller is known, and may not do this
    │   ├── ForeignHost          a web page from elsewhere, or a name that is not this server's
    │   └── RemoteForbidden      only a remote model could answer, and none may
    ├── Unavailable              nothing wrong with the request: not here, or not now
    │   ├── MissingDependency    a package that an engine stands on is not installed
    │   ├── ModelNotInstalled    a known model whose weights are not on this machine
    │   ├── InvalidModel         weights or a card that cannot be used
    │   ├── DeviceUnavailable    no such graphics card, or nothing that can use it
    │   ├── OutOfDeviceMemory    the graphics card has too little memory
    │   ├── ReloadFailed         a model's new version cannot be used; what was there goes on
    │   ├── Overloaded           more work than the queues hold
    │   │   ├── RateLimited      more requests in a minute than the key allows
    │   │   ├── BudgetSpent      the key's money or tokens are used up, or too few for this
    │   │   ├── JobsFull         as many jobs of the key as are allowed have not ended
    │   │   └── ProviderLimited  the provider, or our own quota for it, allows no more now
    │   ├── DeadlineExceeded     the answer was not ready in time
    │   ├── ReaderStalled        the reader of a stream stopped reading
    │   ├── StreamGone           what a stream told next is not kept any more
    │   ├── JobGone              a job ended long ago, and is not kept any more
    │   ├── StorageFailed        what must be kept cannot be: the disk is full, or the folder not ours
    │   ├── MissingKey           the key for a provider is not set
    │   ├── ProviderDenied       the provider does not take our key, or does not have the model
    │   ├── ProviderFailed       the provider failed, or cannot be reached
    │   │   └── StreamBroken     the provider's answer was cut, stalled or malformed
    │   ├── CircuitOpen          the provider failed again and again, and is left alone for a while
    │   ├── TooExpensive         the answer would cost more than the caller allows
    │   ├── UnstructuredAnswer   the model's answer does not keep the schema
    │   ├── ServiceClosed        the service was closed
    │   ├── ServerUnreachable    a client cannot reach its server
    │   ├── InvalidAnswer        a client cannot use what its server answered
    │   └── OutputFailed         results cannot be written
    ├── InvalidConfiguration     a setting or command-line option is wrong
    └── EngineFailed             an engine broke: its own fault, not the caller's
        └── WorkerDied           the process that worked on an input ended

Every class carries a stable `code`, which never changes once published, and says
whether trying the same again can help. `docs/errors.md` is generated from here.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

Failure = TypeVar("Failure", bound="SensoriumError")


class SensoriumError(Exception):
    """Something went wrong, and this says what, why, and what to do."""

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    remedy: ClassVar[str] = "Read the message; it names what to change."
    usage: Any = None
    """What it took before it failed, where a model counts that: a `Usage`."""

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(_sentence(what, why, fix))

    def as_dict(self) -> dict[str, Any]:
        """The error as JSON-ready fields: code, message, retryable."""
        return {"code": self.code, "message": str(self), "retryable": self.retryable}

    def about(self, place: str) -> SensoriumError:
        """The same error, saying first which of several things it is about."""
        what = f"{place}: {self.what}"
        return _rebuild(type(self), what, self.why, self.fix, {**self.__dict__, "what": what})

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by positional args; ours take keywords, and must cross processes whole.
        return (_rebuild, (type(self), self.what, self.why, self.fix, self.__dict__))


class InvalidInput(SensoriumError):
    """What was handed in cannot be used as it stands."""

    code = "invalid_input"
    remedy = "Change the input as the message says; the same input will fail again."


class InvalidRequest(InvalidInput):
    """A field of the request is missing, unknown or out of range."""

    code = "invalid_request"
    remedy = "Correct the named field."


class UnknownTask(InvalidRequest):
    """No task has that name."""

    code = "unknown_task"
    remedy = "Use a name that `sensorium --help` lists."


class UnknownModel(InvalidRequest):
    """No model has that name, or the model does not do this task."""

    code = "unknown_model"
    remedy = "Use a name that `sensorium engines` lists."


class UnknownStream(InvalidRequest):
    """No stream has that id, or it was asked for with another key."""

    code = "unknown_stream"
    remedy = "Use the id that the stream's first event tells, with the key that asked for it."


class UnknownJob(InvalidRequest):
    """No job has that id, or it was submitted with another key."""

    code = "unknown_job"
    remedy = "Use the id that submitting told, with the key that submitted it."


class IdempotencyConflict(InvalidRequest):
    """Another job was submitted with the same idempotency key."""

    code = "idempotency_conflict"
    remedy = "Use a new key for each job; send the same key only with the same job."


class UnknownFile(InvalidRequest):
    """No uploaded file, or upload in parts, has that id: it expired, was deleted, or was sent with another key."""

    code = "unknown_file"
    remedy = "Send the file again, and use the id that it gets."


class FileMissing(InvalidInput):
    """The path leads to no file, or to one that cannot be read."""

    code = "file_missing"
    remedy = "Check the path and its permissions."


class InvalidBase64(InvalidInput):
    """The text given as base64 does not decode."""

    code = "invalid_base64"
    remedy = "Encode the file's bytes again; standard and URL-safe alphabets work, with or without padding."


class InputTooLarge(InvalidInput):
    """The input has more bytes or more pixels than the limits allow."""

    code = "input_too_large"
    remedy = "Send a smaller file, or raise the limit that the message names."


class FilesFull(InputTooLarge):
    """The caller's uploaded files are as many bytes as are allowed."""

    code = "files_full"
    remedy = "Delete files that are no longer needed, or wait until they expire."


class UnidentifiedMedia(InvalidInput):
    """The bytes are of no kind of media that is known, whatever the file is called."""

    code = "unidentified_media"
    remedy = "Send a picture; `sensorium probe FILE` says what a file is."


class UnsupportedMedia(InvalidInput):
    """The bytes are of a known kind that is not accepted here."""

    code = "unsupported_media"
    remedy = "Convert it to one of the formats that the message names."


class CorruptMedia(InvalidInput):
    """The file is of the right kind, but damaged or cut short."""

    code = "corrupt_media"
    remedy = "Get the file again from where it came."


class ForbiddenAddress(InvalidInput):
    """The URL leads to a scheme or address that callers may not reach."""

    code = "forbidden_address"
    remedy = "Send the picture itself, or let the operator add the host to `allowed_hosts`."


class FetchFailed(InvalidInput):
    """The URL did not give a file: no connection, an error status, or too slow."""

    code = "fetch_failed"
    retryable = True
    remedy = "Check the URL, try again later, or send the picture itself."


class UploadIncomplete(InvalidInput):
    """The sender stopped, or was too slow, before the end of the body."""

    code = "upload_incomplete"
    retryable = True
    remedy = "Send the request again, whole."


class Unseeing(InvalidRequest):
    """The request holds pictures, and the model takes none."""

    code = "unseeing"
    remedy = "Ask a model that takes pictures, or send words alone."


class NoFace(InvalidInput):
    """A face is needed in a picture, and none was found."""

    code = "no_face"
    remedy = "Send a picture in which the face is larger, sharper or turned to the camera; or name another model."

    def __init__(self, what: str, *, why: str = "", fix: str = "", picture: int = 1) -> None:
        super().__init__(what, why=why, fix=fix)
        self.picture = picture
        """Which picture of the request, from 1."""

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "picture": self.picture}


class ContextTooLong(InvalidInput):
    """The words and pictures are more than the model takes at once."""

    code = "context_too_long"
    remedy = "Send fewer or smaller pictures, or fewer words; or ask a model with room for more."


class ContentFiltered(InvalidInput):
    """The provider's filter refused the question."""

    code = "content_filtered"
    remedy = "Change the question or the picture; or ask another model."


class ProviderRefused(InvalidInput):
    """The provider says that the request is wrong."""

    code = "provider_refused"
    remedy = "Change what the message names."


class Unauthenticated(SensoriumError):
    """No key or token came with the request, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    remedy = "Send a good key as `Authorization: Bearer KEY` or `X-API-Key: KEY`; `sensorium keys create` makes one."

    def __init__(self, what: str, *, why: str = "", fix: str = "", attempted: bool = True) -> None:
        super().__init__(what, why=why, fix=fix)
        self.attempted = attempted
        """Whether there was a credential at all."""


class Forbidden(SensoriumError):
    """The key or token is good, but does not allow this."""

    code = "forbidden"
    remedy = "Use a key that has the scope that the message names."

    def __init__(self, what: str, *, why: str = "", fix: str = "", scope: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.scope = scope
        """What is missing; empty when no scope would help."""


class ForeignHost(Forbidden):
    """Without keys, the server was asked by a name that is not its own, or by a web page from elsewhere."""

    code = "foreign_host"
    remedy = "Ask by the server's own address; or let the operator set `trusted_hosts`, `cors_origins` or `auth`."


class RemoteForbidden(Forbidden):
    """Only a remote model could answer, and the caller or the settings want pictures to stay in the house."""

    code = "remote_forbidden"
    remedy = "Name a local model, or allow remote ones with `privacy`."


class Unavailable(SensoriumError):
    """Nothing is wrong with the request: it cannot be served here, or not now."""

    code = "unavailable"
    remedy = "Read the message: it says what is missing here."


class MissingDependency(Unavailable):
    """A package that this needs is not installed."""

    code = "missing_dependency"
    remedy = "Run the command that the message names; `sensorium doctor` lists all of them."


class ModelNotInstalled(Unavailable):
    """The model is known, but its weights are not on this machine."""

    code = "model_not_installed"
    remedy = "Run the command that the message names."


class InvalidModel(Unavailable):
    """A model's card or weights cannot be used: malformed, incomplete, or changed since the card was written."""

    code = "invalid_model"
    remedy = "Install the model again, or correct its card."


class DeviceUnavailable(Unavailable):
    """The device that the setting `device` names is not here, or nothing is installed that can use it."""

    code = "device_unavailable"
    remedy = "Set `device` to auto or cpu, or install what docs/devices.md names; for vision-language models docs/local-models.md."


class OutOfDeviceMemory(Unavailable):
    """The graphics card has too little memory; the model then goes on on the processor, and results say so."""

    code = "out_of_device_memory"
    retryable = True
    remedy = "Free memory of the graphics card, choose another by `device`, or use a smaller model."


class ReloadFailed(Unavailable):
    """A model's new version, or its files as they are now, cannot be used; what answered before goes on."""

    code = "reload_failed"
    remedy = "Correct what the message names, then reload again; a server that watches the folder does so by itself."


class Overloaded(Unavailable):
    """More requests are waiting than the queues hold."""

    code = "overloaded"
    retryable = True
    remedy = "Wait for `retry_after_seconds`, then try again; or send less at once."

    def __init__(self, what: str, *, why: str = "", fix: str = "", retry_after_seconds: float = 1.0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.retry_after_seconds = retry_after_seconds

    def as_dict(self) -> dict[str, Any]:
        wait = {"retry_after_seconds": self.retry_after_seconds} if self.retryable else {}
        return {**super().as_dict(), **wait}


class RateLimited(Overloaded):
    """The caller has used up the requests that the key allows in a minute."""

    code = "rate_limited"
    remedy = "Wait for `retry_after_seconds`, then try again; or ask for a key with a higher rate."


class BudgetSpent(Overloaded):
    """The money or the tokens that the key may spend are used up, or less than the request may take."""

    code = "budget_spent"
    remedy = "Wait until the budget's time is over, or ask for a larger one; where `retryable` is false, ask for less."


class JobsFull(Overloaded):
    """As many of the caller's jobs as are allowed wait or are worked on."""

    code = "jobs_full"
    remedy = "Wait for `retry_after_seconds`, then try again; or put more items into one job, or cancel some."


class ProviderLimited(Overloaded):
    """The provider allows no more now, or our own quota for it is used up."""

    code = "provider_limited"
    remedy = "Wait for `retry_after_seconds`, then try again; or name another model to fall back on."


class DeadlineExceeded(Unavailable):
    """The answer was not ready before the deadline."""

    code = "deadline_exceeded"
    retryable = True
    remedy = "Allow more time with `timeout`, or send less at once."


class ReaderStalled(Unavailable):
    """The reader of a stream stopped reading, so the work was given up."""

    code = "reader_stalled"
    retryable = True
    remedy = "Read events as they come, or ask without streaming."


class StreamGone(Unavailable):
    """What a stream told next is not kept any more: it ended long ago, was deleted, or told too much since."""

    code = "stream_gone"
    remedy = "Ask again from the beginning; come back sooner, and read as fast as it is told."


class JobGone(Unavailable):
    """The job ended long ago, and is not kept any more."""

    code = "job_gone"
    remedy = "Submit it again; fetch outcomes before the job's `expires`."


class StorageFailed(Unavailable):
    """What must be kept cannot be: the disk is full, the folder cannot be written, or its file is broken."""

    code = "storage_failed"
    retryable = True
    remedy = "Try again later; the operator finds the reason in the message."


class MissingKey(Unavailable):
    """The key for a provider is not set."""

    code = "missing_key"
    remedy = "Set the environment variable that the message names."


class ProviderDenied(Unavailable):
    """The provider does not take our key, or does not have the model."""

    code = "provider_denied"
    remedy = "Check the key and the model's name on its card."


class ProviderFailed(Unavailable):
    """The provider failed, or cannot be reached."""

    code = "provider_failed"
    retryable = True
    remedy = "Try again later, or name another model to fall back on."

    def __init__(self, what: str, *, why: str = "", fix: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(what, why=why, fix=fix)
        self.retry_after_seconds = retry_after_seconds
        """After how long the provider asks to be tried again; None: it does not say."""


class StreamBroken(ProviderFailed):
    """The provider's answer was cut off, stalled, or was malformed."""

    code = "stream_broken"
    remedy = "Ask again."


class CircuitOpen(Unavailable):
    """The provider failed again and again, and is left alone for a while."""

    code = "circuit_open"
    retryable = True
    remedy = "Try again later, or name another model to fall back on."

    def __init__(self, what: str, *, why: str = "", fix: str = "", retry_after_seconds: float = 1.0) -> None:
        super().__init__(what, why=why, fix=fix)
        self.retry_after_seconds = retry_after_seconds

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "retry_after_seconds": self.retry_after_seconds}


class TooExpensive(Unavailable):
    """The answer would cost more than the caller allows."""

    code = "too_expensive"
    remedy = "Allow more with `max_cost`, send smaller pictures, or ask a cheaper model."


class UnstructuredAnswer(Unavailable):
    """The model's answer does not keep the schema, also after it was asked again."""

    code = "unstructured_answer"
    remedy = "Read `text`; loosen the schema, or ask a model that keeps schemas by itself."

    def __init__(self, what: str, *, why: str = "", fix: str = "", text: str = "") -> None:
        super().__init__(what, why=why, fix=fix)
        self.text = text
        """What the model said, as it said it."""

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "text": self.text}


class ServiceClosed(Unavailable):
    """The service was closed while, or before, the request ran."""

    code = "service_closed"
    remedy = "Open a new one; a server that stops refuses new work."


class ServerUnreachable(Unavailable):
    """The server that a client asks cannot be reached: no connection, no trust, or it broke off."""

    code = "server_unreachable"
    retryable = True
    remedy = "Check the address and the network, and that the server runs there."


class InvalidAnswer(Unavailable):
    """What a client's server answered is none of sensorium's answers: another server, or another version."""

    code = "invalid_answer"
    remedy = "Check the address; use the same version of sensorium on both sides."


class OutputFailed(Unavailable):
    """Results cannot be written: the disk is full, or the place is read-only."""

    code = "output_failed"
    remedy = "Make room, or write elsewhere; a batch goes on where it stopped when the same command is run again."


class InvalidConfiguration(SensoriumError):
    """A setting, or an option of a command, is wrong."""

    code = "invalid_configuration"
    remedy = "Correct the setting that the message names; docs/settings.md lists all of them."


class EngineFailed(SensoriumError):
    """An engine broke while answering: the fault is its own, not the caller's."""

    code = "engine_failed"
    remedy = "Report it with the message and the input; another model may answer meanwhile."


class WorkerDied(EngineFailed):
    """The process that worked on the input ended, again and again: the input crashes it, or takes more memory than there is."""

    code = "worker_died"
    remedy = "Look at the input with another program; report it if it is a good one."


def final(error: Failure) -> Failure:
    """The same error, of which it is known that trying again does not help, though it does with others of its kind."""
    vars(error)["retryable"] = False
    return error


def every_error() -> list[type[SensoriumError]]:
    """All classes of the tree, parents before children."""

    def walk(kind: type[SensoriumError]) -> list[type[SensoriumError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in walk(child))]

    return walk(SensoriumError)


def _sentence(what: str, why: str, fix: str) -> str:
    said = f"{what}: {why}" if why else what
    return " ".join(part if part.endswith((".", "?", "!")) else part + "." for part in (said, fix) if part)


def _rebuild(kind: type[SensoriumError], what: str, why: str, fix: str, state: dict[str, Any]) -> SensoriumError:
    error = kind(what, why=why, fix=fix)
    error.__dict__.update(state)
    return error
