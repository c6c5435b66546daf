"""`alignbench demo`."""

from __future__ import annotations

from pathlib import Path

import click

from alignbench.cli.group import main


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--run", "names", multiple=True, metavar="RECIPE", help="Show this recipe; may be given several times.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(1, 65535))
@click.option("--allow-other-hosts", is_flag=True, help="Let --host be one that other machines reach.")
def demo(paths: tuple[Path, ...], names: tuple[str, ...], host: str, port: int, allow_other_hosts: bool) -> None:
    """Try runs by hand: a page where a prompt is answered by several runs side by side, with scores and costs."""
    from alignbench.demo.page import page, require_loopback
    from alignbench.demo.side_by_side import SideBySide
    from alignbench.runtime.device import choose_device, quiet_libraries

    require_loopback(host, allow_other_hosts=allow_other_hosts)
    quiet_libraries()
    blocks = page(SideBySide.load(paths, names, choose_device("auto")))
    click.echo(f"http://{host}:{port}  (Ctrl-C ends it)")
    blocks.launch(server_name=host, server_port=port, share=False, quiet=True)
