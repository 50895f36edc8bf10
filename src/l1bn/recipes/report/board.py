"""The report on a network on a device: for the terminal, as JSON and as one file of HTML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from l1bn.device.trial.choices import Choice
from l1bn.device.trial.plans import Part, Plan
from l1bn.device.trial.report import Row
from l1bn.recipes.files.writing import write_text
from l1bn.recipes.report import board_choices, board_plots
from l1bn.recipes.report.page import data_address, render

_COLUMNS = ("layer", "flash", "state", "kept", "MACs", "MACs, step", "instr.", "instr., step")


@dataclass(frozen=True)
class BoardReport:
    """What was found.

    Attributes:
        figures: Single numbers and names.
        rows: Of each layer.
        plans: Of other depths and batches.
        parts: Of steps in which some layers rest.
        choices: What each choice of learning layers costs.
        clock: Clock for which times are estimated [MHz].
    """

    figures: dict[str, object]
    rows: Sequence[Row]
    plans: Sequence[Plan]
    parts: Sequence[Part]
    choices: Sequence[Choice]
    clock: float

    def write(self, folder: Path) -> Path:
        """Write ``report.json``, ``choices.csv``, ``parts.csv`` and ``report.html``.

        Returns:
            The path of the page.
        """
        content = {
            **self.figures,
            "layers": [dataclasses.asdict(row) for row in self.rows],
            "plans": [dataclasses.asdict(plan) for plan in self.plans],
            "parts": [dataclasses.asdict(part) for part in self.parts],
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.json", json.dumps(content, indent=2) + "\n")
        write_text(folder / "choices.csv", board_choices.csv_text(Choice, self.choices))
        write_text(folder / "parts.csv", board_choices.csv_text(Part, self.parts))
        path = folder / "report.html"
        write_text(path, self.html())
        return path

    def html(self) -> str:
        """Return the page."""
        batch = int(str(self.figures["batch"]))
        drawn = {
            "memory": board_plots.plot_memory(self.rows),
            "work": board_plots.plot_work(self.rows, batch),
            "plans": board_plots.plot_plans(self.plans),
            "parts": board_plots.plot_parts(self.parts) if self.parts else "",
        }
        learns = board_plots.depth(str(self.figures["learn"]))
        counted = any(row.infer_instructions for row in self.rows)
        return render(
            "board.html.j2",
            figures={**self.figures, "learns": learns, "counted": counted},
            verdict=self.sentences(),
            rows=[[str(row[0]), *map(_grouped, row[1:])] for row in self.table()],
            plans=[self._shown(plan) for plan in self.plans],
            parts=self.parts,
            choices=board_choices.cells(self.choices),
            choice_columns=board_choices.columns(self.choices),
            plots={name: data_address(svg.encode(), "svg+xml") for name, svg in drawn.items()},
        )

    def _shown(self, plan: Plan) -> dict[str, object]:
        here = (plan.learn, plan.batch) == (self.figures["learn"], self.figures["batch"])
        numbers = [_grouped(n) for n in (plan.ram, plan.arena, plan.state, plan.macs)]
        name = board_plots.depth(plan.learn)
        return {**dataclasses.asdict(plan), "here": here, "numbers": numbers, "name": name}

    def table(self) -> list[tuple[object, ...]]:
        """Return the rows of the layers, and one of their sums."""
        numbers = [dataclasses.astuple(row) for row in self.rows]
        sums = (sum(column) for column in list(zip(*numbers, strict=True))[1:])
        return [*numbers, ("all", *sums)]

    def sentences(self) -> list[str]:
        """Return what matters most."""
        f = self.figures
        stack = f"; stack {f['stack_bytes']:,}" if f["stack_bytes"] else ""
        found = [
            f"RAM {f['ram_bytes']:,} bytes: {f['arena_bytes']:,} arena, "
            f"{f['state_bytes']:,} state; inference alone {f['inference_arena_bytes']:,}{stack}"
        ]
        if f["flash_bytes"] is not None:
            found.append(
                f"flash {f['flash_bytes']:,} bytes, the trial's driver included, its images not"
            )
        for title, count in (
            ("inference", sum(r.infer_instructions for r in self.rows)),
            (f"training step of {f['batch']}", sum(r.train_instructions for r in self.rows)),
        ):
            if count:
                found.append(
                    f"{title}: {count:,} instructions, {count / self.clock / 1000:,.1f} ms at "
                    f"{self.clock:g} MHz and one instruction a cycle"
                )
        return found

    def show(self) -> None:
        """Print the table of the layers and the sentences."""
        table = Table(title="bytes, products and instructions of each layer")
        for i, name in enumerate(_COLUMNS):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for row in self.table():
            table.add_row(str(row[0]), *map(_grouped, row[1:]))
        console = Console(width=120, soft_wrap=True)
        console.print(table)
        console.print(board_choices.terminal_table(self.choices))
        for sentence in self.sentences():
            console.print(sentence)


def _grouped(number: object) -> str:
    return f"{number:,}" if number else ""
