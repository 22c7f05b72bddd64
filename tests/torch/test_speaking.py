"""Models of three architectures, asked in this thread."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sensorium.errors import (
    ContextTooLong,
    DeviceUnavailable,
    InvalidModel,
    InvalidRequest,
    OutOfDeviceMemory,
    SensoriumError,
)
from sensorium.runtimes import torch_device
from sensorium.runtimes.turns import Left
from sensorium.runtimes.vision_language import Conversation, Said, Speaker, Wishes
from tests.torch.tiny import CONTEXT, altered, qwen3_vl

PICTURE = Image.new("RGB", (96, 64), "red")
SURELY = Wishes(max_tokens=12, temperature=0)
QUESTION: Conversation = [("user", [PICTURE, "What is this?"])]


@pytest.fixture(scope="module", params=["qwen3", "qwen25", "llava"])
def speaker(request: pytest.FixtureRequest) -> Iterator[Speaker]:
    opened = Speaker(request.getfixturevalue(request.param), "tiny@1", device="cpu", threads=1)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def qwen(qwen3: Path) -> Iterator[Speaker]:
    opened = Speaker(qwen3, "tiny@1", device="cpu", threads=1)
    yield opened
    opened.close()


def heard(speaker: Speaker, wishes: Wishes, conversation: Any = QUESTION) -> tuple[Said, list[str]]:
    words: list[str] = []
    return speaker.answer(conversation, wishes, words.append), words


def test_an_answer_is_told_word_by_word_and_counted(speaker: Speaker) -> None:
    said, words = heard(speaker, SURELY)
    assert said.text.isalpha()
    assert "".join(words) == said.text
    assert len(words) == said.output_tokens == 12
    assert said.cut
    assert said.image_tokens is not None
    assert 0 < said.image_tokens < said.input_tokens


def test_without_temperature_equal_questions_get_equal_answers(speaker: Speaker) -> None:
    assert heard(speaker, SURELY) == heard(speaker, SURELY)


def test_another_picture_gets_another_answer(speaker: Speaker) -> None:
    other = Image.effect_noise((96, 64), 90).convert("RGB")
    long = Wishes(max_tokens=40, temperature=0)
    assert heard(speaker, long)[0].text != heard(speaker, long, [("user", [other, "What is this?"])])[0].text


def test_equal_seeds_get_equal_answers_and_none_gets_new_ones(speaker: Speaker) -> None:
    def said(seed: int | None) -> str:
        return heard(speaker, Wishes(max_tokens=20, temperature=1.5, top_p=0.99, seed=seed))[0].text

    assert said(7) == said(7) != said(8)
    assert said(-1) == said(-1)
    assert said(None) != said(None)


def test_choosing_leaves_the_random_numbers_of_others_alone(qwen: Speaker) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    heard(qwen, Wishes(max_tokens=4, temperature=1.0, seed=9))
    assert torch.equal(torch.rand(4), expected)


def test_several_pictures_and_turns_are_all_told(speaker: Speaker) -> None:
    one, _ = heard(speaker, SURELY)
    many, _ = heard(speaker, SURELY, [*QUESTION, ("assistant", ["red"]), ("user", [PICTURE, PICTURE, "And these?"])])
    assert one.image_tokens is not None
    assert many.image_tokens == 3 * one.image_tokens
    words, _ = heard(speaker, SURELY, [("user", ["Hello"])])
    assert words.image_tokens == 0


def test_what_users_say_writes_no_control_token(speaker: Speaker) -> None:
    marks = "<|im_end|><|image_pad|></s><image><s>"
    plain, _ = heard(speaker, SURELY, [("user", [PICTURE, "?" * len(marks)])])
    marked, _ = heard(speaker, SURELY, [("user", [PICTURE, marks])])
    assert marked.image_tokens == plain.image_tokens
    assert marked.input_tokens == plain.input_tokens, "each sign is a token of its own"


def test_a_tokenizer_that_writes_the_mark_of_the_beginning_writes_it_once(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker = Speaker(request.getfixturevalue("llava"), "tiny@1", device="cpu")
    asked: list[Any] = []
    generate = speaker._model.generate

    def seen(**told: Any) -> Any:
        asked.append(told["input_ids"])
        return generate(**told)

    monkeypatch.setattr(speaker._model, "generate", seen)
    heard(speaker, SURELY, [("user", ["Hello"])])
    (tokens,) = asked[0].tolist()
    assert [place for place, token in enumerate(tokens) if token == speaker._tokenizer.bos_token_id] == [0]


def test_a_stop_word_ends_the_answer_and_is_not_said(qwen: Speaker) -> None:
    whole, _ = heard(qwen, SURELY)
    stop = whole.text[4:7]
    place = whole.text.index(stop)
    said, words = heard(qwen, Wishes(max_tokens=12, temperature=0, stop=("nothing", stop)))
    assert said.text == "".join(words) == whole.text[:place]
    assert not said.cut
    assert said.output_tokens == place + 3


def test_what_may_begin_a_stop_word_is_said_when_it_does_not(qwen: Speaker) -> None:
    whole, _ = heard(qwen, SURELY)
    never = whole.text[2:5] + "#"
    assert heard(qwen, Wishes(max_tokens=12, temperature=0, stop=(never,)))[0].text == whole.text
    at_the_end = whole.text[-2:] + "#"
    assert heard(qwen, Wishes(max_tokens=12, temperature=0, stop=(at_the_end,)))[0].text == whole.text


def test_a_model_that_is_done_is_not_cut(tmp_path: Path) -> None:
    folder = qwen3_vl(tmp_path / "brief")
    end = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    altered(folder, "generation_config.json", suppress_tokens=[token for token in range(263) if token != end])
    speaker = Speaker(folder, "brief@1", device="cpu")
    said, words = heard(speaker, SURELY)
    assert (said.text, words, said.cut, said.output_tokens) == ("", [], False, 1)


def test_signs_of_several_tokens_are_told_whole(tmp_path: Path) -> None:
    folder = qwen3_vl(tmp_path / "bytes")
    altered(folder, "generation_config.json", suppress_tokens=None)
    speaker = Speaker(folder, "bytes@1", device="cpu")
    signs = "你é😀"

    def say_signs(**told: Any) -> None:
        told["streamer"].put(told["input_ids"])
        for token in speaker._tokenizer(signs)["input_ids"]:
            told["streamer"].put(torch.tensor([token]))
        told["streamer"].put(torch.tensor([speaker._tokenizer("你")["input_ids"][0]]))
        told["streamer"].end()

    speaker._model.generate = say_signs
    said, words = heard(speaker, SURELY)
    assert words == ["你", "é", "😀", "\ufffd"]
    assert said.text == signs + "\ufffd"


def test_a_question_that_is_too_long_is_refused_before_the_model_runs(qwen: Speaker) -> None:
    ran: list[int] = []
    hook = qwen._model.register_forward_pre_hook(lambda *_: ran.append(1))
    with pytest.raises(ContextTooLong, match=f"may have {CONTEXT:,}"):
        heard(qwen, SURELY, [("user", ["x" * CONTEXT])])
    hook.remove()
    assert not ran


def test_an_answer_ends_where_there_is_no_room_for_more(qwen: Speaker) -> None:
    said, _ = heard(qwen, Wishes(max_tokens=10_000, temperature=0), [("user", ["x" * (CONTEXT - 100)])])
    assert said.cut
    assert said.input_tokens + said.output_tokens == CONTEXT


def test_the_card_may_allow_fewer_tokens(qwen3: Path) -> None:
    speaker = Speaker(qwen3, "tiny@1", device="cpu", context=100)
    with pytest.raises(ContextTooLong, match="may have 100"):
        heard(speaker, SURELY, [("user", ["x" * 100])])


def test_who_leaves_ends_the_work_within_a_layer(qwen: Speaker) -> None:
    looks = 0

    def leave_at_the_third() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Left

    layers: list[Any] = []
    hooks = [
        layer.register_forward_hook(lambda *_: layers.append(1)) for layer in qwen._model.model.language_model.layers
    ]
    with pytest.raises(Left):
        qwen.answer(QUESTION, SURELY, lambda _: None, leave_at_the_third)
    assert looks == 3
    assert not layers, "it was left while it looked at the picture"
    assert heard(qwen, SURELY)[0].output_tokens == 12
    for hook in hooks:
        hook.remove()


def test_pictures_of_a_shape_that_the_model_does_not_take_are_refused(qwen: Speaker) -> None:
    with pytest.raises(InvalidRequest, match="aspect ratio"):
        heard(qwen, SURELY, [("user", [Image.new("RGB", (2000, 4)), "?"])])


def test_a_conversation_that_the_template_refuses_is_refused(llava: Path) -> None:
    speaker = Speaker(llava, "tiny@1", device="cpu")
    with pytest.raises(InvalidRequest, match="takes no system prompt"):
        heard(speaker, SURELY, [("system", ["Be brief"]), ("user", ["Hello"])])


def test_nothing_is_asked_of_the_network(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it went out")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    heard(Speaker(qwen3, "tiny@1", device="cpu"), SURELY)


def spoilt_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")


def spoilt_part(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.bin")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "weights.bin"}}')


def spoilt_way_out(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../weights.safetensors"}}')


def spoilt_missing_part(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')


def spoilt_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)


def spoilt_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def spoilt_code(folder: Path) -> None:
    altered(folder, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text("raise SystemExit('it ran')")


def spoilt_kind(folder: Path) -> None:
    altered(folder, "config.json", model_type="bert", architectures=["BertModel"])


def spoilt_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/etc"}')


def spoilt_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoilt_pickle, "pytorch_model.bin is a pickle"),
        (spoilt_part, "'weights.bin' is not safetensors"),
        (spoilt_way_out, "leads out of the model's folder"),
        (spoilt_missing_part, "model-2.safetensors is not there"),
        (spoilt_index, "cannot be read"),
        (spoilt_weights, "cannot be loaded"),
        (spoilt_code, "cannot be loaded"),
        (spoilt_kind, "no model of words and pictures"),
        (spoilt_adapter, "it is an adapter"),
        (spoilt_template, "no chat template"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tiny@1 cannot be"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "tiny@1 cannot be"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(copy: Path, spoil: Any, said: str) -> None:
    spoil(copy)
    with pytest.raises(InvalidModel, match=said):
        Speaker(copy, "tiny@1", device="cpu")


def test_a_pickle_beside_safetensors_is_not_read(copy: Path) -> None:
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert heard(Speaker(copy, "tiny@1", device="cpu"), SURELY)[0].output_tokens == 12


def test_numbers_are_those_of_the_device_or_of_the_card(qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Speaker(qwen3, "tiny@1", device="cpu")._model.dtype == torch.float32
    half = Speaker(qwen3, "tiny@1", device="cpu", dtype="bfloat16")
    assert half._model.dtype == torch.bfloat16
    assert heard(half, SURELY)[0].output_tokens == 12
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert torch_device.numbers(torch, "cuda:0") == torch.float16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert torch_device.numbers(torch, "cuda:0") == torch.bfloat16


def test_the_device_is_chosen_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device.chosen(torch, "auto") == "cpu"
    with pytest.raises(DeviceUnavailable, match="finds no graphics card"):
        torch_device.chosen(torch, "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [torch_device.chosen(torch, device) for device in ("auto", "cuda", "cuda:1", "cpu")] == [
        "cuda:0",
        "cuda:0",
        "cuda:1",
        "cpu",
    ]
    with pytest.raises(DeviceUnavailable, match="there are 2"):
        torch_device.chosen(torch, "cuda:2")


def test_a_model_that_does_not_fit_on_the_graphics_card_goes_to_the_processor_and_says_so(
    qwen3: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    moved = torch.nn.Module.to

    def full(self: Any, device: Any, *rest: Any) -> Any:
        if str(device).startswith("cuda"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return moved(self, device, *rest)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with caplog.at_level(logging.WARNING, "sensorium.device"):
        speaker = Speaker(qwen3, "tiny@1")
    assert speaker.device == "cpu"
    assert speaker._model.dtype == torch.float32
    assert [(skipped.engine, skipped.code) for skipped in speaker.skipped] == [
        ("tiny@1 on cuda:0", "out_of_device_memory")
    ]
    assert "goes on on the processor" in caplog.text
    assert heard(speaker, SURELY)[0].output_tokens == 12


def test_a_question_that_fills_the_graphics_card_fails_alone(qwen: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(qwen._model, "generate", full)
        with pytest.raises(OutOfDeviceMemory, match="fewer or smaller pictures") as caught:
            heard(qwen, SURELY)
    assert isinstance(caught.value, SensoriumError)
    assert caught.value.retryable
    assert heard(qwen, SURELY)[0].output_tokens == 12
