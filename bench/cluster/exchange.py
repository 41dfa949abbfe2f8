"""The floor under a query: what its packets and wake-ups cost here when three processes do nothing but pass them on (exchange.rs)."""
import functools, pathlib, subprocess, tempfile, types

from .load import Load
from .nodes import Window, until

HERE = pathlib.Path(__file__).parent
ASK, ANSWER, HEAR = "127.0.4.101", "127.0.4.102:5555", "127.0.4.103:5555"


@functools.cache
def program():
    """Built once per run of the bench, in a folder that goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="exchange-")
    out = pathlib.Path(folder.name) / "exchange"
    subprocess.run(["rustc", "--edition", "2024", "-O", "-o", out, HERE / "exchange.rs"], check=True)
    return out, folder


def exchange(rate, seconds, make):
    """(result of the load, CPU µs per exchange over all three)."""
    path, _ = program()
    start = [subprocess.Popen([path, *args], stderr=subprocess.DEVNULL)
             for args in (("answer", ANSWER), ("hear", HEAR), ("ask", f"{ASK}:5060", ANSWER, HEAR))]
    try:
        node = types.SimpleNamespace(ip=ASK)
        if not until(lambda: Load(node, 100, 1, make, drain=0.1).result()["rtt"], 10):
            raise RuntimeError("the bare exchange does not answer")
        Load(node, 200, 200, make, drain=1).result()        # warm up
        window = Window(types.SimpleNamespace(nodes=[types.SimpleNamespace(proc=p) for p in start]))
        result = Load(node, rate, rate * seconds, make, drain=1).result()
        window.end()
        return result, sum(window.cpu) / (rate * seconds) * 1e6
    finally:
        for p in start:
            p.kill()
            p.wait()
