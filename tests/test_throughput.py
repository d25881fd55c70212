"""A search can time its plans in the runtime of the throughput benchmark, which keeps programs."""

import throughput
import torch
import toy

import aiq
from aiq import runtimes


def test_programs_of_a_search_are_kept_for_the_last_timing():
    model, (x, y) = toy.train(toy.Plain), toy.batch(200, seed=1)
    engine = throughput.Remembering(runtimes.get("inductor"))
    plan = aiq.search(
        model,
        "epyc_zen4_2vcpu",
        [(x, y)],
        runtime=engine,
        formats="w8a8",
        max_drop=0.1,
        measure_top=1,
    )
    known = dict(engine.programs)
    program = engine.compiler(model, x, [x])(plan.formats)
    assert engine.programs == known
    assert program in known.values()
    with torch.no_grad():
        assert (program(x).argmax(1) == model(x).argmax(1)).float().mean() > 0.9
