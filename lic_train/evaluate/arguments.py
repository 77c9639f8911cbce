"""Arguments of ``lic evaluate``, without importing PyTorch."""

from __future__ import annotations

import argparse

from lic_train.system.arguments import command_parser


def evaluate_parser() -> argparse.ArgumentParser:
    """Return the parser of ``lic evaluate``."""
    parser = command_parser(
        "evaluate",
        "Encode sets of images to files, decode the files with a second model and measure the results.",
        "lic evaluate outputs/cwam/cwam/lambda_0.0067 eval=kodak\n"
        "lic evaluate outputs/ eval=kodak,clic jobs=8 --save-images\n"
        "lic evaluate model.safetensors eval=folder eval.root=/photographs metrics=lpips,dists",
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN | KEY=VALUE",
        help="run directories, exported models or folders with runs; overrides: eval= eval.root= eval.limit= "
        "eval.padding= eval.multiple= eval.psnr= eval.tile= eval.levels= metrics= "
        "checkpoint= device= panels= repeats= jobs= fresh=, as in conf/evaluate.yaml; metrics: lpips, "
        "lpips_vgg, dists, ssim, vif, uqi, scc, sam, ergas, rmse_sw",
    )
    parser.add_argument("--save-images", action="store_true", help="keep decoded images in eval/<set>/decoded/")
    parser.add_argument("--quality-map", action="store_true", help="keep maps: eval/<set>/error/, eval/<set>/bits/")
    return parser
