"""The façades beside the tools that they stand for: signatures, prints, files and numbers, on the same images."""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from image_folders import write_images
from signatures import assert_same_signature
from test_compat_denoising_diffusion import Sampler, batches
from test_peers import assert_same_fid, peer_weights  # noqa: F401  a fixture
from tolerances import TOLERANCES

import fidfast.compat.cleanfid as our_cleanfid
import fidfast.compat.pytorch_fid as our_pytorch_fid
from fidfast.compat import denoising_diffusion, install, uninstall
from fidfast.compat.cleanfid import features, fid, resize, utils, wrappers
from fidfast.compat.pytorch_fid import fid_score, inception

pytestmark = pytest.mark.peers

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, weights_path: Path) -> tuple[str, str]:
    """More images than 64 features, so that covariances have full rank, and few enough for the 2048."""
    root = tmp_path_factory.mktemp("peers")
    return str(write_images(root / "real", 72, seed=1)), str(write_images(root / "generated", 70, seed=2))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, weights_path: Path) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("few")
    return str(write_images(root / "real", 9, seed=1)), str(write_images(root / "generated", 8, seed=2))


def defined_in(module: ModuleType) -> dict[str, Any]:
    """Public functions and classes that a module defines itself."""
    found = {name: value for name, value in vars(module).items() if inspect.isfunction(value) or inspect.isclass(value)}
    return {
        name: value for name, value in found.items() if value.__module__ == module.__name__ and not name.startswith("_")
    }


def assert_same_surface(ours: ModuleType, theirs: ModuleType) -> None:
    for name, value in defined_in(theirs).items():
        assert hasattr(ours, name), f"{ours.__name__} has no {name}"
        mine = getattr(ours, name)
        if not inspect.isclass(value):
            assert_same_signature(mine, value)
            continue
        assert_same_signature(mine.__init__, value.__init__)
        for method in [one for one in vars(value) if not one.startswith("_")]:
            if inspect.isfunction(vars(value)[method]):
                assert_same_signature(getattr(mine, method), vars(value)[method])


def test_every_name_and_signature_of_pytorch_fid() -> None:
    theirs = pytest.importorskip("pytorch_fid.fid_score")
    from pytorch_fid import __version__
    from pytorch_fid import inception as their_inception

    assert our_pytorch_fid.__version__ == __version__
    assert_same_surface(fid_score, theirs)
    assert_same_surface(inception, their_inception)
    assert fid_score.IMAGE_EXTENSIONS == theirs.IMAGE_EXTENSIONS
    assert inception.FID_WEIGHTS_URL == their_inception.FID_WEIGHTS_URL
    assert inception.InceptionV3.BLOCK_INDEX_BY_DIM == their_inception.InceptionV3.BLOCK_INDEX_BY_DIM
    assert inception.InceptionV3.DEFAULT_BLOCK_INDEX == their_inception.InceptionV3.DEFAULT_BLOCK_INDEX
    options = [
        [(one.option_strings, one.dest, one.default, one.type, one.choices, one.nargs) for one in parser._actions]
        for parser in (fid_score.parser, theirs.parser)
    ]
    assert options[0] == options[1]


def test_every_name_and_signature_of_clean_fid() -> None:
    theirs = pytest.importorskip("cleanfid.fid")
    import cleanfid.features
    import cleanfid.resize
    import cleanfid.utils
    import cleanfid.wrappers

    assert_same_surface(fid, theirs)
    assert_same_surface(features, cleanfid.features)
    assert_same_surface(resize, cleanfid.resize)
    assert_same_surface(utils, cleanfid.utils)
    assert_same_surface(wrappers, cleanfid.wrappers)
    assert utils.EXTENSIONS == cleanfid.utils.EXTENSIONS
    assert our_cleanfid.__doc__


def test_every_name_and_signature_of_denoising_diffusion() -> None:
    pytest.importorskip("pytorch_fid")
    theirs = pytest.importorskip("denoising_diffusion_pytorch.fid_evaluation")
    assert_same_surface(denoising_diffusion, theirs)


def run_command(module: ModuleType, *arguments: str) -> str:
    """What pytorch-fid's command, or ours, prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["pytorch-fid", *arguments, "--device", "cpu", "--dims", "64"])
        module.main()
    return printed.getvalue()


def test_the_two_commands_print_the_same_and_read_each_others_files(
    folders: tuple[str, str],
    peer_weights: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = {"theirs": pytest.importorskip("pytorch_fid.fid_score"), "ours": fid_score}
    monkeypatch.setenv("TORCH_HOME", str(peer_weights))
    files = {name: str(tmp_path / f"{name}.npz") for name in commands}
    for name, module in commands.items():
        printed = run_command(module, folders[0], files[name], "--save-stats")
        assert printed == f"Saving statistics for {folders[0]}\n"
    with np.load(files["ours"]) as ours, np.load(files["theirs"]) as theirs:
        for name in ("mu", "sigma"):
            assert ours[name].dtype == theirs[name].dtype == np.float64
            assert np.allclose(ours[name], theirs[name], rtol=0, atol=1e-5)
    cases = [
        (folders[0], folders[1], "--batch-size", "100"),  # more than there are images: both say so
        (files["ours"], folders[1], "--batch-size", "35"),
        (folders[1], files["theirs"], "--batch-size", "35"),
    ]
    values = []
    for case in cases:
        printed = {name: run_command(module, *case) for name, module in commands.items()}
        number = re.compile(r"\d+\.\d+(e-\d+)?")
        assert number.sub("*", printed["ours"]) == number.sub("*", printed["theirs"])
        found = {name: float(text.split()[-1]) for name, text in printed.items()}
        assert_same_fid(found["ours"], found["theirs"], " ".join(case))
        values.append(found["ours"])
    assert max(values) - min(values) <= 1e-4 * max(values)


@pytest.fixture
def their_network(peer_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    """pytorch-fid's InceptionV3 with all four outputs."""
    theirs = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setenv("TORCH_HOME", str(peer_weights))
    return theirs.InceptionV3([0, 1, 2, 3]).eval()


def test_the_same_maps_and_state(their_network: Any) -> None:
    ours = inception.InceptionV3([0, 1, 2, 3])
    state = their_network.state_dict()
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())
    their_network.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 70, 50)
    with torch.no_grad():
        for mine, theirs in zip(ours(images), their_network(images), strict=True):
            assert mine.shape == theirs.shape
            assert float((mine - theirs).abs().max()) <= TOLERANCES["network/winograd"].atol * float(theirs.abs().max())


@pytest.fixture
def clean_fid(peer_weights: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:  # noqa: F811
    """cleanfid.fid, whose weights come from our folder instead of /tmp. The archive there has the network but not the
    resize before it, which mode legacy_tensorflow wants: that one is torch-fidelity's."""
    theirs = pytest.importorskip("cleanfid.fid")
    import cleanfid.features
    from cleanfid.inception_torchscript import InceptionV3W
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    def load(path: str, download: bool, resize_inside: bool) -> Any:
        network = InceptionV3W(str(peer_weights.parent / "clean-fid"), download=False, resize_inside=False)
        if not resize_inside:
            return network
        resized = torch.nn.Module()
        resize_as_tensorflow = functools.partial(interpolate_bilinear_2d_like_tensorflow1x, align_corners=False)
        resized.forward = lambda x: network(resize_as_tensorflow(x, (299, 299)))
        return resized

    monkeypatch.setattr(cleanfid.features, "InceptionV3W", load)
    monkeypatch.setenv("TORCH_HOME", str(peer_weights))
    return theirs


@pytest.mark.parametrize("mode", features.PRESETS)
def test_clean_fids_features_and_kid_in_every_mode(
    mode: str, clean_fid: ModuleType, few: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"mode": mode, "device": CPU, "num_workers": 0, "batch_size": 4}
    found, kids, printed = [], [], []
    for module in (clean_fid, fid):
        model = module.build_feature_extractor(mode, CPU, use_dataparallel=False)
        found.append(module.get_folder_features(few[0], model, **options))
        np.random.seed(11)
        kids.append(module.compute_kid(*few, use_dataparallel=False, **options))
        printed.append(capsys.readouterr().out)
    assert printed[1] == printed[0] and "compute KID between two folders" in printed[0]
    assert found[1].dtype == found[0].dtype and found[1].shape == found[0].shape
    assert np.abs(found[1] - found[0]).max() <= 1e-4
    assert kids[1] == pytest.approx(kids[0], rel=1e-4, abs=1e-6)


def test_clean_fids_fid(clean_fid: ModuleType, few: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Once: their square root of 2048 × 2048 takes most of the time here."""
    options = {"device": CPU, "num_workers": 0, "use_dataparallel": False}
    values, printed = [], []
    for module in (clean_fid, fid):
        values.append(float(module.compute_fid(*few, **options)))
        printed.append(capsys.readouterr().out)
    assert_same_fid(values[1], values[0], "clean-fid")
    assert printed[1] == printed[0] and printed[0].startswith("compute FID between two folders\nFound 9 images")


def make_images(z: torch.Tensor) -> torch.Tensor:  # (N, 48) -> (N, 3, 32, 32) in [0, 255]
    return (z.view(-1, 3, 4, 4).sigmoid() * 255).repeat_interleave(8, 2).repeat_interleave(8, 3)


@pytest.mark.parametrize("mode", features.PRESETS)
def test_clean_fid_of_a_generator(mode: str, clean_fid: ModuleType) -> None:
    rows = []
    for module in (clean_fid, fid):
        model = module.build_feature_extractor(mode, CPU, use_dataparallel=False)
        torch.manual_seed(4)
        options = {"mode": mode, "z_dim": 48, "num_gen": 5, "batch_size": 3, "device": CPU, "verbose": False}
        rows.append(module.get_model_features(make_images, model, **options))
    assert rows[0].shape == rows[1].shape == (5, 2048)
    assert np.abs(rows[0] - rows[1]).max() <= 1e-4


def test_clean_fids_resizers_and_distances(clean_fid: ModuleType, few: tuple[str, str]) -> None:
    import cleanfid.resize

    image = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    for options in (("PIL", False, "bicubic", (29, 31)), ("PIL", True, "lanczos", (29, 31)),
                    ("PyTorch", False, "bilinear", (31, 29)), ("PyTorch", True, "bilinear", (31, 29))):  # fmt: skip
        mine, theirs = (module.make_resizer(*options)(image) for module in (resize, cleanfid.resize))
        assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs), options
    rng = np.random.default_rng(1)
    rows = [rng.standard_normal((40, 8)).astype(np.float32) + shift for shift in (0, 0.3)]
    assert fid.fid_from_feats(*rows) == pytest.approx(clean_fid.fid_from_feats(*rows), rel=1e-6)
    values = []
    for module in (clean_fid, fid):
        np.random.seed(2)
        values.append(module.kernel_distance(*rows, num_subsets=7, max_subset_size=25))
    assert values[1] == pytest.approx(values[0], rel=1e-4)


def test_clean_fids_wrapper(clean_fid: ModuleType, few: tuple[str, str]) -> None:
    import cleanfid.wrappers

    generator = torch.Generator().manual_seed(0)
    real, generated = (torch.randint(0, 256, (6, 3, 40, 30), generator=generator, dtype=torch.uint8) for _ in range(2))
    rows = []
    for module in (cleanfid.wrappers, wrappers):
        metric = module.CleanFID(device=CPU)
        metric.add_real_images(real)
        metric.add_gen_images(generated[:4])
        metric.add_gen_images(generated[4].permute(1, 2, 0).numpy())
        metric.add_gen_images(generated[5])
        rows.append(np.concatenate([*metric.real_features, *metric.gen_features]))
    assert np.abs(rows[1] - rows[0]).max() <= 1e-4


def test_the_evaluation_of_denoising_diffusion(
    few: tuple[str, str],
    peer_weights: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pytorch_fid")
    theirs = pytest.importorskip("denoising_diffusion_pytorch.fid_evaluation")
    monkeypatch.setenv("TORCH_HOME", str(peer_weights))

    def evaluation(module: ModuleType, folder: Path, block: int = 64) -> Any:
        made = module.FIDEvaluation(
            4, batches(Path(few[0])), Sampler(), stats_dir=str(folder), device="cpu", num_fid_samples=7,
            inception_block_idx=block,
        )  # fmt: skip
        torch.manual_seed(3)  # of the flips; their network draws its first weights, and then loads others
        return made

    values, printed, rows = [], [], []
    for name, module in (("theirs", theirs), ("ours", denoising_diffusion)):
        folder = tmp_path / name
        folder.mkdir()
        values.append(float(evaluation(module, folder).fid_score()))
        printed.append(capsys.readouterr().out.replace(str(folder), "FOLDER"))
        whole = evaluation(module, folder, block=2048)
        with torch.inference_mode():
            rows.append(whole.calculate_inception_features(Sampler().sample(3)).numpy())
    assert_same_fid(values[1], values[0], "FIDEvaluation")
    assert printed[1] == printed[0]
    assert np.abs(rows[1] - rows[0]).max() <= 1e-4
    # each reads the other's file; theirs knows no better than to believe it
    assert_same_fid(float(evaluation(theirs, tmp_path / "ours").fid_score()), values[0], "our file")
    with pytest.warns(match="does not say of which images"):
        assert_same_fid(
            float(evaluation(denoising_diffusion, tmp_path / "theirs").fid_score()), values[0], "their file"
        )
    assert capsys.readouterr().out.count("Dataset stats loaded from disk.") == 2


@pytest.fixture
def installed() -> Iterator[Callable[..., None]]:
    yield install
    uninstall()


def test_the_unmodified_trainer_of_denoising_diffusion(
    installed: Callable[..., None], tmp_path: Path, weights_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own training loop, on the CPU at toy size, with calculate_fid=True and our evaluation in it."""
    pytest.importorskip("denoising_diffusion_pytorch")
    images = write_images(tmp_path / "images", 100, seed=1, size=(16, 16))
    installed("denoising_diffusion_pytorch")
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    model = Unet(dim=8, dim_mults=(1, 2), flash_attn=False)
    diffusion = GaussianDiffusion(model, image_size=16, timesteps=6, sampling_timesteps=2)
    trainer = Trainer(
        diffusion,
        str(images),
        train_batch_size=16,
        train_num_steps=2,
        save_and_sample_every=1,
        num_samples=4,
        results_folder=str(tmp_path / "results"),
        calculate_fid=True,
        num_fid_samples=20,
    )
    assert type(trainer.fid_scorer) is denoising_diffusion.FIDEvaluation
    trainer.train()
    printed = capfd.readouterr().out
    scores = [float(value) for value in re.findall(r"fid_score: (\S+)", printed)]
    assert len(scores) == 2 and all(np.isfinite(scores)) and min(scores) > 1
    assert printed.count("Dataset stats cached to") == 1
    again = denoising_diffusion.FIDEvaluation(
        16, trainer.dl, trainer.ema.ema_model, stats_dir=str(tmp_path / "results"), device="cpu", num_fid_samples=20
    )
    again.load_or_precalc_dataset_stats()  # the loader inside Trainer's endless generator says what the data are
    assert capfd.readouterr().out == "Dataset stats loaded from disk.\n"
