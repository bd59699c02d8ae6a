"""How well spans of words are found: entities, in tags that begin with `B-` and `I-`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxnet.errors import InputError


class Entity(NamedTuple):
    """A span of words of one type.

    Attributes:
        kind: what stands behind `B-` and `I-`.
        begin: the place of its first word.
        end: the place behind its last one.
    """

    kind: str
    begin: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence.

    As the script conlleval of CoNLL's shared tasks reads it, an `I-` that goes on with nothing of
    its type begins an entity.

    Args:
        tags: `O`, `B-TYPE` or `I-TYPE` for each word.

    Example:
        >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
        [Entity(kind='PER', begin=0, end=2), Entity(kind='LOC', begin=3, end=4)]
    """
    found: list[Entity] = []
    for place, tag in enumerate(tags):
        how, _, kind = tag.partition("-")
        if how == "I" and found and found[-1][::2] == (kind, place):
            found[-1] = found[-1]._replace(end=place + 1)
        elif how in ("B", "I"):
            found.append(Entity(kind, place, place + 1))
    return found


def entity_scores(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of entities: right are those with the same words and type.

    Tjong Kim Sang and De Meulder (2003), "Introduction to the CoNLL-2003 shared task", section 2.4.
    A rate whose denominator is 0 is 0.

    Args:
        true: the tags of each sentence.
        predicted: likewise.

    Raises:
        InputError: there aren't as many sentences, or as many tags in one of them.

    Example:
        >>> true, predicted = [["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "O", "O", "B-LOC"]]
        >>> entity_scores(true, predicted)
        {'entity_precision': 0.5, 'entity_recall': 0.5, 'entity_f1': 0.5}
    """
    lengths = [list(map(len, rows)) for rows in (true, predicted)]
    if lengths[0] != lengths[1]:
        raise InputError(
            f"expected a tag for each word: {len(true)} sentences of {sum(lengths[0])} words, got "
            f"{len(predicted)} of {sum(lengths[1])}"
        )
    right = known = said = 0
    for its, mine in zip(true, predicted, strict=True):
        wanted, found = set(entities(its)), set(entities(mine))
        right, known, said = right + len(wanted & found), known + len(wanted), said + len(found)
    precision, recall = right / max(said, 1), right / max(known, 1)
    f1 = 2 * right / max(known + said, 1)
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}
