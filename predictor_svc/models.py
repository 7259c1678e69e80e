"""The model that serves, and the one that takes its place.

Owns the current pipeline, and looks after the model's folder: a new model is loaded beside
the serving one and takes over between two calls; a broken one is refused and the serving
one stays. Calls under way end with the model that they began with, then it is freed.
Called by `service` for each call; made by `__main__`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from predictor_svc.loaded import LoadedModel, ModelRefused
from predictor_svc.model_dir import MANIFEST, Manifest, ModelDirError, read_json
from predictor_svc.pipeline import Pipeline
from ssjf.wire.logs import get_logger

Signature = tuple[tuple[str, int, int, int], ...]
"""(name, inode, size, time of change in ns) of every file of a folder."""


class Observer(Protocol):
    """Told what happens; see `metrics`."""

    def serving(self, model: LoadedModel) -> None:
        """This model answers from now on."""

    def refused(self) -> None:
        """A model of the folder was broken."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A loaded model and the pipeline that feeds it."""

    model: LoadedModel
    pipeline: Pipeline


class Models:
    """Hands out the model that serves now; started once, then closed by `async with`."""

    def __init__(
        self,
        folder: Path,
        load: Callable[[], LoadedModel],
        pipeline_of: Callable[[LoadedModel], Pipeline],
        observer: Observer,
    ) -> None:
        self._folder = folder
        self._load = load
        self._pipeline_of = pipeline_of
        self._observer = observer
        self._current: Serving | None = None
        self._seen: Signature = ()
        self._last_refused: str | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Loads the first model. Raises ModelRefused."""
        self._seen = await asyncio.to_thread(signature, self._folder)
        self._take_over(await asyncio.to_thread(self._load))

    async def __aenter__(self) -> Models:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.current.pipeline.close()
        await asyncio.gather(*self._leaving)

    @property
    def current(self) -> Serving:
        """What answers a call that begins now, to its end."""
        if self._current is None:
            raise RuntimeError("no model was started")
        return self._current

    async def watch(self, interval_s: float) -> None:
        """Looks at the folder for ever."""
        while True:
            await asyncio.sleep(interval_s)
            await self.look()

    async def look(self) -> bool:
        """Whether a new model was found in the folder and has taken over."""
        seen = await asyncio.to_thread(signature, self._folder)
        if seen == self._seen:
            return False
        self._seen = seen
        try:
            manifest = await asyncio.to_thread(read_json, self._folder / MANIFEST, Manifest)
            if manifest == self.current.model.manifest:
                return False
        except ModelDirError as broken:
            self._refuse(str(seen), broken)
            return False
        try:
            self._take_over(await asyncio.to_thread(self._load))
        except ModelRefused as broken:
            self._refuse(manifest.revision, broken)
            return False
        return True

    def _take_over(self, model: LoadedModel) -> None:
        before, self._current = self._current, Serving(model, self._pipeline_of(model))
        self._last_refused = None
        self._observer.serving(model)
        get_logger().info(
            "model serves",
            revision=model.manifest.revision,
            provider=model.session.provider,
            precision=model.precision,
            cuda_graphs=model.session.captures,
        )
        if model.session.partly_on_cpu:
            get_logger().warning(
                "a part of the model runs on the CPU, which is slow: export it with fp16",
                precision=model.precision,
            )
        if before is not None:
            leaving = asyncio.create_task(before.pipeline.close())
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def _refuse(self, which: str, why: Exception) -> None:
        """Says so once a revision: files that are copied one by one change many times."""
        self._observer.refused()
        if which != self._last_refused:
            self._last_refused = which
            get_logger().error(
                "a new model is refused, the old one stays",
                reason=str(why),
                revision=self.current.model.manifest.revision,
            )


def signature(folder: Path) -> Signature:
    """Changes with any file of the folder; empty where it cannot be read."""
    try:
        stats = [(path.name, path.stat()) for path in sorted(folder.iterdir())]
    except OSError:  # gone, or a file replaced meanwhile: the next look will see
        return ()
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
