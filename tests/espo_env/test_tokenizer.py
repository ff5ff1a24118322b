from __future__ import annotations

import json
import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

from espo_env import Tokenizer


@given(text=st.text("ab\n +", max_size=20))
def test_symbols_come_back_as_they_were_written(text):
    tokenizer = Tokenizer.from_symbols("ab\n +")
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    assert tokenizer.decode([*tokens, tokenizer.eos_token_id]) == text


@settings(max_examples=40)
@given(text=st.text(max_size=20))
def test_bytes_express_any_text(text):
    text = text.encode("utf-8", "replace").decode()
    tokenizer = Tokenizer.from_bytes()
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text.encode())
    assert tokenizer.decode(tokens) == text
    assert tokenizer.vocab_size == 257


def test_the_end_token_is_shown_to_people_but_is_no_text():
    tokenizer = Tokenizer.from_symbols("ab")
    assert (tokenizer.vocab_size, tokenizer.eos_token_id) == (3, 0)
    assert tokenizer.token(0) == "<eos>"
    assert tokenizer.decode([1, 0]) == "a"


def test_text_beyond_the_vocabulary_is_named():
    with pytest.raises(ValueError, match="the vocabulary of 3 tokens can express, got 'x', 'é' in 'axbéx'"):
        Tokenizer.from_symbols("ab").encode("axbéx")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (models.WordLevel({"<eos>": 0, "<unk>": 1, "one": 2}, unk_token="<unk>"), "one two one"),
        (models.WordPiece({"<eos>": 0, "<unk>": 1, "one": 2}, unk_token="<unk>"), "one two one"),
        (models.BPE({"<eos>": 0, "<unk>": 1, "o": 2}, [], unk_token="<unk>"), "o two o"),
        (models.Unigram([("<unk>", 0.0), ("one", -1.0), ("<eos>", -2.0)], unk_id=0), "one two one"),
    ],
)
def test_unknown_tokens_of_other_models_are_named_too(model, text):
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = Tokenizer(backend, "<eos>")
    assert tokenizer.encode(text.split()[0])
    with pytest.raises(ValueError, match=f"got 't.*in '{text}'"):
        tokenizer.encode(text)


@pytest.mark.parametrize("symbols", ["aa", ["ab"], ["a", ""]])
def test_symbols_are_different_single_characters(symbols):
    with pytest.raises(ValueError, match="expected different single characters, got"):
        Tokenizer.from_symbols(symbols)


@pytest.mark.parametrize("tokenizer", [Tokenizer.from_symbols("01+=\n "), Tokenizer.from_bytes()])
def test_a_saved_folder_is_read_here_and_by_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    text = "10+1=\n 1"
    tokenizer.save_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = tokenizer.encode(text)
    assert ours.encode(text) == pickle.loads(pickle.dumps(tokenizer)).encode(text) == expected
    assert theirs.encode(text, add_special_tokens=False) == expected
    assert theirs.decode([*expected, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert (ours.eos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (tokenizer.eos_token_id,) * 3


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False}])
def test_both_forms_of_the_end_token_are_read(eos, tmp_path):
    backend = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "a": 1}))
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos}))
    assert Tokenizer.from_pretrained(tmp_path).eos_token_id == 0


def test_folders_without_tokenizer_or_end_token_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a model folder with a tokenizer.json, got '.*nowhere'"):
        Tokenizer.from_pretrained(tmp_path / "nowhere")
    tokenizers.Tokenizer(models.WordLevel({"a": 0})).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=f"{tmp_path}: expected a tokenizer with an end-of-sequence token, got"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(ValueError, match="expected an end-of-sequence token out of the vocabulary, got '</s>'"):
        Tokenizer.from_pretrained(tmp_path)
