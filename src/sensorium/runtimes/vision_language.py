"""Vision-language models of transformers: opened from a folder, asked with words and pictures, heard word by word.

Nothing is downloaded, no code and no pickle of the folder is read, and what users say can write no control token.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensorium.dependencies import need
from sensorium.errors import (
    ContextTooLong,
    InvalidModel,
    InvalidRequest,
    MissingDependency,
    OutOfDeviceMemory,
    SensoriumError,
)
from sensorium.runtimes import model_files, torch_device
from sensorium.schemas.base import Skipped
from sensorium.telemetry import TELEMETRY

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

log = logging.getLogger("sensorium.device")

Conversation = Sequence[tuple[str, Sequence["str | Picture"]]]
"""Who speaks (`system`, `user`, `assistant`), and what: words and Pillow's RGB pictures, in order."""

SAFELY: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}

BROKEN_SIGN = "\ufffd"
LONGEST_SIGN = 8
"""Tokens that one sign may be made of: UTF-8 has four bytes at most, and a token may be a part of one."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """How an answer is to be chosen. What is None is left to the model's own settings."""

    max_tokens: int
    temperature: float | None = None
    """0: always the likeliest word."""
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    """Words at which the answer ends, without them."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and what it took in the model's tokens."""

    text: str
    cut: bool
    """Whether there was no room for more."""
    input_tokens: int
    output_tokens: int
    image_tokens: int | None
    """How many of `input_tokens` the pictures were; None where the model does not mark them."""


class Speaker:
    """One model in memory. Used by one thread at a time.

    A model that does not fit into a graphics card's memory is loaded for the processor instead; `skipped` then says so.
    """

    _model: Any = None
    _processor: Any = None
    _tokenizer: Any = None

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        device: str = "auto",
        dtype: str = "auto",
        context: int | None = None,
        threads: int | None = None,
    ) -> None:
        """Load the model; blocks. `context` bounds its tokens where it would take more.

        Raises InvalidModel, DeviceUnavailable, or MissingDependency without torch or transformers.
        """
        self._torch = need("torch", for_what=f"load model {name}")
        self._transformers = need("transformers", for_what=f"load model {name}")
        self.name, self._dtype = name, dtype
        self.device = torch_device.chosen(self._torch, device)
        """What it computes on: `cpu`, or `cuda:` and a number."""
        self.skipped: tuple[Skipped, ...] = ()
        """The graphics card that was too small for it."""
        self._check: Callable[[], None] = _nothing
        if threads is not None:
            self._torch.set_num_threads(threads)
        model_files.check(folder)
        with _as_ours(name), _silently(self._transformers):
            self._open(folder)
            self._template = self._whole_template()
        self._context = min(filter(None, (context, _most_tokens(self._model.config))), default=None)
        self._watch_layers()

    def answer(self, conversation: Conversation, wishes: Wishes, say: Callable[[str], None], check: Any = None) -> Said:
        """What the model answers; `say` is told its words as they come. Blocks.

        `check` is called between the model's layers, and ends the work by what it raises. Raises InvalidRequest for a
        conversation that the model's template refuses, ContextTooLong, and OutOfDeviceMemory.
        """
        self._check = check or _nothing
        try:
            inputs = self._prepared(conversation)
            self._check()
            with self._bounded_by_memory(), self._torch.inference_mode(), self._random(wishes.seed):
                return self._generated(inputs.to(self.device), wishes, say)
        finally:
            self._check = _nothing

    def close(self) -> None:
        """Give the memory back."""
        self._model = self._processor = self._tokenizer = None
        gc.collect()  # models refer to themselves
        if self.device != "cpu":
            self._torch.cuda.empty_cache()

    # Loading

    def _open(self, folder: Path) -> None:
        transformers = self._transformers
        config = transformers.AutoConfig.from_pretrained(folder, **SAFELY)
        self._processor = _without_videos(transformers, config).from_pretrained(folder, **SAFELY)
        self._tokenizer = self._processor.tokenizer
        self._model = self._weighed(folder, config)

    def _weighed(self, folder: Path, config: Any) -> Any:
        try:
            return self._placed(folder, config)
        except self._torch.OutOfMemoryError as error:
            left, self.device = self.device, "cpu"
            told = OutOfDeviceMemory(f"Model {self.name} does not fit on {left}", fix="It goes on on the processor")
            self.skipped = (Skipped(engine=f"{self.name} on {left}", code=told.code, message=str(told)),)
            log.warning("%s (%s)", told, _first_line(error))
            TELEMETRY.session_out_of_memory[self.name, left].add()
        self._torch.cuda.empty_cache()
        return self._placed(folder, config)

    def _placed(self, folder: Path, config: Any) -> Any:
        numbers = torch_device.numbers(self._torch, self.device, self._dtype)
        model = self._transformers.AutoModelForImageTextToText.from_pretrained(
            folder, config=config, dtype=numbers, use_safetensors=True, **SAFELY
        )
        return model.to(self.device).eval()

    def _whole_template(self) -> str:
        """The model's chat template. Some leave the mark of the beginning to the tokenizer, which writes none where
        what users say is kept apart from control tokens."""
        template = self._processor.chat_template or self._tokenizer.chat_template
        if not isinstance(template, str):
            raise InvalidModel("it cannot be asked", why="its folder holds no chat template, or several")
        beginning = self._tokenizer.bos_token
        if not beginning or self._tokenizer("")["input_ids"][:1] != [self._tokenizer.bos_token_id]:
            return template
        asked = [{"role": "user", "content": [_part("?")]}]
        begun = self._processor.apply_chat_template(asked, chat_template=template).startswith(beginning)
        return template if begun else "{{ bos_token }}" + template

    def _watch_layers(self) -> None:
        """Have every layer look first whether anybody still waits: one pass over a long question takes a minute."""

        def look(*_: Any) -> None:
            self._check()

        for module in self._model.modules():
            if isinstance(module, self._torch.nn.ModuleList):
                for layer in module:
                    layer.register_forward_pre_hook(look)

    # Asking

    def _prepared(self, conversation: Conversation) -> Any:
        """The question in tokens, and its pictures in numbers."""
        told = [{"role": role, "content": [_part(part) for part in parts]} for role, parts in conversation]
        try:
            inputs = self._processor.apply_chat_template(
                told,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                sanitize_control_tokens=True,
            )
        except (ValueError, TypeError, _template_error()) as error:
            raise InvalidRequest(f"Model {self.name} cannot be asked this", why=_first_line(error)) from error
        length = inputs["input_ids"].shape[1]
        if self._context is not None and length >= self._context:
            raise ContextTooLong(
                f"The question is too long for model {self.name}",
                why=f"it has {length:,} tokens, and question and answer may have {self._context:,}",
            )
        return inputs

    def _generated(self, inputs: Any, wishes: Wishes, say: Callable[[str], None]) -> Said:
        asked = inputs["input_ids"]
        room = wishes.max_tokens if self._context is None else min(wishes.max_tokens, self._context - asked.shape[1])
        words = _Words(self._tokenizer, wishes.stop, say)
        with contextlib.suppress(_StopWord):
            self._model.generate(**inputs, max_new_tokens=room, streamer=words, **_choosing(wishes))
        ended = words.stopped or words.last in _end_marks(self._model)
        return Said(
            text="".join(words.said),
            cut=not ended and words.count >= room,
            input_tokens=asked.shape[1],
            output_tokens=words.count,
            image_tokens=self._picture_tokens(asked),
        )

    def _picture_tokens(self, asked: Any) -> int | None:
        mark = getattr(self._processor, "image_token_id", None)
        return None if mark is None else int((asked == mark).sum())

    @contextlib.contextmanager
    def _bounded_by_memory(self) -> Iterator[None]:
        try:
            yield
        except self._torch.OutOfMemoryError as error:
            TELEMETRY.session_out_of_memory[self.name, self.device].add()
            told = OutOfDeviceMemory(
                f"Model {self.name} ran out of memory on {self.device}",
                why="the question is too large for it",
                fix="Send fewer or smaller pictures, or fewer words",
            )
            log.warning("%s (%s)", told, _first_line(error))
            raise told from error.with_traceback(None)  # which would hold what filled the memory

    @contextlib.contextmanager
    def _random(self, seed: int | None) -> Iterator[None]:
        """Random numbers of the seed, else new ones; those of the rest of the process stay as they were."""
        cards = [] if self.device == "cpu" else [self.device]
        with self._torch.random.fork_rng(devices=cards):
            if seed is None:
                self._torch.seed()
            else:
                self._torch.manual_seed(seed % 2**63)
            yield


class _StopWord(Exception):
    """One of the words came at which the answer ends."""


class _Words:
    """What `generate` tells its tokens, one by one; makes words of them as soon as they are whole."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], say: Callable[[str], None]) -> None:
        self.said: list[str] = []
        self.count = 0
        self.last: int | None = None
        self.stopped = False
        self._tokenizer, self._stop, self._say = tokenizer, [word for word in stop if word], say
        self._tokens: list[int] = []
        self._from = self._read = 0
        self._held = ""
        self._is_question = True

    def put(self, tokens: Any) -> None:
        """The question's tokens first, then each new one."""
        if self._is_question:
            self._is_question = False
            return
        new = tokens.flatten().tolist()
        self._tokens += new
        self.count, self.last = self.count + len(new), new[-1]
        self._tell(self._whole_words())

    def end(self) -> None:
        """No token follows."""
        self._tell(self._text(self._from)[len(self._text(self._from, self._read)) :], last=True)

    def _whole_words(self) -> str:
        """What the tokens add since the last time. A few before them are read again: some tokenizers write the space
        before a word only where there is a word before it."""
        before, now = self._text(self._from, self._read), self._text(self._from)
        if now.endswith(BROKEN_SIGN) and len(self._tokens) - self._read < LONGEST_SIGN:
            return ""
        self._from, self._read = self._read, len(self._tokens)
        return now[len(before) :]

    def _text(self, start: int, end: int | None = None) -> str:
        return str(self._tokenizer.decode(self._tokens[start:end], skip_special_tokens=True))

    def _tell(self, words: str, *, last: bool = False) -> None:
        """Say what cannot be the beginning of a stop word. Raises _StopWord."""
        self._held += words
        found = [place for word in self._stop if (place := self._held.find(word)) >= 0]
        if found:
            self._held, self.stopped = self._held[: min(found)], True
        kept = 0 if found or last else max((_begun(self._held, word) for word in self._stop), default=0)
        sure, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        if sure:
            self.said.append(sure)
            self._say(sure)
        if found:
            raise _StopWord


def _begun(text: str, word: str) -> int:
    """How many signs at the end of the text may be the beginning of the word."""
    return next((many for many in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:many])), 0)


def _choosing(wishes: Wishes) -> dict[str, Any]:
    """How `generate` is to choose, beside what the model's own settings say."""
    if wishes.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    asked = {"temperature": wishes.temperature, "top_p": wishes.top_p}
    given = {name: value for name, value in asked.items() if value is not None}
    return {"do_sample": True, **given} if given else {}


def _part(part: str | Picture) -> dict[str, Any]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part}


def _without_videos(transformers: Any, config: Any) -> Any:
    """The model's processor, but for what makes videos ready: that needs torchvision, and no video comes here."""
    kind = transformers.models.auto.processing_auto.PROCESSOR_MAPPING.get(type(config), None)
    if kind is None:
        raise InvalidModel("it is no model of words and pictures", why=f"its type is {config.model_type!r}")
    parts = [part for part in kind.get_attributes() if "video" not in part]
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda _: parts)})


def _most_tokens(config: Any) -> int | None:
    """How many tokens question and answer may have together, as far as the configuration says."""
    said = getattr(config.get_text_config(), "max_position_embeddings", None)
    return said if isinstance(said, int) and said > 0 else None


def _end_marks(model: Any) -> tuple[int, ...]:
    said = model.generation_config.eos_token_id
    return tuple(said) if isinstance(said, (list, tuple)) else (said,)


@contextlib.contextmanager
def _silently(transformers: Any) -> Iterator[None]:
    """Without a bar on the terminal; who uses transformers beside us keeps theirs."""
    logging_of = transformers.utils.logging
    shown = logging_of.is_progress_bar_enabled()
    logging_of.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging_of.enable_progress_bar()


@contextlib.contextmanager
def _as_ours(name: str) -> Iterator[None]:
    """What transformers raises for a folder that it cannot use, as InvalidModel."""
    try:
        yield
    except MissingDependency:
        raise
    except SensoriumError as error:
        raise InvalidModel(f"Model {name} cannot be used", why=str(error).rstrip(".")) from error
    except Exception as error:
        fix = "Get the folder again; `pip list` says whether transformers knows such models"
        raise InvalidModel(f"Model {name} cannot be loaded", why=_first_line(error), fix=fix) from error


def _template_error() -> type[Exception]:
    error: type[Exception] = need("jinja2", for_what="fill a chat template").TemplateError
    return error


def _first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return said[0][:300] if said else type(error).__name__


def _nothing() -> None:
    """Nobody has left."""
