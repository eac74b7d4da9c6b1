"""Engines of tests: a base, how much goes together, and its captions."""

from collections.abc import Sequence

import pytest

from headimpact.data.samples import Sample
from headimpact.engine.forward import Engine, EngineSettings, Loaded
from headimpact.engine.phrases import captions
from headimpact.vlm.base import Vlm


def engine_of(vlm: Vlm, batch_tokens: int = EngineSettings.batch_tokens) -> Engine:
    """An engine that has kept nothing yet."""
    return Engine(vlm, EngineSettings(batch_tokens))


def captions_of(engine: Engine, samples: Sequence[Sample]) -> list[Loaded[None]]:
    """The captions of every object, ready for the engine."""
    return list(engine.load(samples, captions(engine.vlm)))


def count_forwards(monkeypatch: pytest.MonkeyPatch, vlm: Vlm) -> list[tuple[int, ...]]:
    """Sequences and tokens of every forward of the decoder from now on."""
    shapes, real = [], vlm.hidden_states

    def hidden_states(batch, *arguments, **named):
        shapes.append(tuple(batch.ids.shape))
        return real(batch, *arguments, **named)

    monkeypatch.setattr(vlm, "hidden_states", hidden_states)
    return shapes
