"""Who belongs to which team: the lines of the CSV file that CREDITS_TEAMS names."""

import csv
from collections.abc import Collection
from dataclasses import dataclass

from credits_pipeline.env_file import ConfigError, as_path

COLUMNS = ("account", "dimension", "pattern", "team", "cost_center")


@dataclass(frozen=True)
class Team:
    """One line: members of `dimension` whose name is like `pattern` are of `team`; the first line that fits counts."""

    position: int
    account: str
    dimension: str
    pattern: str
    team: str
    cost_center: str | None


def read_teams(text: str, dimensions: Collection[str]) -> tuple[Team, ...]:
    """The lines of the file at `text`, none without one. Raises ConfigError, which names the first wrong line."""
    if not text:
        return ()
    path, teams = as_path("CREDITS_TEAMS", text), list[Team]()
    try:
        lines = path.read_text("utf-8-sig").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"CREDITS_TEAMS: {path.name} cannot be read: name a CSV file in UTF-8") from None
    delimiter = max(",;\t", key="".join(lines[:1]).count)
    rows = csv.DictReader(lines, delimiter=delimiter, restval="")
    try:
        if [name.strip().lower() for name in rows.fieldnames or []] != [*COLUMNS]:
            raise ConfigError(f"CREDITS_TEAMS: line 1 of {path.name} must be {','.join(COLUMNS)}")
        rows.fieldnames = COLUMNS
        for row in rows:
            cells, problem = {name: cell.strip() for name, cell in row.items() if name}, ""
            if not any(cells.values()):
                continue  # spreadsheets pad with empty rows
            if any(row.get(None, [])) or not all(cells[name] for name in COLUMNS[:4]):
                problem = f"must have the cells {', '.join(COLUMNS)}, of which only the last may be empty"
            elif cells["dimension"] not in dimensions:
                problem = f"has a dimension that CREDITS_BREAKDOWNS does not: use {', '.join(dimensions) or 'none'}"
            if problem:
                raise ConfigError(f"CREDITS_TEAMS: line {rows.line_num} of {path.name} {problem}")
            teams.append(Team(len(teams) + 1, **cells | {"cost_center": cells["cost_center"] or None}))
    except csv.Error as error:
        raise ConfigError(f"CREDITS_TEAMS: line {rows.line_num} of {path.name} is no CSV ({error})") from None
    return tuple(teams)
