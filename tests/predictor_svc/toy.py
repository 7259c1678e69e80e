"""A tiny random backbone, and prompts whose answers' lengths can be learnt from one word.

What a test of training needs: everything here runs in a second or so on one core.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from predictor_svc.encoder import PromptText
from predictor_svc.training.backbone import packaged_folder
from predictor_svc.training.data import Example, Lengths, Prompt
from predictor_svc.training.options import TrainOptions
from predictor_svc.training.train import Epoch, Fitted, Run, train

CPU = torch.device("cpu")
LIMIT_TOKENS = 256
WORDS = {"word": 3, "sentence": 25, "paragraph": 90, "essay": LIMIT_TOKENS}
"""What the prompt asks for, and the tokens that it gets."""
OPTIONS = TrainOptions(
    epochs=4, batch_size=8, learning_rate=1e-2, head_learning_rate=2e-2, hidden=16, max_tokens=32
)


def write_backbone(folder: Path) -> None:
    """A BERT folder as published ones are: two layers of width 16, random, all BERT's words."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = (packaged_folder() / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer)


def write_decoder(folder: Path) -> None:
    """A Llama folder as published ones are: two layers of width 64, random; a token a byte."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = letters_tokenizer()
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def bert_tokenizer(words: int) -> Tokenizer:
    """BERT's, with the first `words` of its vocabulary: from 1,000 on, letters are among them."""
    content = json.loads((packaged_folder() / "tokenizer.json").read_bytes())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {word: n for word, n in vocabulary.items() if n < words}
    return Tokenizer.from_str(json.dumps(content))


def letters_tokenizer(unused: int = 0) -> Tokenizer:
    """A token a byte, `unused` ones, and those of a chat."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map(str, range(10, 10 + unused))]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return tokenizer


def example(prompt: str, tokens: Sequence[int], llm: str = "tiny-llm") -> Example:
    """An answer of `LIMIT_TOKENS` was cut."""
    stopped = tuple(each < LIMIT_TOKENS for each in tokens)
    text = PromptText(prompt, llm=llm)
    return Example(Prompt(prompt, "own", text), llm, Lengths(tuple(tokens), stopped))


def learnable(count: int, llms: Sequence[str] = ("tiny-llm",), start: int = 0) -> list[Example]:
    """`count` prompts for each LLM; the second LLM answers with twice the tokens of the first."""
    words = list(WORDS)
    found = []
    for number in range(start, start + count):
        word = words[number % len(words)]
        for place, llm in enumerate(llms):
            tokens = min(WORDS[word] * (place + 1), LIMIT_TOKENS)
            asked = f"Write a {word} about topic {number}."
            found.append(example(asked, (tokens, tokens, max(tokens - 1, 1)), llm))
    return found


def run_of(
    backbone: Path,
    task: str = "distribution",
    options: TrainOptions = OPTIONS,
    seed: int = 1,
    **more: object,
) -> Run:
    """A run on the CPU; `more` are `options` to change."""
    changed = TrainOptions.model_validate(options.model_dump() | more)
    return Run(task, changed, seed, CPU, backbone)


def fit(
    run: Run,
    examples: Sequence[Example] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _epoch: None,
) -> Fitted:
    """Fits on 64 prompts, or the examples given; validates on 16 others."""
    names = sorted({each.model for each in examples}) if examples else ["tiny-llm"]
    validation = learnable(16, names, start=1000)
    return train(run, examples or learnable(64), validation, on_epoch=on_epoch)


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of every weight by its name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all weights are equal, bit by bit."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )
