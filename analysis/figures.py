"""Draw a study:  python -m analysis.figures runs/<study> [more studies] [figure …] [--metric NAME] [--published]

    pareto    figures/pareto.html and .json, with a browser also .png and .pdf (with a single ε: one row per series)
    samples   figures/samples.png, samples_coarse.png, samples.json
    table     results.md
    waterfall figures/waterfall.* for each FID and accuracy, if the study has its steps (analysis.waterfall)
    report    report.html, one page about all of it, which needs no network (analysis.page)

These are drawn unless others are named. The figures of a paper (analysis.drawings) are drawn when they are named, into
the first study's figures/ as .html and .json, with a browser also .png and, without its caption, .pdf:

    overlay, hypervolume            several studies on one axis
    heatmap, upscalers, schedules, spectra, price, ablation
    --columns 1|2                   as wide as one column of a paper, or two

All pages of all studies in one folder load plotly from that folder's plotly.min.js (4.8 MB), which this command writes
where it is missing or of another version: results/plotly.min.js is in git. Nothing is loaded from the network. PNG and
PDF need Chrome or Chromium, installed or named by BROWSER_PATH.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from analysis.load import Study, load
from wavedp.command import command
from wavedp.errors import UserError, nearest
from wavedp.store import write_atomically

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from analysis.paper_page import Columns

FIGURES = ("pareto", "samples", "table", "waterfall", "report")
PNG_SCALE = 2  # PNG pixels per pixel of the layout
COLOURS = 128  # of a PNG
RENDER_SECONDS = 60  # time limit for the browser
PLOTLY = "plotly.min.js"


def render(
    folder: str | Path, names: Sequence[str] = FIGURES, metric: str | None = None, published: bool = False
) -> list[Path]:
    """Write the named figures of a study and return the paths written, in that order.

    A figure that cannot be drawn (no samples, unknown metric, no browser) gives one line on stderr and the others are
    still written, so that a study never fails because of a figure. Raises UserError for an unreadable folder or an
    unknown figure name.
    """
    unknown = sorted(set(names) - set(FIGURES))
    if unknown:
        raise UserError(f"there is no figure {unknown[0]!r}: {nearest(unknown[0], FIGURES)}")
    study = load(folder)
    figures = study.folder / "figures"
    figures.mkdir(exist_ok=True)
    written: list[Path] = []
    for name in names:
        try:
            if name == "pareto":
                written += _pareto(study, figures, metric, published)
            elif name == "samples":
                from analysis.samples import write_samples

                written += write_samples(study, figures)
            elif name == "waterfall":
                written += _waterfall(study, required=set(names) != set(FIGURES))
            elif name == "report":
                from analysis.page import write_page

                written.append(write_page([study]))
            else:
                from analysis.tables import write_table

                written.append(write_table(study))
        except UserError as error:
            _notice(f"{name} not drawn: {error}")
    return written


def _pareto(study: Study, figures: Path, metric: str | None, published: bool) -> list[Path]:
    from analysis.ablation_figure import ablation_figure, has_one_budget
    from analysis.pareto import pareto_data
    from analysis.pareto_figure import pareto_figure

    data = pareto_data(study, metric, with_published=published)
    if published and not data.published:
        _notice(f"no published numbers in the family of {data.metric} for this data set in analysis/published/")
    figure = ablation_figure(data) if has_one_budget(data) else pareto_figure(data)
    name = (
        "pareto"
        + ("" if data.metric == study.metric() else f"_{data.metric}")
        + ("_published" if data.published else "")
    )
    return write_figure(figure, figures / name)


def _waterfall(study: Study, required: bool) -> list[Path]:
    """Most studies have no such steps, which is worth a word only if they were asked for."""
    from analysis.waterfall import waterfall_metrics, write

    return write([study], study.folder) if required or waterfall_metrics([study]) else []


def draw(folders: Sequence[Path], names: Sequence[str], metric: str | None = None, columns: Columns = 2) -> list[Path]:
    """Write figures of analysis.drawings into the first folder's figures/ and return the paths.

    What cannot be drawn, and what is left out, gives one line each on stderr.
    """
    from analysis.drawings import DRAWINGS

    written: list[Path] = []
    for name in names:
        try:
            figure, said = DRAWINGS[name].draw(folders, metric, columns)
        except UserError as error:
            _notice(f"{name} not drawn: {error}")
            continue
        for sentence in said:
            _notice(f"{name}: {sentence}")
        (folders[0] / "figures").mkdir(exist_ok=True)
        written += write_for_paper(figure, folders[0] / "figures" / name)
    return written


def write_for_paper(figure: go.Figure, stem: Path) -> list[Path]:
    """As `write_figure`, with the caption below all but the PDF."""
    from analysis.paper_page import with_caption

    return write_figure(with_caption(figure), stem, printed=figure)


def write_figure(figure: go.Figure, stem: Path, printed: go.Figure | None = None) -> list[Path]:
    """Write stem.html and stem.json, with a browser also stem.png and stem.pdf. stem: STUDIES/STUDY/figures/NAME.

    printed: what the PDF shows (the figure itself).
    """
    html, json = stem.with_name(f"{stem.name}.html"), stem.with_name(f"{stem.name}.json")
    figure.write_html(html, include_plotlyjs=f"../../{PLOTLY}", include_mathjax=False, div_id=stem.name)
    write_plotly(stem.absolute().parents[2])
    figure.write_json(json)
    return [html, json, *_pictures({"png": figure, "pdf": printed or figure}, stem)]


def write_plotly(studies: Path) -> None:
    """Put the library that the pages load into the folder of the studies; a copy of this version stays as it is."""
    from plotly.offline import get_plotlyjs

    path, script = studies / PLOTLY, get_plotlyjs().encode()
    if path.is_file() and path.read_bytes() == script:
        return
    try:
        write_atomically(path, script)
    except OSError as error:
        _notice(f"{path} can't be written ({error.strerror}), and pages are blank without it: copy it there.")


def _pictures(figures: dict[str, go.Figure], stem: Path) -> list[Path]:
    """Write stem.png and stem.pdf; without a working browser, print a notice and return an empty list."""
    written = []
    for kind in ("png", "pdf"):  # remove those of an earlier run, which would show other trials
        stem.with_name(f"{stem.name}.{kind}").unlink(missing_ok=True)
    # The browser driver logs tracebacks of messages that it then ignores.
    logging.getLogger("choreographer").setLevel(logging.CRITICAL)
    try:
        import kaleido

        for kind, scale in (("png", PNG_SCALE), ("pdf", 1)):
            figure = figures[kind]
            size = {"width": figure.layout.width, "height": figure.layout.height, "scale": scale}
            # Kaleido would fetch MathJax from the network; no text here needs it.
            options = {"mathjax": False, "timeout": RENDER_SECONDS}
            picture = kaleido.calc_fig_sync(figure.to_dict(), opts={"format": kind, **size}, kopts=options)
            path = stem.with_name(f"{stem.name}.{kind}")
            path.write_bytes(fewer_colours(Image.open(io.BytesIO(picture))) if kind == "png" else picture)
            written.append(path)
    except Exception as error:  # a browser can fail in any way; the study's results do not depend on it
        reason = str(error.args[0] if error.args else error).split("\n")[0].split(". ")[0]
        _notice(f"no PNG or PDF ({type(error).__name__}: {reason}); install chromium or set BROWSER_PATH.")
    return written


def fewer_colours(picture: Image.Image, colours: int = COLOURS) -> bytes:
    """A PNG with a palette, a third of the size."""
    stream = io.BytesIO()
    picture.convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
    return stream.getvalue()


def _notice(text: str) -> None:
    print(f"analysis.figures: {text}", file=sys.stderr)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    from analysis.drawings import DRAWINGS

    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=(__doc__ or "").split("\n")[0])
    offered = [*FIGURES, *DRAWINGS]
    parser.add_argument("words", nargs="+", metavar="study or figure", help=f"runs/<study>; of {', '.join(offered)}")
    parser.add_argument("--metric", help="metric of the figures (the first study's primary one)")
    parser.add_argument("--published", action="store_true", help="pareto: other papers' numbers beside it, hollow")
    parser.add_argument("--columns", type=int, choices=(1, 2), default=2, help="width of a paper's figures (2)")
    chosen = parser.parse_args(arguments)
    names = [word for word in chosen.words if word in offered]
    folders = [Path(word) for word in chosen.words if word not in offered]
    for folder in folders:
        if not folder.is_dir() and "/" not in str(folder):
            raise UserError(f"{folder} is neither a study's folder nor a figure: {nearest(str(folder), offered)}")
    if not folders:
        raise UserError(f"say of which study to draw {', '.join(names)}: give a folder, such as runs/eps_grid.")
    written: list[Path] = []
    usual = [name for name in names if name in FIGURES] or ([] if names else list(FIGURES))
    for folder in folders if usual else []:
        written += render(folder, usual, chosen.metric, chosen.published)
    written += draw(folders, [name for name in names if name in DRAWINGS], chosen.metric, chosen.columns)
    print("\n".join(map(str, written)))
    return 0 if written else 2


if __name__ == "__main__":
    sys.exit(main())
