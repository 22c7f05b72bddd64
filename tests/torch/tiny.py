"""Models of real architectures that fit into a megabyte: random weights, and a tokenizer whose words are bytes.

Their settings let them say small letters alone, so that what they say is text.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

CONTEXT = 2048
MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<s>")
LETTERS = {97 + number for number in range(26)}

QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}{{ raise_exception('This model takes no system prompt') }}{% endif %}"
    "{{ message.role.upper() }}: "
    "{% for part in message.content %}{% if part.type == 'image' %}<image>\n{% else %}{{ part.text }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}


def qwen3_vl(folder: Path, **settings: Any) -> Path:
    tokenizer = _tokenizer(*MARKS)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 16,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {**TEXT, "head_dim": 8, "vocab_size": len(tokenizer), "rope_parameters": rope}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, **_marks(tokenizer))
    _preprocessor(folder, "Qwen3VLProcessor", patch_size=16, merge_size=2)
    return _saved(folder, Qwen3VLForConditionalGeneration, config, tokenizer, QWEN_TEMPLATE, **settings)


def qwen2_5_vl(folder: Path, **settings: Any) -> Path:
    tokenizer = _tokenizer(*MARKS)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope, "bos_token_id": None, "eos_token_id": None}
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_marks(tokenizer))
    _preprocessor(folder, "Qwen2_5_VLProcessor", patch_size=14, merge_size=2)
    return _saved(folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer, QWEN_TEMPLATE, **settings)


def llava_1_5(folder: Path, **settings: Any) -> Path:
    """LLaVA 1.5: pictures of one size, a template without the mark of the beginning, which its tokenizer adds."""
    tokenizer = _tokenizer("<s>", "</s>", "<image>", begins_with="<s>")
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
            "size": {"shortest_edge": 56},
            "crop_size": {"height": 56, "width": 56},
        },
    )
    _write(
        folder / "processor_config.json",
        {
            "processor_class": "LlavaProcessor",
            "patch_size": 14,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    )
    return _saved(folder, LlavaForConditionalGeneration, config, tokenizer, LLAVA_TEMPLATE, **settings)


def installed(models_dir: Path, name: str, folder: Path, *, card: str = "", tables: str = "") -> Path:
    """A models folder with this model in it, by a card written by hand."""
    models_dir.mkdir(parents=True, exist_ok=True)
    shutil.copytree(folder, models_dir / name)
    (models_dir / f"{name}.toml").write_text(
        f'name = "{name}"\nkind = "transformers"\ntasks = ["ask"]\nlicence = "MIT"\n{card}\n'
        f'[weights]\nfile = "{name}/model.safetensors"\n{tables}\n',
        encoding="utf-8",
    )
    return models_dir


def altered(folder: Path, name: str, **values: Any) -> None:
    """Other values in a JSON file of a model."""
    path = folder / name
    _write(path, {**json.loads(path.read_text(encoding="utf-8")), **values})


def _saved(folder: Path, kind: Any, config: Any, tokenizer: Any, template: str, *, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = kind(config)
    ends = tokenizer.eos_token_id
    quiet = [number for number in range(len(tokenizer)) if number not in LETTERS]
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.9, eos_token_id=ends, pad_token_id=ends, suppress_tokens=quiet
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def _tokenizer(*marks: str, begins_with: str = "") -> PreTrainedTokenizerFast:
    # The 256 signs that stand for bytes, in the order of the bytes, as far as these have signs of their own.
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = {chr(number): number for number in range(33, 127)}
    others = [sign for sign in signs if sign not in plain]
    free = [number for number in range(256) if number not in plain.values()]
    made = Tokenizer(models.BPE(vocab={**plain, **dict(zip(others, free, strict=True))}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(marks))
    if begins_with:
        made.post_processor = processors.TemplateProcessing(
            single=f"{begins_with} $A", special_tokens=[(begins_with, made.token_to_id(begins_with))]
        )
    end = "</s>" if "</s>" in marks else "<|im_end|>"
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=end, pad_token=end, bos_token=begins_with or None)


def _marks(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {field: tokenizer.convert_tokens_to_ids(mark) for field, mark in names.items()}


def _preprocessor(folder: Path, processor: str, **values: Any) -> None:
    """As the models' own folders have it, with smaller pictures."""
    told = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": processor,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 32 * 32, "longest_edge": 128 * 128},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **values,
    }
    _write(folder / "preprocessor_config.json", told)
    _write(folder / "video_preprocessor_config.json", {**told, "video_processor_type": "Qwen3VLVideoProcessor"})


def _write(path: Path, told: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told), encoding="utf-8")
