"""Let the CUDA build of torchvision, the only one there is, be imported beside a CPU torch.

Its native part cannot be loaded there, and then the import fails because two operators are not
declared. Declaring them is enough for what vLLM uses of it.
"""

import pathlib
import sysconfig

DECLARATION = """
# --- declared by declare_torchvision_ops.py ---
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    _declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

file = pathlib.Path(sysconfig.get_paths()["purelib"]) / "torchvision" / "extension.py"
source = file.read_text()
if DECLARATION not in source:
    file.write_text(source + DECLARATION)
