"""Files with which sentence-transformers opens a serving checkpoint and gives the same vectors.

Without them it opens the folder, too, and without a warning: as mean pooling without a prompt,
whose vectors have a cosine of 0.28 to 0.87 to the right ones. Releases that know no pictures lack
the classes that `modules.json` names, and so they refuse the folder.

The files change no vector of ours, so the profile does not list them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lensemble.preprocess.prompt import with_final_punctuation
from lensemble.profile import Profile

_PACKAGE = "sentence_transformers"
_MODULES = (
    ("", f"{_PACKAGE}.base.modules.transformer.Transformer"),
    ("1_Pooling", f"{_PACKAGE}.sentence_transformer.modules.pooling.Pooling"),
    ("2_Normalize", f"{_PACKAGE}.base.modules.normalize.Normalize"),
)
_POOLING = {"last_token": "lasttoken", "mean": "mean"}  # nosec B105
_FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}

# The prompt of `lensemble.preprocess.prompt`: the instruction, then the pictures, then the text.
# The words in capitals are replaced.
_TEMPLATE = """\
{%- macro text_of(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- for part in content if 'text' in part -%}{{- part.text -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set given = namespace(instruction='') -%}
{%- for message in messages if message.role == 'system' -%}
{%- set given.instruction = text_of(message.content) | trim -%}
{%- endfor -%}
{%- set instruction = given.instruction or INSTRUCTION -%}
{%- if instruction -%}
{{- '<|im_start|>system\\n' + instruction + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages if message.role != 'system' -%}
{{- '<|im_start|>user\\n' -}}
{%- if message.content is not string -%}
{%- for part in message.content if part.type == 'image' or 'image' in part -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- endfor -%}
{%- endif -%}
{{- text_of(message.content) + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- END -}}
"""


def write_sentence_transformers_files(profile: Profile, folder: Path) -> None:
    """Writes the files into the folder of a serving checkpoint, and replaces older ones.

    Args:
        profile: profile of the checkpoint.
        folder: folder of the checkpoint.
    """
    for name, content in _files(profile).items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _files(profile: Profile) -> dict[str, Any]:
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": kind}
        for number, (path, kind) in enumerate(_MODULES)
    ]
    message = {**_FORWARD, "format": "structured"}
    transformer = {
        "transformer_task": "feature-extraction",
        "max_seq_length": profile.max_tokens,
        "modality_config": {"text": _FORWARD, "image": _FORWARD, "message": message},
        "module_output_name": "token_embeddings",
        "processing_kwargs": {
            # The template has the final token if the prompt has it; the tokenizer must add none.
            "text": {"add_special_tokens": False},
            "image": {
                "size": {
                    "shortest_edge": profile.image.min_pixels,
                    "longest_edge": profile.image.max_pixels,
                }
            },
            "chat_template": {"chat_template": chat_template(profile)},
        },
    }
    return {
        "modules.json": modules,
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "sentence_bert_config.json": transformer,
        "1_Pooling/config.json": {
            "embedding_dimension": profile.dimension,
            "pooling_mode": _POOLING[profile.pooling],
            "include_prompt": True,
        },
    }


def chat_template(profile: Profile) -> str:
    """The profile's prompt as a Jinja template of messages.

    A system message replaces the profile's instruction, unless it is blank.

    Args:
        profile: profile of the checkpoint.
    """
    end = "<|im_start|>assistant\n" if profile.prompt.generation_prompt else ""
    end += "<|endoftext|>" if profile.prompt.append_endoftext else ""
    instruction = with_final_punctuation(profile.prompt.instruction)
    replaced = _TEMPLATE.replace("INSTRUCTION", json.dumps(instruction, ensure_ascii=False))
    return replaced.replace("END -}}", f"{json.dumps(end)} -}}}}")
