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
WNUT, EWT, QA = (
    "--data data/wnut17",
    "--data data/ud_ewt_pos",
    "--task qa --data data/squadshifts_new_wiki/new_wiki_v1.0.json",
)
TEACHERS = {
    "wnut17": f"alad-hf train {ENCODER} {WNUT} --epochs 3 --output wnut17-teacher",
    "ewt-pos": f"alad-hf train {ENCODER} {EWT} --epochs 1 --output ewt-pos-teacher",
    "qa": f"alad-hf train {ENCODER} {QA} --epochs 1 --output qa-teacher",
}
PLAIN = {
    "wnut17": f"alad-hf train minilm-2-layers {WNUT} --epochs 3 --output wnut17-plain",
    "ewt-pos": f"alad-hf train minilm-2-layers {EWT} --epochs 1 --output ewt-pos-plain",
    "qa": f"alad-hf train minilm-2-layers {QA} --epochs 1 --output qa-plain",
}


@dataclass(frozen=True)
class Release:
    """A model, the commands that make it after its teacher, and what it is scored on."""

    family: str
    """Which teacher, and which plain student, it stands beside."""
    commands: tuple[str, ...]
    scored_on: str


def _aligned(family: str, student: str, name: str, options: str) -> str:
    task = {"wnut17": f"{WNUT} {SENTENCES} --epochs 3", "ewt-pos": f"{EWT} {SENTENCES} --epochs 1", "qa": QA}[family]
    return f"alad-hf train {student} --teacher {family}-teacher {task} {options}--output {name}"


SCORED_ON = {
    "wnut17": "data/wnut17",
    "ewt-pos": "data/ud_ewt_pos",
    "qa": "data/squadshifts_new_wiki/new_wiki_v1.0.json",
}
RELEASES = {
    f"{family}-{mode}": Release(
        family,
        (TWO_LAYERS, _aligned(family, "minilm-2-layers", f"{family}-{mode}", flag + few)),
        SCORED_ON[family],
    )
    for family in ("wnut17", "ewt-pos", "qa")
    for mode, flag in (("joint", ""), ("plug-and-play", "--frozen "))
    # Exchanged paragraphs would be six times the questions; one pass over the questions themselves is enough.
    for few in ("--epochs 1 --alignment-epochs 0 " if family == "qa" else "",)
} | {
    "wnut17-graft": Release(
        "wnut17",
        (
            "alad-hf compress wnut17-teacher --method graft --num-layers 3 "
            "--text data/distill_text/wnut17_train.txt --picture graft.png --output wnut17-grafted",
            _aligned("wnut17", "wnut17-grafted", "wnut17-graft", ""),
        ),
        SCORED_ON["wnut17"],
    ),
    "wnut17-lighttoken": Release(
        "wnut17",
        (
            TWO_LAYERS,
            f"alad-hf compress minilm-2-layers --method lighttoken --ratio 25 {SENTENCES} --output minilm-2-codes",
            _aligned("wnut17", "minilm-2-codes", "wnut17-lighttoken", ""),
        ),
        SCORED_ON["wnut17"],
    ),
    "wnut17-minialbert": Release(
        "wnut17",
        (
            f"alad-hf compress {ENCODER} --method recursive --num-layers 6 --embedding-size 128 {SENTENCES} "
            "--output recursive",
            f"alad-hf distill recursive --teacher {ENCODER} {SENTENCES} --text data/distill_text/biomed_train.txt "
            "--steps 1000 --batch-size 16 --max-tokens 64 --output minialbert",
            _aligned("wnut17", "minialbert", "wnut17-minialbert", ""),
        ),
        SCORED_ON["wnut17"],
    ),
}


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
        for command in (TEACHERS[release.family], *release.commands, TWO_LAYERS, PLAIN[release.family]):
            make(command, work)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.models if options.only != "models" else []:
        results[name] = write_card(name, RELEASES[name], work)
        options.out.write_text(json.dumps(results, indent=1) + "\n")


def write_card(name: str, release: Release, work: Path) -> dict:
    """Score and time a model beside its teacher and its plain student; the card and its picture go to model_cards/."""
    commands = (TEACHERS[release.family], *release.commands)
    others = f"--teacher {release.family}-teacher --plain-student {release.family}-plain"
    shown = " ".join(f"--command {shlex.quote(command)}" for command in commands)
    report = json.loads(run(f"alad-hf card {name} --data {release.scored_on} {others} {shown} --json --quiet", work))
    card = (work / name / "README.md").read_text(encoding="utf-8")
    (CARDS / f"{name}.md").write_text(card.replace(f"]({FIGURE})", f"](figures/{name}.png)"), encoding="utf-8")
    (CARDS / "figures").mkdir(exist_ok=True)
    shutil.copyfile(work / name / FIGURE, CARDS / "figures" / f"{name}.png")
    return {"commands": commands, "scored_on": release.scored_on} | {
        key: report[key] for key in ("scores", "comparison")
    }


if __name__ == "__main__":
    main()
