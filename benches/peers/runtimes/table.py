"""A Markdown table of what each subject reached."""

import math


class Table:
    """Rows of `unit`s per second by subject; higher is better."""

    def __init__(self, title, unit, scale, ours, extra=()):
        """`ours` is compared with all others except those named in `extra` (more figures of ours, without a ratio)."""
        self.title, self.unit, self.scale = title, unit, scale
        self.ours, self.extra, self.rows = ours, list(extra), []

    def add(self, label, speeds, ceiling, ceiling_name):
        """`ceiling` in the same unit as the speeds, with a name that says what bounds this row."""
        self.rows.append((label, speeds, ceiling, ceiling_name))

    def markdown(self, threads):
        peers = []
        for _, speeds, _, _ in self.rows:
            peers += [name for name in speeds if name not in (self.ours, *self.extra, *peers)]
        names = [self.ours, *self.extra, *peers]
        lines = [f"{self.title}, {threads} thread{'s' if threads > 1 else ''}, {self.unit}:", ""]
        lines.append("| " + " | ".join(["", *names, "ours / best peer", "share of the ceiling"]) + " |")
        lines.append("|" + "---|" * (len(names) + 3))
        ratios = []
        for label, speeds, ceiling, ceiling_name in self.rows:
            best = max((name for name in peers if name in speeds), key=speeds.get)
            ratios.append(speeds[self.ours] / speeds[best])
            cells = [self.number(speeds[name]) if name in speeds else "–" for name in names]
            cells[names.index(best)] = f"**{cells[names.index(best)]}**"
            share = f"{100 * speeds[self.ours] / ceiling:.0f} % of {self.number(ceiling)} ({ceiling_name})"
            lines.append("| " + " | ".join([label, *cells, f"{ratios[-1]:.2f}", share]) + " |")
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lines += ["", f"Geometric mean of the ratios: {mean:.2f}.", ""]
        return "\n".join(lines)

    def number(self, speed):
        value = speed / self.scale
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
