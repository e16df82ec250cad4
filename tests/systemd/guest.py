"""A Debian in a folder, booted by systemd-nspawn, for tests/systemd/run: made, entered and taken away again.

What it starts dies with it: nspawn is ended by its number, the folder is removed, and the machine has the mounts
afterwards that it had before (checked by the caller). The network of the guest is its own; join_network puts this
process there, so that clients run outside and nothing is installed for them.
"""
import ctypes
import os
import shutil
import signal
import subprocess
import time

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)


def mounts():
    with open("/proc/self/mountinfo") as f:
        return sorted(line.split(" ", 4)[4] for line in f)


def run_logged(log, *argv, **more):
    with open(log, "ab") as out:
        done = subprocess.run(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, check=False, **more)
    if done.returncode:
        with open(log, errors="replace") as f:
            tail = f.read()[-3000:]
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{tail}")


def build_package(source, folder, log):
    """Debian packages of the source tree, from a copy of it without what was built there; their paths."""
    copy = os.path.join(folder, "package", "source")
    shutil.copytree(source, copy, symlinks=True, ignore=lambda at, names: [
        n for n in names if n in (".git", "autom4te.cache", "node_modules") or
        (n.startswith(("build", "_build", "_inst")) and n != "build-aux" and os.path.isdir(os.path.join(at, n)) and
         os.path.samefile(at, source))])
    env = {**os.environ, "DEB_BUILD_OPTIONS": f"nocheck parallel={os.cpu_count()}"}
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR"):
        env.pop(name, None)
    if os.path.isdir("/usr/lib/ccache"):
        env["PATH"] = "/usr/lib/ccache:" + env["PATH"]
    run_logged(log, "dpkg-buildpackage", "-us", "-uc", "-b", cwd=copy, env=env)
    where = os.path.dirname(copy)
    return [os.path.join(where, n) for n in sorted(os.listdir(where)) if n.endswith(".deb") and "dbgsym" not in n]


def bootstrap(root, suite, packages, log):
    run_logged(log, "debootstrap", "--variant=minbase", "--include=" + ",".join(packages), suite, root,
               *filter(None, [os.environ.get("LATENT_DEBIAN_MIRROR")]))


class Guest:
    def __init__(self, root, log):
        self.root = root
        self.name = f"latentd-test-{os.getpid()}"
        self.log = log
        self.nspawn = None
        self.init = None

    def boot(self):
        with open(self.log, "ab") as out:
            self.nspawn = subprocess.Popen(
                ["systemd-nspawn", "-q", "-D", self.root, "-M", self.name, "-b", "--register=no", "--keep-unit",
                 "--private-network", "--console=pipe", "--link-journal=no"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        until = time.monotonic() + 60
        while True:
            self.init = self.init or self.find_init()
            if self.init and self.run("systemctl", "is-system-running", check=False).stdout.strip() in (
                    "running", "degraded"):
                return
            if self.nspawn.poll() is not None or time.monotonic() > until:
                with open(self.log, errors="replace") as f:
                    raise RuntimeError("it does not boot:\n" + f.read()[-3000:])
            time.sleep(0.2)

    def find_init(self):
        try:
            with open(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children") as f:
                children = f.read().split()
            return children[-1] if children else None
        except OSError:
            return None

    def enter(self):
        return ["nsenter", "-t", self.init, "-m", "-u", "-i", "-n", "-p", "-r", "-w"]

    def run(self, *argv, check=True, text_in=None):
        done = subprocess.run([*self.enter(), *argv], capture_output=True, text=True, check=False, input=text_in,
                              env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                                   "DEBIAN_FRONTEND": "noninteractive"})
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def sh(self, script, check=True):
        return self.run("sh", "-c", script, check=check).stdout.strip()

    def write(self, path, text):
        path = self.root + path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)

    def show(self, unit, what):
        return self.run("systemctl", "show", "-P", what, unit).stdout.strip()

    def join_network(self):
        with open(f"/proc/{self.init}/ns/net") as f:
            if libc.setns(f.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def end(self):
        if self.nspawn and self.nspawn.poll() is None:
            self.nspawn.terminate()  # the guest powers off
            try:
                self.nspawn.wait(30)
            except subprocess.TimeoutExpired:
                self.nspawn.kill()
                self.nspawn.wait()
        for kind in ("propagate", "unix-export"):
            try:
                os.rmdir(f"/run/systemd/nspawn/{kind}/{self.name}")
            except OSError:
                pass
