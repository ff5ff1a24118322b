"""Views of responses for people: which tokens cost regret, and where the detector fired.

- :func:`render_ansi`: one response as text for a terminal.
- :func:`render_html`: a self-contained page of responses: no scripts, nothing loaded from elsewhere.
- :func:`render`: either of them, by Gymnasium's render mode.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from espo_env.escapes import visible
from espo_env.tokenizer import Tokenizer
from espo_env.types import StopReason, Trajectory

__all__ = ["render", "render_ansi", "render_html"]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_REGRET_SCALE = 1.5
"""Nats at which a token has 63 % of the full colour."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 900, 180, 44, 24, 16


def render(mode: str, trajectory: Trajectory, tokenizer: Tokenizer, running: bool = False) -> str:
    """One response in render mode ``"ansi"`` or ``"html"``."""
    if mode == "ansi":
        return render_ansi(trajectory, tokenizer, running)
    return render_html([trajectory], tokenizer, running=running)


def render_ansi(trajectory: Trajectory, tokenizer: Tokenizer, running: bool = False) -> str:
    """One response as text: tokens on a red that grows with their regret, ``z`` as a bar line, the place of the stop.

    Args:
        trajectory: The response; columns that are empty are left out.
        tokenizer: Turns its tokens into text.
        running: Whether it is still being written, so that its stop reason means nothing yet.

    Returns:
        Text whose only escape sequences are the colours: those that it quotes are written out.
    """
    parts = []
    for step, token in enumerate(trajectory.response_tokens):
        text = visible(tokenizer.token(token))
        if len(trajectory.regrets):
            shade = round(255 * (1 - _heat(trajectory.regrets[step])))
            text = f"\x1b[30;48;2;255;{shade};{shade}m{text}\x1b[0m"
        if step == trajectory.mark:
            text += f"\x1b[1;31m◀ {_mark_word(trajectory)}\x1b[0m"
        parts.append(text)
    lines = [f"prompt    {visible(tokenizer.decode(trajectory.prompt_tokens))}", f"response  {''.join(parts)}"]
    if _has_chart(trajectory):
        lines.append(f"z/thresh  {''.join(map(_bar, trajectory.z.tolist(), trajectory.thresholds.tolist()))}")
        lines.append(f"last      {_signals(trajectory, len(trajectory) - 1)}")
    lines.append(f"outcome   {' · '.join(_facts(trajectory, running))}")
    if trajectory.problem is not None:
        lines.append(f"answer    {visible(trajectory.problem.answer)}")
    return "\n".join(lines) + "\n"


def render_html(
    trajectories: Iterable[Trajectory], tokenizer: Tokenizer, title: str = "Responses", running: bool = False
) -> str:
    """A page of responses.

    Each shows its prompt, its tokens coloured by regret (their numbers on hovering), ``z`` against the threshold over
    the steps, the place of the stop, why it ended, its reward and the reference answer.

    Args:
        trajectories: The responses; columns that are empty are left out.
        tokenizer: Turns their tokens into text.
        title: Heading of the page.
        running: Whether they are still being written, so that their stop reasons mean nothing yet.

    Returns:
        A whole HTML document. Whatever the tokens and the title say is escaped.
    """
    cards = [_card(number, trajectory, tokenizer, running) for number, trajectory in enumerate(trajectories, 1)]
    heading = _escaped(title)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{heading}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<header>\n<h1>{heading}</h1>\n{_legend()}\n</header>\n"
        + "\n".join(cards or ["<p>No responses.</p>"])
        + "\n</main>\n</body>\n</html>\n"
    )


def _card(number: int, trajectory: Trajectory, tokenizer: Tokenizer, running: bool) -> str:
    facts = "".join(
        f'<span class="fact{" " + trajectory.stop_reason.value if i == 0 and not running else ""}">'
        f"{html.escape(fact)}</span>"
        for i, fact in enumerate(_facts(trajectory, running))
    )
    rows = [
        f"<h2><span>#{number}</span>{facts}</h2>",
        _row("prompt", f"<pre>{_escaped(tokenizer.decode(trajectory.prompt_tokens))}</pre>"),
        _row("response", f"<pre>{_tokens(trajectory, tokenizer)}</pre>"),
    ]
    if trajectory.problem is not None:
        rows.append(_row("reference", f"<pre>{_escaped(trajectory.problem.answer)}</pre>"))
    if _has_chart(trajectory):
        rows.append(_row("detector", _chart(trajectory)))
    return "<article>\n" + "\n".join(rows) + "\n</article>"


def _row(name: str, content: str) -> str:
    return f'<div class="row"><span class="name">{name}</span>{content}</div>'


def _tokens(trajectory: Trajectory, tokenizer: Tokenizer) -> str:
    spans = []
    for step, token in enumerate(trajectory.response_tokens):
        text = _escaped(tokenizer.token(token)).replace("\n", "↵\n")
        heat = _heat(trajectory.regrets[step]) if len(trajectory.regrets) else 0.0
        style = f' style="background:rgba(225,70,30,{heat:.2f})"' if heat >= 0.01 else ""
        kind = "t mark" if step == trajectory.mark else "t"
        if step > trajectory.mark >= 0:
            kind += " after"
        spans.append(f'<span class="{kind}" title="{html.escape(_signals(trajectory, step))}"{style}>{text}</span>')
        if step == trajectory.mark:
            spans.append(f'<b class="{_mark_class(trajectory)}">◀ {_mark_word(trajectory)}</b>')
    return "".join(spans)


def _chart(trajectory: Trajectory) -> str:
    """``z`` against the threshold over the steps, regrets as bars behind them."""
    z, thresholds = trajectory.z.astype(float), trajectory.thresholds.astype(float)
    finite_z, finite_thresholds = z[np.isfinite(z)], thresholds[np.isfinite(thresholds)]
    reach = max(float(np.abs(finite_z).max(initial=0.0)), 0.05)
    # A threshold far above z would flatten z to nothing: it leaves the picture.
    high = min(max(reach, float(finite_thresholds.max(initial=0.0))), 40 * reach) * 1.08
    low = min(0.0, float(finite_z.min(initial=0.0))) * 1.08
    steps = len(z)

    def x(step: float) -> float:
        return _LEFT + (step + 0.5) / steps * (_WIDTH - _LEFT - 8)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    bottom = _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{_LEFT}" y1="{y(0):.1f}" x2="{_WIDTH - 8}" y2="{y(0):.1f}"/>']
    if len(trajectory.regrets):
        bar = min(max((_WIDTH - _LEFT - 8) / steps * 0.7, 0.5), 14.0)
        for step in np.flatnonzero(trajectory.regrets > 0.01).tolist():
            height = _heat(trajectory.regrets[step]) * (bottom - _TOP)
            parts.append(
                f'<rect class="regret" x="{x(step) - bar / 2:.1f}" y="{bottom - height:.1f}" '
                f'width="{bar:.1f}" height="{height:.1f}"><title>{_signals(trajectory, step)}</title></rect>'
            )
    inside = np.where(thresholds <= high, thresholds, np.nan)
    if np.isnan(inside).any():
        parts.append(f'<text x="{_LEFT + 4}" y="{_TOP - 2}">threshold above the picture in places</text>')
    parts += [_line("threshold", inside, x, y), _line("z", z, x, y)]
    if trajectory.mark >= 0:
        at, score = x(trajectory.mark), float(np.nan_to_num(z[trajectory.mark], posinf=high, neginf=low))
        side, anchor = (-6, "end") if trajectory.mark > steps / 2 else (6, "start")
        parts.append(
            f'<line class="{_mark_class(trajectory)}" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{bottom}"/>'
            f'<circle class="{_mark_class(trajectory)}" cx="{at:.1f}" cy="{y(score):.1f}" r="4.5"/>'
            f'<text class="{_mark_class(trajectory)}" x="{at + side:.1f}" y="{_TOP + 10}" text-anchor="{anchor}">'
            f"{_mark_word(trajectory)} at step {trajectory.mark}</text>"
        )
    for value in {0.0, high / 1.08}:
        parts.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2g}</text>')
    parts.append(f'<text x="{x(0):.1f}" y="{_HEIGHT - 6}" text-anchor="middle">0</text>')
    if steps > 1:
        parts.append(f'<text x="{x(steps - 1):.1f}" y="{_HEIGHT - 6}" text-anchor="end">step {steps - 1}</text>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="z against the threshold">'
        + "".join(parts)
        + "</svg>"
    )


def _line(name: str, values: NDArray[np.floating], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    path, pen = [], "M"
    for step, value in enumerate(values):
        if math.isfinite(value):
            path.append(f"{pen}{x(step):.1f} {y(value):.1f}")
        pen = "L" if math.isfinite(value) else "M"
    # The last piece, of length 0, makes a single point a dot.
    return f'<path class="{name}" d="{"".join(path)}h0"/>' if path else ""


def _legend() -> str:
    swatches = "".join(
        f'<span class="t" style="background:rgba(225,70,30,{_heat(g):.2f})">{g:g}</span>' for g in (0, 0.5, 1, 2, 4)
    )
    return (
        f'<p class="legend"><span>regret in nats {swatches}</span><span><i class="z"></i>z</span>'
        '<span><i class="threshold"></i>threshold</span><span><i class="stop"></i>stopped</span>'
        '<span><i class="shadow"></i>marked, ran on</span></p>'
    )


def _heat(regret: float) -> float:
    """Share of the full colour; all of it for what is no number."""
    return 1.0 if math.isnan(regret) else 1.0 - math.exp(-max(float(regret), 0.0) / _REGRET_SCALE)


def _bar(z: float, threshold: float) -> str:
    share = z / max(threshold, 1e-9)  # 0 under a threshold of infinity
    if math.isnan(share):
        return "?"
    return _BLOCKS[math.ceil(min(max(share, 0.0), 1.0) * (len(_BLOCKS) - 1))]


def _escaped(text: str) -> str:
    return html.escape(visible(text))


def _has_chart(trajectory: Trajectory) -> bool:
    return len(trajectory.z) > 0 and len(trajectory.thresholds) > 0


def _mark_word(trajectory: Trajectory) -> str:
    return "stopped" if trajectory.stop_reason is StopReason.REGRET else "would stop"


def _mark_class(trajectory: Trajectory) -> str:
    return "stop" if trajectory.stop_reason is StopReason.REGRET else "shadow"


def _facts(trajectory: Trajectory, running: bool) -> list[str]:
    facts = ["running" if running else trajectory.stop_reason.value, f"{len(trajectory)} tokens"]
    if not running:
        facts.append(f"reward {trajectory.reward:g}")
    if trajectory.correct is not None:
        facts.append("right" if trajectory.correct else "wrong")
    if trajectory.mark >= 0:
        facts.append(f"{_mark_word(trajectory)} at step {trajectory.mark}")
    return facts


def _signals(trajectory: Trajectory, step: int) -> str:
    columns: Sequence[tuple[str, NDArray[np.float32]]] = (
        ("regret", trajectory.regrets),
        ("value", trajectory.values),
        ("z", trajectory.z),
        ("threshold", trajectory.thresholds),
        ("logprob", trajectory.logprobs),
    )
    return " · ".join([f"step {step}", *(f"{name} {column[step]:.3g}" for name, column in columns if len(column))])


_STYLE = """
:root{--paper:#fbfaf8;--card:#fff;--ink:#1d1f24;--soft:#6b7079;--line:#e4e2dd;--z:#1f5fbf;--limit:#8a8f98;
--stop:#c62314;--shadow:#c07a00;--good:#1c7c43;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--paper:#15171b;--card:#1d2026;--ink:#e7e8ea;--soft:#9aa0aa;--line:#31353d;
--z:#7fb0ff;--limit:#8a8f98;--stop:#ff6b5c;--shadow:#e8a93a;--good:#5cc98a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:22px;margin:0 0 6px}
.legend{display:flex;flex-wrap:wrap;gap:6px 22px;margin:0 0 18px;color:var(--soft);font-size:13px}
.legend i{display:inline-block;width:20px;margin-right:6px;vertical-align:middle;border-top:2.5px solid}
i.z{color:var(--z)}i.threshold{color:var(--limit);border-top-style:dashed}i.stop{color:var(--stop)}i.shadow{color:var(--shadow)}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 18px 10px;margin:0 0 18px}
h2{display:flex;flex-wrap:wrap;gap:8px;align-items:center;font-size:14px;margin:0 0 8px;color:var(--soft)}
.fact{font-weight:500;font-size:12.5px;padding:1px 9px;border:1px solid var(--line);border-radius:99px;color:var(--ink)}
.fact.regret{background:var(--stop);border-color:var(--stop);color:#fff}
.fact.eos{background:var(--good);border-color:var(--good);color:#fff}
.fact.length,.fact.abort,.fact.error{background:var(--soft);border-color:var(--soft);color:#fff}
.row{display:grid;grid-template-columns:76px 1fr;gap:10px;margin:4px 0}
.name{color:var(--soft);font-size:12.5px;padding-top:3px}
pre{margin:0;font:14px/1.75 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.row pre{white-space:pre-wrap;overflow-wrap:anywhere}
.t{border-radius:3px;padding:1px 0}
.t:hover{outline:1.5px solid var(--ink)}
.legend .t{padding:1px 7px;color:var(--ink)}
.t.mark{box-shadow:0 2px 0 var(--stop)}
.t.after{opacity:.6}
pre b{font:600 12px system-ui,sans-serif;padding:1px 7px;margin:0 3px;border-radius:99px;color:#fff;white-space:nowrap}
b.stop{background:var(--stop)}b.shadow{background:var(--shadow)}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
path{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
path.z{stroke:var(--z)}path.threshold{stroke:var(--limit);stroke-dasharray:3 5}
rect.regret{fill:rgba(225,70,30,.28)}
line.axis{stroke:var(--line)}
line.stop{stroke:var(--stop);stroke-width:1.5}line.shadow{stroke:var(--shadow);stroke-width:1.5;stroke-dasharray:3 3}
circle.stop{fill:var(--stop)}circle.shadow{fill:var(--shadow)}
svg text.stop{fill:var(--stop);font-weight:600}svg text.shadow{fill:var(--shadow);font-weight:600}
"""
