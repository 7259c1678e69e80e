"""Token ids of plain ASCII text from a memory of words: a library's answer, looked up.

Owns when that is allowed: an uncased BERT tokenizer treats every word of ASCII text by
itself, so words that it has split once need not be split again. A prompt of 128 tokens
takes a tenth of the library's time. Whatever else a text may hold (accents, control
characters, special tokens) is the library's. Called by `encoder`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Final

from tokenizers import Tokenizer

MOST_WORDS: Final = 100_000
"""Words remembered; then all are forgotten and learnt anew."""
LONGEST_WORD: Final = 40
"""Characters of a word that is remembered: longer ones are hardly words."""
_WORDS = re.compile(r"[a-z0-9]+|[^a-z0-9\s]")
_UNUSUAL = re.compile(r"[^\t\n\r -~]")


class WordMemory:
    """Encodes texts one by one as `tokenizer.encode_batch_fast` would, without special tokens.

    One object serves all threads: entries are only added, and forgetting starts a new memory.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._special = re.compile("|".join(map(re.escape, added)) or r"(?!)", re.IGNORECASE)
        self._by_word = _splits_by_word(tokenizer)
        self._known: dict[str, list[int]] = {}

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text."""
        found = [self._remembered(text) for text in texts]
        others = [index for index, ids in enumerate(found) if ids is None]
        encoded = iter(self._encoded([texts[index] for index in others]))
        return [next(encoded) if ids is None else ids for ids in found]

    def _remembered(self, text: str) -> list[int] | None:
        """None for a text that is not plain words."""
        if not self._by_word or not text.isascii():
            return None
        if _UNUSUAL.search(text) or self._special.search(text):
            return None
        words = _WORDS.findall(text.lower())
        known = self._known
        try:
            return list(chain.from_iterable([known[word] for word in words]))
        except KeyError:
            known = self._learnt(words)
            return list(chain.from_iterable([known[word] for word in words]))

    def _learnt(self, words: Sequence[str]) -> dict[str, list[int]]:
        """The memory with these words in it."""
        known = self._known if len(self._known) < MOST_WORDS else {}
        new = [word for word in dict.fromkeys(words) if word not in known]
        split = dict(zip(new, self._encoded(new), strict=True))
        kept = {word: ids for word, ids in split.items() if len(word) <= LONGEST_WORD}
        known.update(kept)
        self._known = known
        return known if len(kept) == len(split) else known | split

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def _splits_by_word(tokenizer: Tokenizer) -> bool:
    """Whether it is an uncased BERT tokenizer, whose words do not touch one another."""
    form = json.loads(tokenizer.to_str())
    normalizer, splitter = form["normalizer"] or {}, form["pre_tokenizer"] or {}
    return bool(
        form["model"]["type"] == "WordPiece"
        and normalizer.get("type") == "BertNormalizer"
        and normalizer.get("lowercase")
        and normalizer.get("clean_text")
        and splitter.get("type") == "BertPreTokenizer"
    )
