"""The first screen: which setup to use, of every model, and what that rests on."""

from collections.abc import Iterator, Mapping, Sequence

from headimpact.adapters.elsewhere import Snippet
from headimpact.report.advice import Advice, advise
from headimpact.report.outputs import Outputs
from headimpact.report.page import Block, Code, Heading, Items, Text
from headimpact.report.prose import advice as prose

Pastes = Mapping[str, Sequence[Snippet]]
"""By model, the choice as text to paste elsewhere, as far as it is known."""


def advices(outputs: Outputs, bound: float) -> list[Advice]:
    """The advice of every model that a step has written something for."""
    return [
        advise(
            model,
            outputs.results,
            outputs.objects,
            outputs.tournament,
            bound,
            [setup for name, setup in outputs.trained if name == model],
        )
        for model in outputs.models
    ]


def advice(outputs: Outputs, bound: float, pastes: Pastes) -> list[Block]:
    """The recommendations, then each model's evidence, the next command, and the choice as text.

    Args:
        outputs: what the steps have written.
        bound: the fall of accuracy that is still accepted (0..1).
        pastes: the choices as text.
    """
    given = advices(outputs, bound)
    if not given:
        return [Text(prose.NO_MODEL)]
    first: Block = (
        Items([f"{one.model}: {one.sentence}" for one in given]) if len(given) > 1 else Text(given[0].sentence)
    )
    blocks = [first]
    for one in given:
        blocks += [Heading(one.model), *_of_model(one, len(given) == 1)]
    return [*blocks, Heading(prose.HOW), Text(prose.RULE.format(bound=bound)), *_pasted(given, pastes)]


def _of_model(one: Advice, alone: bool) -> Iterator[Block]:
    said = [] if alone else [one.sentence]
    yield Items([*said, one.sure, prose.NEXT.format(command=one.next), *one.notes])
    if len(one.found.measured) or len(one.found.others):
        yield one.table


def _pasted(given: Sequence[Advice], pastes: Pastes) -> Iterator[Block]:
    yield Heading(prose.PASTE_TITLE)
    yield Text(prose.PASTE)
    for one in given:
        if snippets := pastes.get(one.model, ()):
            text = "\n\n".join(f"# {s.where}{f': {s.limits}' if s.limits else ''}\n{s.text}" for s in snippets)
            yield Text(prose.PASTED.format(setup=one.decision.setup, model=one.model))
            yield Code(text)
        else:
            yield Text(prose.PASTE_FROM.format(model=one.model))
