"""The adapters, each in a real training of its framework: when the evaluator is called, and where its state goes."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fidfast.result import FidfastWarning
from fidfast.training import Evaluation

ROOT = Path(__file__).resolve().parents[1]
LABEL = "fid_2"


def framework(name: str) -> ModuleType:
    """The test skips where it is not installed, unless FIDFAST_REQUIRE_FRAMEWORKS=1."""
    if os.environ.get("FIDFAST_REQUIRE_FRAMEWORKS") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed here: make peers-test installs it")


class Recorder:
    """In the place of a TrainingEvaluator: writes down what it is asked; every step is due."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.finished: list[int] = []
        self.evaluations: list[Evaluation] = []
        self.loaded: dict[str, Any] | None = None
        self.stop_at = stop_at

    @property
    def should_stop(self) -> bool:
        return self.stop_at in self.steps

    def step(self, step: int) -> Sequence[Evaluation]:
        self.steps.append(step)
        self.evaluations.append(Evaluation(LABEL, step, step, 10.0 / step, True, {}))
        return self.evaluations[-1:]

    def finish(self, step: int) -> Sequence[Evaluation]:
        self.finished.append(step)
        return [Evaluation("fid_9", step, step, 5.0, True, {})]

    def state_dict(self) -> dict[str, Any]:
        return {"steps": list(self.steps), "sums": torch.arange(3)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


class Toy(torch.nn.Module):
    """(n, 2) → a loss, as the Hugging Face Trainer wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.layer(x).square().mean()}


def test_nothing_of_a_framework_is_imported_until_its_adapter_is() -> None:
    code = (
        "import sys, fidfast, fidfast.integrations, fidfast.training, fidfast.cli, fidfast.integrations.ignite\n"
        "print(sorted({'lightning', 'pytorch_lightning', 'transformers', 'accelerate', 'ignite'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("adapter", "hidden"),
    [("lightning", ("lightning", "lightning.pytorch", "pytorch_lightning")), ("transformers", ("transformers",))],
)
def test_without_the_framework_the_error_says_what_to_install(adapter, hidden, monkeypatch):
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"fidfast.integrations.{adapter}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=f"fidfast.integrations.{adapter} needs .*pip install {adapter}"):
        importlib.import_module(f"fidfast.integrations.{adapter}")


# ---------------------------------------------------------------------------------------------------------------------
# Lightning
# ---------------------------------------------------------------------------------------------------------------------


def lightning_fit(recorder: Recorder, folder: Path, steps: int, **options: Any) -> Any:
    lightning = framework("lightning.pytorch")
    from fidfast.integrations.lightning import FIDCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.toy = Toy()

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return self.toy(batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def make(module: Module) -> Recorder:
        assert isinstance(module, Module)
        return recorder

    start = options.pop("ckpt_path", None)
    callbacks = [FIDCallback(make), *options.pop("callbacks", [])]
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=steps, default_root_dir=folder, logger=False, callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(torch.rand(64, 2), batch_size=4), ckpt_path=start)
    return trainer


@pytest.mark.peers
def test_lightning_calls_it_once_a_step_and_monitors_it(tmp_path):
    framework("lightning.pytorch")
    from lightning.pytorch.callbacks import ModelCheckpoint

    recorder = Recorder()
    checkpoint = ModelCheckpoint(tmp_path, monitor=LABEL, filename="{step}-{fid_2:.2f}", every_n_train_steps=2)
    trainer = lightning_fit(recorder, tmp_path, 4, accumulate_grad_batches=2, callbacks=[checkpoint])
    assert recorder.steps == [1, 2, 3, 4] and recorder.finished == [4]
    assert float(trainer.callback_metrics[LABEL]) == 2.5 and float(trainer.callback_metrics["fid_9"]) == 5.0
    assert Path(checkpoint.best_model_path).name == "step=4-fid_2=2.50.ckpt"

    again = Recorder()
    lightning_fit(again, tmp_path, 6, accumulate_grad_batches=2, ckpt_path=checkpoint.best_model_path)
    assert again.steps == [5, 6]
    assert again.loaded is not None and again.loaded["steps"] == [1, 2, 3, 4]
    assert torch.equal(again.loaded["sums"], torch.arange(3))


@pytest.mark.peers
def test_lightning_stops_when_patience_ends(tmp_path):
    recorder = Recorder(stop_at=3)
    lightning_fit(recorder, tmp_path, 9, enable_checkpointing=False)
    assert recorder.steps == [1, 2, 3] and recorder.finished == [3]


# ---------------------------------------------------------------------------------------------------------------------
# Hugging Face
# ---------------------------------------------------------------------------------------------------------------------


def transformers_train(recorder: Recorder, folder: Path, steps: int, resume: str | None = None, **options: Any) -> Any:
    transformers = framework("transformers")
    framework("accelerate")
    from fidfast.integrations.transformers import FIDCallback

    def make(model: torch.nn.Module) -> Recorder:
        assert isinstance(model, Toy)
        return recorder

    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, report_to="none",
        **{"save_strategy": "no", **options},
    )  # fmt: skip
    trainer = transformers.Trainer(
        Toy(), arguments, train_dataset=[{"x": row} for row in torch.rand(64, 2)], callbacks=[FIDCallback(make)]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.peers
def test_transformers_calls_it_once_a_step_and_a_resumed_training_goes_on(tmp_path):
    recorder = Recorder()
    saving = {"save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
    transformers_train(recorder, tmp_path, 4, **saving)
    assert recorder.steps == [1, 2, 3, 4] and recorder.finished == [4]

    again = Recorder()
    transformers_train(again, tmp_path, 5, resume=str(tmp_path / "checkpoint-2"), **saving)
    assert again.steps == [3, 4, 5]
    assert again.loaded is not None and again.loaded["steps"] == [1, 2]

    (tmp_path / "checkpoint-2" / "fidfast-rank0.pt").unlink()
    with pytest.warns(FidfastWarning, match="checkpoint-2 holds no fidfast-rank0.pt: the FID evaluator begins anew"):
        transformers_train(Recorder(), tmp_path, 3, resume=str(tmp_path / "checkpoint-2"))


@pytest.mark.peers
def test_transformers_stops_when_patience_ends(tmp_path):
    recorder = Recorder(stop_at=3)
    transformers_train(recorder, tmp_path, 9)
    assert recorder.steps == [1, 2, 3] and recorder.finished == [3]


# ---------------------------------------------------------------------------------------------------------------------
# Ignite
# ---------------------------------------------------------------------------------------------------------------------


def ignite_run(recorder: Recorder, iterations: int, state: dict[str, Any] | None = None) -> tuple[Any, Any]:
    ignite = framework("ignite.engine")
    from fidfast.integrations.ignite import FIDHandler

    engine = ignite.Engine(lambda engine, batch: None)
    handler = FIDHandler(lambda: recorder).attach(engine)
    if state is not None:
        handler.load_state_dict(state)
        assert handler.state_dict() == state
    engine.run(range(4), max_epochs=iterations // 4, epoch_length=4)
    return engine, handler


@pytest.mark.peers
def test_ignite_calls_it_once_an_iteration_and_its_state_comes_back():
    recorder = Recorder()
    engine, handler = ignite_run(recorder, 8)
    assert recorder.steps == list(range(1, 9)) and recorder.finished == [8]
    assert engine.state.metrics == {LABEL: 1.25, "fid_9": 5.0}
    state = handler.state_dict()
    assert state["steps"] == recorder.steps
    again = Recorder()
    ignite_run(again, 4, state)
    assert again.loaded is state


@pytest.mark.peers
def test_ignite_stops_when_patience_ends():
    recorder = Recorder(stop_at=3)
    ignite_run(recorder, 8)
    assert recorder.steps == [1, 2, 3] and recorder.finished == [3]


# ---------------------------------------------------------------------------------------------------------------------
# The examples
# ---------------------------------------------------------------------------------------------------------------------


def run_example(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: a start of Python takes as long as the work."""
    options = ("--steps", 4, "--every", 2, "--num-samples", 16, "--feature-dim", 64, *arguments)
    monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


@pytest.mark.weights
@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("fid_with_lightning.py", ("lightning.pytorch",)),
        ("fid_with_transformers.py", ("transformers", "accelerate")),
        ("fid_with_accelerate.py", ("accelerate",)),
        ("fid_with_ignite.py", ("ignite.engine",)),
    ],
)
def test_the_example_runs_and_its_history_is_reported(name, needs, weights_path, tmp_path, monkeypatch, capsys):
    from fidfast.report import write_report
    from fidfast.training_history import curves_of, read_history

    for package in needs:
        framework(package)
    history = tmp_path / "fid.jsonl"
    run_example(name, "--history", history, monkeypatch=monkeypatch)
    found = re.findall(r"^(fid_\d+) at [\w ]+: (\d+\.\d{4})$", capsys.readouterr().out, re.MULTILINE)
    curves = curves_of(read_history(history))
    assert {label: [one["step"] for one in some] for label, some in curves.items()} == {"fid_8": [2, 4], "fid_16": [4]}
    assert found == [(one["label"], f"{one['fid']:.4f}") for some in curves.values() for one in some]
    write_report([history], tmp_path / "report.html", progress=False)
    text = (tmp_path / "report.html").read_text()
    assert all(f"{one['fid']:.4f}" in text for some in curves.values() for one in some)
    first, last = (one["fid"] for one in curves["fid_8"])
    assert text.count("<img") == (2 if last < first else 3)  # of every curve the last, and the best if it is another


@pytest.mark.weights
@pytest.mark.peers
def test_accelerate_saves_and_loads_the_evaluator_with_its_own_state(weights_path, tmp_path, monkeypatch, capsys):
    framework("accelerate")
    state = tmp_path / "state"
    run_example("fid_with_accelerate.py", "--steps", 2, "--save", state, monkeypatch=monkeypatch)
    capsys.readouterr()
    run_example("fid_with_accelerate.py", "--resume", state, "--first-step", 3, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "fid_8 at step 2" not in said and "fid_8 at step 4" in said
