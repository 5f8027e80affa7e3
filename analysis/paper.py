"""All figures and tables of the paper, from the committed studies:  python -m analysis.paper [figure …] [-o DIR]

Writes DIR/paper/figures/NAME.* (the pictures, and the table as .md, .tex and .csv), and DIR/FIGURES.md: what each
shows, the command that makes it, the hash of the records that it read, and the commit that made those records. DIR is
the folder of the studies, results, unless given.

    --columns 1|2    as wide as one column of a paper, or two (2)
    --results DIR    where the studies are (results)

PDFs have no captions, for a paper sets its own; FIGURES.md has them. git keeps the PNGs and tables alone.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.blur_figures import Strips, reverse_data, strips_data
from analysis.chosen import read
from analysis.drawings import DRAWINGS, RECORDS
from analysis.figures import fewer_colours, write_for_paper
from analysis.load import sha256
from analysis.paper_page import Columns
from analysis.paper_table import table_data, to_markdown, write_table_files
from analysis.samples import picture_of, samples_data, samples_picture
from analysis.tables import markdown_table
from wavedp.command import command
from wavedp.errors import UserError, nearest
from wavedp.store import write_atomically
from wavedp.study_file import read_meta

FOLDER, INDEX = "paper", "FIGURES.md"
DIGITS = 12  # of a hash, as shown
GREYS = 32  # of a PNG of noise, which would be large
STRIPS = {"strips": ("strips.npz", strips_data), "reverse": ("reverse.npz", reverse_data)}


@dataclass(frozen=True)
class Item:
    """A figure or table of the paper. kind: of analysis.drawings, or samples, strips, reverse or table; folders: in
    results/."""

    name: str
    title: str
    kind: str
    folders: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """What it reads of each folder, as patterns."""
        if self.kind in DRAWINGS:
            return DRAWINGS[self.kind].files
        return (
            (STRIPS[self.kind][0],)
            if self.kind in STRIPS
            else (*RECORDS, *(["samples/*.npz"] * (self.kind == "samples")))
        )

    @property
    def command(self) -> str:
        return f"python -m analysis.paper {self.name}"


ITEMS = (
    Item("f1_frontiers", "F1: quality against ε", "overlay", ("public_data", "blur_schedules", "tokenizers")),
    Item("f2_samples", "F2: samples, rows of ε and columns of one noise", "samples", ("eps_grid",)),
    Item("f3_levels", "F3: wavelet level × ε", "heatmap", ("level_0", "eps_grid", "level_2")),
    Item("f3_levels_blur", "F3: wavelet level × ε, of blur schedules", "heatmap", ("blur_schedules",)),
    Item("f3_levels_tokens", "F3: wavelet level × ε, of tokenizers", "heatmap", ("tokenizers",)),
    Item("f4_schedules", "F4: blur schedules", "schedules", ("blur_forward",)),
    Item("f4_strips", "F4: images on their way to noise", "strips", ("blur_forward",)),
    Item("f4_reverse", "F4: images on their way from noise", "reverse", ("blur_reverse",)),
    Item("f5_upscalers", "F5: two upscalers on the same private fits", "upscalers", ("eps_grid_detail",)),
    Item("f5_ceiling", "F5: upscalers on reduced real images", "upscalers", ("sr_ceiling",)),
    Item("f6_spectra", "F6: power spectra", "spectra", ("blur_schedules",)),
    Item("f7_price_shared", "F7: the price of a study whose trials share fits", "price", ("eps_grid_detail",)),
    Item("f7_price_fits", "F7: the price of a study of many fits", "price", ("blur_schedules",)),
    Item("f8_hypervolume", "F8: hypervolume against trials", "hypervolume", ("public_data", "blur_schedules")),
    Item("f9_ablation", "Ablation: everything at one ε", "ablation", ("tricks",)),
    Item("t1_methods", "T1: methods × ε", "table", ("public_data", "blur_schedules", "tokenizers")),
)


@dataclass(frozen=True)
class Made:
    """What came of an item. said: sentences about what is not on it; reason: why there is none at all."""

    item: Item
    files: list[Path]
    caption: str = ""
    said: tuple[str, ...] = ()
    reason: str = ""


def make(item: Item, results: Path, figures: Path, columns: Columns = 2) -> Made:
    """Write one figure or table into the folder `figures`."""
    stem, folders = figures / item.name, [results / name for name in item.folders]
    figures.mkdir(parents=True, exist_ok=True)
    try:
        if item.kind in DRAWINGS:
            figure, said = DRAWINGS[item.kind].draw(folders, None, columns)
            return Made(item, write_for_paper(figure, stem), figure.layout.meta["caption"], tuple(said))
        if item.kind in STRIPS:
            return _strips(item, folders[0], stem)
        studies, said = read(folders)
        if item.kind == "table":
            table = table_data(studies)
            return Made(item, write_table_files(table, stem), to_markdown(table), (*said, *table.said))
        sheet = samples_data(studies[0])
        path = stem.with_name(f"{stem.name}.png")
        samples_picture(sheet).save(path, optimize=True)
        seed = "of different seeds" if sheet.seed is None else f"of seed {sheet.seed}"
        caption = (
            f"{studies[0].name}: samples {seed}, numbers {', '.join(map(str, sheet.indices))}; columns share their "
            "noise and class. No image was picked by hand."
        )
        return Made(item, [path], caption, tuple(said))
    except UserError as error:
        return Made(item, [], reason=str(error))


def _strips(item: Item, folder: Path, stem: Path) -> Made:
    name, data_of = STRIPS[item.kind]
    if not (folder / name).is_file():
        raise UserError(f"{folder} has no {name}.")
    strips: Strips = data_of(folder / name)
    path = stem.with_name(f"{stem.name}.png")
    path.write_bytes(fewer_colours(picture_of(strips.blocks, strips.columns), GREYS))
    return Made(item, [path], " ".join(strips.notes[:-1]))


def record_files(item: Item, results: Path) -> list[Path]:
    """The files that an item reads, those that exist."""
    return [
        path
        for folder in item.folders
        for pattern in item.files
        for path in sorted((results / folder).glob(pattern))
    ]  # fmt: skip


def records_hash(item: Item, results: Path) -> str:
    """One hash of all files that an item reads, with their names."""
    lines = [f"{path.relative_to(results).as_posix()} {sha256(path)}\n" for path in record_files(item, results)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def commits(item: Item, results: Path) -> str:
    """The commit that made each folder's records, as its study.yaml says."""
    found = []
    for folder in item.folders:
        commit = read_meta(results / folder).get("commit") if (results / folder / "study.yaml").is_file() else None
        found.append(str(commit)[:8] if commit else "–")
    return ", ".join(found)


def index_rows(results: Path) -> list[list[str]]:
    """The table of FIGURES.md: figure, studies, command, hash of the records, commits."""
    return [
        [
            item.name,
            ", ".join(item.folders),
            f"`{item.command}`",
            f"`{records_hash(item, results)[:DIGITS]}`",
            commits(item, results),
        ]
        for item in ITEMS
    ]


def index(made: Sequence[Made], results: Path, output: Path) -> str:
    """FIGURES.md."""
    header = ["figure", "from", "command", "sha256 of the records", "their commit"]
    parts = [
        "# Figures and tables of the paper",
        "`python -m analysis.paper` draws all of them from the records in this folder and writes this page: PNG and "
        "tables, which git keeps, and .html, .json and vector PDF without captions, in the width of two columns or, by "
        "`--columns 1`, one. The hash is of all files that a figure reads, with their names; the commit is the one "
        "whose code made them, – where the files do not say.",
        markdown_table(header, index_rows(results)),
    ]
    for each in made:
        parts.append(f"## {each.item.title}")
        pictures = [path for path in each.files if path.suffix == ".png"]
        parts += [f"![{each.item.name}]({path.relative_to(output).as_posix()})" for path in pictures]
        others = [path for path in each.files if path.suffix in (".md", ".tex", ".csv")]
        if others:
            parts.append(", ".join(f"[{path.name}]({path.relative_to(output).as_posix()})" for path in others))
        parts.append(each.caption.rstrip() or f"Not drawn: {each.reason}")
    return "\n\n".join(parts) + "\n"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis.paper", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("figures", nargs="*", help=f"of {', '.join(item.name for item in ITEMS)} (all)")
    parser.add_argument("-o", "--output", type=Path, help="folder for paper/ and FIGURES.md (that of the studies)")
    parser.add_argument("--columns", type=int, choices=(1, 2), default=2, help="width of the figures (2)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the studies (results)")
    chosen = parser.parse_args(arguments)
    names = [item.name for item in ITEMS]
    for name in chosen.figures:
        if name not in names:
            raise UserError(f"the paper has no figure {name!r}: {nearest(name, names)}")
    output = chosen.output or chosen.results
    made = []
    for item in ITEMS:
        if item.name in (chosen.figures or names):
            made.append(make(item, chosen.results, output / FOLDER / "figures", chosen.columns))
            for sentence in (*made[-1].said, *([made[-1].reason] if made[-1].reason else [])):
                print(f"{item.name}: {sentence}", file=sys.stderr)
            print("\n".join(map(str, made[-1].files)))
    if not chosen.figures:  # a page about some of them would lack the captions of the others
        write_atomically(output / INDEX, index(made, chosen.results, output).encode())
        print(output / INDEX)
    return 0 if any(each.files for each in made) else 2


if __name__ == "__main__":
    sys.exit(main())
