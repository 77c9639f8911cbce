"""Text of ``lic train --help``: usage, groups, keys and examples, read from conf/ without composing it."""

from __future__ import annotations

import textwrap
from importlib import resources

EXAMPLES = """examples:
  lic train model=cwam lambda=0.0067                          a smoke run on photographs of installed packages
  lic train model=cwam lambda=0.0067 data=imagenet data.root=/sets/ILSVRC2012
  lic train model=mbt2018 recipe=common lambda=0.013 data=folder data.root=/photographs
  lic train -m model=cwam,mbt2018 lambda=0.0067,0.025         a sweep: one run after another
  lic train -m model=cwam sweep=rd_curve launcher=slurm launcher.partition=gpu
  lic train model=cwam trainer=ddp trainer.devices=8          several devices

The same command continues a run that was stopped. --cfg job prints the composed configuration.
--config-dir FOLDER adds a folder of YAML files, for example for models outside this package."""


def train_help() -> str:
    """Return the help text."""
    conf = resources.files("lic_train.conf")
    config = conf.joinpath("config.yaml").read_text(encoding="utf-8")
    groups = []
    for folder in sorted((entry for entry in conf.iterdir() if entry.is_dir()), key=lambda entry: entry.name):
        options = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))
        if f"- {folder.name}:" in config:
            text = f"{folder.name}=" + " | ".join(options)
            groups.append(textwrap.fill(text, 78, initial_indent="  ", subsequent_indent="      "))
    keys = config.partition("\nlambda:")[2].partition("\nhydra:")[0]
    return "\n".join(
        ["usage: lic train [-m] KEY=VALUE ...", "", "groups:", *groups, "", f"keys:\nlambda:{keys}", EXAMPLES]
    )
