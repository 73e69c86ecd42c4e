"""Hypotheses of photos by Diverse3DFace, by OFER, and by both together, kept on disk so that a run goes on."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax

from experiments.cache import write_tree
from experiments.runtime import compile_clock
from experiments.tables.diverse_cases import Case, Tick
from experiments.tables.diverse_runs import (
    LOCAL,
    OURS,
    ROOMS,
    Found,
    Runner,
    case_key,
    digest_of_settings,
    found_of,
    read_found,
)
from experiments.tables.fits import code_version
from flamejax.types import Fit
from models.weight_files import digest_of_weights
from sampling import OferConfig, OferDppConfig, OferNetworks, ofer, ofer_dpp

METHODS = ("diverse", "ofer", "ofer+dpp")


class ExpressionRunner:
    """Draws hypotheses for fits of the global and local models; those of Algorithm 2 are `runner`'s."""

    def __init__(
        self, runner: Runner, networks: OferNetworks, ofer_config: OferConfig | None = None,
        dpp_config: OferDppConfig | None = None,
    ):  # fmt: skip
        self.runner, self.networks = runner, networks
        self.configs: dict[str, Any] = {"ofer": ofer_config or OferConfig(), "ofer+dpp": dpp_config or OferDppConfig()}
        parts = (networks.idgen, networks.expgen, networks.idrank)
        self._weights = functools.cache(lambda: [digest_of_weights(part) for part in parts])

    def hypotheses(self, method: str, cases: Sequence[Case], tick: Tick = lambda count: None) -> list[Found]:
        """Hypotheses of each case by a method of `METHODS`, made or taken from an earlier run."""
        if method == "diverse":
            return self.runner.hypotheses(OURS, cases, tick)
        settings, head = self.runner.settings, self.runner.head
        wanted = [
            method, dataclasses.asdict(self.configs[method]), settings.num_samples, settings.seed,
            settings.fit_preset, self.runner.head_name(), self._weights(),
        ]  # fmt: skip
        folder = self.runner.folder / code_version(ROOMS) / f"hypotheses-{digest_of_settings(wanted)}"
        found = []
        for case in cases:
            path = folder / f"{case.key}-{case.digest}.npz"
            one = read_found(path, (settings.num_samples, head.num_vertices, 3))
            if one is None:
                (fit,) = self.runner.fits(LOCAL, [case])
                one = self._make(method, case, fit)
                write_tree(path, one)
            found.append(one)
            tick(1)
        return found

    def _make(self, method: str, case: Case, fit: Fit) -> Found:
        draw: Any = ofer if method == "ofer" else ofer_dpp
        settings, start = self.runner.settings, time.perf_counter()
        with compile_clock() as clock:
            made = draw(
                self.networks, self.runner.head, fit, case.observation, case_key(case, settings.seed),
                num_samples=settings.num_samples, config=self.configs[method],
            )  # fmt: skip
            made = jax.block_until_ready(made)
        seconds = max(time.perf_counter() - start - clock.seconds, 0.0)
        return found_of(self.runner.model(LOCAL), fit, made, seconds)
