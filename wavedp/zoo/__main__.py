"""Public models that come with wavedp, and released private ones:

    python -m wavedp.zoo list                      name, stage, key, size, data, licence, command
    python -m wavedp.zoo verify [NAME]             files against their sha256, keys against this code
    python -m wavedp.zoo rebuild NAME              train it again without the zoo, and compare bit by bit
    python -m wavedp.zoo add NAME --plan FILE --stage STAGE --store DIR       (maintainers) make an entry of an artifact
    python -m wavedp.zoo pack runs/STUDY --trial ID --store DIR [--out FILE]  a finished private fit in one file
    python -m wavedp.zoo load FILE --store DIR     such a file into a store, where its study finds it by key

Exit status: 0 as asked; 1 an entry is not what it should be, or a second training differs beyond its tolerance; 2
refused, and the sentence says why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from wavedp import entries
from wavedp.command import command
from wavedp.config import DataConfig, TrialConfig, trial_of
from wavedp.devices import chosen_device
from wavedp.entries import STAGES, Zoo, behind
from wavedp.errors import UserError
from wavedp.finished import open_trial
from wavedp.progress import printed
from wavedp.run import at_home, read_plan
from wavedp.store import Store
from wavedp.zoo import checking, released
from wavedp.zoo.adding import add
from wavedp.zoo.settings import anywhere

BY_FILE = "python -m wavedp.zoo rebuild {}"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see the module. Returns its exit status."""
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.run(chosen)
    except OSError as error:
        print(f"{chosen.what} failed ({error}): check the files and folders that it names.", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m wavedp.zoo", description=(__doc__ or "").partition(":")[0])
    commands = parser.add_subparsers(dest="what", required=True)

    def of_zoo(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about)
        made.add_argument("--zoo", metavar="DIR", help="a folder of entries in place of the package's")
        made.add_argument("--home", help=f"where the datasets are ({DataConfig().home})")
        made.set_defaults(run=run)
        return made

    of_zoo("list", _list, "what there is")
    verify = of_zoo("verify", _verify, "files against sha256, keys against this code")
    verify.add_argument("name", nargs="?", help="of one entry (all)")
    rebuild = of_zoo("rebuild", _rebuild, "train an entry again and compare")
    rebuild.add_argument("name")
    rebuild.add_argument("--store", help="a folder for what is trained (one that is deleted afterwards)")
    rebuild.add_argument("--device", default="cpu", help="auto, cpu or cuda (%(default)s)")
    adding = of_zoo("add", _add, "make an entry of an artifact in a store")
    adding.add_argument("name")
    source = adding.add_mutually_exclusive_group(required=True)
    source.add_argument("--plan", type=Path, help="written by python -m sweeps.run +sweep=NAME plan=FILE")
    source.add_argument("--settings", type=Path, help="YAML or JSON: a trial's settings by section, as in a row")
    adding.add_argument("--trial", help="of the plan (its first that has the stage; all must ask for one key)")
    adding.add_argument("--stage", required=True, help=" or ".join(STAGES))
    adding.add_argument("--store", default=".wavedp/store", help="which has the artifact (%(default)s)")
    adding.add_argument("--licence", default="Apache-2.0", help="of the weights (%(default)s)")
    adding.add_argument(
        "--data-licence", action="append", default=[], metavar="DATASET=LICENCE", help="instead of what it says itself"
    )
    adding.add_argument("--tolerance", type=float, default=0.0, help="largest difference that rebuild allows (0)")
    adding.add_argument("--threads", type=int, help="that it was trained with (as many as torch takes here)")
    adding.add_argument("--command", help="what makes it (the plan's, without this machine's folders)")
    pack = commands.add_parser("pack", help="a finished private fit in one file")
    pack.add_argument("study", type=Path, help="its folder, such as runs/eps_grid")
    pack.add_argument("--trial", required=True, help="id of a finished trial")
    pack.add_argument("--store", default=".wavedp/store", help="which has its artifacts (%(default)s)")
    pack.add_argument("--zoo", metavar="DIR", help="a folder of entries in place of the package's")
    pack.add_argument("--out", type=Path, help=f"the file to write (<trial>{released.SUFFIX})")
    pack.add_argument("--non-private", action="store_true", help="although it was fitted without noise")
    pack.add_argument("--home", help="where the datasets are (where they were)")
    pack.set_defaults(run=_pack)
    load = commands.add_parser("load", help="a packed private fit into a store")
    load.add_argument("file", type=Path)
    load.add_argument("--store", default=".wavedp/store", help="a folder, or any fsspec URL (%(default)s)")
    load.add_argument("--home", help=f"where the datasets are ({DataConfig().home})")
    load.set_defaults(run=_load)
    return parser


def _list(chosen: argparse.Namespace) -> int:
    folder = _folder(chosen)
    found = entries.readable(folder)
    print(checking.table(found) if found else f"The zoo in {folder} is empty.")
    return 0


def _verify(chosen: argparse.Namespace) -> int:
    folder, wrong = _folder(chosen), 0
    names = entries.names(folder) if chosen.name is None else [chosen.name]
    for name in names:
        try:
            print(checking.verify(checking.entry_of(folder, name), chosen.home))
        except UserError as error:
            if chosen.name is not None and name not in entries.names(folder):
                raise
            wrong += 1
            print(f"{name}: {error}")
    if not names:
        print(f"The zoo in {folder} is empty.")
    return 1 if wrong else 0


def _rebuild(chosen: argparse.Namespace) -> int:
    entry = checking.entry_of(_folder(chosen), chosen.name)
    device, report = chosen_device(chosen.device), printed(entry.stage)
    with tempfile.TemporaryDirectory() as folder:
        made = checking.rebuild(entry, chosen.store or folder, chosen.home, device, report)
    print(made.sentence())
    return 0 if made.accepted else 1


def _add(chosen: argparse.Namespace) -> int:
    trial, command = _trial(chosen)
    folder = entries.HERE if chosen.zoo is None else Path(chosen.zoo)
    entry = add(
        chosen.name,
        trial,
        chosen.stage,
        Store(chosen.store, behind=()),
        folder,
        command=command,
        licence=chosen.licence,
        data_licences=dict(_assigned(text) for text in chosen.data_licence),
        tolerance=chosen.tolerance,
        threads=chosen.threads,
    )
    total = sum(item.size() for item in entries.readable(folder))
    size = f"{entry.size() / 1e6:.2f} MB of {total / 1e6:.2f} in all"
    print(f"{entry.folder} holds {entry.stage} {entry.key[:12]}, {size}.")
    return 0


def _pack(chosen: argparse.Namespace) -> int:
    finished = open_trial(chosen.study, chosen.trial, chosen.home)
    out = chosen.out or Path(f"{finished.id}{released.SUFFIX}")
    about = released.pack(finished, Store(chosen.store, behind(Zoo(path=chosen.zoo))), out, chosen.non_private)
    if about["private"]:
        said = f"ε = {about['epsilon']:.4g} at δ = {about['delta']:.3g}"
    else:
        said = "not private (no noise): whoever has the file may learn the images"
    print(f"{out} holds the model of {finished.id}: {said}; {len(about['ledger'])} ledger lines.")
    return 0


def _load(chosen: argparse.Namespace) -> int:
    found = released.load(chosen.file, Store(chosen.store), chosen.home)
    about = found.about
    print(f"{found.new} artifacts of {about['trial']} are new in {chosen.store}, {found.present} were present.")
    if not found.checked:
        print(f"The sensitive images ({about['data']}) are not here, so it was not checked that a study would find it.")
    price = f"ε = {about['epsilon']:.4g}" if about["private"] else "no ε: it was fitted without noise"
    print(f"Its ledger lines lie in it ({price}); the study's command enters them: {about['command']}")
    return 0


def _folder(chosen: argparse.Namespace) -> Path:
    return Zoo(path=chosen.zoo).folder


def _trial(chosen: argparse.Namespace) -> tuple[TrialConfig, str]:
    """The trial that asks for the artifact, and the command that made it."""
    if chosen.settings is not None:
        try:
            trial = trial_of(yaml.safe_load(chosen.settings.read_text(encoding="utf-8")) or {})
        except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise UserError(f"{chosen.settings} holds no settings ({error}): write a trial's, by section.") from None
        return trial, chosen.command or BY_FILE.format(chosen.name)
    trials = [at_home(trial, chosen.home) for trial in read_plan(chosen.plan)]
    asked = [trial for trial in trials if chosen.trial in (None, trial.id) and chosen.stage in trial.keys]
    keys = {trial.keys[chosen.stage] for trial in asked}
    if not asked:
        raise UserError(
            f"{chosen.plan} has no trial {chosen.trial or ''} with the stage {chosen.stage}: it has "
            f"{', '.join(trial.id for trial in trials)}."
        )
    if len(keys) > 1:
        raise UserError(f"the trials of {chosen.plan} ask for {len(keys)} keys of {chosen.stage}: add --trial ID.")
    about = json.loads(chosen.plan.read_text(encoding="utf-8")).get("about") or {}
    return asked[0].config, chosen.command or anywhere(about.get("command", "")) or BY_FILE.format(chosen.name)


def _assigned(text: str) -> tuple[str, str]:
    name, sign, licence = text.partition("=")
    if not (name and sign and licence):
        raise UserError(f"--data-licence {text} says no licence: write DATASET=LICENCE, such as photographs=GPL-2.0.")
    return name, licence


if __name__ == "__main__":
    sys.exit(main())
