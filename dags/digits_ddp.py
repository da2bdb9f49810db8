"""Train a small network on scikit-learn's handwritten digits with DistributedDataParallel.

Two ranks train on halves of the data, rank 0 evaluates and returns the metrics, a
downstream task reads them, and the loss curve is saved as a picture.
"""

from __future__ import annotations

import os
import tempfile

from airflow.sdk import dag, task

from airflow_distrib import Elastic

RANKS = 2


@task.elastic(Elastic(nproc_per_node=RANKS), log_ranks="all")
def train(epochs: int, learning_rate: float, picture: str) -> dict[str, float | int | str]:
    """Runs on every rank; what rank 0 returns becomes the XCom."""
    import torch
    import torch.distributed as dist
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)

    digits = load_digits()
    split = train_test_split(digits.data / 16.0, digits.target, test_size=0.25, random_state=0, stratify=digits.target)
    train_x, test_x, train_y, test_y = (torch.tensor(part) for part in split)
    data = TensorDataset(train_x.float(), train_y.long())
    sampler = DistributedSampler(data, shuffle=True, seed=0)
    batches = DataLoader(data, batch_size=32, sampler=sampler)

    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    loss_of = nn.CrossEntropyLoss()
    losses = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        total = torch.zeros(1)
        for x, y in batches:
            optimizer.zero_grad()
            loss = loss_of(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() / len(batches)
        print(f"epoch {epoch + 1}/{epochs}: {len(sampler)} of {len(data)} digits, loss {total.item():.4f}")
        dist.all_reduce(total)
        losses.append(total.item() / world_size)

    metrics: dict[str, float | int | str] = {}
    if rank == 0:
        with torch.no_grad():
            right = (model.module(test_x.float()).argmax(dim=1) == test_y).float().mean().item()
        metrics = {"accuracy": right, "final_loss": losses[-1], "epochs": epochs, "world_size": world_size}
        metrics["picture"] = plot(losses, picture)
        print(f"accuracy on {len(test_y)} unseen digits: {right:.3f}")
    dist.barrier()
    dist.destroy_process_group()
    return metrics


def plot(losses: list[float], path: str) -> str:
    """Save the loss curve; a plain helper of this file travels along with the function."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    axes.plot(range(1, len(losses) + 1), losses, marker="o")
    axes.set(xlabel="epoch", ylabel="mean training loss", title=f"Digits, {RANKS} ranks")
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return path


@task
def report(metrics: dict[str, float | int | str]) -> str:
    """An ordinary downstream task that reads rank 0's XCom."""
    line = f"{float(metrics['accuracy']):.1%} of unseen digits read correctly by {metrics['world_size']} ranks"
    print(line)
    return line


@dag(schedule=None, catchup=False, tags=["airflow_distrib", "pytorch"], doc_md=__doc__)
def digits_ddp() -> None:
    """Train, then report."""
    folder = os.environ.get("DIGITS_OUTPUT", tempfile.gettempdir())
    report(train(epochs=8, learning_rate=0.005, picture=os.path.join(folder, "digits_loss.png")))


digits_ddp()
