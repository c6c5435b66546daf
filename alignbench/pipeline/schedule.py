"""Runs in the order that they need: each begins when what it builds on is complete, as many at a time as there is room
for, and is tried again where that may help.
"""

from __future__ import annotations

import logging
from collections import Counter
from time import sleep

from alignbench.errors import AlignbenchError
from alignbench.pipeline.executors.base import Ended, Executor, Order
from alignbench.pipeline.plan import Key, Outcome, folder, on_the_way
from alignbench.results.failures import forget_failure, record_failure
from alignbench.results.layout import run_path
from alignbench.results.lock import is_held
from alignbench.runtime import distributed

logger = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds from one look at what others hold to the next."""


class Schedule:
    """What is still to begin, what is under way, and what has ended."""

    def __init__(self, order: Order, executor: Executor, *, retries: int = 0, longest_first: bool = False) -> None:
        """Begins nothing.

        Args:
            order: What to run.
            executor: What carries it out.
            retries: How often a run is tried again that died, or failed for a reason that nobody has foreseen.
            longest_first: Begin with what most is left to do behind, as runs go side by side.
        """
        self._order, self._executor, self._retries = order, executor, retries
        self._waiting, self._under_way = list(order.planned), set[Key]()
        self._ways = on_the_way(order.planned) if longest_first else {}
        self._outcomes: dict[Key, Outcome] = {}
        self._tries = Counter[Key]()
        self._held = set[Key]()
        """Runs that another process was seen to have."""
        self._is_stopping = False

    def carry_out(self) -> list[Outcome]:
        """Goes on until everything has ended, past failed runs; what builds on a failed run fails too.

        Of several processes that train together, the first failed run is the last.

        Raises:
            KeyboardInterrupt: After an interrupt, when all that was under way has ended at its next checkpoint, or at
                once after a second one.
        """
        while self._under_way or (self._waiting and not self._is_stopping):
            try:
                self._begin_what_can()
                if self._under_way:
                    for key, ended in self._executor.wait(PATIENCE):
                        self._note(key, ended)
                elif self._waiting:
                    sleep(PATIENCE)
            except KeyboardInterrupt:
                self._executor.stop(at_once=self._is_stopping)
                if self._is_stopping:
                    raise
                self._is_stopping = True
                if n := len(self._under_way):
                    logger.warning("stopping: %d runs end at their next checkpoint; Ctrl-C again ends them at once", n)
        if self._is_stopping:
            raise KeyboardInterrupt
        return [self._outcomes[key] for key in self._order.planned if key in self._outcomes]

    def _begin_what_can(self) -> None:
        for key in sorted(self._waiting, key=lambda one: -self._ways.get(one, 0)) if not self._is_stopping else ():
            needed = [other.key for other in self._order.planned[key].upstream.values()]
            failed = [one for one in needed if one in self._outcomes and self._outcomes[one].state == "failed"]
            if failed:
                error = AlignbenchError(f"not run: {failed[0][0]} (seed {failed[0][1]}), which it builds on, failed")
                self._waiting.remove(key)
                self._give_up(key, Ended("failed", error=error))
            elif all(one in self._outcomes for one in needed) and self._executor.has_room() and not self._is_held(key):
                self._tries[key] += 1
                self._waiting.remove(key)
                forget_failure(self._order.results, *key)
                self._executor.submit(key)
                self._under_way.add(key)

    def _is_held(self, key: Key) -> bool:
        """True while another process has a run: it is waited for, and then there is nothing to do, or the rest."""
        if distributed.world_size() > 1:  # each of them would have to see it
            return False
        recipe = self._order.planned[key].recipe
        held = is_held(run_path(folder(recipe, self._order.results), *key))
        if held and key not in self._held:
            logger.info("%s, seed %d: another process has it; it is waited for", *key)
            self._held.add(key)
        return held

    def _note(self, key: Key, ended: Ended) -> None:
        self._under_way.discard(key)
        may_retry = ended.may_retry and self._tries[key] <= self._retries and not self._is_stopping
        if ended.state in ("done", "kept"):
            self._outcomes[key] = Outcome(*key, ended.state, ended.path)
        elif ended.state == "held":
            self._tries[key] -= 1  # nothing was tried
            self._waiting.append(key)
        elif ended.state == "failed" and may_retry:
            logger.warning("%s, seed %d: %s; tried again from its last checkpoint", *key, ended.error)
            self._waiting.append(key)
        elif ended.state == "failed":
            self._give_up(key, ended)
            if distributed.world_size() > 1:
                self._waiting.clear()

    def _give_up(self, key: Key, ended: Ended) -> None:
        self._outcomes[key] = Outcome(*key, "failed", ended.path, ended.error)
        if distributed.rank() == 0:
            record_failure(self._order.results, *key, str(ended.error))
