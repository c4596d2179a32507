"""The pictures of the documentation."""

from __future__ import annotations

from .drawing import Picture


def overview() -> Picture:
    """Three triggers, one core, two hosts."""
    p = Picture(860, 372, "Three triggers lead to one core, which runs in two hosts")
    p.note(110, 30, "something comes", "middle")
    p.note(750, 30, "and is answered", "middle")
    ins = [
        p.box(20, 44, 180, 56, "HTTP request", "POST /score"),
        p.box(20, 120, 180, 56, "file or blob", "dropped into input"),
        p.box(20, 196, 180, 56, "message", "in a Service Bus queue"),
    ]
    outs = [
        p.box(660, 44, 180, 56, "HTTP answer"),
        p.box(660, 120, 180, 56, "file or blob", "NAME_out.json"),
        p.box(660, 196, 180, 56, "reply", "in a queue"),
    ]
    core = p.box(
        290, 44, 280, 208,
        "one core",
        "reads JSON, CSV, npy, …",
        "answers what it knows from a cache",
        "lets requests wait in a queue",
        "score.py: init() once, run() each",
        "or your model alone, without a script",
        "writes the answer",
        kind="core",
    )  # fmt: skip
    for box in ins:
        p.arrow(box.right, (core.x, box.right[1]))
    for box in outs:
        p.arrow((core.x + core.width, box.left[1]), box.left)
    p.frame(20, 276, 820, 80, "in either host")
    p.box(200, 290, 280, 52, "standalone server", "laptop, container, Kubernetes")
    p.box(510, 290, 280, 52, "Azure Functions", "scales by itself")
    return p


def core() -> Picture:
    """What every input goes through."""
    p = Picture(860, 300, "The way of an input through the core")
    steps = [
        p.box(20, 50, 150, 62, "decode", "gzip, size, format"),
        p.box(195, 50, 150, 62, "input by key", "if one is named"),
        p.box(370, 50, 150, 62, "cache", "known answer?"),
        p.box(545, 50, 130, 62, "queue", "503 when full"),
    ]
    run = p.box(700, 50, 140, 62, "run()", "or the model", kind="core")
    encode = p.box(370, 200, 150, 62, "encode", "as Accept says")
    p.box(20, 200, 150, 62, "answer", kind="good")
    p.box(195, 200, 150, 62, "refusal", "says what to change", kind="bad")
    for one, other in zip(steps, [*steps[1:], run], strict=True):
        p.arrow(one.right, other.left)
    p.note(20, 32, "trigger: HTTP, blob, message")
    p.arrow(steps[2].bottom, encode.top, text="hit")
    p.arrow(run.bottom, (run.bottom[0], 231), encode.right, text="result")
    p.arrow((370, 246), (352, 246), (352, 281), (95, 281), (95, 262))
    p.arrow((95, 112), (95, 160), (270, 160), (270, 200), text="not readable")
    return p


def blob() -> Picture:
    """The life of a file or blob."""
    p = Picture(860, 310, "What becomes of a file or blob")
    came = p.box(20, 30, 170, 60, "dropped", "input/NAME.json")
    held = p.box(250, 30, 150, 60, "held", "lease, or a lock")
    run = p.box(450, 30, 150, 60, "scored", "by the core", kind="core")
    done = p.box(690, 30, 150, 60, "result", "NAME_out.json", kind="good")
    wrong = p.box(690, 130, 150, 60, "error document", "NAME_error.json", kind="bad")
    again = p.box(435, 230, 180, 60, "tried again", "BLOB_MAX_ATTEMPTS")
    p.arrow(came.right, held.left, text="seen")
    p.arrow(held.right, run.left)
    p.arrow(run.right, done.left)
    p.arrow((600, 75), (632, 75), (632, wrong.left[1]), wrong.left)
    p.note(640, 120, "client's fault")
    p.arrow((490, 90), (490, 230))
    p.note(482, 165, "run() failed", "end")
    p.arrow((560, 230), (560, 90))
    p.note(568, 218, "after a pause")
    p.arrow(again.right, (765, again.right[1]), wrong.bottom)
    p.note(775, 232, "used up")
    p.arrow((105, 220), came.bottom)
    p.note(105, 236, "changed, or its", "middle")
    p.note(105, 253, "result deleted", "middle")
    p.arrow((325, 220), held.bottom)
    p.note(325, 236, "host was killed:", "middle")
    p.note(325, 253, "the lease runs out", "middle")
    return p


def message() -> Picture:
    """The life of a message."""
    p = Picture(860, 342, "What becomes of a message")
    came = p.box(20, 30, 160, 60, "in the queue", "input")
    held = p.box(240, 30, 170, 60, "received", "lock is renewed")
    run = p.box(470, 30, 150, 60, "scored", "by the core", kind="core")
    reply = p.box(680, 30, 160, 60, "reply sent", "reply_to, or output", kind="good")
    done = p.box(680, 130, 160, 50, "completed", kind="good")
    wrong = p.box(470, 130, 150, 60, "error reply", "status and message", kind="bad")
    dead = p.box(470, 240, 150, 60, "dead letter", "with the reason", kind="bad")
    p.arrow(came.right, held.left)
    p.arrow(held.right, run.left)
    p.arrow(run.right, reply.left)
    p.arrow(reply.bottom, done.top)
    p.arrow(run.bottom, wrong.top, text="client's fault")
    p.arrow(wrong.bottom, dead.top)
    p.arrow((490, 90), (490, 112), (325, 112), (325, 214), (100, 214), (100, 90))
    p.note(312, 206, "run() failed: delivered again", "end")
    p.arrow((325, 214), (325, 270), (470, 270))
    p.note(330, 262, "5 deliveries")
    p.note(20, 324, "A host that is killed: the lock runs out, and the message is delivered again.")
    return p


def request() -> Picture:
    """The way of an HTTP request: event loop, queue, scoring thread."""
    p = Picture(860, 330, "The way of a request with its queue and its thread")
    p.frame(170, 20, 670, 120, "event loop: never waits for a model")
    p.frame(170, 180, 670, 120, "scoring thread: init(), run()")
    client = p.box(20, 56, 120, 60, "client")
    read = p.box(190, 56, 140, 60, "read", "limits, ids")
    queue = p.box(350, 56, 180, 60, "queue", "SCORING_QUEUE_SIZE")
    p.box(680, 56, 140, 60, "write", "headers, log")
    p.box(540, 56, 120, 60, "health", "answers always")
    take = p.box(365, 216, 150, 60, "takes all", "that waits")
    run = p.box(570, 216, 160, 60, "run()", "one after another", kind="core")
    p.arrow(client.right, read.left)
    p.arrow(read.right, queue.left)
    p.arrow(queue.bottom, take.top, text="wakes it")
    p.arrow(take.right, run.left)
    p.arrow((710, 216), (710, 116), text="results back")
    p.arrow((750, 116), (750, 156), (80, 156), (80, 116))
    return p


PICTURES = {
    "overview": overview,
    "core": core,
    "blob": blob,
    "message": message,
    "request": request,
}
