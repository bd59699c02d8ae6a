"""Side by side: jaxnet, hand-written JAX, Keras 3 on JAX, PyTorch and scikit-learn on MNIST.

    python -m benchmarks.peers --race mlp512 mlp300 --rounds 5
"""
import sys
from benchmarks.race import *
from benchmarks.workloads import WORKLOADS
JAX={"JAX_PLATFORMS":"cpu"}
def contenders(w):
    cs=[]
    def raw(loop,**o): cs.append(Contender("raw_jax "+" ".join([loop,*o.values()]),"raw_jax","benchmarks.contenders.raw_jax",{"loop":loop,**o},JAX,("jax",)))
    if w.convolutional:
        raw("fori",data="uint8",form="im2col"); raw("fori",data="float32",form="im2col"); raw("step",form="slices")
    else:
        raw("fori",data="uint8"); raw("fori",data="float32"); raw("step")
    for s in ("1","16","all"):
        cs.append(Contender(f"keras spe={s}","keras","benchmarks.contenders.keras_fit",{"steps_per_execution":s},{**JAX,"KERAS_BACKEND":"jax"},("keras",)))
    for wait in ("active","passive"):
        for opt in (("foreach",) if w.optimizer=="rmsprop" else ("fused","foreach")):
            for layout in (("channels_last",) if w.convolutional else ("contiguous",)):
                cs.append(Contender(f"torch {opt} {layout} {wait}","torch","benchmarks.contenders.torch_loop",{"optimizer":opt,"layout":layout},{"OMP_WAIT_POLICY":wait},("torch",)))
    if not w.convolutional: cs.append(Contender("sklearn","sklearn","benchmarks.contenders.sklearn_fit",{}, {}, ("sklearn",)))
    return cs
if __name__=="__main__":
    for name in sys.argv[2:]:
        r=run(WORKLOADS[name],contenders(WORKLOADS[name]),int(sys.argv[1]),say=lambda t: print(t,flush=True))
        ref=r.best("raw_jax")
        for e in r.entries: print(f"{e.contender.name:45s} {e.median:.3f} [{min(e.seconds):.3f} {max(e.seconds):.3f}] x{median(e.ratios(ref)):.2f} loss {[round(l.loss,4) for l in e.laps][-1]} acc {e.accuracy} foreign {[round(l.foreign_cores,2) for l in e.laps]} first {e.first_seconds:.1f}")
        print(r.source,r.skipped)
