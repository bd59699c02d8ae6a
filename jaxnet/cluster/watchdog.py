"""Processes that watch each other: a roll call at the start, signs of life until the end.

JAX notices a dead peer too, but late and without its name: a collective hangs until JAX's own
heartbeat ends the process by `abort`, which nothing can catch. So the processes of a job hold plain
TCP connections of their own. Process 0 listens at the coordinator's address and every other process
connects to it; whoever is lost is named to all, and all end with the same message and exit code,
so that whatever started them can start them again from the last checkpoint.

A connection that breaks is a process that died, seen at once; one that is silent for too long is a
process that hangs, or a network that is cut. With its signs of life each says what it is at: one
that lives and doesn't get on holds up all others, and process 0 ends the job.
"""

from __future__ import annotations

import math
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from jaxnet import ending
from jaxnet.cluster import activity
from jaxnet.cluster.activity import State
from jaxnet.cluster.line import Line, Peer
from jaxnet.ending import leave_process

# EX_PROTOCOL of sysexits.h, "the remote system did something impossible": a process of the job is
# lost, and the rest of it has ended.
LOST_PEER = 76
# How long a process with an error waits to hear that a peer's death was the reason.
EXPLAINED_SECONDS = 3.0
# How long one that can't do what was asked for waits until the others have found the same.
REFUSED_SECONDS = 2.0
# How long one that ends waits until the others have read its last words.
PARTING_SECONDS = 2.0


@dataclass
class Watch:
    """A thread that gives signs of life and listens for those of the others.

    Attributes:
        me: this process.
        processes: the number of processes in the job.
        timeout: a peer that is silent for so many seconds is lost.
        peers: whom this process hears: process 0 all others, the others process 0.
        launcher: a file descriptor whose other end is open as long as the launcher lives.
        patience: a process that lives and gets no further for so many seconds is lost too; see
            `jaxnet.cluster.activity`.
        end: what to do when somebody is lost; by default the process ends with exit code 76.
    """

    me: Peer
    processes: int
    timeout: float
    peers: Mapping[Peer, Line] = field(default_factory=dict)
    launcher: int | None = None
    patience: float = math.inf
    end: Callable[[str], None] = lambda text: end_process(text, LOST_PEER)
    _heard: dict[Peer, float] = field(default_factory=dict, init=False)
    _states: dict[Peer, State] = field(default_factory=dict, init=False)
    _done: set[int] = field(default_factory=set, init=False)
    _failing: threading.Event = field(default_factory=threading.Event, init=False)
    _all_done: threading.Event = field(default_factory=threading.Event, init=False)
    # Process 0: set once the others have been sent word that all are done.
    _told: threading.Event = field(default_factory=threading.Event, init=False)
    _over: threading.Event = field(default_factory=threading.Event, init=False)
    # Process 0 decides how the job ends, once: all are done, one is lost, or one was asked to end.
    _deciding: threading.Lock = field(default_factory=threading.Lock, init=False)

    def start(self) -> Watch:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="jaxnet-watchdog", daemon=True).start()
        return self

    def explain(self) -> None:
        """Wait a moment, in which this process ends if a lost peer was the reason of its error."""
        self._failing.set()
        if self.peers:
            time.sleep(min(EXPLAINED_SECONDS, self.timeout))

    def refuse(self) -> None:
        """Wait a moment, in which the others find what is wrong with what was asked for.

        All were started with the same words, or compared what they were asked for: each says so
        itself, above all process 0, whose screen it is, and ends with a code of its own.
        """
        self._failing.set()
        if self.peers:
            time.sleep(REFUSED_SECONDS)

    def fail(self, code: int) -> None:
        """Tell the others that this process can't go on."""
        self._over.set()
        text = f"{self.me} failed, with exit code {code}"
        if activity.own.left_early:
            text += f", and is {activity.own.now().doing}"
        for line in self.peers.values():
            line.send(failed=text)
        self._part()

    def ask(self, text: str) -> None:
        """Tell the others that this process was asked to end, and that they end too.

        Args:
            text: by what, and what it was at.
        """
        self._over.set()
        for line in self.peers.values():
            line.send(asked=f"{self.me} was {text}")
        self._part()

    def finish(self) -> None:
        """Wait until all are done, so that nobody's end is taken for a death.

        Whether a signal that comes meanwhile is in time to end all, process 0 decides. When this
        returns, it isn't, and signals change nothing until `close`.
        """
        if self.peers:
            ending.note_signals(self._ask_late)
            if self.me.process == 0:
                self._count(0)
            else:
                self._zero.send(done=True)
            self._all_done.wait()
            if self.me.process == 0:  # not to end, and close the connections, before they know
                self._told.wait()
        self._over.set()

    def close(self) -> None:
        """After `finish`, when the others know that all are done."""
        self._part()
        for line in self.peers.values():
            line.socket.close()
        ending.note_signals(None)

    @property
    def _zero(self) -> Line:
        return next(iter(self.peers.values()))

    @property
    def _interval(self) -> float:
        return min(1.0, self.timeout / 10)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer, line in self.peers.items():
                selector.register(line.socket, selectors.EVENT_READ, peer)
            if self.launcher is not None:
                selector.register(self.launcher, selectors.EVENT_READ, None)
            self._heard = dict.fromkeys(self.peers, time.monotonic())
            due = last = time.monotonic()
            while not self._over.is_set():
                ready = selector.select(self._interval)
                for key, _ in ready:
                    self._hear(key.data)
                now = time.monotonic()
                self._forgive(now - last - 2 * self._interval)
                last = now
                if now >= due:
                    due = now + self._interval
                    self._states[self.me] = activity.own.now(self.patience / 2)
                    for line in self.peers.values():
                        line.send(alive=self._states[self.me].to_json())
                    self._judge()
                for peer, heard in self._heard.items():
                    # Two intervals early, so that all have ended within the time that was asked.
                    if now - heard > self.timeout - 2 * self._interval:
                        self._lose(peer, f"gave no sign of life for {now - heard:.0f} s")

    def _forgive(self, stopped: float) -> None:
        """Count no silence of others while this process itself stood still."""
        if stopped > 0:
            activity.own.forgive(stopped)
            self._heard = {peer: heard + stopped for peer, heard in self._heard.items()}

    def _judge(self) -> None:
        """Process 0: end all where the job doesn't get on."""
        if self.me.process == 0 and (text := activity.stalled(self._states, self.patience)):
            self._tell(text)

    def _hear(self, peer: Peer | None) -> None:
        """Take what has come from a peer, or from the launcher, who says nothing but its end."""
        if self._over.is_set():
            return
        if peer is None:
            self._end("the launcher that started it is gone")
            return
        try:
            messages = self.peers[peer].receive()
        except ValueError:
            messages = None
        if messages is None:
            if self._all_done.is_set():
                self._over.set()
            else:
                self._lose(peer, "died: its connection is closed")
            return
        self._heard[peer] = time.monotonic()
        for message in messages:
            if "alive" in message:
                self._states[peer] = State.from_json(message["alive"])
            if "asked" in message:
                self._follow(message["asked"])
            if "failed" in message:
                self._fail_with(peer, message["failed"])
            if "lost" in message:
                self._tell(message["lost"])
            if "done" in message:
                self._count(peer.process)
            if "all_done" in message:
                self._all_done.set()

    def _count(self, process: int) -> None:
        """Process 0: note that a process is done, and tell all when the last one is."""
        with self._deciding:
            self._done.add(process)
            if len(self._done) < self.processes or self._over.is_set():
                return
            # Before any of the others hears of it and closes its connection.
            self._all_done.set()
        for line in self.peers.values():
            line.send(all_done=True)
        self._told.set()

    def _ask_late(self, name: str) -> None:
        """This process is done, and is asked to end."""
        text = f"{self.me} was ended by {name} while waiting for the others"
        if self.me.process == 0:
            self._follow(text)
        else:
            self._zero.send(asked=text)

    def _decided(self) -> bool:
        """Whether the job ends for another reason already; if not, the caller's reason counts."""
        with self._deciding:
            if self._all_done.is_set() or self._over.is_set():
                return True
            self._over.set()
            return False

    def _fail_with(self, peer: Peer, text: str) -> None:
        """A peer has failed; this process too, unless the same is about to end it anyway."""
        if self.me.process == 0:
            for line in self.peers.values():
                line.send(failed=text)
            if not self._failing.is_set():
                self._part(peer)
        if self._failing.is_set():
            self._over.set()
        else:
            self._end(text)

    def _follow(self, text: str) -> None:
        """A peer was asked to end: so do all."""
        if self._decided():
            return
        if self.me.process == 0:
            for line in self.peers.values():
                line.send(asked=text)
            self._part()
        ending.leave(f"{self.me} ends: {text}. {ending.AGAIN.capitalize()}")

    def _lose(self, peer: Peer, why: str) -> None:
        self._tell(f"{peer} {why}", but=peer)

    def _tell(self, text: str, but: Peer | None = None) -> None:
        """Process 0 tells the others who is lost; all end, without waiting for that one."""
        if self._decided():
            return
        if self.me.process == 0:
            for line in self.peers.values():
                line.send(lost=text)
            self._part(but)
        self._say_and_end(text)

    def _part(self, but: Peer | None = None) -> None:
        """Wait until the others have read what was sent last, and closed their ends.

        A connection that is closed with something unread in it is reset, and what TCP held back
        until an earlier message was acknowledged is never sent: they would take this process for
        dead.
        """
        deadline = time.monotonic() + PARTING_SECONDS
        lines = [line for peer, line in self.peers.items() if peer != but]
        for line in lines:
            line.send_no_more()
        for line in lines:
            line.drain(deadline)

    def _end(self, text: str) -> None:
        if not self._decided():
            self._say_and_end(text)

    def _say_and_end(self, text: str) -> None:
        said, *threads = text.split("\n")
        advice = (
            "Nothing is lost but the steps since the last checkpoint: run the same command again "
            "to go on from there."
        )
        self.end("\n".join([f"{self.me} ends: {said}. {advice}", *threads]))


def end_process(text: str, code: int) -> NoReturn:
    """End at once, with a message: what the main thread waits for may never come."""
    leave_process(code, f"error: {text}")
