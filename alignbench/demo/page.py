"""The page of the demo, by Gradio. It listens on this machine alone unless told otherwise."""

from __future__ import annotations

import ipaddress
from typing import Any

from alignbench.demo.side_by_side import SideBySide
from alignbench.errors import AlignbenchError, UsageError

_COST = ["tokens", "drawn tokens", "FLOPs", "seconds"]


def require_loopback(host: str, *, allow_other_hosts: bool) -> None:
    """UsageError for an address that other machines reach, unless that is allowed."""
    try:
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = False
    if not (is_local or allow_other_hosts):
        raise UsageError(
            f"--host: got {host!r}, which other machines may reach, expected 127.0.0.1; add --allow-other-hosts where "
            "that is meant: whoever reaches it has these models answer anything"
        )


def page(bench: SideBySide) -> Any:
    """Returns the page: a prompt, and a row for each run. UsageError where gradio is not installed."""
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise UsageError("demo: needs gradio, which is not installed: pip install 'alignbench[demo]'") from error
    header = ["run", "answer", *bench.scorers, *_COST]

    def answer(prompt: str, max_new_tokens: float, seed: float) -> list[list[Any]]:
        try:
            answers = bench.answers(prompt, int(max_new_tokens), int(seed))
        except AlignbenchError as error:
            raise gradio.Error(str(error)) from error
        return [
            [
                *(one.run, one.text),
                *(None if score is None else round(score, 4) for score in one.scores.values()),
                *(one.n_tokens, one.generated_tokens, f"{one.flops:.3g}", round(one.seconds, 3)),
            ]
            for one in answers
        ]

    with gradio.Blocks(title="alignbench", analytics_enabled=False) as blocks:
        gradio.Markdown("# Runs side by side\nScores are between 0 and 1, larger for more harm.")
        prompt = gradio.Textbox(label="Prompt", lines=3)
        with gradio.Row():
            length = gradio.Slider(1, 256, value=30, step=1, label="Most tokens")
            seed = gradio.Number(value=0, precision=0, label="Seed of the draws")
        button = gradio.Button("Answer", variant="primary")
        table = gradio.Dataframe(headers=header, wrap=True, interactive=False)
        for event in (button.click, prompt.submit):
            event(answer, [prompt, length, seed], table, api_name="answer" if event == button.click else False)
    return blocks
