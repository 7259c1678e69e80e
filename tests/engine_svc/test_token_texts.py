from __future__ import annotations

from typing import Any

import tokenizers
import transformers

from engine_svc import token_texts
from engine_svc.detokenizer import ByteDetokenizer, ContextDetokenizer
from engine_svc.tokenizer import Tokenizer

FAST: Any = transformers.PreTrainedTokenizerFast


def byte_level(*added: str) -> Tokenizer:
    """A byte-level vocabulary without merges, with added tokens and an end of sequence."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_tokens(list(added))
    special = {"eos_token": "</s>"}
    return Tokenizer(FAST(tokenizer_object=backend, **special))


def test_every_token_of_the_default_model_has_its_text(tokenizer: Tokenizer) -> None:
    texts = token_texts.of_tokenizer(tokenizer, 49_152)
    assert len(texts.whole) == 49_152
    for token_id, text in enumerate(texts.whole):
        alone = tokenizer.decode([token_id])
        assert text == alone if text is not None else "\N{REPLACEMENT CHARACTER}" in alone


def test_a_special_token_has_no_text_and_an_added_one_its_own(tokenizer: Tokenizer) -> None:
    texts = token_texts.of_tokenizer(byte_level("a b", "日本", "éé"), 400)
    own = byte_level("a b", "日本", "éé")
    ids: dict[str, int] = own._tokenizer.get_vocab()
    assert texts.whole[ids["</s>"]] == ""
    assert texts.whole[ids["a b"]] == "a b"
    assert texts.whole[ids["日本"]] == "日本"
    # Characters that stand for bytes stand for bytes in an added token, too.
    assert texts.whole[ids["éé"]] is None
    assert isinstance(texts.detokenizer(), ByteDetokenizer)


def test_ids_beyond_the_vocabulary_have_no_text() -> None:
    texts = token_texts.of_tokenizer(byte_level(), 300)
    assert texts.whole[299] == ""
    assert texts.detokenizer().feed(299) == ""


def test_a_vocabulary_of_another_kind_is_decoded_in_context() -> None:
    words: Any = tokenizers.models.WordLevel({"a": 0, "b": 1}, "a")
    backend = tokenizers.Tokenizer(words)
    tokenizer = Tokenizer(FAST(tokenizer_object=backend))
    texts = token_texts.of_tokenizer(tokenizer, 2)
    assert list(texts.whole) == [None, None]
    detokenizer = texts.detokenizer()
    assert isinstance(detokenizer, ContextDetokenizer)
    assert [detokenizer.feed(each) for each in (0, 1, 0)] == ["a", " b", " a"]
