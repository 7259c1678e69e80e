"""Says when an LLM's name is read as another's, as that costs prediction quality.

Owns the log line, once a name, and the counter. Knows nothing of how names are read (that is
`llm_names`). Called by `service` for each call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from predictor_svc import metrics
from predictor_svc.encoder import InputForm
from predictor_svc.llm_names import How
from ssjf.wire.logs import get_logger

MOST_NAMES: Final = 1000
"""Different names that are logged; clients could send any number."""


class LlmNotes:
    """Notes how names were read, over the life of the service."""

    def __init__(self) -> None:
        self._logged: set[tuple[str, str]] = set()

    def note(self, llms: Iterable[str], form: InputForm) -> None:
        """Counts the LLMs of a call's prompts; logs each that is new here and not its own."""
        if not form.llms:
            return  # no name makes a difference
        for llm, prompts in Counter(llms).items():
            reading = form.read_llm(llm)
            metrics.count_llm(reading.how, prompts)
            if reading.how != "own":
                self._log(llm, reading.name, reading.how)

    def _log(self, llm: str, name: str, how: How) -> None:
        if (llm, name) in self._logged or len(self._logged) >= MOST_NAMES:
            return
        self._logged.add((llm, name))
        log = get_logger().bind(llm=llm, how=how)
        if name:
            log.info("the model was not trained on this LLM's name", read_as=name)
        else:
            log.warning("the model knows no LLM of this family", read_as="any LLM")
