"""Boot a root with the package in qemu, twice: what starts, and what survives a reboot."""

from __future__ import annotations

import gzip
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.package.roots import Failed, root_of
from tests.package.site import CLIENT, OTHER_VIP, SAVED_TABLE, VERIFY, VIP, configuration, furnish

VM = Path(__file__).parents[1] / "oracle" / "vm"
KERNELS = Path(os.environ.get("PYLVS_VM_CACHE", Path.home() / ".cache" / "pylvs-vm"))
BOOT_S = 1800  # of one boot, without KVM on a busy machine; alone, two to four minutes
# For a drop-in: without the limits of units, which are for a real processor.
PATIENT = "TimeoutStartSec=infinity\nTimeoutStopSec=infinity\nWatchdogSec=0\n"
_OURS = ("pylvs.service.d", "pylvs-.service.d")  # directories of drop-ins: of the daemon, and of pylvs-*.service
# TCG with a thread for each CPU executed a breakpoint of Linux's text_poke_bp() after its removal: a panic in one of
# some hundred boots. One thread is as fast on two busy processors.
EMULATOR = "tcg,thread=single"
_MODULES = "virtio_pci 9pnet_virtio 9p"
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc
for module in $(cat /m/order); do insmod /m/$module || echo "insmod $module failed"; done
options=trans=virtio,version=9p2000.L,msize=512000,cache=mmap
mount -t 9p -o rw,$options root /new
mkdir -p /new/lib/modules
mount -t 9p -o ro,$options modules /new/lib/modules
mount --move /dev /new/dev; mount --move /proc /new/proc
exec switch_root /new /sbin/init
"""
_SCENARIO_UNIT = """[Unit]
After=pylvs.service pylvs-restore.service pylvs-watch.service test-network.service
[Service]
Type=oneshot
ExecStart=/etc/test-network/scenario
StandardOutput=file:/etc/test-network/output
StandardError=inherit
TimeoutStartSec=infinity
Environment=SYSTEMD_BUS_TIMEOUT=600
[Install]
WantedBy=multi-user.target
"""
_SCENARIO = f"""#!/bin/sh
stage=$(cat /etc/test-network/stage)
ok() {{ echo "ok: $*"; }}
fail() {{
    echo "failed: $*"
    ip -o addr
    ipvsadm -Ln
    systemctl status --no-pager -n 40 pylvs pylvs-restore
    echo result 1
    systemctl --no-block poweroff
    exit 1
}}
until_page() {{ # ADDRESS
    end=$(($(date +%s) + 300))
    until page=$({CLIENT} curl -s --max-time 20 http://$1/); do
        [ $(date +%s) -lt $end ] || fail "no page from $1"
        sleep 1
    done
    ok "a page from $1: $page"
}}
echo "boot $stage: Linux $(uname -r), systemd $(systemctl --version | head -n 1)"
for unit in pylvs pylvs-cleanup pylvs-watch pylvs-restore; do
    systemctl is-active --quiet $unit || fail "$unit.service is not active"
    ok "$unit.service is active"
done
until_page {VIP}
until_page {OTHER_VIP}
ip -o addr show dev c0 | grep -q "{VIP}/" || fail "the virtual address is missing"
ok "the virtual address is on c0"
ipvsadm -Ln
case $stage in
    1)
        errors=$({VERIFY} 2>&1)
        [ -z "$errors" ] || fail "systemd-analyze verify: $errors"
        ok "systemd-analyze verify is silent"
        cp /etc/test-network/other.conf /etc/keepalived/keepalived.conf
        systemctl reload pylvs || fail "systemctl reload"
        ipvsadm -Ln | grep -q "Masq    3" || fail "the weight after a reload"
        ok "systemctl reload: the weight is 3"
        echo 2 >/etc/test-network/stage
        echo result 0
        systemctl --no-block reboot
        ;;
    2)
        ipvsadm -Ln | grep -q "Masq    3" || fail "the weight after a reboot"
        ok "the weight is 3"
        systemctl stop pylvs || fail "systemctl stop"
        ! ip -o addr | grep -q "{VIP}/" || fail "the virtual address is left"
        ok "systemctl stop leaves no virtual address"
        ! ipvsadm -Ln | grep -q "{VIP}:80" || fail "the service is left"
        ok "and no service; the restored one stays"
        until_page {OTHER_VIP}
        echo result 0
        systemctl --no-block poweroff
        ;;
esac
"""


def _kernel() -> Path:
    """Return the newest kernel 6.12 of the guests, unpacked; `vm` fetches it. Raises Failed."""
    if platform.machine() != "x86_64":
        raise Failed("the kernels to boot are those of x86-64")
    found = sorted(KERNELS.glob("6.12.*-amd64/vmlinux"))
    if not found:
        done = subprocess.run([VM, "--kernel", "6.12", "true"], cwd="/", capture_output=True, text=True)
        found = sorted(KERNELS.glob("6.12.*-amd64/vmlinux"))
        if not found:
            raise Failed(f"there is no kernel to boot: {done.stderr}")
    return found[-1].parent


def _initramfs(kernel: Path, folder: Path) -> Path:
    """Make an initramfs that mounts the root over 9p."""
    release = next((kernel / "lib/modules").iterdir()).name
    top = folder / "initramfs"
    for name in ("bin", "m", "dev", "proc", "new"):
        (top / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", top / "bin/busybox")
    command = ["modprobe", "-d", str(kernel), "-S", release, "-D", "-a", *_MODULES.split()]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    paths = dict.fromkeys(words[1] for line in lines if (words := line.split())[0] == "insmod")
    for path in map(Path, paths):
        unpack = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-dc"], ".ko": ["cat"]}[path.suffix]
        name = path.name.partition(".ko")[0] + ".ko"
        (top / "m" / name).write_bytes(subprocess.run([*unpack, str(path)], capture_output=True, check=True).stdout)
        with (top / "m/order").open("a") as order:
            order.write(f"{name}\n")
    (top / "init").write_text(_INIT)
    (top / "init").chmod(0o755)
    script = f"cd {shlex.quote(str(top))} && find . | busybox cpio -o -H newc"
    packed = subprocess.run(["sh", "-c", script], capture_output=True, check=True).stdout
    image = folder / "initramfs.gz"
    image.write_bytes(gzip.compress(packed, 1))
    return image


def _accelerators() -> list[list[str]]:
    """Return KVM, where the processor has it, then TCG."""
    flags = Path("/proc/cpuinfo").read_text().split()
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK) and ("vmx" in flags or "svm" in flags)
    return [*([["-accel", "kvm"]] if usable else []), ["-accel", EMULATOR]]


def _limit_units(root: Path, *, emulated: bool) -> None:
    """Lift the limits of our units on an emulated processor, which may take minutes for each of their steps."""
    for name in _OURS:
        drop_in = root / "etc/systemd/system" / name / "emulated.conf"
        drop_in.unlink(missing_ok=True)
        if emulated:
            drop_in.parent.mkdir(parents=True, exist_ok=True)
            drop_in.write_text(f"[Service]\n{PATIENT}")


class PanickedEarly(Failed):
    """The guest's kernel panicked before it had started the scenario: none of pylvs had run."""


def booted(kernel: Path, initramfs: Path, root: Path, folder: Path, accelerator: list[str]) -> str:
    """Boot, and return what the scenario printed when the guest has ended. Raises Failed, or PanickedEarly."""
    output = root / "etc/test-network/output"
    output.unlink(missing_ok=True)
    _limit_units(root, emulated=EMULATOR in accelerator)
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    command += ["-M", "pc,vmport=off,hpet=off", *accelerator, "-cpu", "max,la57=off", "-smp", "2", "-m", "2G"]
    command += ["-kernel", str(kernel / "vmlinux"), "-initrd", str(initramfs)]
    # On a busy host an emulated TSC is measured wrongly, and then runs too fast: units would time out.
    words = "console=ttyS0 quiet panic=-1 mitigations=off tsc=unstable clocksource=acpi_pm no_timer_check"
    words += " random.trust_cpu=on rdinit=/init systemd.default_timeout_start_sec=1800 systemd.show_status=0"
    command += ["-append", words, "-serial", f"file:{folder}/console"]
    for tag, path in (("root", root), ("modules", kernel / "lib/modules")):
        command += ["-fsdev", f"local,id={tag},path={path},security_model=passthrough,multidevs=remap"]
        command += ["-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOOT_S)
    except subprocess.TimeoutExpired:
        done = None
    text = output.read_text() if output.exists() else ""
    if not text.rstrip().endswith("result 0"):
        console = (folder / "console").read_text(errors="replace").splitlines()
        reason = done.stderr if done else f"the guest did not end in {BOOT_S} s"
        early = not output.exists() and any("Kernel panic" in line for line in console)
        raise (PanickedEarly if early else Failed)("\n".join([text, *console[-40:], reason]))
    return text


def boot_with(accelerators: list[list[str]], boot: Callable[[list[str]], str]) -> str:
    """Boot with KVM if it works, else with TCG. Raises Failed.

    TCG executes modified code wrongly, in one of some hundred boots: the kernel panics in its first second. Then the
    guest boots once more.
    """
    try:
        return boot(accelerators[0])
    except Failed as error:
        if len(accelerators) > 1:
            accelerators.pop(0)
            print("with KVM the guest did not end well; once more with TCG", file=sys.stderr)
        elif isinstance(error, PanickedEarly):
            print("the kernel panicked in TCG before anything was started; once more", file=sys.stderr)
        else:
            raise
    return boot(accelerators[0])


def play(suite: str, folder: Path, package: Path) -> None:
    """Install the package into a root of this suite, and boot it twice. Raises Failed."""
    kernel = _kernel()
    with root_of(suite, folder) as root:
        print(f"{suite}: a fresh root with {package.name}", flush=True)
        furnish(root)
        (root.path / "srv/first.deb").write_bytes(package.read_bytes())
        root.run("apt-get -qq install -y /srv/first.deb && systemctl enable pylvs.service 2>/dev/null")
        root.write("/etc/pylvs/ipvsadm.rules", SAVED_TABLE)
        root.write("/etc/test-network/other.conf", configuration(3))
        root.write("/etc/test-network/stage", "1\n")
        root.write("/etc/test-network/scenario", _SCENARIO, 0o755)
        root.write("/etc/systemd/system/test-scenario.service", _SCENARIO_UNIT)
        root.run("systemctl enable test-scenario.service 2>/dev/null")
        initramfs = _initramfs(kernel, folder)
        accelerators = _accelerators()
        for number in (1, 2):
            begin = time.monotonic()
            text = boot_with(accelerators, partial(booted, kernel, initramfs, root.path, folder))
            print(text + f"boot {number} took {time.monotonic() - begin:.0f} s", flush=True)
