"""The replay and the learner on a CUDA GPU: `python -m benchmarks.gpu [--minutes 9] [--json FILE]`.

One command that stops by itself: graph against eager, microseconds of the replay in a graph,
learner updates a second, agent steps a second on Breakout, and then training for the time left.
What fails is told and the rest goes on. `--quick` shrinks everything, to try the script; without a
GPU it runs on the CPU by plain PyTorch, whose figures mean nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, median
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents.build import build_agent, build_replay
from agents.config import TrainConfig, resolve
from agents.dqn import DQN
from agents.graph import Learner
from agents.loop import evaluate, train
from benchmarks import sections
from benchmarks.harness import OURS, Row
from benchmarks.replay import ALPHA, BATCHES, torchrl
from benchmarks.sections import Section
from benchmarks.train import WARM, Peer
from configs.dqn import DQNConfig
from envs import make
from replay import Field, PrioritizedReplay
from replay.device import reason

Precision = Literal["fp32", "tf32", "bf16"]
ATARI = Field((1, 84, 84), "uint8", 4)
SHAPE = (4, 84, 84)
LANES = 64
PEER_ENVS = 8


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    device: str
    capacities: tuple[int, ...] = (1 << 17, 1 << 20, 1 << 24)
    batches: tuple[int, ...] = (32, 256, 1024)
    inside: int = 20  # steps in one graph, so that its launch doesn't count
    repeats: int = 50
    updates: int = 1000
    end_to_end: float = 20.0  # seconds
    envs: tuple[int, ...] = (32, 128)
    replay: int = 1_000_000
    width: float = 1.0

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def filled(capacity: int, scale: Scale, seed: int = 0) -> PrioritizedReplay:
    """A full replay of Atari frames with skewed priorities, without the hours of playing."""
    replay = PrioritizedReplay(
        capacity, ATARI, lanes=LANES, n_step=3, alpha=ALPHA, seed=seed, device=scale.device,
        backend="auto" if scale.cuda else "torch",
    )  # fmt: skip
    store: Any = replay.store
    size = store.rows * store.lanes
    generator = np.random.default_rng(seed)
    priority = np.abs(generator.normal(size=size)).astype(np.float32) + np.float32(1e-6)
    store.state.ages.fill_(255)  # whole stacks, as in the middle of an episode
    pixels = torch.Generator(replay.device).manual_seed(seed)
    for words in store.state.frames.values():
        words[: 1 << 14].random_(generator=pixels)
    counters = {**store.counters(), "written": [store.rows] * LANES, "greatest": 5.0}
    store.restore(counters, priority)
    return replay


def agent(batch: int, scale: Scale, precision: Precision = "fp32", seed: int = 1) -> DQN:
    config = DQNConfig(batch_size=batch, precision=precision, encoder_width=scale.width)
    made = DQN(config, SHAPE, 4, device=scale.device, seed=seed)
    made.beta = 0.6
    return made


def graph_of(work: Callable[[], object], times: int, cuda: bool) -> Callable[[], object]:
    """`work`, `times` times, as one graph where there is CUDA."""

    def again() -> None:
        for _ in range(times):
            work()

    if not cuda:
        return again
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again()
    return graph.replay


def seconds(work: Callable[[], object], repeats: int, scale: Scale) -> float:
    """Median seconds of a call, the device's work included."""
    times = []
    for _ in range(repeats + 3):
        scale.wait()
        begin = time.perf_counter()
        work()
        scale.wait()
        times.append(time.perf_counter() - begin)
    return median(times[3:])


# ---------------------------------------------------------------------------------------- sections


def equality(scale: Scale) -> Iterator[Row]:
    """Twenty steps by graph and eagerly, from the same seeds: how far apart, at most, they end."""
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        # every fourth update renews the target network, which is a graph of its own
        plain = DQNConfig(precision="fp32", encoder_width=scale.width, target_update_every=4)
        rainbow = replace(plain, noisy=True, distributional=True)
        for name, config in (("dqn", plain), ("rainbow", rainbow)):
            made, replays = [], []
            for captured in (True, False):
                learner = DQN(config, SHAPE, 4, device=scale.device, seed=3)
                replay = filled(1 << 14, scale)
                step = Learner(learner, replay, 32, graph=captured and scale.cuda)
                for turn in range(20):
                    learner.beta = 0.4 + turn / 40
                    step()
                numbers = [learner.online.state_dict(), learner.target.state_dict()]
                made.append(torch.cat([p.flatten() for net in numbers for p in net.values()]))
                replays.append(replay.store.priorities())
            for what, apart in (
                ("weights", float((made[0] - made[1]).abs().max())),
                ("priorities", float(np.abs(replays[0] - replays[1]).max())),
            ):
                yield Row(f"graph less eager, 20 updates, {name}, {what}", OURS, apart, "at most")
    finally:
        torch.backends.cudnn.deterministic = deterministic


def microseconds(scale: Scale, until: float) -> Iterator[Row]:
    """The replay's share of a step, in a graph."""
    for capacity in scale.capacities:
        if time.time() > until:
            print(f"left out for want of time: capacity {capacity:,}")
            continue
        try:
            replay = filled(capacity, scale)
        except (MemoryError, torch.OutOfMemoryError) as error:
            print(f"capacity {capacity:,} is left out: {error}")
            continue
        beta = torch.full((1,), 0.5, dtype=torch.float64, device=scale.device)
        for batch in scale.batches:
            error_of = torch.rand(batch, device=scale.device)

            def whole(
                r: PrioritizedReplay = replay, e: Tensor = error_of, b: Tensor = beta
            ) -> None:
                r.update(r.sample(len(e), b).index, e)

            run = graph_of(whole, scale.inside, scale.cuda)
            took = seconds(run, scale.repeats, scale) / scale.inside
            case = f"sample + gather + update, 2^{capacity.bit_length() - 1}, batch {batch}"
            yield Row(case, OURS, 1e6 * took, "µs")
        del replay, whole, run
        if scale.cuda:
            torch.cuda.empty_cache()


def peer(scale: Scale) -> Iterator[Row]:
    """TorchRL's sampler on the device, indices and weights alone; nothing is gathered, and it can't
    be captured."""
    try:
        step = torchrl(scale.device)
    except (ImportError, RuntimeError) as error:
        print(f"torchrl is left out: {reason(error)}")
        return
    for batch in BATCHES:
        took = seconds(partial(step, batch), scale.repeats, scale)
        yield Row(f"sample + update, 2^20, batch {batch}", "torchrl", 1e6 * took, "µs")


def updates(scale: Scale, until: float) -> Iterator[Row]:
    """Learner steps a second with the default agent on the Nature network, compiled ones last."""
    replay = filled(scale.capacities[0], scale)
    precisions: tuple[Precision, ...] = ("fp32", "tf32", "bf16") if scale.cuda else ("fp32",)
    asked = [(b, p, kind) for b in (32, 256) for p in precisions for kind in ("eager", "graph")]
    asked += [(b, p, "compiled graph") for b in (32, 256) for p in reversed(precisions)]
    asked += [(b, "fp32", "compiled") for b in (32, 256)]
    for batch, precision, kind in asked:
        if time.time() > until - 30 * ("compiled" in kind):
            print(f"left out for want of time: {kind}, batch {batch}, {precision}")
            continue
        learner = agent(batch, scale, precision)
        if "compiled" in kind:
            torch._dynamo.reset()  # or the kinds before count towards its limit
            learner.compile()
        step = Learner(learner, replay, batch, graph="graph" in kind and scale.cuda)
        for _ in range(10):
            step()
        scale.wait()
        begin = time.perf_counter()
        for _ in range(scale.updates):
            step()
        scale.wait()
        rate = scale.updates / (time.perf_counter() - begin)
        yield Row(f"updates, batch {batch}, {precision}", kind, rate, "1/s")


def run(
    chosen: TrainConfig, scale: Scale, until: float, grace: float = 0.0
) -> tuple[DQN, float, int, list[float]]:
    """Train until the clock says `until`: agent, agent steps a second while learning, and scores.

    The rate counts from `grace` seconds after the first update on.
    """
    env = make(chosen.env, seed=chosen.run.seed)
    try:
        learner = build_agent(chosen, env, chosen.run.seed, scale.device)
        assert isinstance(learner, DQN)
        if chosen.run.compile:
            learner.compile()
        options = chosen.agent
        notes: list[str] = []
        replay = build_replay(chosen, env, learner, chosen.run.seed, notes)
        print(*notes, sep="\n", end="")
        replay.reset(env.reset())
        ticks = train(
            learner, env, replay, steps=chosen.run.steps, batch_size=options.batch_size,
            update_every=options.update_every, learning_starts=options.learning_starts,
        )  # fmt: skip
        scores: list[float] = []
        step, first, begin = 0, 0, 0.0
        for tick in ticks:
            step = tick.step
            scores += [episode.score for episode in tick.episodes]
            now = time.time()
            if tick.updates and not begin:
                begin = now + grace
            if begin and not first and now >= begin:
                first, begin = step, now
            if now > until:
                break
        scale.wait()
        rate = (step - first) / (time.time() - begin) if first else 0.0
        return learner, rate, step, scores
    finally:
        env.close()


def chosen(scale: Scale, envs: int, **options: object) -> TrainConfig:
    """Breakout by the default preset, with the replay on the device."""
    given = {
        "env": "Breakout", "num_envs": envs, "replay_capacity": scale.replay,
        "encoder_width": scale.width, **options,
    }  # fmt: skip
    return resolve("dqn", "default", given, image=True)


def end_to_end(scale: Scale, end: float) -> Iterator[Row]:
    """Agent steps a second with environments, acting and learning, one update every 4 steps."""
    cases = [(envs, False) for envs in scale.envs]
    cases += [(scale.envs[-1], True)] if scale.cuda else []
    for envs, compiled in cases:
        config = chosen(
            scale, envs, learning_starts=2_000, replay_capacity=100_000, update_every=4,
            compile=compiled,
        )  # fmt: skip
        # the first update waits for the compiler
        until = min(end, time.time() + scale.end_to_end + 60 * compiled)
        _, rate, _, _ = run(config, scale, until, grace=scale.end_to_end / 4)
        case = f"Breakout, {envs} environments{', compiled' * compiled}"
        if rate:
            yield Row(case, OURS, rate, "agent steps/s")
        else:
            print(f"left out for want of time: {case}")
    try:
        peer = Peer(PEER_ENVS, scale.device)
    except ImportError as error:
        print(f"stable-baselines3 is left out: {error}")
        return
    peer.advance(2 * WARM)
    until = min(end, time.time() + scale.end_to_end)
    rates: list[float] = []
    while not rates or time.time() < until:
        rates.append(peer.advance(50 * PEER_ENVS))
    rate = median(rates)
    yield Row(f"Breakout, {PEER_ENVS} environments, Nature network", "sb3", rate, "agent steps/s")


def training(scale: Scale, until: float) -> Iterator[Row]:
    """What the time that is left teaches, by training scores and an evaluation."""
    left = until - time.time()
    if left < 3 * scale.end_to_end:
        print(f"no training: {left:.0f} s are left")
        return
    config = chosen(scale, scale.envs[0], steps=2_500_000)
    begin = time.time()
    learner, rate, steps, scores = run(config, scale, begin + 0.8 * left)
    took = time.time() - begin
    case = f"Breakout, trained {took:.0f} s, {4 * steps / 1e6:.3g}M frames"
    yield Row(case, OURS, rate, "agent steps/s")
    if scores:
        yield Row(f"{case}: last 100 training episodes", OURS, mean(scores[-100:]), "score")
    env = make(config.env, seed=99, num_envs=10, evaluation=True)
    try:
        played: list[float] = []
        for episodes in evaluate(learner, env, 10, 0.05):
            played += [episode.score for episode in episodes]
            if time.time() > until:
                break
    finally:
        env.close()
    if played:
        yield Row(f"{case}: {len(played)} evaluation episodes", OURS, mean(played), "score")


def main() -> None:
    """Run the sections one after the other; print the table, write the JSON."""
    options = sections.parser(__doc__, minutes=8.5).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scale = Scale(device)
    if options.quick:
        scale = Scale(
            device, capacities=(1 << 12,), batches=(8,), inside=2, repeats=3, updates=3,
            end_to_end=8.0, envs=(4,), replay=20_000, width=0.1,
        )  # fmt: skip
    if options.rows is None:
        print(f"on {torch.cuda.get_device_name() if scale.cuda else 'the CPU: a trial'}")
    parts = [
        Section("equality", lambda _: equality(scale), 60),
        Section("microseconds", lambda until: microseconds(scale, until), 90),
        Section("peer", lambda _: peer(scale), 30),
        Section("updates", lambda until: updates(scale, until), 120),
        Section("end_to_end", lambda until: end_to_end(scale, until), 150),
        Section("training", lambda until: training(scale, until)),
    ]
    sections.run("benchmarks.gpu", options, parts, sys.argv[1:])


if __name__ == "__main__":
    main()
