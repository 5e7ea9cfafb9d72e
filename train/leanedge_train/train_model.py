"""Trains a model: python3 -m leanedge_train.train_model --corpus FOLDER --out FOLDER --minutes 8.

A run goes on where its checkpoint ends, so it can be cut into commands; --minutes bounds one
command, --steps (or --total-minutes, from the measured speed) the whole run. Writes
OUT/checkpoint.pt, OUT/log.jsonl and, at the end, OUT/model.pt.

--ranks N shares every step among N processes, each with a GPU of its own.

--from FILE begins with the weights of a model that an earlier run brought home, at the share
--from-share of the schedule: more training than one machine is held for.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .config import EMBEDDED, TINY, ModelConfig
from .corpus import corpus_hash, paragraphs_of, read_corpus
from .feed import Feed
from .load import open_model
from .model import Transformer, initialise
from .muon import Muon
from .ranks import Ranks, start_others
from .retrieval import Haystack
from .rows import ANSWER, TEXT, Ids, Mix, Source, encode_books, make_batch
from .schedule import Schedule, length_cost, parse_lengths
from .tokenizer import embedded_vocabulary, tokenizer_of
from .weights import stored_weights

MUON_RATE, ADAM_RATE = 0.02, 3e-3
# Times the rate, each step. The text is read about twelve times: without them the model learns it
# by heart (a small one of as many weights a token, read nine times: held-out loss 4.30 with a tenth
# of the first alone, 4.27 with the first, 4.24 with both).
MUON_DECAY, EMBEDDING_DECAY = 0.1, 0.05
SEED_PROBE = 987_654_321  # of batches that only measure; no training run has it
PLAN_AT = 150  # steps after which the speed is taken for the length of the run
PLAN_SHARE = 0.95  # of the time that is left; the rest is compiling, measuring and saving
# Shares of the run at which its length is planned again: what longer rows take is known then.
PLAN_AGAIN = (0.3, 0.6, 0.85)
STEPS_MAX = 200_000
WARM_STEPS = 50  # of a run that begins with weights: its optimisers know nothing yet


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0


def losses(model: Transformer, ids: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss of text targets and of answer targets: ids and kinds are (B, T + 1)."""
    hidden = model(ids[:, :-1])
    return head_losses(hidden, model.output_weight, ids[:, 1:], kinds[:, 1:])


def head_losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, kinds: Tensor
) -> tuple[Tensor, Tensor]:
    """The same from hidden states; compiled, so that no f32 logits are written."""
    logits = F.linear(hidden.flatten(0, 1), weight)
    loss = F.cross_entropy(logits.float(), targets.flatten(), reduction="none")
    text, answer = (kinds.flatten() == TEXT).float(), (kinds.flatten() == ANSWER).float()
    return (
        (loss * text).sum() / text.sum().clamp(min=1),
        (loss * answer).sum() / answer.sum().clamp(min=1),
    )


@torch.no_grad()
def probe(model: Transformer, ids: Tensor, kinds: Tensor) -> float:
    """Share of answer tokens that the model would have said, a row at a time."""
    right = said = 0
    for row, kind in zip(ids, kinds, strict=True):
        best = model.logits(model(row[None, :-1]))[0].argmax(-1)
        counts = kind[1:] == ANSWER
        right += int(((best == row[1:]) & counts).sum())
        said += int(counts.sum())
    return right / max(1, said)


@torch.no_grad()
def text_loss(model: Transformer, ids: Ids, length: int, rows: int, device: torch.device) -> float:
    """Mean loss over the first `rows` slices of held-out text."""
    total = 0.0
    rows = max(1, min(rows, (len(ids) - 1) // length))
    for row in range(rows):
        part = ids[row * length : row * length + length + 1].astype(np.int64)
        piece = torch.from_numpy(part).to(device)[None]
        logits = model.logits(model(piece[:, :-1]))[0].float()
        total += float(F.cross_entropy(logits, piece[0, 1:]))
    return total / rows


def optimisers(model: Transformer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of layers, AdamW for embedding, norms and biases."""
    matrices = [
        p for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("blk.")
    ]
    chosen = {id(matrix) for matrix in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": EMBEDDING_DECAY},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
    ]
    both: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=MUON_RATE, decay=MUON_DECAY),
        torch.optim.AdamW(groups, lr=ADAM_RATE, betas=(0.9, 0.95)),
    ]
    return both


def source_of(corpus_folder: Path, text_share: float, processes: int = 0) -> tuple[Source, Ids]:
    """Reads and tokenizes everything: the source of rows, and the held-out text."""
    corpus = read_corpus(corpus_folder)
    tokenizer = tokenizer_of(embedded_vocabulary())
    paragraphs = tuple(p for book in corpus.books for p in paragraphs_of(book))
    text_ids = encode_books(tokenizer, corpus.books, processes)
    held_out = encode_books(tokenizer, corpus.held_out or corpus.books[:1])
    return Source(tokenizer, corpus, Haystack(paragraphs), text_ids, Mix(text=text_share)), held_out


class Run:
    """One training run and its files."""

    def __init__(self, arguments: argparse.Namespace, config: ModelConfig, ranks: Ranks) -> None:
        self.arguments, self.config, self.ranks = arguments, config, ranks
        self.device = ranks.device
        self.schedule = Schedule(lengths=parse_lengths(arguments.lengths))
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.model = Transformer(config)
        initialise(self.model, arguments.seed)
        self.model.to(self.device)
        self.optimisers = optimisers(self.model)
        self.progress = Progress(steps=arguments.steps)
        path = self.out / "checkpoint.pt"
        if arguments.start is not None and not path.exists():
            self.begin_with(arguments.start)
        if path.exists():
            state = torch.load(path, map_location=self.device)
            self.model.load_state_dict(state["model"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.progress = Progress(**state["progress"])
        self.plans = plans_passed(self.progress)
        self.head = head_losses
        if self.device.type == "cuda" and not arguments.eager:
            # Three lengths, and the shapes that are measured, with and without gradients.
            torch._dynamo.config.cache_size_limit = 32
            for block in self.model.blk:
                block.compile(dynamic=False)
            self.head = torch.compile(head_losses, dynamic=False)

    def autocast(self):
        """bf16 products on a GPU."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.autocast("cuda", dtype=torch.bfloat16)

    def begin_with(self, path: Path) -> None:
        """Takes the weights of a model of the same shape and vocabulary."""
        model, file = open_model(path)
        # A file holds it in 32 bits.
        config = replace(model.config, rms_eps=float(f"{model.config.rms_eps:.6g}"))
        if config != self.config:
            raise ValueError(f"{path}: {config} is not this run's {self.config}")
        if file is None or file.vocabulary.tokens != embedded_vocabulary().tokens:
            raise ValueError(f"{path} has another vocabulary than the embedded model's")
        self.model.load_state_dict(model.state_dict())

    def plans_now(self) -> bool:
        """Whether the length of the run is to be planned, for the first time or once more."""
        progress = self.progress
        if self.arguments.steps > 0:
            return False
        if progress.steps == 0:
            return progress.step >= PLAN_AT
        passed = plans_passed(progress)
        again, self.plans = passed > self.plans, max(passed, self.plans)
        return again

    def done_at(self, step: int) -> float:
        """Share of the run before a step; before the run's length is known, a guess."""
        return share_done(self.arguments, self.progress.steps, step)

    def log(self, **values: object) -> None:
        """A line of the log, on the screen too."""
        if not self.ranks.first:
            return
        line = json.dumps(values)
        print(line, flush=True)
        with (self.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        """The checkpoint, written beside and renamed: a killed command leaves the last one."""
        if not self.ranks.first:
            return
        beside = self.out / "checkpoint.tmp"
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "progress": asdict(self.progress),
                "config": self.config.to_dict(),
            },
            beside,
        )
        os.replace(beside, self.out / "checkpoint.pt")

    def step(self, ids: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """One update; the losses are those of this process's rows."""
        done = self.done_at(self.progress.step)
        rate = self.schedule.rate(done)
        if self.arguments.start is not None:
            rate *= min(1.0, (self.progress.step + 1) / WARM_STEPS)
        for optimiser, peak in zip(self.optimisers, (MUON_RATE, ADAM_RATE), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate
        quantised = self.schedule.quantised(done)
        with stored_weights(self.model, "q4_0") if quantised else nullcontext():
            with self.autocast():
                hidden = self.model(ids[:, :-1])
                text, answer = self.head(hidden, self.model.output_weight, ids[:, 1:], kinds[:, 1:])
            (text + answer).backward()
        for parameter in self.model.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.ranks.average([p.grad for p in self.model.parameters() if p.grad is not None])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return text.detach(), answer.detach()


def share_done(arguments: argparse.Namespace, steps: int, step: int) -> float:
    """Share of the schedule before a step of a run of `steps`; 0 steps: a guess is taken."""
    begin = arguments.start_share if arguments.start is not None else 0.0
    return begin + (1 - begin) * step / (steps or arguments.steps_guess)


def plans_passed(progress: Progress) -> int:
    """How many of the points at which a run is planned again lie behind."""
    if progress.steps == 0:
        return 0
    return sum(progress.step >= share * progress.steps for share in PLAN_AGAIN)


def planned_steps(
    arguments: argparse.Namespace, schedule: Schedule, progress: Progress, speed: float, length: int
) -> int:
    """Steps of the whole run from the speed (tokens a second) in rows of `length` tokens."""
    left = PLAN_SHARE * max(0.0, 60 * arguments.total_minutes - progress.seconds)
    begin = min(0.999, share_done(arguments, progress.steps, progress.step))
    mean_speed = speed * length_cost(length) / schedule.mean_cost(begin)
    return progress.step + int(left * mean_speed / arguments.batch_tokens)


def to_device(batch: tuple[np.ndarray, np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids (int64) and kinds on the device."""
    ids = torch.from_numpy(batch[0].astype(np.int64))
    kinds = torch.from_numpy(batch[1])
    if device.type == "cuda":
        return ids.pin_memory().to(device, non_blocking=True), kinds.to(device)
    return ids, kinds


def train(arguments: argparse.Namespace, words: Sequence[str] = ()) -> Progress:
    """Runs until the run's end or the command's time is over.

    `words` is the command line that other ranks are started with."""
    meeting = arguments.out / "ranks"
    if arguments.ranks == 1 or arguments.rank > 0:
        return train_rank(arguments, meeting)
    arguments.out.mkdir(parents=True, exist_ok=True)
    meeting.unlink(missing_ok=True)
    others = start_others("leanedge_train.train_model", words, arguments.ranks)
    try:
        progress = train_rank(arguments, meeting)
        for other in others:
            if other.wait(timeout=60) != 0:
                raise RuntimeError(f"another rank ended with status {other.returncode}")
        return progress
    finally:
        for other in others:
            other.kill()


def device_name(device: torch.device) -> str:
    """What a card says that it was trained on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def train_rank(arguments: argparse.Namespace, meeting: Path) -> Progress:
    """One process of a run."""
    began = time.monotonic()
    config = EMBEDDED if arguments.config == "embedded" else TINY
    if config is TINY:
        config = ModelConfig(**{**TINY.to_dict(), "vocab_size": EMBEDDED.vocab_size})  # type: ignore[arg-type]
    source, held_out = source_of(arguments.corpus, arguments.text_share, arguments.workers)
    with Feed(source, arguments.workers) as feed:
        ranks = Ranks(arguments.rank, arguments.ranks, meeting)
        run = Run(arguments, config, ranks)
        progress = run.progress
        run.log(
            parameters=run.model.parameter_count(), text_tokens=len(source.text_ids),
            held_out_tokens=len(held_out), prepared_seconds=round(time.monotonic() - began, 1),
            device=device_name(run.device), start_step=progress.step, config=config.to_dict(),
            schedule=asdict(run.schedule), seed=arguments.seed,
            data_sha256=corpus_hash(arguments.corpus), text_share=arguments.text_share,
            batch_tokens=arguments.batch_tokens, ranks=ranks.count,
            muon_rate=MUON_RATE, adam_rate=ADAM_RATE,
            muon_decay=MUON_DECAY, embedding_decay=EMBEDDING_DECAY,
            **({"start": arguments.start.name, "start_share": arguments.start_share}
               if arguments.start is not None else {}),
        )  # fmt: skip
        probe_batch = make_batch(SEED_PROBE, 0, arguments.probe_rows, 2048, 1.0, Source(
            source.tokenizer, source.corpus, source.haystack, source.text_ids, Mix(text=0.0)
        )) if arguments.probe_rows > 0 else None  # fmt: skip
        ordered = progress.step
        window, window_tokens = time.monotonic(), 0
        deadline = began + 60 * arguments.minutes
        last_save = time.monotonic()
        seconds_before = progress.seconds
        while progress.step < (progress.steps or STEPS_MAX):
            while feed.room > 0:
                done = run.done_at(ordered)
                length = run.schedule.length(done)
                rows = max(2, arguments.batch_tokens // length // ranks.count)
                number = ordered * ranks.count + ranks.rank
                feed.order((arguments.seed, number, rows, length, run.schedule.level(done)))
                ordered += 1
            ids, kinds = to_device(feed.take(), run.device)
            text, answer = run.step(ids, kinds)
            progress.step += 1
            progress.tokens += ids.numel() * ranks.count
            window_tokens += ids.numel() * ranks.count
            logged = progress.step % arguments.log_every == 0 or progress.step in (1, 10)
            if logged:
                now_losses = (
                    round(float(text), 4),
                    round(float(answer), 4),
                )  # waits for the device
                now = time.monotonic()
                progress.seconds = seconds_before + now - began
                line: dict[str, object] = {
                    "step": progress.step, "of": progress.steps, "tokens": progress.tokens,
                    "seconds": round(progress.seconds, 1), "text": now_losses[0],
                    "answer": now_losses[1], "length": ids.shape[1] - 1,
                    "tokens_per_second": round(window_tokens / (now - window)),
                    "rate": round(run.schedule.rate(run.done_at(progress.step)), 3),
                }  # fmt: skip
                if progress.step % arguments.probe_every == 0 and probe_batch is not None:
                    probe_ids, probe_kinds = to_device(probe_batch, run.device)
                    with run.autocast():
                        line["probe"] = round(probe(run.model, probe_ids, probe_kinds), 4)
                        loss = text_loss(run.model, held_out, 1024, 16, run.device)
                    line["held_out"] = round(math.exp(loss), 2)
                run.log(**line)
                if run.plans_now():
                    speed = window_tokens / (now - window)
                    progress.steps = ranks.agree(
                        planned_steps(arguments, run.schedule, progress, speed, ids.shape[1] - 1)
                    )
                    run.log(planned_steps=progress.steps, tokens_per_second=round(speed))
                window, window_tokens = time.monotonic(), 0
            # Every rank must end with the same step.
            over = time.monotonic() > deadline
            if ranks.count > 1:
                over = logged and bool(ranks.agree(int(over)))
            if over:
                run.log(stopped="time", step=progress.step, of=progress.steps)
                break
            if time.monotonic() - last_save > 60 * arguments.save_minutes:
                run.save()
                last_save = time.monotonic()
        progress.seconds = seconds_before + time.monotonic() - began
        run.save()
        whole = progress.steps and progress.step >= progress.steps
        if ranks.first and (whole or arguments.export_always):
            torch.save(
                {"model": run.model.state_dict(), "config": config.to_dict(),
                 "progress": asdict(progress), "seed": arguments.seed}, run.out / "model.pt",
            )  # fmt: skip
        with stored_weights(run.model, "q4_0"), run.autocast():
            perplexity = math.exp(text_loss(run.model, held_out, 1024, 64, run.device))
        run.log(finished=progress.step, held_out_q4_0=round(perplexity, 3), **asdict(progress))
        ranks.close()
        return progress


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--corpus", type=Path, required=True)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--config", choices=("embedded", "tiny"), default="embedded")
    options.add_argument("--from", dest="start", type=Path, help="a model to begin with")
    options.add_argument(
        "--from-share", dest="start_share", type=float, default=0.3, help="of the schedule"
    )
    options.add_argument("--steps", type=int, default=0, help="of the whole run; 0: from the speed")
    options.add_argument("--steps-guess", type=int, default=4000, help="until the speed is known")
    options.add_argument("--minutes", type=float, default=8.5, help="of this command")
    options.add_argument("--total-minutes", type=float, default=8.0, help="of the whole run")
    options.add_argument("--batch-tokens", type=int, default=131_072)
    options.add_argument("--lengths", default="0:1024,0.2:4096,0.88:8192")
    options.add_argument("--text-share", type=float, default=0.35)
    options.add_argument("--workers", type=int, default=12)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--ranks", type=int, default=1, help="processes, each with its own GPU")
    options.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    options.add_argument("--log-every", type=int, default=25)
    options.add_argument("--probe-every", type=int, default=100)
    options.add_argument("--probe-rows", type=int, default=8)
    options.add_argument("--save-minutes", type=float, default=3.0)
    options.add_argument("--eager", action="store_true", help="without torch.compile")
    options.add_argument(
        "--export-always", action="store_true", help="model.pt also when cut short"
    )
    return options


if __name__ == "__main__":
    train(parser().parse_args(), sys.argv[1:])
