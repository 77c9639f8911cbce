"""``lic zoo FILE [FILE] OUT.safetensors [--quality-from NAME] [lambda=...] [model=...]``."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from lic_train.config.compose import Section, read_section
from lic_train.config.names import key_of
from lic_train.errors import ConfigError
from lic_train.files.arguments import zoo_parser
from lic_train.files.checkpoint import save_model
from lic_train.files.zoo import published
from lic_train.files.zoo.network import Recognised
from lic_train.files.zoo.take_over import take_over
from lic_train.system.command import command
from lic_train.system.screen import say


class Options(Section):
    """Validated conf/zoo.yaml."""

    model: dict[str, Any] | None = None
    lmbda: Annotated[PositiveFloat, Field(alias="lambda")]
    distortion: str


@command()
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = zoo_parser().parse_intermixed_args(argv)
    sources, target, overrides = _sorted_words(arguments.words)
    options = read_section(Options, overrides, "zoo")
    given = {key_of(override) for override in overrides}
    distortion = options.distortion if "distortion" in given else None
    model, found = take_over(sources, options.model)
    facts = (
        published.by_name(found.config, arguments.quality_from, distortion)
        if arguments.quality_from
        else published.find(found.config, sources, distortion)
    )
    use_option = "lambda" in given or (facts is None and options.model is not None)
    lmbda = options.lmbda if use_option else facts.lmbda if facts else None
    extra: dict[str, Any] = {"lambda": lmbda} if lmbda else {}
    extra |= {"distortion": facts.distortion if facts else options.distortion, "source": sources[0].name}
    extra |= {"published": facts.result.model_dump(exclude_none=True)} if facts else {}
    identity = save_model(target, model, found.config, extra)
    _report(sources, target, found, facts, lmbda)
    say(f"{target}: fingerprint {identity.hex()}")


def _sorted_words(words: Sequence[str]) -> tuple[list[Path], Path, list[str]]:
    """Return the files to read, the file to write, and the overrides."""
    overrides = [word for word in words if re.match(r"[\w.+~]+=", word) and not Path(word).exists()]
    *sources, target = (Path(word) for word in words if word not in overrides)
    if not sources:
        raise ConfigError(
            "The command line names one file.",
            expected="the file to import and the file to write",
            got=str(target),
            to_do="for example: lic zoo stf_0067_best.pth.tar stf_0067.safetensors",
        )
    return sources, target, overrides


def _report(
    sources: Sequence[Path], target: Path, found: Recognised, facts: published.Found | None, lmbda: float | None
) -> None:
    named = " and ".join(source.name for source in sources)
    say(f"{found.described}: recognised from the names and shapes of {len(found.weights)} tensors in {named}")
    if facts:
        result = facts.result
        say(f"published as {result.name}: {result.set} {result.described} ({result.source})")
    elif known := published.names(found.config):
        say(f"no published result has the name of the file; --quality-from NAME selects one: {', '.join(known)}")
    if lmbda is None:
        say("lambda is not known; lambda=... stores it, and reports then draw the model")


if __name__ == "__main__":
    sys.exit(main())
