"""FID in an Ignite training: ``FIDHandler(make_evaluator).attach(trainer)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fidfast.training import Evaluation, TrainingEvaluator

if TYPE_CHECKING:
    from ignite.engine import Engine


class FIDHandler:
    """Calls a :class:`fidfast.TrainingEvaluator` after each iteration of an engine, on every rank.

    ``engine.state.metrics`` gets the FIDs by label, where Ignite's loggers and ``Checkpoint(score_name=…)`` look. The
    evaluator's patience terminates the engine. Checkpoint it as ``Checkpoint({"fid": handler, …}, …)``.

    Args:
        make: ``make() -> TrainingEvaluator``, called on every rank when the engine starts.
    """

    def __init__(self, make: Callable[[], TrainingEvaluator]) -> None:
        self.make = make
        self.evaluator: TrainingEvaluator | None = None
        self._state: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> FIDHandler:
        """Follow this engine; returns itself."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        return self

    def state_dict(self) -> dict[str, Any]:
        if self.evaluator is not None:
            return self.evaluator.state_dict()
        return self._state or {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Before or after the engine has started."""
        if self.evaluator is not None:
            self.evaluator.load_state_dict(state)
        else:
            self._state = state or None

    def _start(self, engine: Engine) -> None:
        if self.evaluator is None:  # not where an engine goes on
            self.evaluator = self.make()
        if self._state is not None:
            self.evaluator.load_state_dict(self._state)
            self._state = None

    def _step(self, engine: Engine) -> None:
        if self.evaluator is not None:
            self._tell(engine, self.evaluator.step(engine.state.iteration))
            if self.evaluator.should_stop:
                engine.terminate()

    def _finish(self, engine: Engine) -> None:
        if self.evaluator is not None:
            self._tell(engine, self.evaluator.finish(engine.state.iteration))

    @staticmethod
    def _tell(engine: Engine, evaluations: Sequence[Evaluation]) -> None:
        for evaluation in evaluations:
            engine.state.metrics[evaluation.label] = evaluation.fid
