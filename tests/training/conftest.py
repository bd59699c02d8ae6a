"""What the tests of training share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from jaxnet.training import Trainer
from jaxnet.training.programs import Programs


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """All trainers of equal tasks in a module have the same compiled programs.

    Compiling is most of what a run in a test takes. It isn't for tests that count compiles.
    """
    made: list[Programs] = []

    def programs(trainer: Trainer) -> Programs:
        wanted: tuple[Any, ...] = (trainer.task, trainer.steps_per_dispatch, trainer.layout)
        for known in made:
            if (known.task, known.steps_per_dispatch, known.layout) == wanted:
                return known
        made.append(Programs(*wanted))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "programs", property(programs))
        yield
