"""How a problem becomes a prompt.

- :data:`TEMPLATES`: wordings by name.
- :class:`PromptTemplate`: a wording, alone or in the model's own chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["TEMPLATES", "PromptTemplate"]

TEMPLATES: dict[str, str] = {
    "plain": "{problem}",
    "boxed": "{problem}\nPlease reason step by step, and put your final answer within \\boxed{}.\n",
    "question": "Question: {problem}\nAnswer:",
    "dapo": (
        "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
        "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{problem}\n\n"
        'Remember to put your answer on its own line after "Answer:".'
    ),
}
"""Name -> wording; ``{problem}`` stands for the problem."""


class PromptTemplate:
    """Turns problems into prompts.

    Args:
        template: The name of a wording, or a wording of one's own with ``{problem}`` in it. ``"chat"`` puts the
            default wording into the model's chat template, ``"chat:<wording>"`` another one.
        default: Name of the default wording.
        model: Model folder, whose ``chat_template.jinja`` or ``tokenizer_config.json`` has the chat template.

    Raises:
        ValueError: If the wording is unknown, or the model has no chat template.
        ImportError: If a chat template is asked for and jinja2 is not installed (extra ``math``).
    """

    def __init__(self, template: str | None, default: str, model: str | Path) -> None:
        name = default if template is None else template
        kind, _, wording = name.partition(":")
        self._chat: Callable[[str], str] | None = None
        if kind == "chat":
            self._chat = _chat_template(Path(model))
            name = wording or default
        self._wording = TEMPLATES.get(name, name)
        if "{problem}" not in self._wording:
            names = [*TEMPLATES, "chat"]
            raise ValueError(f"expected a template out of {names} or a text with '{{problem}}' in it, got {template!r}")

    def __call__(self, problem: str) -> str:
        """The prompt."""
        prompt = self._wording.replace("{problem}", problem)
        return prompt if self._chat is None else self._chat(prompt.strip())


def _chat_template(model: Path) -> Callable[[str], str]:
    """Renders one user message as ``transformers`` does, without importing it."""
    try:
        from jinja2.exceptions import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ImportError("a model's chat template needs the package jinja2: pip install 'espo[math]'") from None
    config_file, template_file = model / "tokenizer_config.json", model / "chat_template.jinja"
    config: dict[str, Any] = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
    source = template_file.read_text("utf-8") if template_file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several templates, each with a name
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    if not source:
        raise ValueError(f"expected a chat template in {template_file} or {config_file}, got none")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    template = environment.from_string(source)
    # Special tokens are texts, or objects with the text in "content".
    special = {
        name: value["content"] if isinstance(value, dict) else value
        for name, value in config.items()
        if name.endswith("_token") and isinstance(value, str | dict)
    }
    return lambda text: template.render(
        messages=[{"role": "user", "content": text}], add_generation_prompt=True, **special
    )
