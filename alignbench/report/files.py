"""Where a report goes: what is there already stays, and a file is either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alignbench.errors import AlignbenchError, UsageError
from alignbench.report.html import page
from alignbench.report.markdown import markdown
from alignbench.report.pictures.picture import Picture
from alignbench.report.png import png, require_png
from alignbench.report.report import Report

Style = Literal["html", "markdown"]
Format = Literal["svg", "png"]
_STYLES: dict[str, Style] = {".html": "html", ".htm": "html", ".md": "markdown", ".markdown": "markdown"}


@dataclass(frozen=True, slots=True)
class Target:
    """Where to write, and how."""

    output: Path
    figures: Path | None = None
    """A folder for the pictures; None writes none."""
    figure_format: Format = "svg"
    force: bool = False
    """Replace what is there."""

    def require(self) -> None:
        """UsageError where the file or folder cannot be written, or is there already: before anything is read."""
        _style(self.output)
        _require_new(self.output, self.force)
        if self.figures is not None:
            if self.figures.exists() and not self.figures.is_dir():
                raise UsageError(f"--figures: {self.figures} is a file, expected a folder")
            _require_writable(self.figures if self.figures.exists() else self.figures.parent, self.figures)
            if self.figure_format == "png":
                require_png()

    def write(self, report: Report) -> list[Path]:
        """Writes the pictures, where they are wanted, then the report; returns all files."""
        pictures = [figure.picture for figure in report.figures] if self.figures is not None else []
        drawn = self._draw(pictures)
        if _style(self.output) == "html":
            text = page(report)
        else:
            named = {picture.name: self._link(path) for picture, path in zip(pictures, drawn, strict=True)}
            text = markdown(report, named if self.figures is not None else None)
        # Anything that is no character by itself, in a name, say, has become visible before; this is for what is left.
        _write(self.output, text.encode("utf-8", "backslashreplace"))
        return [*drawn, self.output]

    def _draw(self, pictures: Sequence[Picture]) -> list[Path]:
        if self.figures is None:
            return []
        paths = [self.figures / f"{picture.name}.{self.figure_format}" for picture in pictures]
        for path in paths:
            if self.figures.exists():
                _require_new(path, self.force)
        contents = [picture.file() for picture in pictures]
        made = [png(one) if self.figure_format == "png" else one.encode() for one in contents]
        self.figures.mkdir(exist_ok=True)
        for path, content in zip(paths, made, strict=True):
            _write(path, content)
        return paths

    def _link(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.output.parent)).as_posix()


def _style(output: Path) -> Style:
    style = _STYLES.get(output.suffix.lower())
    if style is None:
        raise UsageError(f"-o: got {output.name!r}, expected a name that ends in .html or .md")
    return style


def _require_new(path: Path, force: bool) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder, expected a file")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; choose another name, or replace it with --force")
    _require_writable(path.parent, path)


def _require_writable(folder: Path, path: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path} cannot be written: no permission to write in {folder}")


def _write(path: Path, content: bytes) -> None:
    """Writes a file that is afterwards either as before or whole."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise AlignbenchError(f"{path} cannot be written: {error.strerror or error}") from error
