"""What launchers say about a job, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jaxnet.cluster.detect import Cluster, detect, first_node
from jaxnet.errors import UsageError

EXPLICIT = {
    "JAX_COORDINATOR_ADDRESS": "node1:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "2345",
}
# As `srun -N 2 -n 4 env` printed them.
SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "host[1-2]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
# As mpirun of Open MPI 5.0.11 printed them on the second of two hosts.
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "PMIX_NAMESPACE": "prterun-gpu-node1-9378@1",
    "PMIX_SERVER_URI41": "prterun-gpu-node1-9378@0.1;tcp4://127.0.0.1:58027",
}
# As mpiexec of MPICH 5.0.2 printed them.
HYDRA = {"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_COORDINATOR_ADDRESS": "job-0.jobs:1234",
}


def found(environ: dict[str, str]) -> Cluster:
    cluster = detect(environ)
    assert cluster is not None
    return cluster


def test_alone():
    assert detect({}) is None
    assert detect({"PATH": "/bin", "SLURM_JOB_ID": "3", "RANK": "0"}) is None


def test_by_hand():
    assert found(EXPLICIT) == Cluster("JAX_COORDINATOR_ADDRESS", ("node1", 1234), 4, 3)
    six = found({**EXPLICIT, "JAX_COORDINATOR_ADDRESS": "[2001:db8::1]:80"})
    assert six.coordinator == ("2001:db8::1", 80)


def test_torchrun():
    expected = Cluster("torchrun", ("node1", 2345), 8, 5, 2, 1, 4, (1,))
    assert found(TORCHRUN) == expected
    # torchrun itself listens at MASTER_PORT.
    assert found({**TORCHRUN, "TORCHELASTIC_RUN_ID": "x"}).coordinator == ("node1", 2346)


def test_slurm():
    cluster = found(SLURM)
    assert cluster.coordinator[0] == "host1"
    assert 61440 <= cluster.coordinator[1] < 65536
    assert (cluster.processes, cluster.process, cluster.hosts) == (4, 2, 2)
    assert (cluster.local_process, cluster.local_processes) == (0, 2)
    assert found({**SLURM, "SLURM_PROCID": "3"}).coordinator == cluster.coordinator
    assert found({**SLURM, "SLURM_STEP_ID": "1"}).coordinator != cluster.coordinator


@pytest.mark.parametrize(
    ("tasks", "node", "local"),
    [("2,4", 0, 2), ("2,4", 1, 4), ("2(x3),1", 2, 2), ("2(x3),1", 3, 1)],
)
def test_slurm_may_start_more_on_one_node(tasks, node, local):
    environ = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node)}
    assert found(environ).local_processes == local
    shared = {**environ, "SLURM_LOCALID": str(local - 1), "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    assert (found(shared).local_devices or (3,))[-1] == 3


def test_slurm_without_a_step_is_alone():
    """The script of sbatch has the job's variables too, and is one process."""
    batch = {name: value for name, value in SLURM.items() if "STEP" not in name}
    assert detect(batch) is None
    assert detect({**SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None


def test_slurm_on_one_host_needs_no_name():
    one = {**SLURM, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "host1"}
    assert found(one).coordinator[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("a", "a"),
        ("a,b", "a"),
        ("n[1-3]", "n1"),
        ("n[01,07-09],m", "n01"),
        ("rack1-n[2,4]", "rack1-n2"),
        ("n[1-2].net", "n1.net"),
    ],
)
def test_first_node(nodes, first):
    assert first_node(nodes) == first


def test_open_mpi():
    cluster = found(OPEN_MPI)
    assert cluster.coordinator[0] == "10.96.0.1"
    assert (cluster.processes, cluster.process) == (4, 3)
    six = "1.0;tcp6://[2001:db8::1,2001:db8::2]:43370"
    assert found({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": six}).coordinator[0] == "2001:db8::1"
    one_host = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert found(one_host).coordinator[0] == "127.0.0.1"
    with pytest.raises(UsageError, match="JAX_COORDINATOR_ADDRESS"):
        detect({**OPEN_MPI, "OMPI_MCA_orte_hnp_uri": ""})


def test_open_mpi_5():
    cluster = found(OPEN_MPI_5)
    assert cluster.coordinator[0] == "gpu-node1"
    assert (cluster.processes, cluster.process, cluster.hosts) == (2, 1, None)
    # All processes take one port, those of another job likely another.
    assert found({**OPEN_MPI_5, "OMPI_COMM_WORLD_RANK": "0"}).coordinator == cluster.coordinator
    other = {**OPEN_MPI_5, "PMIX_NAMESPACE": "prterun-gpu-node1-9379@1"}
    assert found(other).coordinator[1] != cluster.coordinator[1]


def test_open_mpi_is_recognised_by_its_ranks_alone():
    """The variables with other names come and go with its versions."""
    alone = {name: value for name, value in OPEN_MPI_5.items() if "OMPI_COMM_WORLD" in name}
    one_host = found({**alone, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    assert (one_host.launcher, one_host.coordinator[0]) == ("mpirun", "127.0.0.1")
    chosen = found({**alone, "JAX_COORDINATOR_ADDRESS": "node1:99"})
    assert (chosen.coordinator, chosen.process) == (("node1", 99), 1)
    with pytest.raises(UsageError, match="JAX_COORDINATOR_ADDRESS"):
        detect(alone)


def test_mpich():
    cluster = found(HYDRA)
    assert (cluster.launcher, cluster.process, cluster.processes) == ("mpiexec", 1, 2)
    assert (cluster.coordinator[0], cluster.hosts, cluster.local_process) == ("127.0.0.1", 1, 1)
    with pytest.raises(UsageError, match="-genv JAX_COORDINATOR_ADDRESS"):
        detect({**HYDRA, "MPI_LOCALNRANKS": "1"})
    # srun may speak to its processes by PMI too.
    assert found({**HYDRA, **SLURM}).launcher == "srun"


def test_kubernetes():
    cluster = found(KUBERNETES)
    assert cluster.coordinator == ("job-0.jobs", 1234)
    assert (cluster.processes, cluster.process, cluster.hosts) == (2, 1, 2)
    # Pods of an array of independent runs.
    assert detect({"JOB_COMPLETION_INDEX": "1"}) is None
    with pytest.raises(UsageError, match="headless service"):
        detect({"JOB_COMPLETION_INDEX": "1", "JAX_NUM_PROCESSES": "2"})


def test_the_coordinator_may_be_chosen_whatever_the_launcher():
    for environ in (TORCHRUN, SLURM, OPEN_MPI):
        chosen = found({**environ, "JAX_COORDINATOR_ADDRESS": "other:99"})
        assert chosen.coordinator == ("other", 99)


def test_the_most_specific_wins():
    """`mpirun` and `torchrun` are often called within a job of SLURM."""
    assert found({**SLURM, **OPEN_MPI}).launcher == "mpirun"
    assert found({**SLURM, **OPEN_MPI, **TORCHRUN}).launcher == "torchrun"
    assert found({**SLURM, **TORCHRUN, **BY_HAND}).launcher == "JAX_COORDINATOR_ADDRESS"


BY_HAND = {**EXPLICIT, "JAX_NUM_PROCESSES": "16", "JAX_PROCESS_ID": "3"}
LEFT_OVER = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "node1"}


@pytest.mark.parametrize(
    ("environ", "unset"),
    [
        ({**SLURM, **LEFT_OVER}, "WORLD_SIZE RANK, or SLURM_STEP_NUM_TASKS SLURM_PROCID"),
        ({**SLURM, "WORLD_SIZE": "1"}, "WORLD_SIZE"),
        ({**SLURM, "JAX_NUM_PROCESSES": "1"}, "JAX_NUM_PROCESSES"),
        ({**SLURM, "JAX_PROCESS_ID": "0"}, "JAX_PROCESS_ID"),
        ({**SLURM, **EXPLICIT, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, "JAX_NUM_PROC"),
        ({**SLURM, **EXPLICIT}, "JAX_NUM_PROCESSES JAX_PROCESS_ID"),  # 3 of 4, and 2 of 4
        ({**SLURM, **LEFT_OVER, "WORLD_SIZE": "4"}, "WORLD_SIZE RANK"),  # 0 of 4, and 2 of 4
        ({**OPEN_MPI, "JAX_NUM_PROCESSES": "1"}, "JAX_NUM_PROCESSES"),
        ({**OPEN_MPI, **LEFT_OVER}, "WORLD_SIZE RANK, or OMPI_COMM_WORLD_SIZE"),
        # Hydra starts its own helpers by srun, one on each node.
        (
            {**HYDRA, **SLURM, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
            "SLURM_STEP_NUM_TASKS SLURM_PROCID, or PMI_SIZE PMI_RANK",
        ),
        ({**KUBERNETES, "WORLD_SIZE": "3"}, "WORLD_SIZE"),
    ],
)
def test_launchers_that_contradict_each_other(environ, unset):
    with pytest.raises(UsageError, match=r"contradict each other: .* this is process") as error:
        detect(environ)
    assert str(error.value).partition("unset ")[2].startswith(unset)


@pytest.mark.parametrize(
    "environ",
    [
        # torchrun numbers its processes as they come.
        {**SLURM, **TORCHRUN, "WORLD_SIZE": "4", "RANK": "1", "TORCHELASTIC_RUN_ID": "x"},
        {**SLURM, "WORLD_SIZE": "4", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"},
        {**SLURM, **EXPLICIT, "JAX_PROCESS_ID": "2"},
        {**SLURM, **EXPLICIT, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # jaxnet.launch
        {**SLURM, **HYDRA, "PMI_SIZE": "4", "PMI_RANK": "2"},
    ],
)
def test_launchers_may_start_each_other(environ):
    assert found(environ).processes == 4


def test_a_heterogeneous_job_of_slurm_is_refused():
    with pytest.raises(UsageError, match="heterogeneous job of 2 components"):
        detect({**SLURM, "SLURM_HET_SIZE": "2"})
    assert found({**SLURM, "SLURM_HET_SIZE": "2", **EXPLICIT, "JAX_PROCESS_ID": "2"}).process == 2


@pytest.mark.parametrize(
    ("visible", "devices"),
    [({}, (1,)), ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (2, 3))],
)
def test_processes_of_a_host_share_its_devices_out(visible, devices):
    assert found({**TORCHRUN, **visible}).local_devices == devices


@pytest.mark.parametrize(
    "bound", [{"CUDA_VISIBLE_DEVICES": "3"}, {"SLURM_GPUS_PER_TASK": "1"}], ids=str
)
def test_a_process_that_sees_its_own_devices_alone_takes_them(bound):
    assert found({**SLURM, "SLURM_LOCALID": "1", **bound}).local_devices is None


def test_devices_may_be_chosen():
    assert found({**TORCHRUN, "JAX_LOCAL_DEVICE_IDS": "4,5"}).local_devices == (4, 5)
    with pytest.raises(UsageError, match="JAX_LOCAL_DEVICE_IDS"):
        detect({**TORCHRUN, "JAX_LOCAL_DEVICE_IDS": "all"})


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.1.1"])
def test_a_loopback_coordinator_of_several_hosts_is_refused(host):
    with pytest.raises(UsageError, match=r"each of the 2 hosts means the host itself"):
        detect({**TORCHRUN, "MASTER_ADDR": host})
    assert found({**TORCHRUN, "MASTER_ADDR": host, "LOCAL_WORLD_SIZE": "8"}).hosts == 1
    # mpirun doesn't count the hosts; but not all processes are on this one.
    address = {"JAX_COORDINATOR_ADDRESS": f"[{host}]:1234"}
    with pytest.raises(UsageError, match=r"each of the several hosts means the host itself"):
        detect({**OPEN_MPI, **address})
    one_host = {**OPEN_MPI, **address, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert found(one_host).coordinator == (host, 1234)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({**EXPLICIT, "JAX_PROCESS_ID": "4"}, "a process from 0 to 3"),
        ({**EXPLICIT, "JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES: expected a whole number"),
        ({**EXPLICIT, "JAX_COORDINATOR_ADDRESS": "node1"}, "expected HOST:PORT, got 'node1'"),
        (
            {"JAX_COORDINATOR_ADDRESS": "node1:1", "JAX_NUM_PROCESSES": "2"},
            "Set JAX_PROCESS_ID",
        ),
        ({**TORCHRUN, "RANK": "one"}, "RANK: expected a whole number, got 'one'"),
    ],
)
def test_what_cannot_be(environ, message):
    with pytest.raises(UsageError, match=message):
        detect(environ)


def test_a_process_that_is_alone_imports_no_jax():
    code = (
        "import sys\n"
        "from jaxnet.cluster import join\n"
        "assert join.initialize({}) is None\n"
        "print('jax' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
