"""From a name and options to a network: for the commands that train one and those that plan it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from jaxnet.errors import UsageError
from jaxnet.names import lookup
from jaxnet.options import options

if TYPE_CHECKING:
    import flax.linen as nn

VGG_DEPTHS = (11, 13, 16, 19)
RESNET_DEPTHS, CIFAR_DEPTHS = (18, 34, 50, 101, 152), (20, 32, 44, 56)
# Networks that are known by a name of their own: file and class, size, and arguments.
NAMED: Mapping[str, tuple[str, str | None, Mapping[str, Any]]] = {
    "lenet5": ("lenet", None, {}),
    **{f"vgg{depth}": ("vgg", None, {"depth": depth}) for depth in VGG_DEPTHS},
    **{f"vgg{n}_bn": ("vgg", None, {"depth": n, "batch_norm": True}) for n in VGG_DEPTHS},
    **{f"resnet{depth}": ("resnet:ResNet", None, {"depth": depth}) for depth in RESNET_DEPTHS},
    **{f"resnet{depth}": ("resnet:CIFARResNet", None, {"depth": depth}) for depth in CIFAR_DEPTHS},
    **{f"vit_{size}": ("vit", size, {}) for size in ("s", "b", "l")},
}


def network(
    name: str, arguments: Mapping[str, Any] = MappingProxyType({}), size: str | None = None
) -> nn.Module:
    """The module that a command line names.

    Args:
        name: a network such as `resnet50`; a file of the zoo, `gpt2`, or with a class of it,
            `bert:BERTTagger`; or a class of your own, `package.module:Class`.
        arguments: those of its class.
        size: one of the file's `SIZES`, for the arguments that are left out.

    Raises:
        UsageError: there is no such file, class, size or argument, or one is missing.

    Example:
        >>> network("resnet34", {"num_classes": 10}).depth
        34
    """
    known, own_size, fixed = NAMED.get(name, (name, None, {}))
    size = size or own_size
    file, _, wanted = known.partition(":")
    module = _imported(file)
    kind = _class(module, wanted)
    chosen = {**fixed, **arguments}
    if size is not None:
        sizes = getattr(module, "SIZES", {})
        if not sizes:
            raise UsageError(
                f"--size {size}: {file} has no named sizes; take a class of it, {file}:CLASS"
            )
        chosen = {**lookup(size, sizes, f"size of {file}"), **chosen}
    fields = {each.name: None for each in dataclasses.fields(kind) if each.init}
    for argument in chosen:
        lookup(argument, fields, f"argument of {kind.__name__}")
    try:
        return kind(**chosen)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}: {error}; give it by --options NAME VALUE") from error


def given(config: Any, group: str = "network") -> dict[str, Any]:
    """The options of a group that what was chosen reads, by name, but for those that are None.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     hidden: int = 8
        ...     heads: int | None = None
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     network: Any = Size()
        >>> given(Config())
        {'hidden': 8}
    """
    read = {
        option.field: getattr(option.scope.group, option.field)
        for option in options(config)
        if option.scope.name == f"{group}." and not option.unread()
    }
    return {field: value for field, value in read.items() if value is not None}


def _imported(file: str) -> ModuleType:
    name = file if "." in file else f"jaxnet.models.{file}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Not the file that was asked for, but something that it imports: that is its fault.
        if error.name not in (name, name.rpartition(".")[0]):
            raise
    raise UsageError(
        f"there is no network {file!r}: expected a file of the zoo, such as gpt2, llama, bert, "
        "vit, resnet or mlp, or package.module:Class"
    )


def _class(module: ModuleType, wanted: str) -> type[nn.Module]:
    import flax.linen as nn

    found = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and not name.startswith("_")
    }
    if wanted:
        return lookup(wanted, found, f"class of {module.__name__}")
    own = {name: kind for name, kind in found.items() if kind.__module__ == module.__name__}
    file = module.__name__.rpartition(".")[2]
    named = [kind for name, kind in own.items() if name.lower() == file]
    if len(own) != 1 and not named:
        raise UsageError(
            f"{module.__name__} has several networks: say which, as {file}:CLASS with one of "
            f"{', '.join(own)}"
        )
    return (named or list(own.values()))[0]
