"""Atari protocols: what surrounds a game, so that two scores can be compared.

A score says little without them: sticky actions, or a lost life that ends the episode, change what
the same agent scores on the same game. Each preset names its source, and where it parts from it.

All of them share ALE's preprocessing: luminance, the maximum of the last two frames of a step, and
the whole picture resized by area (`frame_size` pixels square).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Protocol:
    """How an Atari game is cut into steps, episodes and rewards.

    A frame is one of the console's 60 a second; an agent step is `frame_skip` of them.
    """

    name: str
    """What `EnvConfig.protocol` calls it."""
    source: str
    """Paper or code that it follows."""
    notes: str
    """Where it parts from its source, or fills what that leaves open."""
    frame_skip: int = 4
    """Frames that an action is held, 1 or more."""
    sticky: float = 0.0
    """Probability, at each frame, that the console holds the previous action instead."""
    life_loss: bool = False
    """In training, a lost life is `terminated`; the game itself goes on."""
    noop_max: int = 0
    """An episode starts after 0 to noop_max - 1 frames without action, drawn uniformly."""
    fire_reset: bool = False
    """Press FIRE, where the game has the button: for the first frame of a game, and for the step
    that follows a lost life, whatever the agent chose there (nothing is learned from that step)."""
    reward_clip: bool = True
    """In training, rewards are clipped to [-1, 1]; scores never are."""
    evaluation_epsilon: float = 0.05
    """Share of random actions in an evaluation."""
    max_frames_per_episode: int = 108_000
    """Frames after which an episode is truncated in training (108,000 are 30 minutes)."""
    evaluation_max_frames: int = 108_000
    """Frames after which an episode is truncated in an evaluation."""
    full_action_space: bool = False
    """Every action that ALE accepts (18 in nearly every game), not those that the game uses."""

    def describe(self) -> str:
        """One line to print beside a score."""
        parts = [f"skip {self.frame_skip}"]
        if self.sticky:
            parts.append(f"sticky {self.sticky:g}")
        if self.noop_max:
            parts.append(f"up to {self.noop_max - 1} no-ops")
        if self.fire_reset:
            parts.append("FIRE at reset")
        if self.life_loss:
            parts.append("life loss ends training episodes")
        parts.append("18 actions" if self.full_action_space else "the game's actions")
        if self.reward_clip:
            parts.append("training rewards clipped")
        parts.append(f"evaluation epsilon {self.evaluation_epsilon:g}")
        parts.append(f"{self.evaluation_max_frames:,} frames at most")
        return f"{self.name}: {', '.join(parts)} ({self.source})"

    def for_game(self, game: str) -> Protocol:
        """The protocol as its source applies it to one ROM (`space_invaders`)."""
        if self.name == "dqn2013" and game == "space_invaders":
            return replace(self, frame_skip=3)
        return self


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "dqn2013",
            source="Mnih et al. 2013, sections 4.1 and 5",
            notes=(
                "Frame skip 4, 3 in Space Invaders, whose lasers blink; clipped rewards; lives are "
                "not used; no no-ops, so that chance enters by epsilon alone. The paper crops a "
                "110x84 picture to 84x84 and does not pool frames; here the whole picture is "
                "resized and the last two frames are pooled, as in 2015. It evaluates by a fixed "
                "number of steps and gives no limit to an episode: 30 minutes here."
            ),
        ),
        Protocol(
            "nature",
            source="Mnih et al. 2015, Methods and extended data table 1",
            notes=(
                "No-ops are frames, as in the paper's own code: fewer than 30. Evaluation lasts "
                "5 minutes a game; the paper gives no limit in training: 30 minutes here."
            ),
            life_loss=True,
            noop_max=30,
            evaluation_max_frames=18_000,
        ),
        Protocol(
            "machado",
            source="Machado et al. 2018, section 4",
            notes=(
                "Sticky actions, all 18 actions, only the game's end ends an episode. Its authors "
                "report the score while training, hence the evaluation epsilon of 0.01. Their own "
                "runs held actions for 5 frames; 4 here, as in Dopamine and Gymnasium's v5 ids, "
                "and so is the limit of 30 minutes. Dopamine (Castro et al. 2018) differs by the "
                "game's own actions and an evaluation epsilon of 0.001."
            ),
            sticky=0.25,
            evaluation_epsilon=0.01,
            full_action_space=True,
        ),
        Protocol(
            "sb3",
            source="Stable-Baselines3's AtariWrapper, as RL Zoo uses it",
            notes=(
                "Evaluation epsilon is the zoo's final exploration rate. The wrapper waits 1 to 30 "
                "frames (here 0 to 29), and after FIRE it also plays action 2 for a step, after "
                "each lost life too (here FIRE alone: one frame at a game's start, one step after "
                "a lost life)."
            ),
            life_loss=True,
            noop_max=30,
            fire_reset=True,
            evaluation_epsilon=0.01,
        ),
    )
}
