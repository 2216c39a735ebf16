"""Subjects are called in turns, in another order each time, and the median of many samples counts."""

import os
import random
import statistics
import subprocess
import time

# Before each sample with several threads: the threads of the subject before spin for some milliseconds until they sleep,
# and the system may first have put two of this one's threads on one core.
WARM_SECONDS = 0.016
SAMPLE_SECONDS = 0.004
# Per subject and row of a table; never fewer than MIN_ROUNDS samples, which is what the largest products get.
BUDGET_SECONDS = 0.1
MIN_ROUNDS, MAX_ROUNDS = 7, 31


class Subject:
    """Something to measure: `work` operations (or bytes) per call."""

    def __init__(self, name, work, run, check=None):
        self.name, self.work, self.run, self.check = name, work, run, check

    def seconds(self, calls):
        run = self.run
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start


class Served(Subject):
    """A subject in the Rust process, which takes the time itself."""

    def __init__(self, server, name, work, check):
        super().__init__(name, work, None, check)
        self.server = server

    def seconds(self, calls):
        return float(self.server.ask(f"run {self.name} {calls}"))


class Server:
    """The Rust process."""

    def __init__(self):
        command = os.environ["TINYTORCH_PEERS_SERVER"]
        self.process = subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"{line}: {answer or 'the server has ended'}")
        return answer

    def prepare(self, section, *sizes):
        """The subjects of a section."""
        line, subjects = self.ask(" ".join([section, *map(str, sizes)])), []
        while line != ".":
            name, work, check = line.split()
            subjects.append(Served(self, name, float(work), float(check)))
            line = self.process.stdout.readline().strip()
        return subjects

    def values(self, *request):
        """Whole results by name, in the order in which the server computed them: one line each."""
        line, results = self.ask(" ".join(map(str, request))), {}
        while line != ".":
            name, *numbers = line.split()
            results[name] = [float(number) for number in numbers]
            line = self.process.stdout.readline().strip()
        return results


def integer_instruction(ceilings):
    """The name of the ceiling that counts for INT8: the matrix unit's instruction where there is one."""
    names = [ceiling.name for ceiling in ceilings]
    return "tdpbusd" if "tdpbusd" in names else "vpdpbusd"


def measure(subjects, threads):
    """Work per second of each, by name: the median over the rounds, of ceilings too: a host gives to all what it gives in these turns."""
    calls = {}
    for subject in subjects:
        # The second call: the first may still allocate and compile.
        subject.seconds(1)
        calls[subject.name] = max(1, round(SAMPLE_SECONDS / max(subject.seconds(1), 1e-7)))
    slowest = max(subject.seconds(calls[subject.name]) for subject in subjects)
    rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, round(BUDGET_SECONDS / slowest)))
    if threads > 1:
        rounds = min(rounds, 11)
    samples = {subject.name: [] for subject in subjects}
    order, shuffler = list(subjects), random.Random(0)
    for _ in range(rounds):
        # Nobody always follows the same one: what that leaves in the caches, or the clock at which it leaves a core, would count.
        shuffler.shuffle(order)
        for subject in order:
            # Not measured: brings its data back into the caches.
            warm = calls[subject.name] * WARM_SECONDS / SAMPLE_SECONDS if threads > 1 else 1
            subject.seconds(max(1, round(warm)))
            samples[subject.name].append(subject.seconds(calls[subject.name]) / calls[subject.name])
    return {subject.name: subject.work / statistics.median(samples[subject.name]) for subject in subjects}
