"""Text to token ids under the model's chat template, and back.

What users write is text: the string of a special token in it never becomes that
token. Thread-safe; the service encodes in threads while the stream decodes.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


class UnusablePrompt(ValueError):
    """The prompt cannot be turned into tokens; the message says why, to the client."""


class Tokenizer:
    """Wraps a fast tokenizer of transformers."""

    def __init__(self, pretrained: Any) -> None:
        self._pretrained = pretrained
        self._tokenizer: tokenizers.Tokenizer = pretrained.backend_tokenizer
        # A second one, because the switch is a state of the object.
        self._as_text = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        self._as_text.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = {t.content: i for i, t in added.items() if t.special and t.content}
        # Longest first: one special token may begin with another.
        names = sorted(self._special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be encoded."""
        return bool(self._pretrained.chat_template)

    @property
    def eos_token_id(self) -> int | None:
        """The tokenizer's own end-of-sequence token."""
        return cast("int | None", self._pretrained.eos_token_id)

    def vocabulary_hash(self) -> str:
        """SHA-256 (hex) over every token and its id."""
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        ordered = sorted(vocabulary.items(), key=lambda entry: (entry[1], entry[0]))
        return hashlib.sha256(json.dumps(ordered).encode()).hexdigest()

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def token_bytes(self) -> list[bytes] | None:
        """What each token adds to a text, by id; None where that depends on its neighbours.

        Byte-level vocabularies (GPT-2) have this property, SentencePiece's have not. Special
        tokens add nothing.
        """
        if not _reads_bytes(self._tokenizer.decoder):
            return None
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
        for token, token_id in vocabulary.items():
            pieces[token_id] = _bytes_of(token)
        for token_id in self._special_ids.values():
            pieces[token_id] = b""
        # Taken at its word only where it keeps it.
        joined = b"".join(pieces).decode(errors="replace")
        return pieces if joined == self.decode(range(len(pieces))) else None

    def encode_prompt(self, prompt: str) -> list[int]:
        """One user message under the chat template; the bare text where there is none."""
        if self.has_chat_template:
            return self.encode_chat([Message("user", prompt)])
        return self._as_text.encode(prompt).ids

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """A conversation and the opening of its answer. Raises UnusablePrompt."""
        if not self.has_chat_template:
            raise UnusablePrompt("the model has no chat template")
        disguise = _Disguise(self._special, [m.content for m in messages])
        rendered = self._render([Message(m.role, disguise.put_on(m.content)) for m in messages])
        if not disguise.used:
            return self._tokenizer.encode(rendered, add_special_tokens=False).ids
        return self._encode_disguised(rendered, disguise)

    def _render(self, messages: Sequence[Message]) -> str:
        conversation = [{"role": m.role, "content": m.content} for m in messages]
        try:
            rendered = self._pretrained.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:
            # Templates are programs of the model's makers; they raise what they like.
            message = "the model's chat template refuses this order of messages"
            raise UnusablePrompt(message) from error
        return cast(str, rendered)

    def _encode_disguised(self, rendered: str, disguise: _Disguise) -> list[int]:
        # What stands between two special tokens of the template is encoded in one go,
        # so that borders of template and content come out as in an ordinary prompt.
        ids: list[int] = []
        end = 0
        for special in self._special.finditer(rendered):
            ids += self._text_ids(disguise.take_off(rendered[end : special.start()]))
            ids.append(self._special_ids[special.group()])
            end = special.end()
        return ids + self._text_ids(disguise.take_off(rendered[end:]))

    def _text_ids(self, text: str) -> list[int]:
        return self._as_text.encode(text, add_special_tokens=False).ids


_BYTES: Final = {
    character: byte
    for byte, character in bytes_to_unicode().items()  # type: ignore[no-untyped-call]
}
"""The characters that stand for bytes in a byte-level vocabulary."""


def _reads_bytes(decoder: tokenizers.decoders.Decoder | None) -> bool:
    """Whether tokens become bytes in the end: some versions of transformers put steps without
    effect in front where they convert a GGUF file.
    """
    if isinstance(decoder, tokenizers.decoders.Sequence):
        return bool(json.loads(decoder.__getstate__())["decoders"][-1]["type"] == "ByteLevel")
    return isinstance(decoder, tokenizers.decoders.ByteLevel)


def _bytes_of(token: str) -> bytes:
    """Bytes of a token of a byte-level vocabulary; added tokens may be ordinary text."""
    if all(character in _BYTES for character in token):
        return bytes(map(_BYTES.__getitem__, token))
    return token.encode()


class _Disguise:
    """Hides special-token strings in what users wrote while the template is applied."""

    def __init__(self, special: re.Pattern[str], contents: Sequence[str]) -> None:
        self._special = special
        self._hidden: list[str] = []
        salt = ""
        while any(f"\ue000{salt}" in content for content in contents):
            salt = secrets.token_hex(8)
        self._opening = f"\ue000{salt}"
        self._mark = re.compile(f"{self._opening}([0-9]+)\ue001")

    @property
    def used(self) -> bool:
        """Whether anything had to be hidden."""
        return bool(self._hidden)

    def put_on(self, content: str) -> str:
        """The content with each special-token string replaced by a mark."""
        return self._special.sub(self._hide, content)

    def take_off(self, text: str) -> str:
        """The text with the strings back in the places of their marks."""
        return self._mark.sub(lambda found: self._hidden[int(found.group(1))], text)

    def _hide(self, found: re.Match[str]) -> str:
        self._hidden.append(found.group())
        return f"{self._opening}{len(self._hidden) - 1}\ue001"
