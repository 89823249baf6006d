"""Make the models that model_cards/ describes, by the command line, and write their cards.

    python benchmarks/released_models.py --data ../shared/data [--work FOLDER] [--models wnut17-joint ...]

Every model is made by the commands that its card shows, typed in a folder in which `data` is the data folder. What is
there already is not made again. The cards and their pictures are measured at the end, one after the other, so that
nothing else runs beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "model_cards"
FIGURE = "score_and_latency.png"

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
TWO_LAYERS = f"alad-hf compress {ENCODER} --method truncate --layers 0,1 --output minilm-2-layers"
SENTENCES = "--text data/distill_text/wnut17_train.txt --text data/distill_text/ewt_train.txt"
CODES = f"--method lighttoken --ratio 25 --option kept_rows=0 --no-metric {SENTENCES}"
"""These models were made before some rows were kept by default."""


@dataclass(frozen=True)
class Family:
    """Models of one task: a teacher, and students with and without its help."""

    name: str
    data: str
    about_data: str
    epochs: int
    plain_epochs: int
    """Of a student without a teacher: as many steps as the others take on labels and text."""
    task: str = ""
    aligned: str = SENTENCES
    """Further options of a student with a teacher."""

    def train(self, encoder: str, name: str, epochs: int, *, teacher: str = "", options: str = "") -> str:
        """The line that trains `name`."""
        parts = [encoder, teacher, self.task, f"--data {self.data}", self.aligned if teacher else ""]
        parts += [f"--epochs {epochs}", options, f"--output {self.name}-{name}"]
        return " ".join(["alad-hf train", *filter(None, parts)])

    @property
    def teacher(self) -> str:
        """The line that makes the teacher."""
        return self.train(ENCODER, "teacher", self.epochs)

    def plain(self, student: str) -> str:
        """The line that fine-tunes a student alone."""
        return self.train(student, f"{student}-plain", self.plain_epochs)

    def align(self, student: str, name: str, options: str = "") -> str:
        """The line that trains a student under an adapter."""
        return self.train(student, name, self.epochs, teacher=f"--teacher {self.name}-teacher", options=options)


WNUT17 = Family(
    "wnut17",
    "data/wnut17",
    "WNUT-17, the shared task on emerging entities (Derczynski et al. 2017), CC BY 4.0.",
    epochs=3,
    plain_epochs=8,
)
EWT = Family(
    "ewt-pos",
    "data/ud_ewt_pos",
    "The universal tags of UD English EWT (Silveira et al. 2014), CC BY-SA 4.0.",
    epochs=1,
    plain_epochs=3,
)
QA = Family(
    "qa",
    "data/squadshifts_new_wiki/new_wiki_v1.0.json",
    "The new Wikipedia part of SQuADShifts (Miller et al. 2020), CC BY 4.0, split at random by paragraphs.",
    epochs=1,
    plain_epochs=1,
    task="--task qa",
    aligned="--alignment-epochs 0",  # exchanged paragraphs would be six times the questions
)


@dataclass(frozen=True)
class Release:
    """A model, its student, and the lines that make them after the teacher."""

    family: Family
    student: str
    commands: tuple[str, ...]


def _releases() -> dict[str, Release]:
    releases = {}
    for family in (WNUT17, EWT, QA):
        for mode, options in (("joint", ""), ("plug-and-play", "--frozen")):
            line = family.align("minilm-2-layers", mode, options)
            releases[f"{family.name}-{mode}"] = Release(family, "minilm-2-layers", (TWO_LAYERS, line))
    students = {
        "graft": (
            "alad-hf compress wnut17-teacher --method graft --num-layers 3 "
            "--text data/distill_text/wnut17_train.txt --picture graft.png --output grafted",
        ),
        "pruned": (
            "alad-hf compress wnut17-teacher --method prune --heads 4 --neurons 512 "
            "--text data/distill_text/wnut17_train.txt --output pruned",
            f"alad-hf compress pruned {CODES} --output pruned-codes",
        ),
        "lighttoken": (
            TWO_LAYERS,
            f"alad-hf compress minilm-2-layers {CODES} --output minilm-2-codes",
        ),
        "minialbert": (
            f"alad-hf compress {ENCODER} --method recursive --num-layers 6 --embedding-size 128 {SENTENCES} "
            "--output recursive",
            f"alad-hf distill recursive --teacher {ENCODER} {SENTENCES} --text data/distill_text/biomed_train.txt "
            "--steps 1000 --batch-size 16 --max-tokens 64 --output minialbert",
        ),
    }
    for name, made in students.items():
        student = shlex.split(made[-1])[-1]
        releases[f"wnut17-{name}"] = Release(WNUT17, student, (*made, WNUT17.align(student, name)))
    narrow = f"alad-hf compress qa-teacher --method prune --heads 4 --neurons 512 --data {QA.data} --output narrow"
    releases["qa-pruned"] = Release(QA, "narrow", (narrow, QA.align("narrow", "pruned")))
    return releases


RELEASES = _releases()


def run(command: str, work: Path) -> str:
    """Run a line in the work folder; returns its standard output."""
    print(command, flush=True)
    program, *arguments = shlex.split(command)
    assert program == "alad-hf", command
    line = [sys.executable, "-m", "alad_hf.cli", *arguments]
    return subprocess.run(line, cwd=work, check=True, stdout=subprocess.PIPE, text=True).stdout


def make(command: str, work: Path) -> None:
    """Run a line, unless what it makes is there; an interrupted training goes on."""
    output = work / shlex.split(command)[-1]
    if (output / "config.json").exists() and not (output / "unfinished").exists():
        return
    output.mkdir(exist_ok=True)
    (output / "unfinished").touch()
    resume = " --resume" if (output / "checkpoints").exists() else ""
    run(f"{command}{resume} --quiet", work)
    (output / "unfinished").unlink()
    shutil.rmtree(output / "checkpoints", ignore_errors=True)


def main() -> None:
    """Make what is missing, then write every card that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/released"), help="where the models are")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/released_models.json"))
    parser.add_argument("--models", nargs="+", choices=RELEASES, default=list(RELEASES))
    parser.add_argument("--only", choices=["models", "cards"], help="leave the other part out")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "data").exists():
        (work / "data").symlink_to(options.data.resolve())
    os.environ.setdefault("HF_DATASETS_CACHE", str(work / "cache"))

    for name in options.models if options.only != "cards" else []:
        release = RELEASES[name]
        for command in (release.family.teacher, *release.commands, release.family.plain(release.student)):
            make(command, work)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.models if options.only != "models" else []:
        results[name] = write_card(name, RELEASES[name], work)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def write_card(name: str, release: Release, work: Path) -> dict:
    """Score and time a model beside its teacher and its plain student; the card and its picture go to model_cards/."""
    family = release.family
    commands = (family.teacher, *release.commands, family.plain(release.student))
    others = f"--teacher {family.name}-teacher --plain-student {family.name}-{release.student}-plain"
    others += f" --about-data {shlex.quote(family.about_data)} --language en --license apache-2.0"
    shown = " ".join(f"--command {shlex.quote(command)}" for command in commands)
    report = json.loads(run(f"alad-hf card {name} --data {family.data} {others} {shown} --json --quiet", work))
    card = (work / name / "README.md").read_text(encoding="utf-8")
    (CARDS / f"{name}.md").write_text(card.replace(f"]({FIGURE})", f"](figures/{name}.png)"), encoding="utf-8")
    (CARDS / "figures").mkdir(exist_ok=True)
    shutil.copyfile(work / name / FIGURE, CARDS / "figures" / f"{name}.png")
    return {"commands": commands, "scored_on": family.data} | {key: report[key] for key in ("scores", "comparison")}


if __name__ == "__main__":
    main()
