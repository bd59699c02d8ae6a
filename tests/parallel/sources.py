"""Training on every kind of data that is read as it goes, as one of several processes.

    python -m tests.parallel.sources FOLDER

Process 0 writes what each kind came to into `FOLDER/KIND`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxnet.app import cli

# More than one agreement on the pace of several processes, and a last batch with padding.
ROWS, BATCH, EPOCHS = 70, 12, 4


class Rows:
    """A random-access source, as Grain defines it."""

    def __init__(self, rows: int, seed: int) -> None:
        from tests.training.helpers import images

        inputs, self.labels = images(rows, seed)
        self.inputs = np.clip(inputs * 60 + 128, 0, 255).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"inputs": self.inputs[row], "labels": self.labels[row]}


def image_folder(folder: Path, rows: Rows) -> Any:
    """The rows as files."""
    import PIL.Image

    from jaxnet.data.images.folders import ImageFolder

    folder.mkdir(parents=True, exist_ok=True)
    files = [str(folder / f"{row}.png") for row in range(len(rows))]
    for file, image in zip(files, rows.inputs, strict=True):
        if not Path(file).exists():
            PIL.Image.fromarray(image[:, :, 0]).save(file)
    return ImageFolder(files, rows.labels, ("a", "b", "c"), channels=1)


def kinds(folder: Path) -> Iterator[tuple[str, Any]]:
    """What to learn from and to watch, by name."""
    import grain
    import jax

    from jaxnet.data import Records

    train, valid = Rows(ROWS, 0), Rows(26, 1)
    yield "records", (Records(train), Records(valid))
    own = folder / f"process-{jax.process_index()}"
    yield "image folder", (image_folder(own / "train", train), image_folder(own / "valid", valid))
    dataset: Any = grain.MapDataset.source(cast(Any, train)).map(lambda row: row)
    yield "grain", (Records(dataset), Records(valid))
    yield "arrays", [(rows.inputs, rows.labels) for rows in (train, valid)]


def train(folder: Path) -> int:
    """Train on one kind after the other."""
    import flax.linen as nn
    import jax

    from jaxnet import optimizers
    from jaxnet.cluster import processes
    from jaxnet.files import write_json
    from jaxnet.parallel.layout import Layout
    from jaxnet.training import Trainer
    from tests.training.helpers import MLP, classifier

    class Flat(nn.Module):
        @nn.compact
        def __call__(self, inputs: jax.Array) -> jax.Array:
            return MLP()(inputs.reshape(len(inputs), -1) / 255)

    task = classifier(Flat(), optimizers.by_name("momentum", 0.1))
    # Sent from the host's memory, all kinds share one program.
    trainer = Trainer(task, layout=Layout(data=-1), progress=False, placement="host")
    for kind, data in kinds(folder):
        result = trainer.fit(*data, epochs=EPOCHS, batch_size=BATCH)
        named = jax.tree_util.tree_leaves_with_path(processes.on_host(result.state.params))
        state = {jax.tree_util.keystr(path, simple=True): leaf for path, leaf in named}
        rows = [dict(row) for row in result.history.rows]
        if processes.is_first():
            (folder / kind).mkdir()
            np.savez(folder / kind / "state.npz", **state)
            values = {"last_step": result.last_step, "history": rows}
            write_json(folder / kind / "result.json", values)
    return cli.DONE


if __name__ == "__main__":
    sys.exit(cli.run(lambda: train(Path(sys.argv[1]))))
