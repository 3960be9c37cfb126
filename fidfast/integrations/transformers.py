"""FID in a Hugging Face training: ``Trainer(callbacks=[FIDCallback(make_evaluator)])``."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fidfast.page import write_atomically
from fidfast.result import FidfastWarning
from fidfast.training import TrainingEvaluator

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("fidfast.integrations.transformers needs it: pip install transformers") from error


class FIDCallback(TrainerCallback):
    """Calls a :class:`fidfast.TrainingEvaluator` after each optimizer step, on every rank.

    For the Trainer's log and its reporters (TensorBoard, W&B, …), give the evaluator ``log=trainer.log``. Its patience
    stops the training. Each rank's state stands in the Trainer's checkpoints, where a resumed training finds it.

    Args:
        make: ``make(model) -> TrainingEvaluator``, called on every rank when the training starts: the process group is
            there by then, and the model on its device.
    """

    def __init__(self, make: Callable[[torch.nn.Module], TrainingEvaluator]) -> None:
        self.make = make
        self.evaluator: TrainingEvaluator | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.evaluator = self.make(kwargs["model"])
        if state.global_step == 0:
            return
        folder = _checkpoint(args, state)
        own, first = folder / _file_of(args.process_index), folder / _file_of(0)
        saved = own if own.exists() else first  # that of rank 0 serves where there were fewer ranks
        if saved.exists():
            self.evaluator.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True))
        else:
            warnings.warn(
                f"{folder} holds no {first.name}: the FID evaluator begins anew", FidfastWarning, stacklevel=2
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.evaluator is not None:
            self.evaluator.step(state.global_step)
            control.should_training_stop |= self.evaluator.should_stop
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.evaluator is not None:
            buffer, folder = io.BytesIO(), _checkpoint(args, state)
            torch.save(self.evaluator.state_dict(), buffer)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / _file_of(args.process_index), buffer.getvalue())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.evaluator is not None:
            self.evaluator.finish(state.global_step)


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def _file_of(rank: int) -> str:
    return f"fidfast-rank{rank}.pt"
