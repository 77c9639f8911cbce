"""Help of ``lic train``: groups, keys and examples, read from conf/ without composing it. Hydra reads the arguments."""

from __future__ import annotations

import argparse
import textwrap

from lic_train.config.folder import CONF_DIR
from lic_train.system.arguments import command_parser

EXAMPLES = """lic train model=cwam lambda=0.0067
lic train model=cwam lambda=0.0067 data=imagenet data.root=/sets/ILSVRC2012
lic train model=mbt2018 recipe=common lambda=0.013 data=folder data.root=/photos
lic train -m model=cwam,mbt2018 lambda=0.0067,0.025
lic train -m model=cwam sweep=rd_curve launcher=slurm launcher.partition=gpu
lic train model=cwam trainer=ddp trainer.devices=8"""


def train_parser() -> argparse.ArgumentParser:
    """Return a parser that describes the command line of ``lic train``."""
    parser = command_parser(
        "train",
        "Train a model. The same command continues a run that was stopped.\n\n" + _configuration(),
        EXAMPLES,
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="groups and keys, see above")
    parser.add_argument("-m", "--multirun", action="store_true", help="a sweep: one run for every combination")
    parser.add_argument("--config-dir", metavar="FOLDER", help="also search this folder for YAML files of groups")
    parser.add_argument("--cfg", choices=["job", "hydra", "all"], help="print the composed configuration")
    return parser


def _configuration() -> str:
    """The options of every group, and the keys of conf/config.yaml with their comments."""
    config = (CONF_DIR / "config.yaml").read_text(encoding="utf-8")
    groups = []
    for folder in sorted((entry for entry in CONF_DIR.iterdir() if entry.is_dir()), key=lambda entry: entry.name):
        options = sorted(file.stem for file in folder.glob("*.yaml"))
        if f"- {folder.name}:" in config:
            text = f"{folder.name}=" + " | ".join(options)
            groups.append(textwrap.fill(text, 78, initial_indent="  ", subsequent_indent="      "))
    keys = config.partition("\nlambda:")[2].partition("\nhydra:")[0]
    return "\n".join(["groups:", *groups, "", f"keys:\nlambda:{keys}"])
