"""Layouts: how batches, parameters and training state are sharded over many devices."""

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
    """A device mesh and the sharding of batches and training state on it.

    The axes can be combined freely, as long as their product is the number of devices; see
    `jaxnet.parallel.axes`. The default is one device. Models are written without reference to a
    layout, and training results don't depend on it.

    A rule is `(pattern, axes)`: a path pattern (`jaxnet.trees`) over the parameters, and for each
    dimension, starting with the first, the axis or axes that shard it, or None. The first matching
    rule decides. Optimizer state is sharded like its parameter. Some models define the rules of
    their family, such as `models.gpt2.SHARDING`; a rule for parameters that only some networks of a
    family have ends with `"optional"`.

    Attributes:
        data: the number of devices along this axis, as for the other axes; -1, for one of them,
            uses all remaining devices.
        fsdp: shards examples, and each parameter along its largest dimension that it divides
            (Rajbhandari et al. 2020, "ZeRO"; Zhao et al. 2023, "PyTorch FSDP").
        tensor: shards parameters by the rules (Shoeybi et al. 2019, "Megatron-LM").
        stage: splits the blocks of each `jaxnet.layers.Stack` into pipeline stages (Huang et al.
            2019, "GPipe").
        sequence: shards the tokens of each example, with ring attention (Liu et al. 2023, "Ring
            attention").
        expert: shards examples, and the experts of each `jaxnet.layers.ExpertFeedForward`
            (Lepikhin et al. 2021, "GShard").
        rules: the sharding rules of the parameters.
        fsdp_min_size: parameters with fewer elements are not sharded by `fsdp`.
        micro_batches: the number of micro-batches of a pipeline; by default up to four per stage.

    Raises:
        UsageError: an invalid size or rule.

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
                    f"layout: expected {name} to be a number of devices, or -1 for all remaining "
                    f"devices, got {size!r}"
                )
        if len(open_axes := self._open) > 1:
            raise UsageError(
                f"layout: {' and '.join(open_axes)} are -1, and only one axis can use the "
                "remaining devices"
            )
        check_rules(self.rules)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of devices along each axis, in the order of the mesh."""
        return {name: getattr(self, name) for name in AXES}

    @property
    def devices(self) -> int:
        """The total number of devices, which must be known without an axis of -1.

        Raises:
            UsageError: an axis is -1.
        """
        if self._open:
            raise UsageError(
                f"layout: {self._open[0]} is -1, for all remaining devices, and their total number "
                "isn't known here. Call layout.filled(devices) first."
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
                f"layout: {devices} devices can't be split evenly: {self._text(but=self._open[0])} "
                f"= {others} doesn't divide them. Choose sizes whose product divides {devices}."
            )
        return replace(self, **{self._open[0]: devices // others})

    def mesh(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh, with all six axes and automatic sharding propagation (`AxisType.Auto`).

        Args:
            devices: the devices of the mesh, all of which are used. By default all available ones,
                or, in a single process, the first ones if fewer are needed.

        Raises:
            UsageError: there are too few devices, or too many in several processes.
        """
        chosen = list(jax.devices() if devices is None else devices)
        full = self.filled(len(chosen))
        needed = full.devices
        fewer_do = devices is None and jax.process_count() == 1
        if needed > len(chosen) or (needed < len(chosen) and not fewer_do):
            raise UsageError(
                f"layout: {full._text() or 'one device'} = {needed}, and there are {len(chosen)} "
                "devices. Make the product of the axes the number of devices; -1 for one of them "
                "uses all remaining devices."
            )
        return jax.make_mesh(
            tuple(full.sizes.values()),
            AXES,
            axis_types=(AxisType.Auto,) * len(AXES),
            devices=chosen[:needed],
        )

    def specs(self, tree: PyTree) -> PyTree:
        """The sharding of each leaf: the same tree with a `PartitionSpec` at each leaf.

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
        """The sharding of a batch: examples over data, fsdp and expert, tokens over sequence.

        The time axis is that of integer `inputs` (batch, time), or of the first such array of
        several inputs; all arrays (batch, time, ...) with the same time are sharded along it.

        Args:
            spec: arrays or shapes, with the example as leading axis: a dict, or any other tree,
                which then has no tokens.
            mesh: this layout's mesh.

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
                    f"layout: a batch of {count} examples can't be split evenly over {said}: "
                    f"choose a batch size that {shares} divides, such as "
                    f"{-(-count // shares) * shares}"
                )
        time = None
        if mesh.shape["sequence"] > 1 and isinstance(spec, Mapping):
            time = _time(spec, mesh.shape["sequence"])

        def sharding(leaf: Any) -> NamedSharding:
            has_tokens = time is not None and np.shape(leaf)[1:2] == (time,)
            tokens = ("sequence",) if has_tokens else ()
            return NamedSharding(mesh, PartitionSpec(tuple(parts) or None, *tokens))

        return jax.tree.map(sharding, spec)

    def describe(self, state: PyTree) -> str:
        """A table of the leaves with their shapes, shardings and bytes per device.

        Args:
            state: a training state, or parameters alone, as arrays or shapes; nothing is allocated.

        Raises:
            UsageError: see `specs`.

        Example:
            >>> layout = Layout(fsdp=2, fsdp_min_size=4)
            >>> print(layout.describe({"kernel": np.zeros((4, 3), np.float32)}))
            leaf    shape   type     sharding  bytes per device
            kernel  (4, 3)  float32  P(fsdp)                 24
            fsdp=2: 48 bytes in all, 24 on each of 2 devices
        """
        return table(state, self.specs(state), self.sizes, self._text())

    def summary(self, state: PyTree) -> str:
        """The last line of `describe`."""
        return self.describe(state).splitlines()[-1]

    @property
    def _open(self) -> list[str]:
        return [name for name, size in self.sizes.items() if size == -1]

    def _text(self, but: str = "") -> str:
        """The axes of more than one device, such as `data=4 x tensor=2`."""
        axes = [f"{name}={n}" for name, n in self.sizes.items() if n != 1 and name != but]
        return " x ".join(axes)


def _time(spec: Mapping[str, Any], parts: int) -> int:
    """The number of tokens of an example."""
    for leaf in jax.tree.leaves(spec.get("inputs", ())):
        if len(np.shape(leaf)) == 2 and np.issubdtype(leaf.dtype, np.integer):
            time = np.shape(leaf)[1]
            if time % parts:
                raise InputError(
                    f"layout: {time} tokens can't be split evenly over sequence={parts}: "
                    f"choose a length that {parts} divides"
                )
            return time
    raise InputError(
        f"layout: sequence={parts} shards the tokens of each example, and this data has none: "
        "expected integer inputs (batch, time)"
    )
