"""Trains on the digits with nothing but the installed wheel."""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from jaxnet import Bundle, Supervised, Trainer, losses, metrics, optimizers
from jaxnet.data import fit_standard, load_digits, split
from jaxnet.models import CNN

for name in ("models", "train"):
    assert importlib.util.find_spec(name) is None, f"the wheel must not install {name}/"

train, valid, test = split(load_digits(), (0.7, 0.1, 0.2))
task = Supervised(
    CNN(filters=(16, 32), padding="SAME"),
    losses.cross_entropy,
    optimizers.by_name("adam", 1e-3),
    metrics={"accuracy": metrics.accuracy},
    preprocess=fit_standard(train),
)
result = Trainer(task).fit(train, valid, epochs=12)
accuracy = result.model.evaluate(test)["accuracy"]
print(f"from the wheel: test accuracy {accuracy:.4f}")
assert accuracy > 0.95

with tempfile.TemporaryDirectory() as folder:
    Bundle.of(result.model).save(folder)
    logits = Bundle.load(folder).predict(test.inputs)
assert (logits == result.model.predict(test.inputs)).all()

# Files of a user's own, called as ours are, change nothing.
jaxnet = str(Path(sys.executable).with_name("jaxnet"))
with tempfile.TemporaryDirectory() as folder:
    for name in ("models.py", "train.py"):
        (Path(folder) / name).write_text("raise RuntimeError('imported in place of jaxnet')")
    words = ["classify", "--model", "mlp", "--epochs", "2", "--run-dir", "run", "--no-progress"]
    subprocess.run([jaxnet, "train", *words], cwd=folder, check=True)
    code = "from jaxnet import Bundle; print(type(Bundle.load('run/bundle').model).__module__)"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    subprocess.run([jaxnet, "doctor", "--run", "run"], cwd=folder, check=True)
