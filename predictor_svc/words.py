"""Token ids of text from a memory of words: a library's answer, looked up.

Owns when that is allowed: a BERT tokenizer treats what stands between two spaces by itself,
so what it has split once need not be split again. A prompt of 128 tokens takes a twentieth of
the library's time. Text that could hold special tokens is the library's. Called by `encoder`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Final

from tokenizers import Tokenizer

Ids = tuple[int, ...]
"""Of a word. A tuple of numbers, unlike a list, is nothing to the garbage collector."""

MOST_WORDS: Final = 100_000
"""Words remembered; then all are forgotten and learnt anew."""
LONGEST_WORD: Final = 40
"""Characters of a word that is remembered: longer ones are hardly words."""
_PIECES = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9]")
_NO_SPACES = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85")
"""Control characters, which the tokenizer removes and at which `str.split` would split."""


class WordMemory:
    """Encodes texts one by one as `tokenizer.encode_batch_fast` would, without special tokens.

    One object serves all threads: entries are only added, and forgetting starts a new memory.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._special = re.compile("|".join(map(re.escape, added)) or r"(?!)", re.IGNORECASE)
        self._by_word = _splits_by_word(tokenizer)
        self._known: dict[str, Ids] = {}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        found = [self._remembered(text) for text in texts]
        others = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        if not others:
            return [ids for ids in found if ids is not None]
        encodings = self._tokenizer.encode_batch_fast(others, add_special_tokens=False)
        encoded = iter(encodings)
        return [next(encoded).ids if ids is None else ids for ids in found]

    def _remembered(self, text: str) -> list[int] | None:
        """None for a text that is not only words."""
        if not self._by_word or any(each in text for each in _NO_SPACES):
            return None
        if self._special.search(text):
            return None
        words = text.split()
        known = self._known
        ids: list[int] = []
        try:
            for word in words:
                ids += known[word]
        except KeyError:
            return self._learnt(words)
        return ids

    def _learnt(self, words: Sequence[str]) -> list[int]:
        """Their ids; those of them that are short are remembered from now on."""
        known = self._known if len(self._known) < MOST_WORDS else {}
        pieces = {word: _pieces(word) for word in dict.fromkeys(words) if word not in known}
        all_pieces = dict.fromkeys(chain.from_iterable(pieces.values()))
        new = self._split([piece for piece in all_pieces if piece not in known])
        for word, parts in pieces.items():
            split = [new[part] if part in new else known[part] for part in parts]
            new[word] = tuple(chain.from_iterable(split))
        ids = [new[word] if word in new else known[word] for word in words]
        known.update({word: new[word] for word in new if len(word) <= LONGEST_WORD})
        self._known = known
        return list(chain.from_iterable(ids))

    def _split(self, parts: list[str]) -> dict[str, Ids]:
        """Each part's ids, of the library in one call."""
        if not parts:
            return {}
        encoding = self._tokenizer.encode(parts, is_pretokenized=True, add_special_tokens=False)
        split: list[list[int]] = [[] for _ in parts]
        for number, token in zip(encoding.word_ids, encoding.ids, strict=True):
            if number is not None:  # always: special tokens alone belong to no word
                split[number].append(token)
        return dict(zip(parts, map(tuple, split), strict=True))


def _pieces(word: str) -> list[str]:
    """What the tokenizer treats by itself within a word: letters and digits, each other sign."""
    return _PIECES.findall(word) if word.isascii() and word.isprintable() else [word]


def _splits_by_word(tokenizer: Tokenizer) -> bool:
    """Whether it is a BERT tokenizer, whose words do not touch one another."""
    form = json.loads(tokenizer.to_str())
    normalizer, splitter = form["normalizer"] or {}, form["pre_tokenizer"] or {}
    return bool(
        form["model"]["type"] == "WordPiece"
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("clean_text")
        and splitter.get("type") == "BertPreTokenizer"
    )
