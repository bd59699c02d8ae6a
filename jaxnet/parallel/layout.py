"""Layouts: where batches, parameters and all that training changes lie on many devices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnet.errors import InputError, UsageError
from jaxnet.parallel.axes import AXES, BATCH_AXES, Axes
from jaxnet.parallel.describe import table
from jaxnet.parallel.rules import Rule, check_rules, specs

PyTree = Any


@dataclass(frozen=True)
class Layout(Axes):
    """A mesh of devices, and what lies how on it.

    The axes can be combined at will, as long as their product is the number of devices; see
    `jaxnet.parallel.axes` for what each shares out. The default is one device. Models know nothing
    of a layout, and what they learn doesn't depend on it.

    A rule is `(pattern, axes)`: a pattern of `jaxnet.trees` over the paths of the parameters, and
    for each dimension, from the first one on, the axis that shares it out, several axes, or None
    for none. The first that matches a parameter decides. Optimizer state lies like its parameter.
    Some models end with the rules of their family, `models.gpt2.SHARDING` say; a rule of a family
    for parameters that not all its networks have ends with `"optional"`.

    Attributes:
        data: the number of devices along this axis, and so for the others; -1, for one of them,
            takes all devices that are left.
        fsdp: besides sharing out examples, it cuts parameters along their largest dimension that
            it divides (Rajbhandari et al. 2020, "ZeRO"; Zhao et al. 2023, "PyTorch FSDP").
        tensor: for rules (Shoeybi et al. 2019, "Megatron-LM").
        stage: shares out the blocks of each `jaxnet.layers.Stack`, which become a pipeline (Huang
            et al. 2019, "GPipe").
        sequence: shares out the tokens of each example, which attend in a ring (Liu et al. 2023,
            "Ring attention").
        expert: shares out examples, and the experts of each `jaxnet.layers.ExpertFeedForward`
            (Lepikhin et al. 2021, "GShard").
        rules: for the parameters.
        fsdp_min_size: parameters with fewer elements are left whole by `fsdp`.
        micro_batches: into how many parts `stage` cuts a batch; by default up to four a stage.

    Raises:
        UsageError: an impossible size or rule.

    Example:
        >>> layout = Layout(data=4, tensor=2, rules=(("**/up/kernel", (None, "tensor")),))
        >>> layout.devices
        8
        >>> params = {"up": {"bias": np.zeros(8), "kernel": np.zeros((4, 8))}}
        >>> layout.specs(params)
        {'up': {'bias': P(), 'kernel': P(None, 'tensor')}}
    """

    rules: Sequence[Rule] = ()
    fsdp_min_size: int = 2**14
    micro_batches: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batches is not None and self.micro_batches < 1:
            raise UsageError(
                f"layout: expected at least 1 micro-batch, got micro_batches={self.micro_batches}"
            )
        for name, size in self.sizes.items():
            if not isinstance(size, int | np.integer) or (size < 1 and size != -1):
                raise UsageError(
                    f"layout: expected {name} to be a number of devices, or -1 for all that are "
                    f"left, got {size!r}"
                )
        if len(open_axes := self._open) > 1:
            raise UsageError(
                f"layout: {' and '.join(open_axes)} are -1, and only one axis can take the devices "
                "that are left"
            )
        check_rules(self.rules)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of devices along each axis, in the order of the mesh."""
        return {name: getattr(self, name) for name in AXES}

    @property
    def devices(self) -> int:
        """The number of devices, which must not depend on those that are there.

        Raises:
            UsageError: an axis is -1.
        """
        if self._open:
            raise UsageError(
                f"layout: {self._open[0]} is -1, for all devices that are left: how many there are "
                "in all isn't known here. Take layout.filled(devices) first."
            )
        return math.prod(self.sizes.values())

    @property
    def one_device(self) -> bool:
        """Whether this is the layout of one device, which needs no mesh."""
        return set(self.sizes.values()) == {1}

    def filled(self, devices: int) -> Layout:
        """The same layout with the number of devices in place of a -1.

        Raises:
            UsageError: the other axes don't divide it.

        Example:
            >>> Layout(data=-1, tensor=2).filled(8).data
            4
        """
        if not self._open:
            return self
        others = -math.prod(self.sizes.values())
        if devices % others:
            raise UsageError(
                f"layout: {devices} devices can't be shared out: {self._said(but=self._open[0])} "
                f"= {others} doesn't divide them. Choose sizes whose product divides {devices}."
            )
        return replace(self, **{self._open[0]: devices // others})

    def mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh, with all six axes, whose sharding the compiler completes (`AxisType.Auto`).

        Args:
            devices: all of them become part of the mesh. By default those that there are, or the
                first of them where one process needs fewer.

        Raises:
            UsageError: there are too few, or too many in several processes.
        """
        chosen = list(jax.devices() if devices is None else devices)
        full = self.filled(len(chosen))
        needed = full.devices
        fewer_do = devices is None and jax.process_count() == 1
        if needed > len(chosen) or (needed < len(chosen) and not fewer_do):
            raise UsageError(
                f"layout: {full._said() or 'one device'} = {needed}, and there are {len(chosen)} "
                "devices. Make the product of the axes the number of devices; -1 for one of them "
                "takes all that are left."
            )
        return jax.make_mesh(
            tuple(full.sizes.values()),
            AXES,
            axis_types=(AxisType.Auto,) * len(AXES),
            devices=chosen[:needed],
        )

    def specs(self, tree: PyTree) -> PyTree:
        """How each leaf lies: the same tree with a `PartitionSpec` at each leaf.

        Args:
            tree: a training state, or parameters alone, as arrays or shapes.

        Raises:
            UsageError: a rule matches no parameter, has more dimensions than it, or doesn't divide
                it; or an axis is -1.
        """
        _ = self.devices
        return specs(tree, self.rules, self.sizes, self.fsdp_min_size)

    def shardings(self, tree: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
        """The same tree with a `NamedSharding` on `mesh` at each leaf; see `specs`."""
        chosen = specs(tree, self.rules, dict(mesh.shape), self.fsdp_min_size)
        return jax.tree.map(lambda spec: NamedSharding(mesh, spec), chosen)

    def batch(self, spec: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
        """How a batch lies: its examples over data, fsdp and expert, its tokens over sequence.

        Tokens are those of integer `inputs` (batch, time), or of the first such array of a tuple of
        inputs; all arrays (batch, time, ...) of the same time are cut along it.

        Args:
            spec: arrays or shapes, with the example as leading axis: a dict, or anything else,
                which then has no tokens.
            mesh: this layout's.

        Returns:
            The same tree with a `NamedSharding` on `mesh` at each leaf.

        Raises:
            UsageError: the axes don't divide the number of examples.
            InputError: `sequence` doesn't divide the number of tokens, or there are none.
        """
        parts = {name: mesh.shape[name] for name in BATCH_AXES if mesh.shape[name] > 1}
        shares = math.prod(parts.values())
        for count in {np.shape(leaf)[0] for leaf in jax.tree.leaves(spec)}:
            if count % shares:
                said = " x ".join(f"{name}={size}" for name, size in parts.items())
                raise UsageError(
                    f"layout: a batch of {count} examples can't be shared out evenly over {said}: "
                    f"choose a batch size that {shares} divides, such as "
                    f"{-(-count // shares) * shares}"
                )
        time = None
        if mesh.shape["sequence"] > 1 and isinstance(spec, Mapping):
            time = _time(spec, mesh.shape["sequence"])

        def lies(leaf: Any) -> NamedSharding:
            cut = time is not None and np.shape(leaf)[1:2] == (time,)
            tokens = ("sequence",) if cut else ()
            return NamedSharding(mesh, PartitionSpec(tuple(parts) or None, *tokens))

        return jax.tree.map(lies, spec)

    def describe(self, state: PyTree) -> str:
        """A table: each leaf with its shape, how it lies, and the bytes of it that a device holds.

        Args:
            state: a training state, or parameters alone, as arrays or shapes; nothing is created.

        Raises:
            UsageError: see `specs`.

        Example:
            >>> layout = Layout(fsdp=2, fsdp_min_size=4)
            >>> print(layout.describe({"kernel": np.zeros((4, 3), np.float32)}))
            leaf    shape   type     lies     bytes on a device
            kernel  (4, 3)  float32  P(fsdp)                 24
            fsdp=2: 48 bytes in all, 24 on each of 2 devices
        """
        return table(state, self.specs(state), self.sizes, self._said())

    def summary(self, state: PyTree) -> str:
        """The last line of `describe`."""
        return self.describe(state).splitlines()[-1]

    @property
    def _open(self) -> list[str]:
        return [name for name, size in self.sizes.items() if size == -1]

    def _said(self, but: str = "") -> str:
        """The axes of more than one device, such as `data=4 x tensor=2`."""
        said = [f"{name}={n}" for name, n in self.sizes.items() if n != 1 and name != but]
        return " x ".join(said)


def _time(spec: Mapping[str, Any], parts: int) -> int:
    """The number of tokens of an example."""
    for leaf in jax.tree.leaves(spec.get("inputs", ())):
        if len(np.shape(leaf)) == 2 and np.issubdtype(leaf.dtype, np.integer):
            time = np.shape(leaf)[1]
            if time % parts:
                raise InputError(
                    f"layout: {time} tokens can't be shared out evenly over sequence={parts}: "
                    f"choose a length that {parts} divides"
                )
            return time
    raise InputError(
        f"layout: sequence={parts} shares out the tokens of each example, and this data has none: "
        "expected integer inputs (batch, time)"
    )
