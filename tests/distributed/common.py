"""Jobs of several gloo processes: how tests start them, and what they do."""

import json
import multiprocessing
import os
import traceback
from datetime import timedelta
from pathlib import Path

import torch

PATIENCE = 900  # seconds: much more than any test takes, even where the machine is busy


def run(task, world, folder, *args, patience=PATIENCE):
    """`task(group of processes, *args)` in `world` new processes; what each returned, by rank.

    An answer is what JSON can hold; a process that raised gives {"error": ..., "text": ...}, one
    that was killed None.
    """
    context = multiprocessing.get_context("spawn")
    store = folder / f"store-{world}-{task.__name__}"
    options = (task, world, str(store), str(folder), patience, args)
    processes = [
        context.Process(target=_work, args=(rank, *options), daemon=True) for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(PATIENCE)
            assert process.exitcode is not None, "the processes hang"
    finally:
        for process in processes:
            process.kill()
    return [_answer(folder / f"{task.__name__}-{world}-{rank}.json") for rank in range(world)]


def _work(rank, task, world, store, folder, patience, args):
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ["TORCHGMM_TIMEOUT"] = str(patience)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=patience + 60),
    )
    try:
        answer = task(*args)
    except BaseException as error:
        answer = {"error": type(error).__name__, "text": str(error)}
        traceback.print_exc()
    path = Path(folder) / f"{task.__name__}-{world}-{rank}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(answer))
    partial.replace(path)
    os._exit(0)  # whatever is still on its way in torch's threads


def _answer(path):
    return json.loads(path.read_text()) if path.exists() else None


def distance(one, other):
    """The largest difference of two mixtures: log-weights, means and factors."""
    pairs = (
        (one.log_weights, other.log_weights),
        (one.means, other.means),
        (one.scale, other.scale),
    )
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
