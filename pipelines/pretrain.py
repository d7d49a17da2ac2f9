"""Train the network of a card from scratch, on unlabelled images: how data/ got its weights.

    python pipelines/pretrain.py fashion_mnist_32 --format idx \\
        --images train-images-idx3-ubyte.gz --labels train-labels-idx1-ubyte.gz \\
        --out data/fashion_mnist_32.safetensors --steps 5000

It predicts the noise (DDPM, 2006.11239, algorithm 1 and equation 14) with a constant learning rate
and keeps a moving average of the weights, which is what it writes. Stopped at any moment, the same
command goes on from the last saved state and ends with the same weights. Labels are not looked at.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from diffcache.backbones.adm import ADM, AdmConfig
from diffcache.backbones.card import load_card
from diffcache.compute import resolve_device, resolve_precision, torch_dtype
from diffcache.config import SplitConfig
from diffcache.diffusion import ddim_sample, respace
from diffcache.errors import ConfigError, DiffcacheError
from diffcache.images import load_batches, open_split


@click.command(help=__doc__.split("\n\n", 1)[0])
@click.argument("card")
@click.option("--format", "format_", type=click.Choice(["folder", "idx"]), default="folder", show_default=True)
@click.option("--path", type=click.Path(path_type=Path), help="Folder of class folders.")
@click.option("--images", type=click.Path(path_type=Path), help="IDX file of images.")
@click.option("--labels", type=click.Path(path_type=Path), help="IDX file of labels; not looked at.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the weights go (.safetensors).")
@click.option("--state", type=click.Path(path_type=Path), help="File to go on from.  [default: OUT with .state.pt]")
@click.option("--steps", type=click.IntRange(1), default=5000, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True)
@click.option("--warmup", type=click.IntRange(0), default=200, show_default=True, help="Steps of linear warm-up.")
@click.option("--ema", type=click.FloatRange(0, 1, max_open=True), default=0.999, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--save-every", type=float, default=60.0, show_default=True, help="Seconds between saved states.")
def main(
    card: str,
    format_: str,
    path: Path | None,
    images: Path | None,
    labels: Path | None,
    out: Path,
    state: Path | None,
    steps: int,
    batch_size: int,
    lr: float,
    warmup: int,
    ema: float,
    seed: int,
    device: str,
    precision: str,
    save_every: float,
) -> None:
    try:
        known = load_card(card)
        if known.schedule is None or known.architecture.get("num_classes") or known.architecture.get("super_res"):
            raise ConfigError(f"card {known.name}: only unconditional diffusion networks are trained here")
        where = resolve_device(device)
        amp = torch_dtype(resolve_precision(precision, where))
        split = SplitConfig(format=format_, path=path, images=images, labels=labels)
        split.require("options")
        source = open_split(split)
    except DiffcacheError as error:
        raise click.ClickException(str(error)) from None

    config = AdmConfig(**known.architecture)
    network = (
        ADM(config).initialize(torch.Generator().manual_seed(seed)).to(where).to(memory_format=torch.channels_last)
    )
    average = ADM(config).to(where).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    average.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    # Drawn on the processor, so that every device trains on the same noise.
    random = torch.Generator().manual_seed(seed + 1)
    kept = torch.from_numpy(known.schedule.alphas_cumprod).float().to(where)

    options = {"card": known.name, "images": len(source), "batch_size": batch_size, "lr": lr, "seed": seed, "ema": ema}
    state = state or out.with_suffix(".state.pt")
    out.parent.mkdir(parents=True, exist_ok=True)
    log = out.with_suffix(".log.jsonl")
    start, seconds, mean_loss = 0, 0.0, math.nan
    if state.exists():
        saved = torch.load(state, map_location=where, weights_only=True)
        if saved.get("options", options) != options:
            raise click.ClickException(f"{state}: was begun with {saved['options']}, these are {options}")
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        random.set_state(saved["random"].cpu())
        start, seconds, mean_loss = saved["step"], saved["seconds"], saved["loss"]
        click.echo(f"{state}: going on from step {start}")

    def save(step: int) -> None:
        temporary = state.with_suffix(".tmp")
        torch.save(
            {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": random.get_state(),
                "options": options,
                "step": step,
                "seconds": seconds + time.perf_counter() - began,
                "loss": mean_loss,
            },
            temporary,
        )
        temporary.replace(state)
        write_weights(average, out)
        with log.open("a", encoding="utf-8") as file:
            line = {"step": step, "loss": round(mean_loss, 5), "seconds": round(seconds + time.perf_counter() - began)}
            file.write(json.dumps(line) + "\n")

    click.echo(
        f"{known.name}: {sum(p.numel() for p in network.parameters()):,} parameters, {len(source):,} images, "
        f"{where}, {torch.get_num_threads()} threads, {amp}"
    )
    began = said = saved_at = time.perf_counter()
    batches = batches_from(len(source), batch_size, seed=seed, first=start, last=steps)
    network.train()
    loaded = load_batches(source, known.preprocessing, batches, threads=1, ahead=4)
    for step, batch in enumerate(loaded, start=start + 1):
        x0 = torch.from_numpy(batch.pixels).to(where).float() / 127.5 - 1
        t = torch.randint(known.schedule.steps, (len(x0),), generator=random).to(where)
        noise = torch.randn(x0.shape, generator=random).to(where)
        a = kept[t][:, None, None, None]
        with torch.autocast(where.type, dtype=amp, enabled=amp != torch.float32):
            predicted = network(a.sqrt() * x0 + (1 - a).sqrt() * noise, t)[:, : x0.shape[1]]
        loss = (predicted.float() - noise).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / max(1, warmup))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        follow(average, network, min(ema, (1 + step) / (10 + step)))

        value = loss.item()
        mean_loss = value if math.isnan(mean_loss) else mean_loss + (value - mean_loss) * max(0.005, 1 / step)
        now = time.perf_counter()
        if now - said > 10 or step == steps:
            rate = (step - start) / (now - began)
            left = (steps - step) / rate / 60
            speed = f"{rate * batch_size:.0f} images/s  {left:.0f} min left"
            click.echo(f"step {step}/{steps}  loss {mean_loss:.4f}  {speed}")
            said = now
        if now - saved_at > save_every or step == steps:
            save(step)
            saved_at = now

    sheet = out.with_name(out.stem + "_samples.png")
    write_sheet(average, known.preprocessing.shape, known.schedule, sheet, seed=seed)
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB) and {sheet}")


def batches_from(rows: int, batch_size: int, *, seed: int, first: int, last: int) -> Iterator[list[int]]:
    """Rows of the batches of steps first .. last - 1; each epoch in an order of its own, remainders left out."""
    batch_size = min(batch_size, rows)
    each = rows // batch_size
    order: np.ndarray | None = None
    for step in range(first, last):
        epoch, place = divmod(step, each)
        if order is None or place == 0:
            order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
        yield order[place * batch_size : (place + 1) * batch_size].tolist()


@torch.no_grad()
def follow(average: ADM, network: ADM, decay: float) -> None:
    """Move the averaged weights towards the network's."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)


def write_weights(network: ADM, out: Path) -> None:
    """The weights as float16, replaced whole."""
    temporary = out.with_suffix(".tmp")
    save_file({name: tensor.half().contiguous().cpu() for name, tensor in network.state_dict().items()}, temporary)
    temporary.replace(out)


def write_sheet(network: ADM, shape: tuple[int, int, int], schedule, out: Path, *, seed: int, side: int = 10) -> None:
    """A square sheet of samples, by 50 DDIM steps."""
    noise = torch.randn((side * side, *shape), generator=torch.Generator().manual_seed(seed))
    noise = noise.to(network.out[0].weight.device)
    *_, x = ddim_sample(network, noise, schedule=schedule, steps=respace("ddim50", schedule.steps))
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte().cpu()
    channels, height, width = shape
    sheet = pixels.view(side, side, channels, height, width).permute(0, 3, 1, 4, 2)
    array = sheet.reshape(side * height, side * width, channels).numpy()
    Image.fromarray(array.squeeze(-1) if channels == 1 else array).save(out)


if __name__ == "__main__":
    main()
