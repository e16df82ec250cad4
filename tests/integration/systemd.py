#!/usr/bin/env python3
"""The daemon under a service manager: what it is told, and that a restart drops nobody. TAP.

A datagram socket stands in for systemd, and a listening socket of this process for latentd.socket.
"""
import json
import os
import queue
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

SRC = os.environ.get("top_srcdir", ".")
BUILD = os.environ.get("top_builddir", ".")
MODEL = os.path.join(SRC, "models", "latent-mini.q8_0.gguf")
WAIT = 120
n_tests = 0
failed = False


def check(name, run):
    global n_tests, failed
    n_tests += 1
    try:
        said = run()
        print(f"ok {n_tests} - systemd: {name}" + (f" # SKIP {said}" if said else ""), flush=True)
    except Exception as e:  # a test that fails is reported, the next one runs
        failed = True
        print(f"not ok {n_tests} - systemd: {name}\n# {type(e).__name__}: {e}", flush=True)


class Manager:
    """A daemon with NOTIFY_SOCKET and one socket handed over."""

    def __init__(self, folder, listener=None, watchdog_us=None, *options, stderr=None, name="http", journal=None):
        path = os.path.join(folder, f"notify{time.monotonic_ns()}")
        self.listener = listener
        self.box = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.box.bind(path)
        self.messages = queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()
        self.log = open(path + ".log", "wb+")
        env = {**os.environ, "NOTIFY_SOCKET": path}
        env.pop("JOURNAL_STREAM", None)
        if journal:
            env["JOURNAL_STREAM"] = journal(os.fstat(self.log.fileno()))
        if watchdog_us:
            env["WATCHDOG_USEC"] = str(watchdog_us)
        argv = [os.path.join(BUILD, "latentd"), "--model", MODEL, "--listen", "127.0.0.1:0", *options]
        if listener is not None:
            # sd_listen_fds wants the process's own number: the shell that becomes the daemon knows it
            env.update(LISTEN_FDS="1", LISTEN_FDNAMES=name)
            argv = ["sh", "-c", 'LISTEN_PID=$$; export LISTEN_PID; exec "$@"', "sh", *argv]
        self.process = subprocess.Popen(
            argv, env=env, stderr=stderr or self.log, restore_signals=False, stdin=subprocess.DEVNULL, close_fds=listener is None,
            preexec_fn=None if listener is None else lambda: os.dup2(listener.fileno(), 3))

    def listen(self):
        while True:
            data = self.box.recv(4096)
            for line in data.decode().split("\n"):
                self.messages.put((time.monotonic(), line, data.decode()))

    def wait_for(self, start, seconds=WAIT):
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise AssertionError(f"no {start} within {seconds} s; log:\n" + self.read_log())
            try:
                at, line, whole = self.messages.get(timeout=left)
            except queue.Empty:
                continue
            if line.startswith(start):
                return at, whole

    def read_log(self):
        with open(self.log.name, "rb") as f:
            return f.read().decode(errors="replace").replace("\n", "\n# ")

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(WAIT)
        return self.process.returncode


def complete(port, tokens=4, prompt="The sea"):
    """A completion, asked over a socket of its own; its text."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT) as s:
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = b""
        while data := s.recv(65536):
            answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), answer[:200]
    return json.loads(rest)["choices"][0]["text"]


def listening():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen(128)
    return s


def told(folder):
    m = Manager(folder, None, 2_000_000, "--set", "drain_timeout=5m")
    try:
        m.wait_for("READY=1")
        first, _ = m.wait_for("WATCHDOG=1", 10)
        second, _ = m.wait_for("WATCHDOG=1", 10)
        assert 0.2 < second - first < 2, f"fed after {second - first} s of 2"
        before = time.monotonic_ns() // 1000
        m.process.send_signal(signal.SIGHUP)
        _, whole = m.wait_for("RELOADING=1", 10)
        fields = dict(x.split("=", 1) for x in whole.split("\n"))
        assert before <= int(fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000, whole
        m.wait_for("READY=1", 10)
        m.process.send_signal(signal.SIGTERM)
        _, whole = m.wait_for("STOPPING=1", 10)
        # all that a drain may take by the configuration, whatever TimeoutStopSec is
        assert re.search(r"^EXTEND_TIMEOUT_USEC=(\d+)$", whole, re.M), whole
        assert int(re.search(r"USEC=(\d+)", whole)[1]) >= 300_000_000, whole
        m.process.wait(WAIT)
        assert m.process.returncode == 0, m.process.returncode
    finally:
        m.end()


def stops_feeding(folder):
    m = Manager(folder, None, 2_000_000)
    try:
        m.wait_for("READY=1")
        m.wait_for("WATCHDOG=1", 10)
        m.process.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        while not m.messages.empty():
            m.messages.get()
        try:
            m.wait_for("WATCHDOG=1", 2)
        except AssertionError:
            return
        raise AssertionError("a stopped process feeds its watchdog")
    finally:
        m.end()


def stalled(folder):
    """A step that takes longer than step_stall_timeout: one of very many tokens in plain C."""
    m = Manager(folder, listening(), 400_000, "--cpu", "generic", "--threads", "1", "--set", "step_stall_timeout=1s",
                "--set", "prefill_chunk=4096", "--set", "max_num_batched_tokens=4096")
    try:
        port = m.listener.getsockname()[1]
        m.wait_for("READY=1")
        asked = threading.Thread(target=lambda: complete(port, 1, "a b " * 120))
        asked.start()
        until = time.monotonic() + WAIT
        while "a step has been running" not in m.read_log():
            assert time.monotonic() < until, "nothing was told"
            time.sleep(0.05)
        while not m.messages.empty():
            m.messages.get()
        asked.join(WAIT)
        fed = 0
        while not m.messages.empty():
            fed += m.messages.get()[1] == "WATCHDOG=1"
        m.wait_for("WATCHDOG=1", 10)
        while "the step has ended" not in m.read_log():
            assert time.monotonic() < until, "its end was not told"
            time.sleep(0.05)
        log = m.read_log()
        assert log.count("a step has been running") == 1, log
        assert "1 requests, 1 connections" in log and "(engine): state R" in log, log
        assert fed <= 3, f"fed {fed} times during the stall"
    finally:
        m.end()


def handed_over(folder):
    s = listening()
    m = Manager(folder, s)
    try:
        m.wait_for("READY=1")
        assert complete(s.getsockname()[1])
    finally:
        m.end()
        s.close()


def handed_over_tls(folder):
    """A reload does not take the certificate away that a socket of the manager needs."""
    if not shutil.which("openssl"):
        return "no openssl program"
    cert, key, conf = (os.path.join(folder, name) for name in ("cert.pem", "key.pem", "tls.conf"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-keyout", key, "-out", cert], check=True, capture_output=True)
    os.chmod(key, 0o600)
    with open(conf, "w", encoding="ascii") as f:
        f.write(f"tls_cert = {cert}\ntls_key = {key}\n")
    s = listening()
    m = Manager(folder, s, None, "--config", conf, name="tls")

    def shake():
        context = ssl.create_default_context(cafile=cert)
        with socket.create_connection(s.getsockname(), timeout=WAIT) as plain:
            with context.wrap_socket(plain, server_hostname="localhost"):
                pass

    try:
        m.wait_for("READY=1")
        shake()
        with open(conf, "w", encoding="ascii") as f:
            f.write("max_n = 2\n")
        m.process.send_signal(signal.SIGHUP)
        m.wait_for("READY=1", 10)
        assert "everything stays as it is" in m.read_log(), m.read_log()
        shake()
        return None
    finally:
        m.end()
        s.close()


def restart(folder):
    """Requests sent all through a restart are answered, those between the two daemons too."""
    s = listening()
    port = s.getsockname()[1]
    answers, errors, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                answers.append((time.monotonic(), complete(port, 24)))
            except Exception as e:
                errors.append(repr(e))

    old = Manager(folder, s)
    new = None
    try:
        old.wait_for("READY=1")
        clients = [threading.Thread(target=ask) for _ in range(50)]
        for c in clients:
            c.start()
        while len(answers) < 60 and not errors:
            time.sleep(0.02)
        assert old.end() == 0, old.read_log()
        gone = time.monotonic()
        time.sleep(0.3)
        new = Manager(folder, s)
        new.wait_for("READY=1")
        while sum(at > gone for at, _ in answers) < 100 and not errors:
            time.sleep(0.02)
        stop.set()
        for c in clients:
            c.join(WAIT)
        assert not errors, errors[:3]
        assert len({text for _, text in answers}) == 1, "answers differ"
    finally:
        stop.set()
        old.end()
        if new:
            new.end()
        s.close()


def no_socket(folder):
    with open(os.path.join(folder, "plain"), "w") as f:
        m = Manager(folder, f)
        m.process.wait(WAIT)
        assert m.process.returncode == 1, m.process.returncode
        assert "not a listening stream socket" in m.read_log(), m.read_log()


def whole_lines(folder):
    """Standard error keeps the writes apart: each is a line, so that lines of threads do not mix."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s = listening()
    m = Manager(folder, s, stderr=theirs)
    try:
        theirs.close()
        m.wait_for("READY=1")
        complete(s.getsockname()[1])
        m.process.send_signal(signal.SIGTERM)
        writes = []
        while data := ours.recv(65536):
            writes.append(data)
        assert any(w.startswith(b"time=") and b" finish=" in w for w in writes), writes
        for w in writes:
            assert w.endswith(b"\n") and w.count(b"\n") == 1, w
    finally:
        m.end()
        s.close()


def journal(folder):
    """Levels for the journal go to the journal only: the variable alone is there in every shell below a service."""
    for of, line in ((lambda st: f"{st.st_dev}:{st.st_ino}", r"<6>server: ready"),
                     (lambda st: f"{st.st_dev}:{st.st_ino + 1}", r"20\d\d-\S+Z info  server: ready")):
        m = Manager(folder, None, journal=of)
        try:
            m.wait_for("READY=1")
        finally:
            m.end()
        assert re.search("^(# )?" + line, m.read_log(), re.M), m.read_log()


def full_disk(folder):
    """A line of the audit log that did not fit spoils no other, neither later nor after a start."""
    path = os.path.join(folder, "audit")

    def last():
        with open(path, encoding="ascii") as f:
            return f.read().split("\n")[-2]

    with open(path, "w", encoding="ascii") as f:
        f.write("{}\n" * 20000)  # so that the limit does not meet the log
    s = listening()
    m = Manager(folder, s, None, "--set", "audit_log_file=" + path, "--set", "access_log=false")
    try:
        m.wait_for("READY=1")
        port = s.getsockname()[1]
        complete(port)
        json.loads(last())
        fits = os.path.getsize(path) + 100
        _, hard = resource.prlimit(m.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(m.process.pid, resource.RLIMIT_FSIZE, (fits, hard))
        complete(port)
        assert os.path.getsize(path) == fits
        complete(port)
        resource.prlimit(m.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        complete(port)
        json.loads(last())
        m.end()
        assert re.search(r"audit_log_file .* cannot be written: No space", m.read_log()), m.read_log()
        with open(path, "a", encoding="ascii") as f:
            f.write('{"time":"20')
        m = Manager(folder, s, None, "--set", "audit_log_file=" + path)
        m.wait_for("READY=1")
        complete(port)
        json.loads(last())
        with open(path, encoding="ascii") as f:
            assert "\n\n" not in f.read()
    finally:
        m.end()
        s.close()


def units(folder):
    """systemd-analyze has nothing to say, and finds the sandbox tight."""
    if not shutil.which("systemd-analyze"):
        return "no systemd-analyze"
    program = os.path.join(folder, "latentd")
    shutil.copy("/bin/true", program)
    for name in ("latentd.service", "latentd@.service", "latentd.socket"):
        source = os.path.join(SRC if name.endswith("socket") else BUILD, "etc", name)
        with open(source) as f, open(os.path.join(folder, name), "w") as out:
            out.write(re.sub(r"/\S+/latentd(?= --config)", program, f.read()))
    for name in ("latentd.service", "latentd.socket"):
        r = subprocess.run(["systemd-analyze", "verify", "--man=no", os.path.join(folder, name)], capture_output=True,
                           text=True, check=False)
        ours = [line for line in (r.stdout + r.stderr).split("\n") if "latentd" in line]
        assert not ours, ours
    r = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager",
                        os.path.join(folder, "latentd.service")], capture_output=True, text=True, check=False)
    if "unrecognized option" in r.stderr:
        return "an old systemd-analyze"
    assert r.returncode == 0, r.stdout[-400:] + r.stderr
    return None


def main():
    with tempfile.TemporaryDirectory() as folder:
        check("ready, watchdog, reload and stop are told", lambda: told(folder))
        check("a process that does not run does not feed its watchdog", lambda: stops_feeding(folder))
        check("a step that stalls is told, with the threads, and feeds nothing", lambda: stalled(folder))
        check("a socket handed over is served", lambda: handed_over(folder))
        check("a reload leaves a TLS socket that was handed over its certificate", lambda: handed_over_tls(folder))
        check("fifty clients through a restart: none is dropped", lambda: restart(folder))
        check("what is no socket is refused", lambda: no_socket(folder))
        check("a line of the log is one write", lambda: whole_lines(folder))
        check("the journal gets levels, others the time", lambda: journal(folder))
        check("a full disk spoils one line of the audit log", lambda: full_disk(folder))
        check("the units verify, exposure 2.0 or better", lambda: units(folder))
    print(f"1..{n_tests}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
