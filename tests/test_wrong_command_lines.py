"""Wrong command lines: each is refused with a message that names what is wrong, and none gives a traceback."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lic_train import cli, train
from lic_train.config import run as run_config
from lic_train.config.command_line import prepare
from lic_train.config.compose import compose
from lic_train.config.run import checked
from lic_train.errors import ConfigError

# Refused before anything is composed: words, names, grammar, and the kind of the command line.
WORDS = r"""
cwam                                            | 'cwam' is not an override
model cwam                                      | 'cwam' is not an override
=3                                              | '=3' is not an override
==                                              | '==' is not an override
" =3"                                           | is not an override
lambda:0.01                                     | 'lambda:0.01' is not an override
model=cwam lambda                               | 'lambda' is not an override
~lambda                                         | ~lambda removes a key
~ema                                            | to do: set the key to a value or to null: ema=null
~eval                                           | ~eval removes a key.*to do: choose one of clic.*kodak
~model                                          | to do: choose one of.*cwam
~model.N                                        | ~model.N removes a key
a b                                             | 'a'.*'b'
a ~b c=1                                        | 'a'.*~b.*'c'
--config-dir                                    | names no folder
--config-dir=/no/such/folder                    | /no/such/folder
-cd /no/such                                    | names no folder
lambda=0.01,0.02                                | lic train -m lambda=0.01,0.02
lambda=0.0067,0.0250                            | lists several values
model=cwam,iblic                                | lists several values
"lambda=choice(1,2)"                            | lists several values
"lambda=range(1,3)"                             | lists several values
"model=glob(*)"                                 | lists several values
steps=1,2 crop=64,128                           | steps=1,2 lists.*crop=64,128 lists
sweep=rd_curve                                  | lic train -m sweep=rd_curve
model=cwam sweep=search                         | lic train -m model=cwam sweep=search
launcher=ray                                    | -m, which starts a sweep
launcher=slurm launcher.partition=gpu           | no effect on a single run
sweep.grid.lambda=[1,2]                         | -m, which starts a sweep
-m "model=cwam lambda=0.01"                     | word of its own
"model=cwam lambda=0.01"                        | word of its own
"data=folder data.root=/x"                      | word of its own
model=cwan                                      | did you mean cwam
model=CWAM                                      | There is no model 'CWAM'
model=                                          | There is no model ''
model=cwam.yaml                                 | There is no model
model=1                                         | There is no model '1'
model=/etc/passwd                               | There is no model '/etc/passwd'
model=../cwam                                   | There is no model
"model=cw am"                                   | There is no model 'cw am'
model=cwam,                                     | There is no model ''
"model=choice(cwam,iblicc)"                     | did you mean iblic
-m model=cwam,mbt201                            | did you mean mbt2018
-m model=mbt201,cwan                            | 'mbt201'.*'cwan'
recipe=comon                                    | did you mean common
recipe=None                                     | There is no recipe 'None'
data=imgnet                                     | did you mean imagenet
data=/photos                                    | There is no data '/photos'
data=~/photos                                   | There is no data '~/photos'
eval=kodack                                     | did you mean kodak
eval=data/kodak                                 | There is no eval 'data/kodak'
trainer=dpp                                     | did you mean ddp
trainer=8                                       | There is no trainer '8'
logger=wanb                                     | did you mean wandb
logger=none                                     | There is no logger 'none'
logger=null                                     | There is no logger 'null'.*csv, tensorboard, wandb
model=null                                      | There is no model 'null'
recipe=null                                     | There is no recipe 'null'
data=null eval=null                             | There is no data 'null'.*There is no eval 'null'
trainer=null                                    | There is no trainer 'null'.*ddp
"model='null'"                                  | There is no model 'null'
-m sweep=null                                   | There is no sweep 'null'
-m launcher=null                                | There is no launcher 'null'
-m model=cwam,null                              | There is no model 'null'
-m launcher=slrum                               | did you mean slurm
-m sweep=rdcurve                                | did you mean rd_curve
model=cwma recipe=comon                         | cwam.*common
model=cwma recipe=comon data=foldr eval=kodack  | cwam.*common.*folder.*kodak
lamda=0.01                                      | did you mean lambda
lamda=0.01 stepz=10                             | 'lamda'.*'stepz'
Lambda=0.01                                     | There is no key 'Lambda'
LAMBDA=1                                        | There is no key 'LAMBDA'
lmbda=0.01                                      | did you mean lambda
lr=1e-4                                         | There is no key 'lr'
epochs=3                                        | There is no key 'epochs'
max_steps=3                                     | There is no key 'max_steps'
batchsize=8                                     | did you mean batch_size
batch-size=8                                    | did you mean batch_size
patch_size=256                                  | There is no key 'patch_size'
gpus=1                                          | There is no key 'gpus'
device=cuda                                     | There is no key 'device'
seeds=1                                         | did you mean seed
1=2                                             | There is no key '1'
model.n=3                                       | did you mean model.N
model.width=3                                   | There is no key 'model.width'
model=mbt2018 model.K=3                         | under model=mbt2018
model=cwam model.M=192                          | There is no key 'model.M' under model=cwam
-m model=iblic,cwam model.patch=2               | 'model.patch' under model=cwam
-m model=cwam,mbt2018 model.tail=cwam           | under model=mbt2018
model=cwma model.N=3 stepz=1                    | 'cwma'.*'stepz'
recipe.stags=1                                  | did you mean recipe.stages
recipe.optimizer.lr=1                           | There is no key 'recipe.optimizer.lr'
recipe.stages.7.lr=1                            | There is no key 'recipe.stages.7.lr'
data.roots=/x                                   | did you mean data.root
data=folder data.source.val_ration=0.1          | did you mean data.source.val_ratio
data=folder data.workers=2                      | There is no key 'data.workers'
data.source.cache=/x                            | There is no key 'data.source.cache'
eval.folder=/x                                  | There is no key 'eval.folder'
trainer.device=2                                | did you mean trainer.devices
trainer.gpus=2                                  | There is no key 'trainer.gpus'
validate.evry=3                                 | did you mean validate.every
checkpoint.evry=3                               | did you mean checkpoint.every
logger.projekt=x                                | did you mean logger.project
a.b.c.d=1                                       | There is no key 'a.b.c.d'
model.N.x=1                                     | There is no key 'model.N.x'
lambda.x=1                                      | There is no key 'lambda.x'
"name=a(b"                                      | quote it twice
"name=a b'c"                                    | quote it twice
"name=it's"                                     | quote it twice
"name={a"                                       | quote it twice
"name=[a"                                       | quote it twice
"name=a]"                                       | quote it twice
"name=a}b"                                      | quote it twice
"name='a"                                       | quote it twice
"name=#1"                                       | quote it twice
"name=a=b=(c"                                   | quote it twice
"name=${"                                       | The value of name cannot be read
"name=~/x"                                      | quote it twice
"logger.project=my (first) project"             | quote it twice
"lambda=0.01;rm"                                | quote it twice
"lambda=choice("                                | The value of lambda cannot be read
"lambda=range(1,"                               | The value of lambda cannot be read
"steps=(1" stepz=2                              | stepz.*value of steps
+model.N=(                                      | The value of \+model.N
"""
# Composed, then refused: values.
VALUES = r"""
seed=99999999999999999999                       | seed
seed=-1 steps=0 accumulate=0                    | seed.*steps.*accumulate
seed=1.5                                        | seed.*integer
seed=null                                       | seed
crop=100 batch_size=0                           | batch_size.*crop.*64 or 128
crop=1048576                                    | crop.*GiB
crop=64 batch_size=1000000000                   | crop.*1000000000 crops
batch_size=3 accumulate=2                       | batch_size.*use 2
batch_size=8 trainer.devices=3                  | batch_size.*use 6
steps=99999999999999999999                      | steps
steps=ten                                       | steps.*'ten'
steps=[1]                                       | steps
lambda=0 crop=100                               | lambda.*crop
lambda=inf                                      | lambda
lambda=nan                                      | lambda
lambda=true                                     | lambda.*True
lambda=[0.1]                                    | lambda
lambda=null                                     | lambda
lambda=1e999 distortion=psnr seed=-1            | distortion.*lambda.*seed
distortion=ms_ssim crop=128                     | MS-SSIM
precision=16 ema=1.5                            | precision.*ema
compile=maybe channels_last=2                   | compile.*channels_last
lr_scale=0                                      | lr_scale
name=${nope}                                    | nope
"name='a/b'"                                    | name
"group='a b'"                                   | group
output=null                                     | output
fresh=perhaps                                   | fresh
trainer.accelerator=gpuu                        | trainer.accelerator.*'gpuu'
trainer.devices=0                               | trainer.devices
trainer.num_nodes=-1                            | trainer.num_nodes
trainer.log_every=0                             | trainer.log_every
validate.every=0 validate.bitstreams=-1         | validate.every.*validate.bitstreams
checkpoint.every=0 checkpoint.keep=0            | checkpoint.every.*checkpoint.keep
checkpoint=3                                    | checkpoint
validate=3                                      | validate
eval=folder                                     | eval.root=
eval=kodak eval.limit=0                         | eval.limit
"eval.name='../x'"                              | eval.name
model.N=0                                       | model.*at least 1
model.N=-3                                      | model.*negative
model.N=8.5                                     | model.*8.5
model.N=abc                                     | model.*abc
model.N=null                                    | model.*None
model.N=[8]                                     | model.*\[8\]
model.N=100000                                  | model.*GiB
model.N=999999999999999999                      | model
model.N=99999999999999999999                    | model
+model.depth=3                                  | model.*depth
model._target_=os.system                        | model.*_target_
model._target_=lic_train.models.cwam.Nothing    | model.*Nothing
model=gcab_gmm model.ratio=0                    | model.*ratio=0
model=gcab_gmm model.K=0                        | model.*K
model=gcab_gmm model.mixture=yes                | model.*mixture
model=gaacnn model.widths=[6]                   | model
model=gaacnn model.acnn_skip=none               | model.*acnn_skip
model=cwam model.N=100                          | model.*16
model=cwam model.tail=none                      | model.*tail
recipe.stages=[]                                | recipe.stages
"recipe.stages=[{name:a,share:1/0,lr:1}]"       | recipe.stages.0.share
"recipe.stages=[{name:a,share:1/2,lr:1}]"       | sum to 1
"recipe.stages=[{name:a,share:1,lr:0}]"         | recipe.stages.0.lr
"recipe.stages=[{name:a,share:1,lr:1,loss:{mae:1}}]" | recipe.stages.0.loss.mae
+recipe.stages.0.quantizer=round                   | quantizer.*only one
recipe.optimizer.clip_norm=-1                   | recipe.optimizer.clip_norm
+recipe.stags=1                                 | recipe.stags: no such key
+epochs=3                                       | epochs: no such key
"""
# Other commands, through lic; the exit code is 2.
OTHERS = r"""
train model=cwan                                | did you mean cwam
train ~lambda                                   | removes a key
train crop=100                                  | crop
train name=${nope}                              | nope
train trainer.accelerator=mps                   | no accelerator mps
train eval=kodak eval.root=/no/kodak            | /no/kodak
train eval=null                                 | There is no eval 'null'
train data.source=null                          | data.source.*data=folder
train data.val_crops=null data.num_workers=0    | data.val_crops.*at least 1
train data.flip=null                            | data.flip.*true or false
train data.downscale=[0.6]                      | data.downscale.*two factors
train data.downscale=[0,1]                      | data.downscale.*two factors
train data.downscale=[1,0.6]                    | data.downscale.*ascending
train data.downscale=0.6                        | data.downscale.*two factors
train init_from=/no/run                         | /no/run does not exist
train -m "model=cwam lambda=0.01"               | word of its own
trian                                           | did you mean train
evaluate                                        | required
evaluate /no/run                                | /no/run does not exist
evaluate eval=kodak                             | names no run
evaluate . eval=kodk                            | did you mean kodak
evaluate . jobs=0 panels=-1                     | jobs.*
evaluate . eval=folder                          | eval.root=
evaluate . eval=null                            | There is no eval 'null'
evaluate . metrics=lpisp                        | lpips
evaluate . eval.limit=abc                       | eval.limit
complexity model=cwan                           | did you mean cwam
complexity model=cwam,iblic                     | one model
complexity model=cwam size=0x0                  | width x height
complexity cwam                                 | is not an override
complexity model=cwam lambda=0                  | lambda
report                                          | required
report /no/such/folder                          | There is no folder
report EMPTY                                    | There are no runs
report EMPTY --pictures -1                      | at least 0
card EMPTY                                      | no finished run
card                                            | required
data check                                      | required
data check . --crop 0                           | at least 1
data check . --jobs 0                           | at least 1
data check . --crop many                        | at least 1
data check /no/photos                           | /no/photos
data prepare . out --per-shard 0                | at least 1
data prepare . out --seed -1                    | at least 0
data prepare . out --cut none                   | --cut
data download kodk                              | invalid choice
data chek                                       | did you mean data check
anchors                                         | required
anchors --set kodak --jobs 0                    | at least 1
anchors --set kodak --root /no/kodak            | /no/kodak
anchors --set nosuchset                         | nosuchset
anchors --set kodak --codec jpg                 | invalid choice
zoo a.pth.tar                                   | names one file
zoo a.pth.tar b model=cwan                      | did you mean cwam
zoo /no/a.pth.tar b                             | /no/a.pth.tar
compress                                        | required
compress /no/a.png b.lic --run /no/run          | /no/run
decompress /no/a.lic b.png                      | /no/a.lic
export /no/run                                  | /no/run
show /no/run                                    | /no/run
dashboard --nope                                | unrecognized
"""


def table(text: str) -> list[tuple[str, str]]:
    rows = [line.rpartition("|") for line in text.strip().splitlines()]
    return [(line.strip(), words.strip()) for line, _, words in rows]


def test_there_are_two_hundred() -> None:
    assert len({line for part in (WORDS, VALUES, OTHERS) for line, _ in table(part)}) >= 200


@pytest.mark.parametrize(("line", "words"), table(WORDS))
def test_wrong_words_and_names(line: str, words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        prepare(shlex.split(line))
    assert re.search(words, str(refusal.value), re.DOTALL), str(refusal.value)


@pytest.mark.parametrize(("line", "words"), table(VALUES))
def test_wrong_values(line: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_config, "memory_bytes", lambda: 2**34)
    given = shlex.split(line)
    small = [] if any(word.startswith("model=") for word in given) else ["model=mbt2018_mean"]
    with pytest.raises(ConfigError) as refusal:
        checked(compose(prepare([*small, *given])))
    assert re.search(words, str(refusal.value), re.DOTALL), str(refusal.value)


@pytest.mark.parametrize(("line", "words"), table(OTHERS))
def test_wrong_lines_of_every_command(
    line: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.setup, "claim_directory", lambda *_: pytest.fail("a run was started"))
    try:
        code: object = cli.main([str(tmp_path) if word == "EMPTY" else word for word in shlex.split(line)])
    except SystemExit as end:  # from argparse and from Hydra's jobs
        code = end.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert re.search(words, error, re.DOTALL), error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("outputs/**/checkpoints"))
