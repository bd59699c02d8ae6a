# Lightning isn't among the packages that the repository's tests install.
# type: ignore
"""The jobs with Lightning 2, on PyTorch."""

from __future__ import annotations

import json
from pathlib import Path

import lightning
import numpy as np
import pandas
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from benchmarks.same_job.data import NAMES, Labelled, stream


def batches(data: Labelled, shuffle: bool = True) -> DataLoader:
    """Batches of tensors. (It isn't counted.)"""
    inputs, labels = map(torch.as_tensor, data)
    return DataLoader(TensorDataset(inputs, labels.long()), 32, shuffle=shuffle)


class Classifier(lightning.LightningModule):
    """A classifier that the jobs extend. (It isn't counted, as if it were in the library.)"""

    loss = staticmethod(cross_entropy)

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, inputs):
        return self.layer(inputs)

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = self.loss(self(inputs), labels)
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        inputs, labels = batch
        outputs = self(inputs)
        self.log("val_loss", self.loss(outputs, labels))
        self.log("val_accuracy", (outputs.argmax(-1) == labels).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def own_module(data: Labelled):
    class Net(Classifier):
        def __init__(self):
            super().__init__()
            hidden = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
            self.layer = torch.nn.Sequential(hidden, torch.nn.Dropout(0.1), torch.nn.Linear(8, 3))

    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Net(), batches(data))
    return trainer


def data_frame(frame):
    model = Classifier()
    model.layer = torch.nn.Linear(2, 3)
    columns = frame[["a", "b"]].to_numpy(np.float32), frame["kind"].to_numpy()
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(model, batches(columns))
    return trainer


def torch_dataset(dataset):
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Classifier(), DataLoader(dataset, 32, shuffle=True))
    return trainer


def torch_loader(loader):
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Classifier(), loader)
    return trainer


def generator():
    class Stream(IterableDataset):
        def __iter__(self):
            for inputs, labels in stream():
                yield torch.as_tensor(inputs), torch.as_tensor(labels).long()

    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Classifier(), DataLoader(Stream(), batch_size=None))
    return trainer


def own_loss(data: Labelled):
    def loss(outputs, labels):
        share = (outputs.softmax(-1) * one_hot(labels, 3)).sum(-1)
        return -torch.log(share + 0.01).mean()

    model = Classifier()
    model.loss = loss
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(model, batches(data))
    return trainer


def own_metric(data: Labelled):
    class Measured(Classifier):
        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            outputs = self(inputs)
            confident = (outputs.softmax(-1).max(-1).values > 0.5).float().mean()
            self.log("confident", confident, on_epoch=True)
            return self.loss(outputs, labels)

    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Measured(), batches(data))
    return trainer


def own_schedule(data: Labelled):
    class Scheduled(Classifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
            return [optimizer], [{"scheduler": rate, "interval": "step"}]

    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Scheduled(), batches(data))
    return trainer


def own_optimizer(data: Labelled):
    class Sign(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure=None):
            with torch.enable_grad():
                loss = closure()
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter -= group["lr"] * parameter.grad.sign()
            return loss

    class Signed(Classifier):
        def configure_optimizers(self):
            return Sign(self.parameters(), {"lr": 0.01})

    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Signed(), batches(data))
    return trainer


def own_step(data: Labelled):
    class Normalized(Classifier):
        def on_before_optimizer_step(self, optimizer):
            grads = [parameter.grad for parameter in self.parameters()]
            norm = torch.sqrt(sum((grad**2).sum() for grad in grads))
            for grad in grads:
                grad /= norm + 1e-6

    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Normalized(), batches(data))
    return trainer


def callback_that_stops(data: Labelled, valid: Labelled):
    class Enough(Callback):
        def on_validation_end(self, trainer, module):
            if trainer.callback_metrics["val_accuracy"] > 0.1:
                trainer.should_stop = True

    trainer = lightning.Trainer(max_epochs=9, callbacks=[Enough()])
    trainer.fit(Classifier(), batches(data), batches(valid, False))
    return trainer


def stop_rule(data: Labelled, valid: Labelled):
    model = Classifier()
    best = ModelCheckpoint(monitor="val_accuracy", mode="max")
    rule = EarlyStopping("val_accuracy", mode="max", patience=1)
    trainer = lightning.Trainer(max_epochs=60, callbacks=[rule, best])
    trainer.fit(model, batches(data), batches(valid, False))
    model.load_state_dict(torch.load(best.best_model_path)["state_dict"])
    return trainer


def cross_validation(data: Labelled):
    inputs, labels = data
    scores = []
    for rest, fold in StratifiedKFold(3, shuffle=True, random_state=0).split(inputs, labels):
        model = Classifier()
        trainer = lightning.Trainer(max_epochs=2)
        trainer.fit(model, batches((inputs[rest], labels[rest])))
        (measured,) = trainer.validate(model, batches((inputs[fold], labels[fold]), False))
        scores.append(measured["val_accuracy"])
    return scores


def class_weights(data: Labelled):
    weights = compute_class_weight("balanced", classes=np.unique(data[1]), y=data[1])
    model = Classifier()
    model.loss = torch.nn.CrossEntropyLoss(torch.as_tensor(weights, dtype=torch.float32))
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(model, batches(data))
    return trainer


def predictions_in_a_frame(data: Labelled):
    model = Classifier()
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(model, batches(data))
    with torch.no_grad():
        shares = model(torch.as_tensor(data[0])).softmax(-1).numpy()
    frame = pandas.DataFrame(shares, columns=[f"probability_{name}" for name in NAMES])
    frame.insert(0, "class", np.array(NAMES)[shares.argmax(-1)])
    return frame


def save(data: Labelled, folder: str):
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Classifier(), batches(data))
    trainer.save_checkpoint(Path(folder, "model.ckpt"))
    Path(folder, "names.json").write_text(json.dumps(NAMES))


def load(folder: str, inputs):
    model = Classifier.load_from_checkpoint(Path(folder, "model.ckpt"))
    names = np.array(json.loads(Path(folder, "names.json").read_text()))
    with torch.no_grad():
        return names[model(torch.as_tensor(inputs)).argmax(-1).numpy()]


def tensorboard(data: Labelled, valid: Labelled, folder: str):
    trainer = lightning.Trainer(max_epochs=2, logger=TensorBoardLogger(folder))
    trainer.fit(Classifier(), batches(data), batches(valid, False))


def wandb(data: Labelled, valid: Labelled, folder: str):
    logger = WandbLogger(project="table", save_dir=folder)
    trainer = lightning.Trainer(max_epochs=2, logger=logger)
    trainer.fit(Classifier(), batches(data), batches(valid, False))


def progress_in_a_notebook(data: Labelled):
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Classifier(), batches(data))


def two_inputs(data: Labelled):
    class Both(Classifier):
        def training_step(self, batch, batch_idx):
            first, second, labels = batch
            return cross_entropy(self(torch.cat([first, second], -1)), labels)

    inputs, labels = map(torch.as_tensor, data)
    both = TensorDataset(inputs[:, :2], inputs[:, 2:], labels.long())
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Both(), DataLoader(both, 32, shuffle=True))
    return trainer


def two_outputs(data: Labelled):
    class Heads(Classifier):
        def __init__(self):
            super().__init__()
            self.total = torch.nn.Linear(4, 1)

        def training_step(self, batch, batch_idx):
            inputs, kinds, totals = batch
            outputs, total = self(inputs), self.total(inputs)[:, 0]
            self.log("kind_accuracy", (outputs.argmax(-1) == kinds).float().mean(), on_epoch=True)
            self.log("total_error", (total - totals).abs().mean(), on_epoch=True)
            return cross_entropy(outputs, kinds) + mse_loss(total, totals)

    inputs, labels = map(torch.as_tensor, data)
    known = TensorDataset(inputs, labels.long(), inputs.sum(1))
    trainer = lightning.Trainer(max_epochs=2)
    trainer.fit(Heads(), DataLoader(known, 32, shuffle=True))
    return trainer
