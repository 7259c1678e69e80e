from __future__ import annotations

import pytest

from predictor_svc.llm_names import How, Reading, families_of, read

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
CASTILLO = (
    "Qwen/Qwen2.5-14B-Instruct",
    "Qwen/Qwen2.5-32B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct-1M",
    "google/gemma-3-12b-it",
    "google/gemma-3-4b-it",
    LLAMA_8B,
    "meta-llama/Llama-3.2-1B-Instruct",
    "meta-llama/Llama-3.2-3B-Instruct",
    "meta-llama/Llama-3.3-70B-Instruct",
    "microsoft/Phi-4-mini-instruct",
    "mistralai/Ministral-8B-Instruct-2410",
    "mistralai/Mistral-7B-Instruct-v0.3",
    "mistralai/Mixtral-8x7B-Instruct-v0.1",
)
FAMILIES = tuple(families_of(CASTILLO))


def without(*left_out: str) -> tuple[str, ...]:
    return tuple(llm for llm in CASTILLO if llm not in left_out)


def read_unseen(llm: str) -> Reading:
    """As a model reads it whose training had all of castillo's LLMs but this one."""
    others = without(llm)
    return read(llm, others, tuple(families_of(others)))


@pytest.mark.parametrize(
    "spelling",
    [
        "Llama-3.1-8B-Instruct",
        "llama-3.1-8b-instruct",
        "/models/Llama-3.1-8B-Instruct-AWQ",
        "/models/Llama-3.1-8B-Instruct/",
        "meta-llama-3.1-8b-instruct.Q4_K_M.gguf",
        "Meta-Llama-3.1-8B-Instruct-IQ3_XXS.gguf",
        "Meta_Llama_3.1_8B_Instruct.f16.gguf",
        "Meta-Llama-3.1-8B-Instruct@hyperbolic",
        "llama3.1:8b-instruct-q8_0",
        "unsloth/Llama-3.1-8B-Instruct-bnb-4bit",
        "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8",
        "Llama-3.1-8B-Instruct-GPTQ-Int4",
        "Llama-3.1-8B-Instruct-FP8",
        "/cache/models--meta-llama--Llama-3.1-8B-Instruct/snapshots/0e9e39f249a16976",
    ],
)
def test_another_spelling_is_the_same_llm(spelling: str) -> None:
    assert read(spelling, CASTILLO, FAMILIES) == Reading(LLAMA_8B, "alias")


def test_every_known_name_is_its_own() -> None:
    assert [read(llm, CASTILLO, FAMILIES) for llm in CASTILLO] == [
        Reading(llm, "own") for llm in CASTILLO
    ]


@pytest.mark.parametrize(
    ("llm", "name", "how"),
    [
        ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "member"),
        ("google/gemma-3-12b-it", "google/gemma-3-4b-it", "member"),
        (LLAMA_8B, "llama-3", "family"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama-3", "family"),
        ("Qwen/Qwen2.5-7B-Instruct-1M", "qwen-2", "family"),
        ("mistralai/Ministral-8B-Instruct-2410", "mistral-1", "family"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral-1", "family"),
        ("microsoft/Phi-4-mini-instruct", "", "any"),
    ],
)
def test_an_llm_left_out_of_training_is_read_by_its_family(llm: str, name: str, how: How) -> None:
    assert read_unseen(llm) == Reading(name, how)


@pytest.mark.parametrize(
    ("llm", "name"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B-Instruct-1M"),
        ("mistralai/Mistral-7B-Instruct-v0.2", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("meta-llama/Llama-3.1-8B", LLAMA_8B),
    ],
)
def test_a_variant_of_the_same_version_and_size_is_read_before_the_family(
    llm: str, name: str
) -> None:
    assert read(llm, CASTILLO, FAMILIES) == Reading(name, "member")


@pytest.mark.parametrize(
    ("llm", "name"),
    [
        ("Qwen2.5-1.5B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B-Instruct-1M"),
        ("Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-32B-Instruct"),
        ("Llama-3.2-2B-Instruct", "meta-llama/Llama-3.2-3B-Instruct"),
        ("Llama-3.1-70B-Instruct", LLAMA_8B),
        ("google/gemma-3-27b-it", "google/gemma-3-12b-it"),
        ("gemma-3n-E2B-it", "google/gemma-3-4b-it"),
        ("Mixtral-8x22B-Instruct-v0.1", "mistralai/Mixtral-8x7B-Instruct-v0.1"),
        ("Qwen/Qwen3-8B", "Qwen/Qwen2.5-7B-Instruct-1M"),
        ("gemma-2-9b-it", "google/gemma-3-12b-it"),
        ("Phi-3.5-mini-instruct", "microsoft/Phi-4-mini-instruct"),
    ],
)
def test_without_means_the_nearest_version_and_size_of_a_family_is_read(
    llm: str, name: str
) -> None:
    assert read(llm, CASTILLO) == Reading(name, "member")


@pytest.mark.parametrize(
    "llm",
    [
        "",
        "/",
        "123",
        "gpt-4o",
        "SmolLM2-135M-Instruct",
        "llama-13b",  # two majors away
        "Qwen2.5-Coder-7B-Instruct",
        "Qwen3-4B-Thinking-2507",
        "Nous-Hermes-2-Mistral-7B-DPO",
        "my-llama",
        "\u0663-\u65e5\u672c\u8a9e",
    ],
)
def test_an_llm_of_no_known_family_is_any(llm: str) -> None:
    assert read(llm, CASTILLO, FAMILIES) == Reading("", "any")


def test_without_known_llms_there_is_none_to_read() -> None:
    assert read(LLAMA_8B, ()) == Reading("", "any")


def test_families_are_those_with_several_members() -> None:
    assert {name: len(members) for name, members in families_of(CASTILLO).items()} == {
        "gemma-3": 2,
        "llama-3": 4,
        "mistral-1": 3,
        "qwen-2": 3,
    }
    assert families_of(["my-llama", "my-qwen", "phi-4", "phi-3", "phi", "42"]) == {}


def test_a_family_s_name_never_hides_an_llm_s() -> None:
    assert families_of(["llama-3", "llama-3-8b"]) == {}


def test_coders_are_a_family_of_their_own() -> None:
    known = ("Qwen2.5-Coder-7B", "Qwen2.5-Coder-32B", "Qwen2.5-7B")
    assert families_of(known) == {"qwen-coder-2": known[:2]}
    assert read("Qwen2.5-Coder-14B", known, ("qwen-coder-2",)) == Reading("qwen-coder-2", "family")
    assert read("Qwen2.5-14B", known, ("qwen-coder-2",)) == Reading("Qwen2.5-7B", "member")


def test_of_two_majors_as_near_the_newer_is_read() -> None:
    assert read("falcon-2-7b", ("falcon-1-7b", "falcon-3-40b")).name == "falcon-3-40b"


@pytest.mark.parametrize("known", [("yi-6b", "yi-24b"), ("yi-24b", "yi-6b")])
def test_of_sizes_as_near_the_first_known_is_read(known: tuple[str, str]) -> None:
    assert read("yi-12b", known).name == known[0]


def test_sizes_that_are_not_written_leave_the_order() -> None:
    assert read("yi-huge", ("yi-6b", "yi-24b")).name == "yi-6b"
    assert read("yi-0b", ("yi-6b", "yi-24b")).name == "yi-6b"


@pytest.mark.parametrize("llm", ["yi-" + "9" * 400, "yi-" + "9" * 400 + "b", "yi-9" * 60])
def test_absurd_numbers_are_words(llm: str) -> None:
    assert read(llm, ("yi-6b",)).name in {"yi-6b", ""}
