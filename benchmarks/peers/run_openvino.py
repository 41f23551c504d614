"""Runs in OpenVINO's environment: answers requests that come as lines of JSON, one load a line.

    python run_openvino.py folder threads cache_gib

A load is {"prompts": [[token ids]], "output_len": n, "concurrency": n}; the reply is a list with, for each
prompt, when it was added, when each token was there, and the tokens: {"started", "arrivals", "ids"}, seconds on
one clock. {"logits": [token ids], "window": n, "file": path} writes float32 logits [tokens, vocabulary] of
the same weights through the plain runtime.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai


def pipeline(folder: str, threads: int, cache_gib: int) -> genai.ContinuousBatchingPipeline:
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = cache_gib
    scheduler.enable_prefix_caching = True
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_seqs = 256
    return genai.ContinuousBatchingPipeline(
        folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads}
    )


def run(engine: genai.ContinuousBatchingPipeline, load: dict[str, Any]) -> list[dict[str, Any]]:
    settings = genai.GenerationConfig()
    settings.max_new_tokens = load["output_len"]
    settings.ignore_eos = True
    settings.do_sample = False
    prompts = load["prompts"]
    answers = [{"started": 0.0, "arrivals": [], "ids": []} for _ in prompts]
    waiting = list(range(len(prompts)))[::-1]
    running: dict[int, Any] = {}
    while waiting or running:
        while waiting and len(running) < load["concurrency"]:
            index = waiting.pop()
            ids = openvino.Tensor(np.asarray([prompts[index]], np.int64))
            answers[index]["started"] = perf_counter()
            running[index] = engine.add_request(index, ids, settings)
        engine.step()
        for index, handle in list(running.items()):
            while handle.can_read():
                now = perf_counter()
                for output in handle.read().values():
                    answers[index]["ids"] += output.generated_ids
                    answers[index]["arrivals"] += [now] * len(output.generated_ids)
            if handle.get_status() != genai.GenerationStatus.RUNNING:
                del running[index]
    return answers


def write_logits(folder: str, threads: int, order: dict[str, Any]) -> None:
    core = openvino.Core()
    model = core.compile_model(
        f"{folder}/openvino_model.xml", "CPU", {"INFERENCE_NUM_THREADS": threads}
    )
    request = model.create_infer_request()
    ids, window = order["logits"], order["window"]
    with open(order["file"], "wb") as out:
        for begin in range(0, len(ids), window):
            part = np.asarray([ids[begin : begin + window]], np.int64)
            request.reset_state()
            inputs = {
                "input_ids": part,
                "attention_mask": np.ones_like(part),
                "position_ids": np.arange(part.shape[1], dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            names = {name for port in model.inputs for name in port.names}
            request.infer({name: value for name, value in inputs.items() if name in names})
            request.get_tensor("logits").data.astype(np.float32)[0].tofile(out)


def main() -> None:
    folder, threads, cache_gib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = pipeline(folder, threads, cache_gib) if cache_gib else None
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "logits" in order:
            write_logits(folder, threads, order)
            print(json.dumps("written"), flush=True)
        else:
            print(json.dumps(run(engine, order)), flush=True)


if __name__ == "__main__":
    main()
