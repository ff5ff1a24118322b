from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from espo_env.tasks.templates import PromptTemplate
from espo_env.tokenizer import Tokenizer

CHATML = """{%- if messages[0].role != 'system' -%}
<|im_start|>system
You are helpful.<|im_end|>
{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}{{ bos_token }}"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    Tokenizer.from_bytes().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8")) | {"bos_token": "<eos>", "chat_template": CHATML}
    file.write_text(json.dumps(config), "utf-8")
    return tmp_path


def test_wordings_by_name(model):
    assert PromptTemplate(None, "question", model)("1+1?") == "Question: 1+1?\nAnswer:"
    assert PromptTemplate("plain", "question", model)("{x} 1+1?") == "{x} 1+1?"
    assert PromptTemplate("Q {problem} A", "question", model)("1+1?") == "Q 1+1? A"
    assert PromptTemplate("dapo", "plain", model)("1+1?").startswith("Solve the following math problem step by step.")


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja", "list"])
def test_chat_templates_are_rendered_as_transformers_does(model, where):
    transformers = pytest.importorskip("transformers")
    file = model / "tokenizer_config.json"
    config = json.loads(file.read_text("utf-8"))
    if where == "chat_template.jinja":
        (model / where).write_text(config.pop("chat_template"), "utf-8")
    elif where == "list":
        config["chat_template"] = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "x"}]
    file.write_text(json.dumps(config), "utf-8")
    ours = PromptTemplate("chat:boxed", "plain", model)("What is 1+1?")
    question = "What is 1+1?\nPlease reason step by step, and put your final answer within \\boxed{}."
    messages = [{"role": "user", "content": question}]
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert ours == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert question in ours


def test_the_chat_template_takes_the_default_wording(model):
    assert "Question: 1+1?\nAnswer:<|im_end|>" in PromptTemplate("chat", "question", model)("1+1?")


def test_a_model_without_a_chat_template_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"expected a chat template in .*chat_template.jinja"):
        PromptTemplate("chat", "plain", tmp_path)


def test_a_chat_template_runs_in_a_sandbox(model):
    (model / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}", "utf-8")
    render = PromptTemplate("chat", "plain", model)
    with pytest.raises(Exception, match=r"unsafe|undefined"):
        render("1+1?")


def test_without_jinja2_the_extra_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    with pytest.raises(ImportError, match=r"espo\[math\]"):
        PromptTemplate("chat", "plain", model)
