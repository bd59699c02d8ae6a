"""What to think of the facts: a pure function for each thing that is looked at."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from jaxnet.doctor import facts as of
from jaxnet.doctor.findings import Finding, Level
from jaxnet.units import amount
from jaxnet.versions import OLDEST, advised, fault, install, release

# NVIDIA's drivers from here on run CUDA 13.
CUDA13_DRIVER = 580
GPU_MEMORY_TAKEN = 0.5
LITTLE_MEMORY = 2**30
LITTLE_DISK = 10**9
NO_DISK = 10**8
SLOW_DISK = 20e6
LARGE_CACHE = 20 * 10**9


def all_checks(facts: of.Facts) -> Iterator[Finding]:
    """What each check finds, in the order in which it is shown."""
    yield versions(facts.versions)
    yield devices(facts.jax)
    yield arithmetic(facts.arithmetic, facts.versions)
    yield gpu(facts.hardware, facts.versions, facts.jax)
    yield tpu(facts.hardware, facts.versions)
    yield gpu_memory(facts.hardware)
    yield memory(facts.host)
    yield threads(facts.host)
    yield precision(facts.jax)
    yield cache(facts.cache)
    yield launch(facts.launch)
    yield names(facts.names, facts.launch)
    yield disk(facts.disk)


def versions(found: of.Versions) -> Finding:
    """Whether all libraries are there and go together."""
    absent = [name for name, version in found.libraries.items() if version is None]
    if absent:
        return Finding(
            "versions",
            "problem",
            f"{', '.join(absent)} not installed",
            f"pip install {' '.join(absent)}",
        )
    jax, jaxlib = str(found.libraries["jax"]), str(found.libraries["jaxlib"])
    listed = {"python": found.python, **found.libraries, **found.plugins}
    what = ", ".join(f"{name} {version}" for name, version in listed.items())
    if release(jax, 3) < release(OLDEST, 3) or release(jaxlib, 3) < release(OLDEST, 3):
        return Finding("versions", "problem", f"{what}: too old", _install(found))
    if known := fault(jaxlib):
        level: Level = "problem" if known.kind == "wrong" else "warning"
        said = f"jaxlib {jaxlib} {known.what} ({known.issue})"
        return Finding("versions", level, said, _install(found))
    # JAX leaves out a plugin that wasn't built for its own jaxlib.
    strays = [
        name
        for name, version in found.plugins.items()
        if name.startswith("jax-cuda") and version != jaxlib
    ]
    if strays:
        extra = "cuda13" if "cuda13" in strays[0] else "cuda12"
        return Finding(
            "versions",
            "problem",
            f"{strays[0]} {found.plugins[strays[0]]} isn't of the release of jaxlib {jaxlib}: JAX "
            "leaves it out",
            f"pip install -U 'jax[{extra}]=={jax}'",
        )
    if release(jax) != release(jaxlib):
        advice = _install(found) if fault(jax) else f"pip install -U jax=={jax}"
        return Finding("versions", "warning", f"{what}: of different releases", advice)
    return Finding("versions", "ok", what)


def _install(found: of.Versions) -> str:
    """The command that installs the advised release with the plugins that are there."""
    extras = {"jax-cuda12": "cuda12", "jax-cuda13": "cuda13", "libtpu": "tpu"}
    there = (e for start, e in extras.items() if any(p.startswith(start) for p in found.plugins))
    return install(next(there, None), found.python)


def arithmetic(found: of.Arithmetic, installed: of.Versions) -> Finding:
    """Whether JAX computes what NumPy does."""
    if found.error:
        what = f"it isn't known whether JAX computes what NumPy does: {found.error}"
        return Finding("arithmetic", "warning", what, "python -m jaxnet.doctor.devices shows more")
    of_all = f"of {found.tried} reproducers of published miscompilations"
    if not found.wrong:
        return Finding("arithmetic", "ok", f"right: all {of_all[3:]}")
    jaxlib = str(installed.libraries.get("jaxlib"))
    unknown = [each for each in found.wrong if not (each.rare and _still_wrong(each, jaxlib))]
    if unknown:
        advice = _install(installed)
        if jaxlib == advised(installed.python):
            advice = (
                "this release is right elsewhere: try without XLA_FLAGS, with another driver or on "
                "another machine, and tell https://github.com/jax-ml/jax/issues"
            )
        what = f"wrong numbers from {len(unknown)} {of_all}: {_told(unknown)}"
        return Finding("arithmetic", "problem", what, advice)
    better = [each for each in found.wrong if not _still_wrong(each, advised(installed.python))]
    advice = "don't write these patterns; no network or loop of jaxnet has them"
    if better:
        advice += f". {_install(installed)} is right for {len(better)} of them"
    what = f"wrong numbers from {len(found.wrong)} {of_all}, rare patterns: {_told(found.wrong)}"
    return Finding("arithmetic", "note", what, advice)


def _still_wrong(wrong: of.Wrong, jaxlib: str) -> bool:
    """Whether this release of jaxlib is known to get it wrong."""
    since = wrong.right_since
    return since is not None and (since == "?" or release(jaxlib, 3) < release(since, 3))


def _told(wrong: Iterable[of.Wrong]) -> str:
    return "; ".join(f"{each.what} ({each.issue})" for each in wrong)


def devices(found: of.Jax) -> Finding:
    """Whether JAX has devices."""
    if found.error:
        return Finding(
            "devices",
            "problem",
            f"JAX can't say which devices there are: {found.error}",
            'see all of it: python -c "import jax; print(jax.devices())"',
        )
    kinds: dict[str, list[of.Device]] = {}
    for device in found.devices:
        kinds.setdefault(f"{device.platform} ({device.kind})", []).append(device)
    return Finding("devices", "ok", "; ".join(_described(*each) for each in kinds.items()))


def _described(kind: str, same: list[of.Device]) -> str:
    text = f"{len(same)} x {kind}"
    used = sum(device.used or 0 for device in same)
    limits = [device.limit for device in same if device.limit is not None]
    return f"{text}, {amount(used)} of {amount(sum(limits))} in use" if limits else text


def gpu(hardware: of.Hardware, installed: of.Versions, jax: of.Jax) -> Finding:
    """Whether JAX uses the GPUs that are there."""
    seen = [device for device in jax.devices if device.platform in ("gpu", "cuda", "rocm")]
    there = _count(len(hardware.gpus), "GPU")
    plugins = [name for name in installed.plugins if name.startswith(("jax-cuda", "jax-rocm"))]
    if not hardware.gpus:
        if seen:
            return Finding("GPU", "ok", f"JAX uses {_count(len(seen), 'GPU')}")
        if plugins:
            advice = "where there should be one, see what nvidia-smi says"
            return Finding("GPU", "note", f"{plugins[0]} is installed, but no GPU is here", advice)
        return Finding("GPU", "ok", "none is here: the processor trains")
    what = f"{there} ({hardware.gpus[0].name}, driver {hardware.driver or 'unknown'})"
    if not plugins:
        extra = "cuda13" if _driver(hardware) >= CUDA13_DRIVER else "cuda12"
        return Finding(
            "GPU",
            "problem",
            f"{what}, but JAX is installed without CUDA and trains on the processor",
            f"pip install 'jax[{extra}]=={installed.libraries['jax']}'",
        )
    variables = [f"{name}={value}" for name, value in hardware.variables.items()]
    if not seen:
        chosen = f"; the environment has {', '.join(variables)}" if variables else ""
        return Finding(
            "GPU",
            "problem",
            f"{what} and {plugins[0]}, but JAX doesn't use it{chosen}",
            "see why: JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()'",
        )
    if len(seen) < len(hardware.gpus):
        hidden = hardware.variables.get("CUDA_VISIBLE_DEVICES")
        why = f" because of CUDA_VISIBLE_DEVICES={hidden}" if hidden else ""
        return Finding("GPU", "note", f"{what}, of which JAX uses {len(seen)}{why}")
    return Finding("GPU", "ok", f"{what}, and JAX uses all")


def _driver(hardware: of.Hardware) -> int:
    major = (hardware.driver or "").partition(".")[0]
    return int(major) if major.isdigit() else 0


def tpu(hardware: of.Hardware, installed: of.Versions) -> Finding:
    """Whether JAX can use the TPUs that are there."""
    if hardware.tpus and "libtpu" not in installed.plugins:
        what = f"{_count(hardware.tpus, 'TPU chip')}, but no libtpu: JAX doesn't use them"
        advice = f"pip install 'jax[tpu]=={installed.libraries['jax']}'"
        return Finding("TPU", "problem", what, advice)
    return Finding("TPU", "ok", _count(hardware.tpus, "chip") if hardware.tpus else "none is here")


def gpu_memory(hardware: of.Hardware) -> Finding:
    """Whether somebody else uses the GPUs' memory."""
    known = [gpu for gpu in hardware.gpus if gpu.used is not None and gpu.total]
    if not known:
        return Finding("GPU memory", "ok", "nothing to look at")
    shares = [f"{amount(gpu.used or 0)} of {amount(gpu.total or 0)}" for gpu in known]
    full = [
        number
        for number, gpu in enumerate(known)
        if (gpu.used or 0) > GPU_MEMORY_TAKEN * (gpu.total or 0)
    ]
    if full:
        return Finding(
            "GPU memory",
            "warning",
            f"{shares[full[0]]} of GPU {full[0]} are in use by other processes",
            "nvidia-smi shows by which; CUDA_VISIBLE_DEVICES=N chooses another GPU",
        )
    return Finding("GPU memory", "ok", f"in use: {', '.join(shares)}")


def memory(host: of.Host) -> Finding:
    """Whether there is memory to work with."""
    if host.memory is None or host.available is None:
        return Finding("memory", "ok", "the system doesn't tell")
    free, what = host.available, f"{amount(host.available)} of {amount(host.memory)} are free"
    if host.limit is not None and host.limit < host.memory:
        left = host.limit - (host.limit_used or 0)
        what = f"{what}; this process may use {amount(host.limit)}, {amount(left)} of it are free"
        free = min(free, left)
    if free < LITTLE_MEMORY:
        advice = "end what isn't needed, or ask the scheduler for more: sbatch --mem=16G"
        return Finding("memory", "warning", what, advice)
    return Finding("memory", "ok", what)


def threads(host: of.Host) -> Finding:
    """Whether as many threads will run as there are processors for."""
    what = f"{host.usable} of {_count(host.cores, 'core')} may be used"
    if host.quota is not None and host.quota < host.usable - 0.5:
        return Finding(
            "threads",
            "warning",
            f"{what}, but the time of {host.quota:.1f} is granted: a thread on each gets in the "
            "other's way",
            f"taskset -c 0-{max(0, round(host.quota) - 1)} COMMAND, or ask for more processors",
        )
    for name, value in host.variables.items():
        if value.isdigit() and int(value) > host.usable:
            advice = f"unset {name}"
            return Finding("threads", "warning", f"{what}, but {name}={value}", advice)
    chosen = "".join(f", {name}={value}" for name, value in host.variables.items())
    if host.usable < host.cores:
        return Finding("threads", "note", f"{what} (affinity){chosen}")
    return Finding("threads", "ok", what + chosen)


def precision(found: of.Jax) -> Finding:
    """With which precision is computed."""
    if found.error:
        return Finding("precision", "ok", "not known without devices")
    products = found.matmul_precision or "the device's own choice"
    what = f"float32 products: {products}; promotion of types: {found.promotion}"
    if found.x64:
        advice = "unset JAX_ENABLE_X64 unless 64 bits are meant: they are slow on GPUs and TPUs"
        return Finding("precision", "note", f"64 bits are switched on; {what}", advice)
    on_gpu = any(device.platform in ("gpu", "cuda") for device in found.devices)
    if on_gpu and found.matmul_precision is None:
        advice = (
            "for all 24 bits: --matmul-precision highest, or JAX_DEFAULT_MATMUL_PRECISION=highest"
        )
        return Finding("precision", "note", f"{what}, TF32 (11 bits) on newer GPUs", advice)
    return Finding("precision", "ok", f"64 bits are off; {what}")


def cache(found: of.Cache) -> Finding:
    """Whether compiled programs are kept."""
    if found.folder is None:
        advice = "unset JAXNET_CACHE_DIR, or name a folder"
        return Finding("compile cache", "note", "off: every start compiles again", advice)
    what = f"{found.folder}: {_count(found.files, 'file')}, {amount(found.size)}"
    if not found.writable:
        advice = "JAXNET_CACHE_DIR=FOLDER chooses another one"
        return Finding("compile cache", "warning", f"{what}; it can't be written to", advice)
    if found.size > LARGE_CACHE:
        return Finding("compile cache", "note", what, "it may be deleted at any time")
    return Finding("compile cache", "ok", what)


def launch(found: of.Launch) -> Finding:
    """Which launcher started this process, and whether its processes can meet."""
    variables = ", ".join(f"{name}={value}" for name, value in found.variables.items())
    if found.error:
        return Finding("launcher", "problem", found.error, f"set or unset: {variables}")
    if found.launcher is None:
        if variables:
            what = f"one process; what there is doesn't make a launch of several: {variables}"
            return Finding("launcher", "note", what)
        return Finding("launcher", "ok", "none: one process")
    hosts = f" on {_count(found.hosts, 'host')}" if found.hosts else ""
    meet = f", which meet at {found.coordinator}" if found.coordinator else ""
    what = f"{found.launcher}: process {found.process} of {found.processes}{hosts}{meet}"
    return Finding("launcher", "ok", what)


def names(found: of.Names, launch: of.Launch) -> Finding:
    """Whether other hosts could reach this one by the name that it gives itself.

    On processors JAX talks between processes through gloo, which listens at the first address that
    the host's own name leads to.
    """
    # Processes on one host meet at 127.0.0.1 all the same.
    level: Level = "problem" if (launch.hosts or 1) > 1 else "warning"
    advice = (
        f"put the address that other hosts know into /etc/hosts: `10.0.0.5 {found.host}` in the "
        f"place of a line with 127.0.1.1 or 127.0.0.1 and {found.host}"
    )
    if found.error or not found.addresses:
        why = found.error or "no address"
        return Finding("host name", level, f"{found.host} can't be looked up: {why}", advice)
    what = f"{found.host} is {', '.join(found.addresses)}"
    if ipaddress.ip_address(found.addresses[0].partition("%")[0]).is_loopback:
        if launch.processes == 1:
            level = "note"
        what = f"{what}: processes on other hosts can't reach it"
        return Finding("host name", level, what, advice)
    return Finding("host name", "ok", what)


def disk(found: of.Disk) -> Finding:
    """Whether runs can be written, and how fast."""
    what = f"{found.folder}: {amount(found.free)} free"
    if found.error:
        advice = "choose another folder: --run-dir FOLDER"
        return Finding("run folder", "problem", f"{what}, but {found.error}", advice)
    if found.speed is not None:
        what += f", {amount(found.speed)} a second"
    if found.free < LITTLE_DISK:
        level: Level = "problem" if found.free < NO_DISK else "warning"
        return Finding("run folder", level, what, "make room, or choose another: --run-dir FOLDER")
    if found.speed is not None and found.speed < SLOW_DISK:
        advice = "checkpoints wait for it: save less often (--checkpoints.min-seconds 600)"
        return Finding("run folder", "warning", what, advice)
    return Finding("run folder", "ok", what)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
