"""The pictures of an autoencoder: what it makes of images, and where they lie by their codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.app.problem import Tested
from jaxnet.app.run_folder import title

if TYPE_CHECKING:
    import numpy as np

    from jaxnet.data import Arrays, ImageFolder
    from jaxnet.training import FitResult
    from jaxnet.training.task import Task
    from jaxnet.training.tasks.reconstruction import Reconstruction

SHOWN = 16
"""Images in the picture of reconstructions."""
SIDE = 8
"""Rows and columns of the pictures of what was drawn."""
PLANE = 16
"""Rows and columns of the picture of the plane."""
PLACED = 5000
"""Images in the picture of the codes, at most."""


@dataclass(frozen=True, eq=False)
class CodePictures:
    """The pictures of a run that trains an autoencoder.

    Attributes:
        task: what is trained, without techniques.
        test: images to test with.
        seed: of the codes that are drawn.
    """

    task: Reconstruction
    test: Arrays | ImageFolder
    seed: int

    def callbacks(self, folder: Path, task: Task[Any]) -> list[Any]:
        """What draws the reconstructions of the same images every few epochs."""
        import numpy as np

        from jaxnet.data import sample
        from jaxnet.training.image_samples import ImageSamples
        from jaxnet.training.programs import compiled

        images = sample(self.test, PLACED).inputs[:SHOWN]
        rows = compiled(lambda state: self._rows(*self._evaluated(task, state), images))
        draw = lambda state: np.asarray(rows(state))  # noqa: E731
        return [ImageSamples(folder / "samples", draw, title=title(folder))]

    def report(self, folder: Path, result: FitResult) -> Tested:
        """Draw the pictures at the end; the metrics of the test set."""
        from jaxnet.cluster import processes

        # Of several processes each may have a part of the state, and the first one draws.
        whole = processes.on_host(result.state) if processes.several() else result.state
        if processes.is_first():
            self._draw(folder, *self._evaluated(result.model.trainer.task, whole))
        return Tested(result.model.evaluate(self.test))

    def _draw(self, folder: Path, task: Reconstruction, state: Any) -> None:
        import jax
        import numpy as np

        from jaxnet.data import sample
        from jaxnet.report.codes import code_plane, even_codes, square
        from jaxnet.report.pictures import plot_labelled_points, save_grid
        from jaxnet.training.programs import compiled
        from jaxnet.training.tasks.variational import Variational

        def made(function: Callable[..., Any], *inputs: Any) -> np.ndarray:
            return np.asarray(compiled(function)(state, *inputs))

        test, above = sample(self.test, PLACED), title(folder)
        rows = made(lambda state, images: self._rows(task, state, images), test.inputs[:SHOWN])
        names = ("image", *(["with noise"] if len(rows) > 2 else []), "reconstruction")
        save_grid(rows, folder / "reconstructions.png", above, names)
        codes = made(task.encode, test.inputs[:PLACED])
        points, axes = code_plane(codes)
        classes = test.class_names or tuple(map(str, range(test.num_classes)))
        path = folder / "latent.png"
        plot_labelled_points(points, test.labels[:PLACED], classes, path, axes, above)
        if not isinstance(task, Variational):
            return
        key, shape = jax.random.key(self.seed), (SIDE**2, codes.shape[1])
        drawn = square(made(lambda state, key: task.sample(state, key, shape), key))
        save_grid(drawn, folder / "generated.png", f"generated: {above}")
        if codes.shape[1] == 2:
            plane = square(made(task.decode, even_codes(PLANE)))
            save_grid(plane, folder / "plane.png", f"the plane of the codes: {above}")

    def _evaluated(self, whole: Any, state: Any) -> tuple[Reconstruction, Any]:
        """The task and a state of it that the run evaluates, whatever techniques hold in theirs."""
        network, _, variables = whole.inference(state)
        others = {name: value for name, value in variables.items() if name != "params"}
        task = replace(self.task, model=network)
        return task, replace(state, params=variables["params"], collections=others)

    def _rows(self, task: Reconstruction, state: Any, images: Any) -> Any:
        """(rows, n, H, W, C) in [0, 1]: real images, noisy ones if any, and what comes of them."""
        import jax.numpy as jnp

        from jaxnet.training.tasks.reconstruction import nothing

        images = jnp.asarray(images)
        inputs = task.spoilt(state, images)
        network, _, variables = task.inference(state)
        outputs = network.apply(variables, inputs, False, None)[0]
        noisy = [] if self.task.noise is nothing else [inputs]
        return jnp.stack([task.preprocess(images), *noisy, outputs])
