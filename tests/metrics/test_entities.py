"""Entities in BIO tags, against spans that are known because the tags were made of them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxnet.errors import InputError
from jaxnet.metrics.entities import Entity, entities, entity_scores


def random_spans(rng: np.random.Generator, length: int) -> list[Entity]:
    found, place = [], 0
    while place < length:
        size = int(rng.integers(1, 4))
        if rng.random() < 0.5 and place + size <= length:
            found.append(Entity(str(rng.choice(["PER", "LOC"])), place, place + size))
        place += size
    return found


def tags_of(spans: list[Entity], length: int) -> list[str]:
    tags = ["O"] * length
    for kind, begin, end in spans:
        tags[begin:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - begin - 1)]
    return tags


def test_the_spans_that_tags_were_made_of_are_found():
    rng = np.random.default_rng(0)
    rows = [[random_spans(rng, 9) for _ in range(50)] for _ in range(2)]
    true, mine = ([tags_of(spans, 9) for spans in row] for row in rows)
    assert [entities(tags) for tags in true] == rows[0]
    right = sum(len(set(a) & set(b)) for a, b in zip(*rows, strict=True))
    known, said = (sum(map(len, row)) for row in rows)
    assert entity_scores(true, mine) == pytest.approx(
        {
            "entity_precision": right / said,
            "entity_recall": right / known,
            "entity_f1": 2 / (said / right + known / right),
        }
    )


def test_a_type_that_changes_begins_another_entity():
    assert entities(["B-PER", "I-LOC", "I-LOC"]) == [Entity("PER", 0, 1), Entity("LOC", 1, 3)]
    assert entities(["B-PER", "B-PER"]) == [Entity("PER", 0, 1), Entity("PER", 1, 2)]


def test_other_lengths_are_refused():
    with pytest.raises(InputError, match="1 sentences of 2 words, got 1 of 1"):
        entity_scores([["O", "O"]], [["O"]])
