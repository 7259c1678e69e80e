"""The text of each token of a vocabulary, as far as it has one of its own.

Most tokens of a byte-level vocabulary are whole characters: their text is looked up, a
step's tokens at once. What is not in the table goes through a `Detokenizer`, which is
made here in the form that fits the vocabulary. Made at start, used by `answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine_svc.detokenizer import ByteDetokenizer, ContextDetokenizer, Decode, Detokenizer
from engine_svc.tokenizer import Tokenizer


class TokenTexts:
    """A vocabulary's texts."""

    def __init__(
        self, whole: Sequence[str | None], make_detokenizer: Callable[[], Detokenizer]
    ) -> None:
        self.whole = whole
        """By token id: its text wherever no character is open before it; None where it opens,
        continues or breaks one, or where its text depends on its neighbours."""
        self.detokenizer = make_detokenizer
        """Makes the state of one answer."""


def of_tokenizer(tokenizer: Tokenizer, vocabulary_size: int) -> TokenTexts:
    """The texts of a tokenizer's vocabulary. Ids beyond it, up to the model's, have none."""
    pieces = tokenizer.token_bytes()
    if pieces is None:
        return of_decode(tokenizer.decode, vocabulary_size)
    return of_bytes([*pieces, *[b""] * (vocabulary_size - len(pieces))])


def of_bytes(pieces: Sequence[bytes]) -> TokenTexts:
    """The texts of a vocabulary of byte strings, by id."""
    return TokenTexts([_whole(piece) for piece in pieces], lambda: ByteDetokenizer(pieces))


def of_decode(decode: Decode, vocabulary_size: int) -> TokenTexts:
    """The texts of a vocabulary of which only decoding is known."""
    return TokenTexts([None] * vocabulary_size, lambda: ContextDetokenizer(decode))


def _whole(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None
