"""Other systems' published weight files. Each kind is known by its content and becomes a `Restorer`.

`OPENERS` maps each kind of file, in the words of messages, to a function. It gets a file that has been read and returns
its network, or None if the file is of another kind. It raises ValueError, which names the file, if the file is of its
kind but damaged. The networks of the first four are in `restoration/networks`, where they can be trained too; spandrel
brings its own.
"""

from collections.abc import Callable

from engine.weight_files import WeightFile
from restoration.compared.matlab_networks import open_arcnn, open_dncnn
from restoration.compared.spandrel_networks import open_spandrel
from restoration.compared.torch_networks import open_rdn, open_rnan
from restoration.networks.restorer import Restorer

OPENERS: dict[str, Callable[[WeightFile], Restorer | None]] = {
    "ARCNN (.mat)": open_arcnn,
    "DnCNN (.mat)": open_dncnn,
    "RNAN (.pt)": open_rnan,
    "RDN (.pt)": open_rdn,
    "a network that spandrel loads (FBCNN, SwinIR, SCUNet, NAFNet, GRL and others)": open_spandrel,
}
