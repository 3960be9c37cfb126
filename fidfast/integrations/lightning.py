"""FID in a Lightning training: ``Trainer(callbacks=[FIDCallback(make_evaluator)])``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fidfast.training import Evaluation, TrainingEvaluator

try:
    # Two packages hold the same Trainer; a callback must be of the one that is in use.
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback, LightningModule, Trainer
    else:
        try:
            from lightning.pytorch import Callback, LightningModule, Trainer
        except ModuleNotFoundError:
            from pytorch_lightning import Callback, LightningModule, Trainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("fidfast.integrations.lightning needs Lightning: pip install lightning") from error


class FIDCallback(Callback):
    """Calls a :class:`fidfast.TrainingEvaluator` after each optimizer step, on every rank.

    ``trainer.callback_metrics`` gets the FIDs by label, so ``ModelCheckpoint(monitor="fid_2k")`` works; for loggers,
    give the evaluator ``log=module.logger.log_metrics``. Its patience stops the training. Checkpoints hold its state.

    Args:
        make: ``make(module) -> TrainingEvaluator``, called on every rank when the training starts: the process group is
            there by then, and the module on its device.
    """

    def __init__(self, make: Callable[[LightningModule], TrainingEvaluator]) -> None:
        super().__init__()
        self.make = make
        self.evaluator: TrainingEvaluator | None = None
        self._state: dict[str, Any] | None = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluator = self.make(pl_module)
        if self._state is not None:
            self.evaluator.load_state_dict(self._state)
            self._state = None
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        if self.evaluator is None or trainer.global_step == self._step:  # gradients are being accumulated
            return
        self._step = trainer.global_step
        self._tell(trainer, self.evaluator.step(self._step))
        if self.evaluator.should_stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.evaluator is not None:
            self._tell(trainer, self.evaluator.finish(trainer.global_step))

    def state_dict(self) -> dict[str, Any]:
        if self.evaluator is not None:
            return self.evaluator.state_dict()
        return self._state or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None

    @staticmethod
    def _tell(trainer: Trainer, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            trainer.callback_metrics[evaluation.label] = torch.tensor(evaluation.fid)
