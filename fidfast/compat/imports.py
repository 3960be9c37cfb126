"""Imports of other tools that resolve to fidfast's façades of them, on request, until the request is taken back."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# The tool's import name: {a module of theirs: ours, below fidfast.compat}. Where ours is a package, its submodules
# stand for theirs of the same names. Modules of a tool that are not listed stay its own.
_REPLACED: dict[str, dict[str, str]] = {
    "pytorch_fid": {"pytorch_fid": "pytorch_fid"},
    "cleanfid": {"cleanfid": "cleanfid"},
    "torch_fidelity": {"torch_fidelity": "torch_fidelity"},
    "torchmetrics": {
        f"torchmetrics.image.{module}": f"torchmetrics.image.{module}"
        for module in ("fid", "kid", "inception", "mifid")
    },
    "pytorch_image_generation_metrics": {"pytorch_image_generation_metrics": "pytorch_image_generation_metrics"},
    "piq": {"piq.fid": "piq"},
    "ignite": {"ignite.metrics.gan.fid": "ignite"},
    "denoising_diffusion_pytorch": {"denoising_diffusion_pytorch.fid_evaluation": "denoising_diffusion"},
}

_installed: list[str] = []
_originals: dict[str, ModuleType] = {}  # what sys.modules held before


def install(*names: str) -> None:
    """Later imports of these tools, such as "pytorch_fid", give fidfast's façades of them, whoever imports.

    The tool need not be installed, unless only a part of it is replaced (denoising_diffusion_pytorch). What other code
    imported before stays as it was; a partly replaced tool's own modules are changed at once.

    Raises:
        ValueError: a name that has no façade; nothing is then installed.
    """
    _check(names)
    # All of them now: they may import what is left of their tool, which imports this part, and what other tools of
    # these names give it (torchmetrics: torch_fidelity); and where that fails, nothing has been installed.
    for name in names:
        for ours in _REPLACED[name].values():
            import_module(f"fidfast.compat.{ours}")
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    for name in names:
        if name in _installed:
            continue
        _installed.append(name)
        before = {module: sys.modules[module] for module in list(sys.modules) if _ours(module, (name,)) is not None}
        for theirs in before:
            _originals[theirs] = sys.modules.pop(theirs)
        for theirs, module in before.items():
            _redirect(name, theirs, module)


def uninstall(*names: str) -> None:
    """Take :func:`install` back for these tools, or for all: imports give the originals again.

    Raises:
        ValueError: a name that has no façade.
    """
    _check(names)
    for name in names or tuple(_installed):
        if name not in _installed:
            continue
        replaced = {module: sys.modules[module] for module in list(sys.modules) if _ours(module, (name,)) is not None}
        _installed.remove(name)
        for theirs in replaced:
            del sys.modules[theirs]
        for theirs in [module for module in _originals if _ours(module, (name,)) is not None]:
            sys.modules[theirs] = _originals.pop(theirs)
        for theirs, module in replaced.items():
            _redirect(name, theirs, module)
    if not _installed and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def installed() -> tuple[str, ...]:
    """The tools whose imports now give fidfast's façades."""
    return tuple(_installed)


def _check(names: Iterable[str]) -> None:
    for name in names:
        if name not in _REPLACED:
            raise ValueError(f"names: expected some of {', '.join(_REPLACED)}, got {name!r}")


def _ours(module: str, tools: Sequence[str]) -> str | None:
    """The name of ours that stands for this module of one of the tools, whether or not there is such a one."""
    for tool in tools:
        for theirs, ours in _REPLACED[tool].items():
            if module == theirs or module.startswith(f"{theirs}."):
                return f"fidfast.compat.{ours}{module[len(theirs) :]}"
    return None


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        ours = _ours(fullname, _installed)
        if ours is None:
            return None
        try:
            found = importlib.util.find_spec(ours)
        except ModuleNotFoundError:  # a submodule of what is one file in ours
            found = None
        if found is None:
            tool = fullname.partition(".")[0]
            raise ModuleNotFoundError(
                f"fidfast stands in for {tool} and has no {fullname}; fidfast.compat.uninstall({tool!r}) gives the "
                "original back",
                name=fullname,
            )
        return ModuleSpec(fullname, _Loader(ours), is_package=found.submodule_search_locations is not None)


class _Loader(Loader):
    """Gives the one module that ``import fidfast.compat.…`` gives, under the other tool's name too."""

    def __init__(self, ours: str) -> None:
        self._ours = ours

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(self._ours)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has just put the other name's there


_finder = _Finder()


def _redirect(tool: str, theirs: str, before: ModuleType) -> None:
    """In the tool's own loaded modules, what was imported from `before` becomes what the name `theirs` now gives."""
    held = [
        (holder, attribute, value)
        for name, holder in list(sys.modules.items())
        if isinstance(holder, ModuleType) and (name == tool or name.startswith(f"{tool}."))
        for attribute, value in list(vars(holder).items())
        if value is before or _is_defined_in(before, attribute, value)
    ]
    if not held:
        return
    try:
        now = import_module(theirs)
    except ImportError:  # the original needs something that is not here
        for holder, attribute, _ in held:
            delattr(holder, attribute)
        return
    for holder, attribute, value in held:
        setattr(holder, attribute, now if value is before else getattr(now, attribute, value))


def _is_defined_in(module: ModuleType, attribute: str, value: object) -> bool:
    """Not what both import from elsewhere."""
    home = str(getattr(value, "__module__", ""))
    return vars(module).get(attribute) is value and (home == module.__name__ or home.startswith("fidfast."))
