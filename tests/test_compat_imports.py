"""install() and uninstall(): imports of other tools that give the façades, and what they leave behind."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fidfast.compat
import fidfast.compat.cleanfid.fid as our_cleanfid
import fidfast.compat.denoising_diffusion as our_evaluation
import fidfast.compat.pytorch_fid.fid_score as our_fid_score
from fidfast.compat import install, installed, uninstall

TOOLS = ("pytorch_fid", "cleanfid", "denoising_diffusion_pytorch")


def tool_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.fixture(autouse=True)
def originals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Small stand-ins for the tools, in front of any real ones; nothing stays imported."""
    before = {name: module for name, module in sys.modules.items() if tool_of(name) in TOOLS}
    for name in before:
        del sys.modules[name]
    files = {
        "pytorch_fid/__init__.py": "",
        "pytorch_fid/fid_score.py": "theirs = True",
        "pytorch_fid/extra.py": "theirs = True",
        "denoising_diffusion_pytorch/__init__.py": "from denoising_diffusion_pytorch.trainer import Trainer",
        "denoising_diffusion_pytorch/fid_evaluation.py": "import os\nclass FIDEvaluation:\n    theirs = True\n",
        "denoising_diffusion_pytorch/trainer.py": (
            "import os\nfrom denoising_diffusion_pytorch import fid_evaluation\n"
            "from denoising_diffusion_pytorch.fid_evaluation import FIDEvaluation\n"
            "class Trainer:\n    evaluation = staticmethod(lambda: FIDEvaluation)\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    uninstall()
    for name in [name for name in sys.modules if tool_of(name) in TOOLS]:
        del sys.modules[name]
    sys.modules.update(before)


def test_a_whole_tool_resolves_to_its_facade_and_back() -> None:
    install("pytorch_fid")
    assert installed() == ("pytorch_fid",)
    import pytorch_fid.fid_score as there
    from pytorch_fid import inception
    from pytorch_fid.fid_score import calculate_fid_given_paths

    assert there is our_fid_score
    assert calculate_fid_given_paths is our_fid_score.calculate_fid_given_paths
    assert inception.InceptionV3 is our_fid_score.InceptionV3
    assert sys.modules["pytorch_fid"] is fidfast.compat.pytorch_fid
    assert our_fid_score.__spec__ is not None and our_fid_score.__spec__.name == "fidfast.compat.pytorch_fid.fid_score"
    uninstall("pytorch_fid")
    assert installed() == ()
    assert importlib.import_module("pytorch_fid.fid_score").theirs
    assert importlib.import_module("fidfast.compat.pytorch_fid.fid_score") is our_fid_score


def test_what_was_loaded_before_comes_back_as_it_was() -> None:
    theirs = importlib.import_module("pytorch_fid.fid_score")
    extra = importlib.import_module("pytorch_fid.extra")
    parent = sys.modules["pytorch_fid"]
    install("pytorch_fid")
    assert importlib.import_module("pytorch_fid.fid_score") is our_fid_score
    with pytest.raises(ModuleNotFoundError, match=r"stands in for pytorch_fid .*no pytorch_fid.extra.*uninstall"):
        importlib.import_module("pytorch_fid.extra")
    uninstall()
    assert importlib.import_module("pytorch_fid.fid_score") is theirs
    assert importlib.import_module("pytorch_fid.extra") is extra
    assert sys.modules["pytorch_fid"] is parent and parent.fid_score is theirs


def test_several_at_once_and_twice() -> None:
    hooks = len(sys.meta_path)
    install("pytorch_fid", "cleanfid")
    install("cleanfid")
    assert len(sys.meta_path) == hooks + 1
    from cleanfid import fid

    assert fid is our_cleanfid
    uninstall("cleanfid")
    uninstall("cleanfid")
    assert installed() == ("pytorch_fid",)
    assert importlib.import_module("pytorch_fid.fid_score") is our_fid_score
    uninstall()
    assert len(sys.meta_path) == hooks


def test_an_unknown_name_installs_nothing() -> None:
    for change in (install, uninstall):
        with pytest.raises(ValueError, match=r"names: expected some of .*pytorch_fid.*, got 'pytorch-fid'"):
            change("cleanfid", "pytorch-fid")
    assert installed() == ()


def test_a_part_of_a_tool_that_is_imported_later() -> None:
    install("denoising_diffusion_pytorch")
    package = importlib.import_module("denoising_diffusion_pytorch")
    trainer = sys.modules["denoising_diffusion_pytorch.trainer"]
    assert package.Trainer.evaluation() is our_evaluation.FIDEvaluation
    assert package.fid_evaluation is our_evaluation and trainer.fid_evaluation is our_evaluation
    uninstall()
    original = importlib.import_module("denoising_diffusion_pytorch.fid_evaluation")
    assert original.FIDEvaluation.theirs
    assert package.Trainer.evaluation() is original.FIDEvaluation
    assert package.fid_evaluation is original and trainer.fid_evaluation is original
    assert package is importlib.import_module("denoising_diffusion_pytorch")


def test_a_part_of_a_tool_that_was_imported_before() -> None:
    package = importlib.import_module("denoising_diffusion_pytorch")
    original = importlib.import_module("denoising_diffusion_pytorch.fid_evaluation")
    install("denoising_diffusion_pytorch")
    assert package.Trainer.evaluation() is our_evaluation.FIDEvaluation
    assert package.fid_evaluation is our_evaluation
    assert package.trainer.os is original.os  # imported from elsewhere by both
    uninstall()
    assert package.Trainer.evaluation() is original.FIDEvaluation
    assert importlib.import_module("denoising_diffusion_pytorch.fid_evaluation") is original


def test_a_part_whose_original_cannot_be_imported(originals: Path) -> None:
    (originals / "denoising_diffusion_pytorch" / "fid_evaluation.py").write_text("import a_module_that_is_not_there")
    install("denoising_diffusion_pytorch")
    package = importlib.import_module("denoising_diffusion_pytorch")
    assert package.Trainer.evaluation() is our_evaluation.FIDEvaluation
    uninstall()
    assert not hasattr(sys.modules["denoising_diffusion_pytorch.trainer"], "FIDEvaluation")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        importlib.import_module("denoising_diffusion_pytorch.fid_evaluation")


def test_all_facades_are_loaded_before_any_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One may import another's original: torchmetrics does torch_fidelity's. A failure installs none of them."""
    loaded = []

    def recording(name: str) -> ModuleType:
        assert installed() == ()
        loaded.append(name)
        if name.endswith("cleanfid") and loaded.count(name) == 2:
            raise ImportError("lacks something")
        return importlib.import_module(name)

    monkeypatch.setattr(fidfast.compat.imports, "import_module", recording)
    install("pytorch_fid", "cleanfid")
    assert loaded == ["fidfast.compat.pytorch_fid", "fidfast.compat.cleanfid"]
    uninstall()
    with pytest.raises(ImportError, match="lacks something"):
        install("pytorch_fid", "cleanfid")
    assert installed() == () and importlib.import_module("pytorch_fid.fid_score").theirs


def test_importing_the_package_does_no_work() -> None:
    code = (
        "import sys; before = list(sys.meta_path); import fidfast.compat;"
        "assert sys.meta_path == before and 'torch' not in sys.modules and 'pytorch_fid' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
