"""Serves a local web page that classifies the pictures dropped on it.

alexnet-tf demo --workdir=runs/mine
alexnet-tf demo --saved_model=served/mine

With a run, the page also shows what supports each class (Grad-CAM), and the nearest training
images if `alexnet-tf neighbours` has built an index. Only this machine can open the page, unless
--host says otherwise. The program runs until Ctrl-C.
"""

import sys
import threading
from collections.abc import Sequence

from absl import flags

from alexnet_tf import flagfiles
from alexnet_tf.commands import interruptions
from alexnet_tf.commands import program
from alexnet_tf.utils import escaping

FLAGS = flags.FlagValues()
_SAVED_MODEL = flagfiles.define_path("saved_model", "", "an export, or one version of it", flag_values=FLAGS)
_WORKDIR = flagfiles.define_path(
    "workdir", "", "directory of a trained run, or of an export of it; or pretrained:NAME", flag_values=FLAGS
)
_CHECKPOINT = program.define_checkpoint(FLAGS)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=FLAGS)
_PORT = flags.DEFINE_integer(
    "port", 8000, "port to listen on; 0 for any free one", lower_bound=0, upper_bound=65535, flag_values=FLAGS
)
_TOP = flags.DEFINE_integer("top", 5, "number of classes per picture", lower_bound=1, flag_values=FLAGS)
_K = flags.DEFINE_integer(
    "k", 6, "number of nearest training images per picture; 0 for none", lower_bound=0, flag_values=FLAGS
)


def main(argv: Sequence[str]) -> None:
    program.run_plain(_serve, argv, __doc__, FLAGS)


def _serve(_):
    if bool(_SAVED_MODEL.value) == bool(_WORKDIR.value):
        received = "both" if _WORKDIR.value else "neither"
        raise program.UsageError(f"Expected either --saved_model or --workdir. Received: {received}")
    from alexnet_tf.runs import demo
    from alexnet_tf.serving import demo_server

    log = lambda line: print(escaping.one_line(line), file=sys.stderr)
    if _WORKDIR.value:
        served = demo.of_run(_WORKDIR.value, top=_TOP.value, neighbors=_K.value, log=log, checkpoint=_CHECKPOINT.value)
    else:
        program.report_unused([_K, _CHECKPOINT], "without --workdir")
        served = demo.of_export(_SAVED_MODEL.value, top=_TOP.value)
    demo.warm_up(served)
    with demo_server.Server(_HOST.value, _PORT.value, served.answer, served.about) as server:
        if not demo_server.is_loopback(_HOST.value):
            log(
                f"warning: everyone who can reach {_HOST.value} can use this page, without a password or encryption; "
                "leave --host out to serve this machine only"
            )
        ended = threading.Event()
        interruptions.handle(lambda *_: ended.set())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"open {server.address} in a browser; press Ctrl-C to stop", flush=True)
        ended.wait()
        server.shutdown()
